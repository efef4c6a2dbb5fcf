//! Clients, keys and blocks that are set while the gateway runs, and outlive it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what tests share fails them by panicking"
)]

mod blocks;
mod crashes;
mod keys;
mod lists;
mod rig;
mod succession;
#[path = "../support/mod.rs"]
mod support;
mod transfer;
