//! The load generator: runs wrk and reads what it counted.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::contenders::Target;
use crate::http::CLIENT_HEADER;

/// Connections held open by wrk; DESIGN's figures are for this many.
const CONNECTIONS: u32 = 64;
/// What wrk runs to print its counts; part of the program, so that a run needs
/// no path.
pub(crate) const SUMMARY_SCRIPT: &str = include_str!("summary.lua");

/// What wrk counted in one run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Complete answers, whatever their status.
    pub(crate) requests: u64,
    /// Length of the run in microseconds.
    pub(crate) micros: u64,
    /// Bytes received.
    pub(crate) bytes: u64,
    /// Answers with a status of 400 or above.
    pub(crate) error_statuses: u64,
    /// Failures to connect, read or write, and answers that took over 2 s.
    pub(crate) socket_errors: u64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// Latency in microseconds that one request in a hundred exceeds.
    pub(crate) p99_us: u64,
}

impl Counts {
    pub(crate) fn per_second(&self) -> f64 {
        self.requests as f64 * 1e6 / self.micros.max(1) as f64
    }
}

/// Drives one target for whole seconds from the given core.
pub(crate) fn drive(
    target: &Target,
    seconds: u64,
    core: usize,
    script: &Path,
) -> anyhow::Result<Counts> {
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "taskset", "-c", &core.to_string(), "wrk", "-t1"])
        .arg(format!("-c{CONNECTIONS}"))
        .arg(format!("-d{seconds}s"))
        .args(["-H", &format!("{CLIENT_HEADER}: {}", target.client)])
        .arg("-s")
        .arg(script)
        .arg(format!("http://{}{}", target.address, target.path))
        .stdin(Stdio::null())
        .output()
        .context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "wrk failed: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    parse(&text).with_context(|| format!("wrk printed no summary: {text}"))
}

fn parse(text: &str) -> Option<Counts> {
    let line = text.lines().find_map(|line| line.strip_prefix("wrk-summary "))?;
    let mut counts = Counts::default();
    for pair in line.split_whitespace() {
        let (name, value) = pair.split_once('=')?;
        let value: u64 = value.parse().ok()?;
        match name {
            "requests" => counts.requests = value,
            "micros" => counts.micros = value,
            "bytes" => counts.bytes = value,
            "status" => counts.error_statuses = value,
            "connect" | "read" | "write" | "timeout" => counts.socket_errors += value,
            "p50" => counts.p50_us = value,
            "p99" => counts.p99_us = value,
            _ => return None,
        }
    }
    Some(counts)
}
