//! The admin API: one file per resource, one guard before all of them.
//!
//! A request meets, in this order: the shield (a panic becomes a 500, every answer gets the
//! headers all answers have), the guard (token, Host, Origin), the router (404, 405), and
//! its handler, which reads the gateway's state and never holds a lock while it waits.

mod blocks;
mod body;
mod circuits;
mod client_list;
mod client_view;
mod clients;
mod config;
mod explain;
mod explained;
mod guard;
mod health;
mod history;
mod import;
mod keys;
mod limits;
mod metrics;
mod openapi;
mod problem;
mod refusals;
mod registry;
mod reload;
mod resilience;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod upgrade;
mod upstreams;

pub use server::serve;

use crate::config::Secret;
use crate::gateway::Gateway;
use crate::handover::Upgrader;
use crate::reload::Reloader;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use guard::Guard;
use http::{HeaderValue, StatusCode, header};
use problem::Problem;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the admin API works with.
pub struct AdminState {
    /// The gateway it watches and steers.
    pub gateway: Arc<Gateway>,
    /// Reads the configuration's file again.
    pub reloader: Arc<Reloader>,
    /// Replaces the process.
    pub upgrader: Arc<Upgrader>,
    /// Its own address, as configured.
    pub listen: SocketAddr,
    /// The token that requests must bear; none: no token is asked for.
    pub token: Option<Secret>,
    /// What `/metrics` writes out: the registry that the metrics listener serves.
    pub metrics: prometheus::Registry,
}

type App = State<Arc<AdminState>>;

/// The admin API.
pub fn router(state: AdminState) -> Router {
    let guard = Arc::new(Guard::new(&state));
    let (router, _) = api().split_for_parts();
    router
        .route(
            "/blocks/{kind}/{value}/{length}",
            routing::put(blocks::block).delete(blocks::unblock),
        )
        .route("/docs", routing::get(openapi::to_docs))
        .route("/docs/", routing::get(openapi::docs_page))
        .route("/docs/{*file}", routing::get(openapi::docs_file))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Arc::new(state))
        .layer(DefaultBodyLimit::max(body::MAX_BODY))
        .layer(middleware::from_fn_with_state(guard, guard::check))
        .layer(middleware::from_fn(shield))
}

/// All operations, each with its description.
fn api() -> OpenApiRouter<Arc<AdminState>> {
    OpenApiRouter::with_openapi(openapi::Frame::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(routes::routes))
        .routes(routes!(limits::limits))
        .routes(routes!(refusals::top))
        .routes(routes!(explain::explain))
        .routes(routes!(circuits::circuits))
        .routes(routes!(circuits::force))
        .routes(routes!(upstreams::upstreams))
        .routes(routes!(upstreams::set_state))
        .routes(routes!(client_list::list, import::import))
        .routes(routes!(clients::by_id, clients::forget))
        .routes(routes!(clients::set_tier, clients::remove_tier))
        .routes(routes!(clients::set_limit, clients::remove_limit))
        .routes(routes!(keys::keys, keys::create))
        .routes(routes!(keys::rotate))
        .routes(routes!(keys::revoke))
        .routes(routes!(blocks::blocks))
        .routes(routes!(blocks::block, blocks::unblock))
        .routes(routes!(metrics::text))
        .routes(routes!(metrics::summary))
        .routes(routes!(metrics::latency))
        .routes(routes!(config::config))
        .routes(routes!(history::history))
        .routes(routes!(history::restore))
        .routes(routes!(reload::reload))
        .routes(routes!(upgrade::upgrade))
        .routes(routes!(openapi::document))
}

async fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is nothing here; /openapi.json lists what there is")
}

async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "Allow names the methods this resource has")
}

/// Keeps a handler's panic to its own request, and marks every answer: nothing here may be
/// stored, or taken for another type than it says.
async fn shield(request: Request, next: Next) -> Response {
    let mut answer = pin!(next.run(request));
    let mut response = poll_fn(|cx| {
        // The future is not polled again after a panic, and handlers share only state that
        // is never half-written.
        catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))).unwrap_or_else(|_| {
            log::error!("a handler of the admin API panicked");
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Poll::Ready(
                Problem::new(status, "the gateway has a bug; its log says more").into_response(),
            )
        })
    })
    .await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
