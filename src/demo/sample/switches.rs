//! What the sample was told to do, by query and by switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Json;
use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::connection::Closed;
use super::fault::{Fault, Misbehaviour};
use super::{MAX_DELAY_MS, find};

/// The longest pause before a drop, in milliseconds.
const MAX_DRIP_MS: u64 = 10_000;
/// The longest Retry-After, in seconds.
const MAX_RETRY_AFTER: u64 = 3600;
/// The longest run of failures, in requests.
const MAX_RUN: u64 = 1_000_000;

/// The pairs of a query, in order.
pub(super) type Pairs = Query<Vec<(String, String)>>;

/// What `/switches` shows and sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Switches {
    delay_ms: u64,
    drip_ms: u64,
    fail_ratio: f64,
    fail_next: u64,
    flap: u64,
    fault: Fault,
    status: u16,
    retry_after: Option<u64>,
    pub(super) healthy: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            delay_ms: 0,
            drip_ms: 0,
            fail_ratio: 0.0,
            fail_next: 0,
            flap: 0,
            fault: Fault::Status,
            status: 503,
            retry_after: None,
            healthy: true,
        }
    }
}

impl Switches {
    pub(super) fn parse(body: &[u8]) -> Result<Self, BadValue> {
        let object: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| BadValue::new("body", "a JSON object such as {\"delay_ms\": 250}"))?;
        let mut switches = Self::default();
        for (name, value) in object {
            switches.set(name, &value)?;
        }
        Ok(switches)
    }

    fn set(&mut self, name: String, value: &Value) -> Result<(), BadValue> {
        match name.as_str() {
            "delay_ms" => self.delay_ms = delay_ms(value.as_u64())?,
            "drip_ms" => self.drip_ms = drip_ms(value.as_u64())?,
            "status" => self.status = status(value.as_u64())?.as_u16(),
            "retry_after" => self.retry_after = Some(retry_after(value.as_u64())?),
            "fault" => self.fault = fault(value.as_str())?,
            "fail_next" => self.fail_next = run("fail_next", value.as_u64())?,
            "flap" => self.flap = run("flap", value.as_u64())?,
            "fail_ratio" => {
                self.fail_ratio = value
                    .as_f64()
                    .filter(|ratio| (0.0..=1.0).contains(ratio))
                    .ok_or(BadValue::new("fail_ratio", "a number from 0 to 1"))?;
            }
            "healthy" => {
                self.healthy = value.as_bool().ok_or(BadValue::new("healthy", "true or false"))?;
            }
            _ => {
                let expected = "one of delay_ms, drip_ms, fail_ratio, fail_next, flap, fault, \
                                status, retry_after, healthy";
                return Err(BadValue { field: name, expected });
            }
        }
        Ok(())
    }

    /// Whether the request that comes after `before` others is one of those that fail.
    ///
    /// A ratio is spread evenly rather than drawn at random: of any n requests
    /// `n * fail_ratio` fail, rounded down, so a demonstration shows the same
    /// thing every time.
    fn fails(&self, before: u64) -> bool {
        let failed = |requests: u64| (requests as f64 * self.fail_ratio).floor();
        before < self.fail_next
            || before.checked_div(self.flap).is_some_and(|turns| turns % 2 == 1)
            || failed(before + 1) > failed(before)
    }
}

/// The switches in force and how many requests have met them.
#[derive(Default)]
struct Active {
    switches: Switches,
    requests: AtomicU64,
}

/// What all connections share.
#[derive(Clone, Default)]
pub(super) struct Control {
    active: Arc<ArcSwap<Active>>,
    pub(super) closed: Closed,
}

impl Control {
    pub(super) fn switches(&self) -> Switches {
        self.active.load().switches.clone()
    }

    /// Puts these in force; what they count begins anew.
    pub(super) fn set(&self, switches: Switches) {
        self.active.store(Arc::new(Active { switches, requests: AtomicU64::new(0) }));
    }

