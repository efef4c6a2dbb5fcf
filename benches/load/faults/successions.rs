//! One process after another: upgrades in flight, and restarts while another process holds the
//! port as systemd would.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::Signal;

use super::findings::{Finding, Findings, millis, quantile};
use super::origin::{Kind, Origin};
use super::steady::{Load, Plan, Shot};
use crate::configs::Listeners;
use crate::contenders::{Bench, OPEN_CLIENT, PATH, START_DEADLINE, Target, free_listeners};
use crate::http;
use crate::process::{Process, poll_until, signal};
use crate::wrk::{self, Counts};

/// Requests per second, and which of them come on a connection of their own.
const RATE: u32 = if cfg!(debug_assertions) { 100 } else { 1_000 };
const FRESH_EVERY: u32 = 10;
/// How many processes succeed one another.
const TIMES: usize = 20;
/// The pause between two of them: longer than the old one needs to drain.
const PAUSE: Duration = Duration::from_millis(800);
/// How long wrk goes on at most; it is stopped by its own clock only.
const WRK_SECONDS: u64 = if cfg!(debug_assertions) { 60 } else { 40 };

/// Measures both kinds of succession.
pub(crate) fn measure(bench: &Bench<'_>) -> anyhow::Result<Findings> {
    let script = &bench.dir.join("summary.lua");
    fs::write(script, wrk::SUMMARY_SCRIPT)?;
    let kind = Kind { service: Duration::ZERO, slots: usize::MAX, status: 200 };
    let origin = Origin::start(bench, "successions-origin", kind)?;
    let mut upgrades = Upgrades::start(bench, origin.address)?;
    let mut findings = observe("upgrades", bench, script, &upgrades.target(), || upgrades.next())?;
    drop(upgrades);
    let mut restarts = Restarts::start(bench, origin.address)?;
    findings.extend(observe("restarts", bench, script, &restarts.target(), || restarts.next())?);
    Ok(Findings {
        title: "20 upgrades in flight and 20 restarts with socket activation",
        setting: format!(
            "{RATE} requests/s go out whether or not answers come, every {FRESH_EVERY}th on a \
             connection of its own; then wrk with 64 connections at saturation. Meanwhile \
             `POST /upgrade` replaces the process {TIMES} times; and {TIMES} times the process \
             drains on TERM and another is started with the listening socket, which is held open \
             throughout. The gateway has one worker, and one core for everything.",
        ),
        table: String::new(),
        findings,
    })
}

