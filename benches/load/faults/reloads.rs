//! Reloads all the time: good ones, broken ones, small ones and ones of 10 000 routes.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::findings::{Finding, Findings, millis, quantile};
use super::origin::{Kind, Origin};
use super::steady::{Load, Plan, Shot};
use crate::configs::Listeners;
use crate::contenders::{Bench, OPEN_CLIENT, PATH, START_DEADLINE, Target, free_listeners};
use crate::process::{Process, poll_until};
use crate::{http, memory};

/// Requests per second, and which of them come on a connection of their own. A debug build,
/// which proves nothing, can at least try the case out.
const RATE: u32 = if cfg!(debug_assertions) { 100 } else { 1_000 };
const FRESH_EVERY: u32 = 10;
/// For connections to be made and caches to be filled.
const WARM_UP: Duration = Duration::from_secs(2);
/// 200 a minute.
const EVERY: Duration = Duration::from_millis(300);
/// Reloads after which memory is as large as it gets: more than generations are kept, of each
/// kind some.
const FIRST: usize = 40;
/// Kinds of files that take turns.
const KINDS: usize = 10;
const MANY_ROUTES: usize = 10_000;
/// The most a request may take longer because of reloads.
const MAX_DELAY: Duration = Duration::from_millis(50);
/// The most that memory may have grown after the first reloads.
const MAX_GROWTH: f64 = 1.10;

/// The gateway, its file and what reloads came to.
struct Stage {
    _origin: Origin,
    gateway: Target,
    _process: Process,
    listeners: Listeners,
    upstream: SocketAddr,
    file: PathBuf,
    taken: usize,
    rejected: usize,
    /// How long each took to be answered.
    took: Vec<Duration>,
}

/// Measures for `length` without and for `length` with reloads.
pub(crate) fn measure(bench: &Bench<'_>, length: Duration) -> anyhow::Result<Findings> {
    let mut stage = Stage::start(bench)?;
    let idle = memory::settled(&stage.gateway)?;
    let load = Load::start(Plan {
        address: stage.listeners.data,
        path: PATH,
        clients: &[OPEN_CLIENT],
        rate: RATE,
        fresh_every: FRESH_EVERY,
    });
    thread::sleep(WARM_UP);
    let settled = Instant::now();
    thread::sleep(length);
    let begun = Instant::now();
    stage.reload_times(FIRST)?;
    // With the load going on both times, so that connections are in both figures.
    let first = memory::settled(&stage.gateway)?;
    while begun.elapsed() < length || stage.took.len() < 2 * FIRST {
        // Whole rounds, so that the same configuration serves when memory is read.
        stage.reload_times(KINDS)?;
    }
    let last = memory::settled(&stage.gateway)?;
    let ended = Instant::now();
    let shots = load.stop()?;
    let sizes = Sizes { idle, first, last };
    Ok(judge(&stage, &shots, [settled, begun, ended], &sizes))
}

/// Resident memory in bytes.
struct Sizes {
    idle: u64,
    /// After the first reloads.
    first: u64,
    /// After all of them.
    last: u64,
}

impl Sizes {
    fn judge(&self) -> [Finding; 3] {
        let growth = self.last as f64 / self.first.max(1) as f64;
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        [
            Finding::plain("memory at the start", mb(self.idle)),
            Finding::plain("memory after the first 40 reloads", mb(self.first)),
            Finding::bounded(
                "memory after all of them",
                format!("{} ({growth:.3} ×)", mb(self.last)),
                "at most 1.10 ×",
                growth <= MAX_GROWTH,
            ),
        ]
    }
}

