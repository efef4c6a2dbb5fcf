//! What goes through comes through: bodies, interim answers, connections and
//! routes, and what a client is told when the upstream does not do its part.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod failures;
mod messages;
mod reuse;
mod routing;
mod tracing;
mod upgrades;

// The kit proves itself here, against plain sockets, once for all test binaries.
#[path = "../support/kit.rs"]
mod kit;
