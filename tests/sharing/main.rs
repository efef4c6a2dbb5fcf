//! Limits that gateways share, against a real Redis.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod algorithms;
mod gateways;
mod judging;
mod partition;
mod store;
