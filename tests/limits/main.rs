//! What a token is worth: who pays how much from which bucket, and that nobody
//! gets one too many.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod algorithms;
mod buckets;
mod changes;
mod costs;
mod holders;
mod keys;
mod pacing;
mod pressure;
mod rig;
mod several;
mod shadows;
