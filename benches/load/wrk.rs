//! The load generator: runs wrk and reads what it counted.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::contenders::Target;
use crate::http::CLIENT_HEADER;
use crate::process;

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
    Wrk::start(target, seconds, core, script)?.counts()
}

/// A wrk that runs; it ends with this value.
pub(crate) struct Wrk(Child);

impl Wrk {
    /// Begins to drive one target, for as many seconds by the clock on the wall.
    pub(crate) fn start(
        target: &Target,
        seconds: u64,
        core: usize,
        script: &Path,
    ) -> anyhow::Result<Self> {
        // Both programs before wrk replace themselves by the next, so the child is wrk.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "taskset", "-c", &core.to_string(), "wrk", "-t1"])
            .arg(format!("-c{CONNECTIONS}"))
            .arg(format!("-d{seconds}s"))
            .args(["-H", &format!("{CLIENT_HEADER}: {}", target.client)])
            .arg("-s")
            .arg(script)
            .arg(format!("http://{}{}", target.address, target.path))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run wrk")?;
        Ok(Self(child))
    }

    /// Lets it do nothing, its connections kept, until it is thawed. Its time runs on.
    pub(crate) fn freeze(&self) {
        process::signal(Signal::STOP, self.0.id());
    }

    pub(crate) fn thaw(&self) {
        process::signal(Signal::CONT, self.0.id());
    }

    /// What it has counted, once it has ended by itself.
    pub(crate) fn counts(mut self) -> anyhow::Result<Counts> {
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut text)?;
        }
        ensure!(self.0.wait()?.success(), "wrk failed: {text}");
        parse(&text).with_context(|| format!("wrk printed no summary: {text}"))
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        // One that has ended is left alone by both.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
