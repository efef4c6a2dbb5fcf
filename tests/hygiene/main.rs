//! What the first hop owes everybody behind it: a request that could be read in
//! two ways is refused, and the upstream never gets a byte of it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod chunks;
mod framing;
mod identity;
mod oversize;
mod rig;
mod strangers;
mod targets;
mod unread;
