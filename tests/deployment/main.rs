//! What is in deploy/ fits the gateway: metrics that exist, ports and paths that answer, alerts that
//! somebody can act on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod compose;
mod containers;
mod metrics;
mod promql;
mod readiness;

use std::fs;

/// The text of a file of the repository.
#[track_caller]
fn file(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The one document of a YAML file of the repository.
#[track_caller]
fn yaml(path: &str) -> serde_yaml::Value {
    serde_yaml::from_str(&file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