    /// What the switches have in store for the next request.
    pub(super) fn next_request(&self) -> Misbehaviour {
        let active = self.active.load();
        let switches = &active.switches;
        let mut next = Misbehaviour {
            delay: Duration::from_millis(switches.delay_ms),
            drip: Duration::from_millis(switches.drip_ms),
            ..Misbehaviour::default()
        };
        if self.closed.is_now() {
            next.fault = Fault::RESET;
        } else if switches.fails(active.requests.fetch_add(1, Ordering::Relaxed)) {
            next.fault = switches.fault;
            if switches.fault == Fault::Status {
                next.status = StatusCode::from_u16(switches.status).ok();
                next.retry_after = switches.retry_after;
            }
        }
        next
    }
}

impl Misbehaviour {
    /// What a query asks for, if it asks for something possible.
    pub(super) fn asked_for(pairs: &[(String, String)]) -> Result<Self, BadValue> {
        let mut asked = Self::default();
        let number = |text: &str| text.parse().ok();
        if let Some(text) = find(pairs, "status") {
            asked.status = Some(status(number(text))?);
        }
        if let Some(text) = find(pairs, "retry_after") {
            asked.retry_after = Some(retry_after(number(text))?);
        }
        if let Some(text) = find(pairs, "delay_ms") {
            asked.delay = Duration::from_millis(delay_ms(number(text))?);
        }
        if let Some(text) = find(pairs, "drip_ms") {
            asked.drip = Duration::from_millis(drip_ms(number(text))?);
        }
        if let Some(text) = find(pairs, "fault") {
            asked.fault = fault(Some(text))?;
        }
        if asked.fault == Fault::Status && find(pairs, "fault").is_some() {
            asked.status = asked.status.or(Some(StatusCode::SERVICE_UNAVAILABLE));
        }
        Ok(asked)
    }
}

fn delay_ms(value: Option<u64>) -> Result<u64, BadValue> {
    number("delay_ms", value, MAX_DELAY_MS, "a whole number from 0 to 60000")
}

fn drip_ms(value: Option<u64>) -> Result<u64, BadValue> {
    number("drip_ms", value, MAX_DRIP_MS, "a whole number from 0 to 10000")
}

fn retry_after(value: Option<u64>) -> Result<u64, BadValue> {
    number("retry_after", value, MAX_RETRY_AFTER, "whole seconds from 0 to 3600")
}

fn run(field: &str, value: Option<u64>) -> Result<u64, BadValue> {
    number(field, value, MAX_RUN, "a whole number from 0 to 1000000")
}

/// The value where it is a number up to `max`.
pub(super) fn number(
    field: &str,
    value: Option<u64>,
    max: u64,
    expected: &'static str,
) -> Result<u64, BadValue> {
    value.filter(|&value| value <= max).ok_or(BadValue::new(field, expected))
}

/// 1xx is left out: those are never the last answer to a request.
fn status(code: Option<u64>) -> Result<StatusCode, BadValue> {
    code.filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok())
        .ok_or(BadValue::new("status", "a status code from 200 to 599"))
}

fn fault(name: Option<&str>) -> Result<Fault, BadValue> {
    name.and_then(Fault::named).ok_or(BadValue::new(
        "fault",
        "status, or one of stall, close and reset, alone or with -head or -body",
    ))
}

/// A value that cannot be used: 400 with the field and what would be right.
#[derive(Debug)]
pub(super) struct BadValue {
    field: String,
    expected: &'static str,
}

impl BadValue {
    pub(super) fn new(field: &str, expected: &'static str) -> Self {
        Self { field: field.to_owned(), expected }
    }
}

impl IntoResponse for BadValue {
    fn into_response(self) -> Response {
        let Self { field, expected } = self;
        let error = format!("{field}: expected {expected}");
        (StatusCode::BAD_REQUEST, Json(json!({"error": error, "field": field}))).into_response()
    }
}
