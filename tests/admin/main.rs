//! The admin API over real sockets: what it shows, what it changes, and whom it
//! turns away.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod circuits;
mod document;
mod examples;
mod figures;
mod guarding;
mod input;
mod reading;
mod starting;
mod upstreams;
