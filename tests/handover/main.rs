//! One process takes over from another, and nobody notices: by hand, by the gateway itself,
//! by systemd.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what tests share fails them by panicking"
)]

mod activation;
mod by_hand;
mod notification;
mod rig;
mod self_started;
#[path = "../support/mod.rs"]
mod support;
