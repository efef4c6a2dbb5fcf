//! What would become of a request, what became of one, who is refused most, and what another
//! configuration would have done.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod foretelling;
mod refusals;
mod rig;
mod simulate;