/// Lets `next` happen again and again under both kinds of load.
fn observe(
    what: &'static str,
    bench: &Bench<'_>,
    script: &Path,
    target: &Target,
    mut next: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Finding>> {
    let mut succeed = || -> anyhow::Result<()> {
        for _ in 0..TIMES {
            next()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    };
    let load = Load::start(Plan {
        address: target.address,
        path: PATH,
        clients: &[OPEN_CLIENT],
        rate: RATE,
        fresh_every: FRESH_EVERY,
    });
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(5));
    let first = Instant::now();
    succeed()?;
    let shots = load.stop()?;
    let counts = thread::scope(|scope| {
        let wrk = scope.spawn(|| wrk::drive(target, WRK_SECONDS, bench.cores.load, script));
        thread::sleep(Duration::from_secs(1));
        let succeeded = succeed();
        let counts = wrk.join().ok().context("wrk's thread panicked")?;
        succeeded.and(counts)
    })?;
    let quiet: Vec<Shot> = shots.iter().filter(|shot| shot.due < first).copied().collect();
    let busy: Vec<Shot> = shots.iter().filter(|shot| shot.due >= first).copied().collect();
    ensure!(first > begun && !quiet.is_empty(), "nothing was sent before the first of them");
    Ok(judge(what, &quiet, &busy, &counts))
}

fn judge(what: &'static str, quiet: &[Shot], busy: &[Shot], counts: &Counts) -> Vec<Finding> {
    let lost = busy.iter().filter(|shot| shot.status.is_none()).count();
    let wrong = busy.iter().filter(|shot| !matches!(shot.status, None | Some(200))).count();
    let slowest = |shots: &[Shot]| shots.iter().map(|shot| shot.took).max().unwrap_or_default();
    let p999 = |shots: &[Shot]| quantile(shots.iter().map(|shot| shot.took).collect(), 0.999);
    let errors = counts.socket_errors + counts.error_statuses;
    vec![
        Finding::plain(what, format!("{TIMES} under each load")),
        Finding::bounded(
            "refused, reset and lost",
            format!("{lost} of {}", busy.len()),
            "none",
            lost == 0,
        ),
        Finding::bounded("answers other than 200", wrong.to_string(), "none", wrong == 0),
        Finding::plain("p99.9 before, and meanwhile", pair(p999(quiet), p999(busy))),
        Finding::plain("slowest before, and meanwhile", pair(slowest(quiet), slowest(busy))),
        Finding::bounded(
            "errors at saturation",
            format!("{errors} of {}", counts.requests),
            "none",
            errors == 0,
        ),
    ]
}

fn pair(before: Duration, meanwhile: Duration) -> String {
    format!("{}, {}", millis(before), millis(meanwhile))
}

/// A gateway that starts its own successors. They are nobody's children here, so the last one
/// is ended by its number.
struct Upgrades {
    first: Process,
    listeners: Listeners,
    serving: u32,
}

impl Upgrades {
    fn start(bench: &Bench<'_>, upstream: SocketAddr) -> anyhow::Result<Self> {
        let listeners = free_listeners()?;
        let first = bench.start_gateway("upgrades", &config(bench.dir, listeners, upstream))?;
        until_it_serves(listeners)?;
        Ok(Self { serving: first.id(), first, listeners })
    }

    fn target(&self) -> Target {
        Target::new("tollgate", &self.first, self.listeners.data)
    }

    fn next(&mut self) -> anyhow::Result<()> {
        let answer = http::post(self.listeners.admin, "/upgrade", "")?;
        ensure!(answer.status == 200, "an upgrade was answered {}", answer.status);
        let json: serde_json::Value = serde_json::from_slice(answer.body())?;
        let process = json["process"].as_u64().and_then(|process| process.try_into().ok());
        self.serving = process.context("the answer names no process")?;
        Ok(())
    }
}

impl Drop for Upgrades {
    fn drop(&mut self) {
        if self.serving != self.first.id() {
            signal(Signal::INT, self.serving);
        }
    }
}

/// A gateway whose data port is held here while one process follows another.
struct Restarts {
    core: usize,
    dir: PathBuf,
    held: TcpListener,
    listeners: Listeners,
    process: Process,
}

impl Restarts {
    fn start(bench: &Bench<'_>, upstream: SocketAddr) -> anyhow::Result<Self> {
        let held = TcpListener::bind("127.0.0.1:0")?;
        // So that it survives `exec`.
        fcntl_setfd(&held, FdFlags::empty())?;
        // As many as systemd's socket unit asks for.
        socket2::SockRef::from(&held).listen(65_535)?;
        let listeners = Listeners { data: held.local_addr()?, ..free_listeners()? };
        bench.write("restarts.yaml", &config(bench.dir, listeners, upstream))?;
        let (core, dir) = (bench.cores.contender, bench.dir.to_owned());
        let process = activated(&held, core, &dir)?;
        until_it_serves(listeners)?;
        Ok(Self { core, dir, held, listeners, process })
    }

    fn target(&self) -> Target {
        Target::new("tollgate", &self.process, self.listeners.data)
    }

    fn next(&mut self) -> anyhow::Result<()> {
        self.process.drain()?;
        self.process = activated(&self.held, self.core, &self.dir)?;
        // Not a request: that would be one more in the queue.
        poll_until(START_DEADLINE, || {
            let answer = http::get(self.listeners.admin, "/ready", "")?;
            ensure!(answer.status == 200, "not ready");
            Ok(())
        })
    }
}

/// Starts the gateway as systemd would, with the number of its process in LISTEN_PID, which the
/// shell knows before it becomes the gateway.
fn activated(held: &TcpListener, core: usize, dir: &Path) -> anyhow::Result<Process> {
    let script = format!(
        "LISTEN_FDS=1 LISTEN_FDS_FIRST_FD={} LISTEN_PID=$$ exec \"$0\" run -c \"$1\"",
        held.as_raw_fd()
    );
    let file = dir.join("restarts.yaml");
    let file = file.to_str().context("the temporary folder's name is not text")?;
    let binary = env!("CARGO_BIN_EXE_tollgate");
    Process::start("restarts", core, Path::new("sh"), &["-c", &script, binary, file], dir)
}

fn until_it_serves(listeners: Listeners) -> anyhow::Result<()> {
    poll_until(START_DEADLINE, || {
        let answer = http::get(listeners.data, PATH, OPEN_CLIENT)?;
        ensure!(answer.status == 200, "the gateway answers {}", answer.status);
        Ok(())
    })
    .context("the gateway did not start")
}

fn config(dir: &Path, listeners: Listeners, upstream: SocketAddr) -> String {
    let Listeners { data, admin, metrics } = listeners;
    let meeting_point = dir.join("upgrade.sock");
    format!(
        "server: {{listen: \"{data}\", workers: 1, upgrade_socket: \"{}\"}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
clients: {{default_tier: open}}
tiers:
  open: {{rate: 1000000/s, burst: 1000000}}
upstreams:
  sample: {{servers: [\"{upstream}\"], breaker: {{}}}}
routes:
  - {{name: users, path: /api/users, upstream: sample, timeout: 10s}}
",
        meeting_point.display()
    )
}
