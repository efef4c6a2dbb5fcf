//! Clients that keep connections and send or read next to nothing, while another client goes on
//! as ever.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::findings::{Finding, Findings, millis, quantile};
use super::origin::{Kind, Origin};
use super::slow_clients::{CONNECTIONS, MAX_SECONDS, Mode, SlowClients, Tally};
use super::steady::{Load, Plan, Shot};
use crate::configs::Listeners;
use crate::contenders::{Bench, OPEN_CLIENT, PATH, START_DEADLINE, Target, free_listeners};
use crate::process::{Process, poll_until, resident_bytes};
use crate::{http, memory};

/// Requests per second of the legitimate client, and which of them come on a connection of
/// their own.
const RATE: u32 = if cfg!(debug_assertions) { 100 } else { 1_000 };
const FRESH_EVERY: u32 = 10;
/// For connections to be made and caches to be filled.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long nobody is hostile, before each mode.
const QUIET: Duration = Duration::from_secs(8);
/// How long an attack whose connections were all closed begins anew; the last one goes on until
/// they are closed.
const ATTACK: Duration = Duration::from_secs(20);
/// How often memory and connections are looked at meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How much longer the p99 of the legitimate client may be, and from where on that counts: under
/// a millisecond the noise of a machine decides.
const MAX_P99_GROWTH: u32 = 2;
const P99_FLOOR: Duration = Duration::from_millis(1);
/// An attack with fewer connections at a time proves nothing: they were slow to be opened.
const MIN_PEAK: u64 = CONNECTIONS * 9 / 10;
/// How soon nothing of an attack may be left.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

/// The most bytes of memory that a hostile connection may cost; none: it is only reported.
const MAX_UPLOAD_BYTES: Option<u64> = Some(200 * 1024);
const MAX_READ_BYTES: Option<u64> = Some(128 << 10);

fn max_bytes(mode: Mode) -> Option<u64> {
    match mode {
        Mode::Header | Mode::Body => MAX_UPLOAD_BYTES,
        Mode::Read => MAX_READ_BYTES,
    }
}

/// The reason by which the gateway counts the connections it closes.
fn reason(mode: Mode) -> &'static str {
    match mode {
        Mode::Header => "header_timeout",
        Mode::Body | Mode::Read => "min_body_rate",
    }
}

/// Measures all modes, one after another, each against a gateway of its own, so that none finds
/// memory that the one before left behind.
pub(crate) fn measure(bench: &Bench<'_>) -> anyhow::Result<Findings> {
    let kind = Kind { service: Duration::ZERO, slots: usize::MAX, status: 200 };
    let origin = Origin::start(bench, "hostile-origin", kind)?;
    let mut findings = Vec::new();
    for mode in Mode::ALL {
        let observed = observe(bench, mode, origin.address).context(mode.name())?;
        findings.extend(judge(mode, &observed));
    }
    Ok(Findings {
        title: "Hostile connections that send or read next to nothing",
        setting: format!(
            "{RATE} requests/s of a legitimate client go out whether or not answers come, every \
             {FRESH_EVERY}th on a connection of its own, the others on kept ones; latency counts \
             from when a request was due. Meanwhile slowhttptest opens {CONNECTIONS} connections \
             within two seconds, and anew when they are closed, as long as {} s have not passed: \
             with a head, a body or the reading of 4 MiB that never ends, a few bytes a second. \
             Each mode has a gateway of its own, with header_timeout 5s, idle_timeout 10s (which \
             closes what the legitimate client keeps and does not use) and two defaults: \
             max_connections 65536, and min_body_rate 1KiB, which gives a client 10 s of \
             waiting, and 26 s once 16 KiB have moved, be it into buffers. With all defaults \
             heads would be closed after 10 s and silence after 60 s, bodies and reading as \
             here. Nothing bounds the connections of one address, as if there were many, and the \
             upstream has places for all. A p99 up to {} is met whatever it was before. Memory \
             is what is resident above that before the attack, at its peak. The gateway has one \
             worker, and one core for everything; slowhttptest, which ends after {MAX_SECONDS} s \
             at the latest, runs on the other with the lowest priority.",
            ATTACK.as_secs(),
            millis(P99_FLOOR),
        ),
        table: String::new(),
        findings,
    })
}

/// What happened in one mode.
struct Observed {
    /// What the legitimate client sent before the attack, and during it.
    before: Vec<Shot>,
    during: Vec<Shot>,
    attack: Attack,
    /// Resident bytes before the attack, and when it was over.
    idle_bytes: u64,
    left_bytes: u64,
    /// Connections that the gateway closed, by reason.
    closed: BTreeMap<String, u64>,
    /// Connections open and requests under way when every client was gone.
    left_over: u64,
}