fn judge(stage: &Stage, shots: &[Shot], times: [Instant; 3], sizes: &Sizes) -> Findings {
    let [settled, begun, ended] = times;
    let between = |from: Instant, to: Instant| -> Vec<Shot> {
        shots.iter().filter(|shot| (from..to).contains(&shot.due)).copied().collect()
    };
    let (before, during) = (between(settled, begun), between(begun, ended));
    let slowest = |shots: &[Shot]| shots.iter().map(|shot| shot.took).max().unwrap_or_default();
    let p999 = |shots: &[Shot]| quantile(shots.iter().map(|shot| shot.took).collect(), 0.999);
    let unanswered = during.iter().filter(|shot| shot.status.is_none()).count();
    let wrong = during.iter().filter(|shot| !matches!(shot.status, None | Some(200))).count();
    let delay = slowest(&during).saturating_sub(slowest(&before));
    let (seconds, reloads) = ((ended - begun).as_secs_f64(), stage.taken + stage.rejected);
    let bounded = Finding::bounded;
    let mut findings = vec![
        Finding::plain(
            "reloads",
            format!(
                "{reloads} in {seconds:.0} s: {} taken, {} rejected",
                stage.taken, stage.rejected
            ),
        ),
        Finding::plain(
            "until a reload was answered, median and slowest",
            format!(
                "{}, {}",
                millis(quantile(stage.took.clone(), 0.5)),
                millis(quantile(stage.took.clone(), 1.0))
            ),
        ),
        Finding::plain("requests meanwhile", during.len().to_string()),
        bounded("resets, refused and lost", unanswered.to_string(), "none", unanswered == 0),
        bounded("answers other than 200", wrong.to_string(), "none", wrong == 0),
        Finding::plain("p99.9 without reloads", millis(p999(&before))),
        Finding::plain("p99.9 with reloads", millis(p999(&during))),
        Finding::plain("slowest without reloads", millis(slowest(&before))),
        bounded(
            "slowest with reloads",
            millis(slowest(&during)),
            "at most 50 ms more",
            delay <= MAX_DELAY,
        ),
    ];
    findings.extend(sizes.judge());
    Findings {
        title: "200 reloads a minute",
        setting: format!(
            "{RATE} requests/s go out whether or not answers come, every {FRESH_EVERY}th on a \
             connection of its own, the others on kept ones; latency counts from when a request \
             was due. Meanwhile a reload is asked for every {} ms, or when the one before is \
             answered: half of the files are broken, one in five has {MANY_ROUTES} routes. The \
             gateway has one worker, and one core for everything.",
            EVERY.as_millis(),
        ),
        table: String::new(),
        findings,
    }
}

impl Stage {
    fn start(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let kind = Kind { service: Duration::ZERO, slots: usize::MAX, status: 200 };
        let origin = Origin::start(bench, "reloads-origin", kind)?;
        let (upstream, listeners) = (origin.address, free_listeners()?);
        let process = bench.start_gateway("reloads", &config(listeners, upstream, 0, 0))?;
        poll_until(START_DEADLINE, || {
            let answer = http::get(listeners.data, PATH, OPEN_CLIENT)?;
            ensure!(answer.status == 200, "the gateway answers {}", answer.status);
            Ok(())
        })
        .context("the gateway did not start")?;
        Ok(Self {
            _origin: origin,
            gateway: Target::new("tollgate", &process, listeners.data),
            _process: process,
            listeners,
            upstream,
            file: bench.dir.join("reloads.yaml"),
            taken: 0,
            rejected: 0,
            took: Vec::new(),
        })
    }

    /// Reloads so many times, at the pace of the case.
    fn reload_times(&mut self, times: usize) -> anyhow::Result<()> {
        let mut due = Instant::now();
        for _ in 0..times {
            self.reload(self.took.len())?;
            due += EVERY;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        Ok(())
    }

    /// Writes the file of this number and asks for it to be read; checks what comes of that.
    fn reload(&mut self, number: usize) -> anyhow::Result<()> {
        let (text, is_right) = self.text(number);
        // In one step, as every tool should that writes configurations.
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.file)?;
        let asked = Instant::now();
        let answer = http::post(self.listeners.admin, "/reload", "")?;
        self.took.push(asked.elapsed());
        let expected = if is_right { 200 } else { 422 };
        ensure!(answer.status == expected, "reload {number} was answered {}", answer.status);
        *(if is_right { &mut self.taken } else { &mut self.rejected }) += 1;
        Ok(())
    }

    /// The file of this number, and whether it is right.
    fn text(&self, number: usize) -> (String, bool) {
        let file = |routes: usize| config(self.listeners, self.upstream, routes, number);
        match number % KINDS {
            1 => (file(MANY_ROUTES), true),
            3 => ("routes: [".to_owned(), false),
            4 => (file(MANY_ROUTES) + "  - {name: last, path: /last, upstream: nowhere}\n", false),
            5 => (file(0) + "unknown: key\n", false),
            7 => (file(10).replace("upstream: sample", "upstream: other"), false),
            9 => (file(0).replace("rate: 1000000/s", "rate: 0/s"), false),
            others => (file(others), true),
        }
    }
}

/// `number` is in every route's time-out, so that a reload changes each.
fn config(listeners: Listeners, upstream: SocketAddr, routes: usize, number: usize) -> String {
    let Listeners { data, admin, metrics } = listeners;
    let timeout = 10_000 + number;
    let mut text = format!(
        "server: {{listen: \"{data}\", workers: 1, reload_watch: {{}}}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
clients: {{default_tier: open}}
tiers:
  open: {{rate: 1000000/s, burst: 1000000}}
upstreams:
  sample: {{servers: [\"{upstream}\"], breaker: {{}}, concurrency: {{max: 10000, queue: 1000}}}}
routes:
  - {{name: users, path: /api/users, upstream: sample, timeout: {timeout}ms}}
"
    );
    for route in 0..routes {
        let _ = writeln!(
            text,
            "  - {{name: r{route}, path: /r/{route}, upstream: sample, timeout: {timeout}ms}}"
        );
    }
    text
}
