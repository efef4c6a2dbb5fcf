//! What can be known of the gateway from outside: metrics, logs, and that neither
//! grows with what clients send.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod access_log;
mod log;
mod metrics;
mod refusals;
mod resilience;
mod tries;