fn observe(bench: &Bench<'_>, mode: Mode, upstream: SocketAddr) -> anyhow::Result<Observed> {
    let (gateway, target, metrics) = start_gateway(bench, mode, upstream)?;
    let load = Load::start(Plan {
        address: target.address,
        path: PATH,
        clients: &[OPEN_CLIENT],
        rate: RATE,
        fresh_every: FRESH_EVERY,
    });
    thread::sleep(WARM_UP);
    let settled = Instant::now();
    thread::sleep(QUIET);
    // The legitimate client's connections are in all figures of memory.
    let idle_bytes = resident_bytes(target.id)?;
    let begun = Instant::now();
    let attack = Attack::run(bench, mode, &target, metrics)?;
    let ended = Instant::now();
    let left_bytes = memory::settled(&target)?;
    let shots = load.stop()?;
    let between = |from: Instant, to: Instant| -> Vec<Shot> {
        shots.iter().filter(|shot| (from..to).contains(&shot.due)).copied().collect()
    };
    let (before, during) = (between(settled, begun), between(begun, ended));
    ensure!(!before.is_empty(), "nothing was sent before the attack");
    let left_over = poll_until(GONE_DEADLINE, || {
        let left = Counters::read(metrics)?.left_over();
        ensure!(left == 0, "something is left");
        Ok(left)
    });
    let counters = Counters::read(metrics)?;
    drop(gateway);
    Ok(Observed {
        before,
        during,
        attack,
        idle_bytes,
        left_bytes,
        closed: counters.closed(),
        left_over: left_over.unwrap_or_else(|_| counters.left_over()),
    })
}

/// One mode, run again and again.
#[derive(Default)]
struct Attack {
    runs: u32,
    tally: Tally,
    /// The most of its connections that were open at a time.
    peak_connections: u64,
    /// The most bytes that were resident.
    peak_bytes: u64,
}

impl Attack {
    fn run(
        bench: &Bench<'_>,
        mode: Mode,
        target: &Target,
        metrics: SocketAddr,
    ) -> anyhow::Result<Self> {
        let others = Counters::read(metrics)?.connections();
        let mut attack = Self::default();
        let begun = Instant::now();
        while begun.elapsed() < ATTACK {
            let mut clients = SlowClients::start(bench, mode, attack.runs, target.address)?;
            attack.runs += 1;
            let all = u64::from(attack.runs) * CONNECTIONS;
            while !clients.has_ended()? {
                attack.peak_bytes = attack.peak_bytes.max(resident_bytes(target.id)?);
                // A gateway too busy to tell of itself is one that its clients judge.
                if let Ok(counters) = Counters::read(metrics) {
                    let open = counters.connections().saturating_sub(others).min(CONNECTIONS);
                    attack.peak_connections = attack.peak_connections.max(open);
                    // Who reads slowly is slow to notice a reset as well: what came before it
                    // is still to be read.
                    if counters.closed().get(reason(mode)).is_some_and(|closed| *closed >= all) {
                        break;
                    }
                }
                thread::sleep(LOOK_INTERVAL);
            }
            attack.tally.add(clients.finish()?);
        }
        ensure!(
            attack.peak_connections >= MIN_PEAK,
            "only {} hostile connections were open at a time",
            attack.peak_connections
        );
        Ok(attack)
    }
}

fn judge(mode: Mode, observed: &Observed) -> Vec<Finding> {
    let Observed { before, during, attack, .. } = observed;
    let Tally { opened, seconds, available } = attack.tally;
    let lost = during.iter().filter(|shot| shot.status.is_none()).count();
    let wrong = during.iter().filter(|shot| !matches!(shot.status, None | Some(200))).count();
    let took = |shots: &[Shot]| -> Vec<Duration> { shots.iter().map(|shot| shot.took).collect() };
    let [p99_before, p99] = [before, during].map(|shots| quantile(took(shots), 0.99));
    let [slowest_before, slowest] = [before, during].map(|shots| quantile(took(shots), 1.0));
    let closed = observed.closed.get(reason(mode)).copied().unwrap_or_default();
    let mut findings = vec![
        Finding::plain(
            mode.name(),
            format!(
                "{opened} connections in {} attacks, {} at a time",
                attack.runs, attack.peak_connections
            ),
        ),
        Finding::bounded(
            "of the legitimate client's requests refused, reset and lost",
            format!("{lost} of {}", during.len()),
            "none",
            lost == 0,
        ),
        Finding::bounded("its answers other than 200", wrong.to_string(), "none", wrong == 0),
        Finding::bounded(
            "its p99 before, and meanwhile",
            pair(p99_before, p99),
            &format!("at most {MAX_P99_GROWTH} ×, or {}", millis(P99_FLOOR)),
            p99 <= P99_FLOOR.max(p99_before * MAX_P99_GROWTH),
        ),
        Finding::plain("its slowest before, and meanwhile", pair(slowest_before, slowest)),
        Finding::plain(
            "seconds that slowhttptest found the gateway available",
            format!("{available} of {seconds}"),
        ),
        Finding::bounded(
            "closed by the gateway",
            list(&observed.closed),
            "all that were hostile",
            closed >= opened,
        ),
        Finding::bounded(
            "connections and requests left over",
            observed.left_over.to_string(),
            "none",
            observed.left_over == 0,
        ),
    ];
    findings.extend(judge_memory(mode, observed));
    findings
}

