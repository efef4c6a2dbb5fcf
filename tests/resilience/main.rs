//! What a failing upstream does to its clients, and what it does not: every fault under
//! every protection, then each protection by itself.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod breaker;
mod faults;
mod matrix;
mod places;
mod retries;
mod rig;
mod servers;
mod timeouts;
