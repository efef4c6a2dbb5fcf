//! A new configuration takes the place of the old one, or nothing changes; either way nobody
//! who is being served notices.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod file;
mod history;
mod rollback;
mod taking;
