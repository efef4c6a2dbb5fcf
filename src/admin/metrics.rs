//! `/metrics` and the two readings of it for people without Prometheus.

use super::problem::Problem;
use super::{AdminState, App};
use crate::metrics::{Latencies, NONE};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use histogram::Histogram;
use http::{StatusCode, header};
use prometheus::{Encoder, TextEncoder};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use utoipa::ToSchema;

/// All requests since the start, in a few numbers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Summary {
    total_requests: u64,
    /// Neither blocked nor failed.
    successful_requests: u64,
    /// The gateway's own 429 and 503.
    blocked_requests: u64,
    /// Any other 5xx.
    failed_requests: u64,
    /// 0 before the first request.
    average_response_time_seconds: f64,
    /// 100 before the first request.
    success_rate_percent: f64,
}

/// How long requests took since the start.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LatencyReport {
    /// By route; `none` is what no route took, once there is such a request.
    routes: BTreeMap<String, Latency>,
    all: Latency,
}

/// Quantiles in seconds, at most 1 % above the true value; `max` is exact.
#[derive(Debug, Default, Serialize, ToSchema)]
struct Latency {
    count: u64,
    p50: f64,
    p90: f64,
    p95: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Everything in Prometheus' text format
///
/// The same registry as the listener of `metrics.listen` serves.
#[utoipa::path(get, path = "/metrics", tag = "metrics", operation_id = "metrics", responses(
    (status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain"),
))]
pub(super) async fn text(State(app): App) -> Response {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&app.metrics.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            let detail = format!("the metrics cannot be written: {error}");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, detail).into_response()
        }
    }
}

/// All requests since the start, in a few numbers
#[utoipa::path(get, path = "/metrics/summary", tag = "metrics",
    operation_id = "metrics_summary", responses(
    (status = 200, description = "The summary", body = Summary),
))]
pub(super) async fn summary(State(app): App) -> Json<Summary> {
    let metrics = &app.gateway.metrics;
    // What is blocked is read before the totals, so that it cannot exceed them.
    let blocked = metrics.blocked.load(Ordering::Relaxed);
    let limited = metrics.rate_limited_total();
    let by_status = metrics.requests_by_status();
    let total: u64 = by_status.iter().map(|(_, count)| count).sum();
    let errors: u64 =
        by_status.iter().filter(|(status, _)| *status >= 500).map(|(_, count)| count).sum();
    // Our own 429 are counted by policy; the rest of what is blocked is our own 503.
    let failed = errors.saturating_sub(blocked.saturating_sub(limited));
    Json(summarize(total, blocked, failed, timed(&app)))
}

/// Requests timed and the sum of their times in seconds, over all routes.
fn timed(app: &AdminState) -> (u64, f64) {
    let generation = app.gateway.generation();
    let routes = generation.routes.iter().map(|route| &route.metrics);
    routes
        .chain([&generation.no_route])
        .map(|metrics| metrics.timed())
        .fold((0, 0.0), |(count, sum), (more, seconds)| (count + more, sum + seconds))
}

fn summarize(total: u64, blocked: u64, failed: u64, (timed, seconds): (u64, f64)) -> Summary {
    let successful = total.saturating_sub(blocked).saturating_sub(failed);
    Summary {
        total_requests: total,
        successful_requests: successful,
        blocked_requests: blocked,
        failed_requests: failed,
        average_response_time_seconds: if timed == 0 { 0.0 } else { seconds / timed as f64 },
        success_rate_percent: match total {
            0 => 100.0,
            _ => successful as f64 * 100.0 / total as f64,
        },
    }
}

/// Quantiles of how long requests took
#[utoipa::path(get, path = "/metrics/latency", tag = "metrics",
    operation_id = "metrics_latency", responses(
    (status = 200, description = "The quantiles", body = LatencyReport),
))]
pub(super) async fn latency(State(app): App) -> Json<LatencyReport> {
    let generation = app.gateway.generation();
    let configured = generation.config.routes.iter().zip(&generation.routes);
    let mut all: Option<Latencies> = None;
    let mut routes = BTreeMap::new();
    for (config, route) in configured {
        let latencies = route.metrics.latencies();
        routes
            .insert(config.name.to_string(), latencies.as_ref().map(quantiles).unwrap_or_default());
        all = merge(all, latencies);
    }
    if let Some(latencies) = generation.no_route.latencies() {
        // A route of this very name keeps its place.
        routes.entry(NONE.into()).or_insert_with(|| quantiles(&latencies));
        all = merge(all, Some(latencies));
    }
    Json(LatencyReport { routes, all: all.as_ref().map(quantiles).unwrap_or_default() })
}

fn merge(one: Option<Latencies>, other: Option<Latencies>) -> Option<Latencies> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            // All are laid out alike, and no count comes near 2^64: adding cannot fail.
            let _ = one.histogram.checked_add_assign(&other.histogram);
            one.max_seconds = one.max_seconds.max(other.max_seconds);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

fn quantiles(latencies: &Latencies) -> Latency {
    let max = latencies.max_seconds;
    let at = |quantile| at(&latencies.histogram, quantile).min(max);
    Latency {
        count: latencies.histogram.as_slice().iter().sum(),
        p50: at(0.5),
        p90: at(0.9),
        p95: at(0.95),
        p99: at(0.99),
        p999: at(0.999),
        max,
    }
}

/// The upper end, in seconds, of the bucket (of microseconds) the quantile lies in.
fn at(histogram: &Histogram, quantile: f64) -> f64 {
    match histogram.quantile_bucket(quantile) {
        Ok(Some(bucket)) => bucket.end() as f64 / 1e6,
        Ok(None) | Err(_) => 0.0,
    }
}
