//! What becomes of a request before an upstream is asked: which route takes it, who sends it,
//! what it costs and against which buckets, and what it is refused with.
//!
//! The proxy acts on these decisions, and [`outlook`] foresees them for whoever asks; both go
//! through the same functions, so that what is foretold is what happens. Nothing in here knows
//! connections or Pingora.

mod cause;
pub mod client;
pub mod outlook;
pub mod refusal;
pub mod shared;
pub mod toll;

use crate::gateway::Generation;
use crate::policy::router::{Found, RouteId};
use http::{HeaderValue, Method};
use refusal::Refusal;

/// The route that takes a request. `path` is in normal form.
///
/// # Errors
/// None does; or some do, with other methods.
pub fn find_route(
    generation: &Generation,
    host: Option<&HeaderValue>,
    method: &Method,
    path: &str,
) -> Result<RouteId, Refusal> {
    let router = &generation.router;
    let host = if router.reads_hosts() { host_name(host) } else { "" };
    match router.find(host, method, path) {
        Found::Route(id) => Ok(id),
        Found::MethodNotAllowed(methods) => Err(Refusal::Method(methods)),
        Found::Nothing => Err(Refusal::NoRoute),
    }
}

/// The host of a `Host` header, without the port; empty where there is none.
pub fn host_name(host: Option<&HeaderValue>) -> &str {
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether a request's body, as far as it says how long that is, fits its route.
///
/// # Errors
/// It does not.
pub fn check_length(
    generation: &Generation,
    route: RouteId,
    content_length: Option<&HeaderValue>,
) -> Result<(), Refusal> {
    let length = content_length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    match generation.route_config(route).max_body {
        Some(max_body) if length.is_some_and(|length| length > max_body) => {
            Err(Refusal::BodyTooLarge { max_body })
        }
        _ => Ok(()),
    }
}
