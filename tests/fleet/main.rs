//! Gateways that have something in common, through Redis servers of the tests' own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod certificates;
mod gateways;
mod hints;
mod link;
mod registry;
mod registry_copies;
mod rig;