fn judge_memory(mode: Mode, observed: &Observed) -> [Finding; 2] {
    let Observed { attack, idle_bytes, left_bytes, .. } = observed;
    let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let grown = attack.peak_bytes.saturating_sub(*idle_bytes);
    let each = grown / attack.peak_connections.max(1);
    let kib = |bytes: u64| format!("{:.1} KiB", bytes as f64 / 1024.0);
    let what = "memory for each hostile connection";
    [
        Finding::plain(
            "memory before, at most, and afterwards",
            format!("{}, {}, {}", mb(*idle_bytes), mb(attack.peak_bytes), mb(*left_bytes)),
        ),
        match max_bytes(mode) {
            Some(max) => {
                Finding::bounded(what, kib(each), &format!("at most {}", kib(max)), each <= max)
            }
            None => Finding::plain(what, kib(each)),
        },
    ]
}

fn pair(before: Duration, meanwhile: Duration) -> String {
    format!("{}, {}", millis(before), millis(meanwhile))
}

fn list(closed: &BTreeMap<String, u64>) -> String {
    let closed: Vec<String> =
        closed.iter().map(|(reason, number)| format!("{reason} {number}")).collect();
    if closed.is_empty() { "none".to_owned() } else { closed.join(", ") }
}

/// What the gateway tells of itself, as the text of its metrics.
struct Counters(String);

impl Counters {
    fn read(metrics: SocketAddr) -> anyhow::Result<Self> {
        let answer = http::get(metrics, "/metrics", "")?;
        ensure!(answer.status == 200, "metrics answer {}", answer.status);
        Ok(Self(String::from_utf8_lossy(answer.body()).into_owned()))
    }

    /// The labels and values of a metric.
    fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
        self.0.lines().filter_map(move |line| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            // Else it is another metric whose name is longer.
            let is_it = labels.is_empty() || labels.starts_with('{');
            is_it.then(|| value.parse().ok()).flatten().map(|value| (labels, value))
        })
    }

    fn connections(&self) -> u64 {
        self.of("gateway_connections").map(|(_, value)| value).sum()
    }

    fn left_over(&self) -> u64 {
        let requests: u64 = self.of("gateway_inflight_requests").map(|(_, value)| value).sum();
        self.connections() + requests
    }

    /// Connections closed by reason, without reasons there were none for.
    fn closed(&self) -> BTreeMap<String, u64> {
        let closed = self.of("gateway_connections_closed_total").filter(|(_, value)| *value > 0);
        closed
            .map(|(labels, value)| (labels.split('"').nth(1).unwrap_or_default().into(), value))
            .collect()
    }
}

fn start_gateway(
    bench: &Bench<'_>,
    mode: Mode,
    upstream: SocketAddr,
) -> anyhow::Result<(Process, Target, SocketAddr)> {
    let listeners = free_listeners()?;
    let mut process = bench.start_gateway(mode.file(), &config(listeners, upstream))?;
    poll_until(START_DEADLINE, || {
        // A process that has ended will never answer, so that is final.
        if let Err(ended) = process.check_alive(bench.dir) {
            return Ok(Err(ended));
        }
        let answer = http::get(listeners.data, PATH, OPEN_CLIENT)?;
        ensure!(answer.status == 200, "the gateway answers {}", answer.status);
        Ok(Ok(()))
    })
    .and_then(|outcome| outcome)
    .context("the gateway did not start")?;
    let target = Target::new("tollgate", &process, listeners.data);
    Ok((process, target, listeners.metrics))
}

fn config(listeners: Listeners, upstream: SocketAddr) -> String {
    let Listeners { data, admin, metrics } = listeners;
    format!(
        "server: {{listen: \"{data}\", workers: 1, header_timeout: 5s, idle_timeout: 10s}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
clients: {{default_tier: open}}
tiers:
  open: {{rate: 1000000/s, burst: 1000000}}
upstreams:
  sample: {{servers: [\"{upstream}\"], breaker: {{}}, concurrency: {{max: 10000, queue: 1000}}}}
routes:
  - {{name: users, path: /api/users, upstream: sample, timeout: 60s}}
"
    )
}
