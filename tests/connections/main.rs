//! What a hostile or merely slow client can cost: nothing it does with its connections holds
//! more than it is given, and those who behave do not notice.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod bodies;
mod caps;
mod descriptors;
mod drain;
mod heads;
mod rig;
mod scrapers;
mod silence;
