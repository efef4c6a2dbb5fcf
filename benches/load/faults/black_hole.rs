//! One of three servers stops answering under a steady load; and all of them fail.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::findings::{Finding, Findings, millis, percent, quantile};
use super::origin::{HEALTH, Kind, Origin};
use super::steady::{Load, Plan, Shot};
use crate::configs::Listeners;
use crate::contenders::{Bench, OPEN_CLIENT, PATH, START_DEADLINE, free_listeners};
use crate::http;
use crate::process::{Process, poll_until};

const SERVERS: usize = 3;
/// A server's requests at a time and the time of each: 800 requests a second.
const SLOTS: usize = 16;
const SERVICE: Duration = Duration::from_millis(20);
/// 40 % of what the three servers can do, 60 % of what two can.
const RATE: u32 = 960;
/// The longest an attempt may take. Fifty times what it does take: on a machine that is busy
/// with other things a shorter time would find failures where there are none.
const PER_TRY: Duration = Duration::from_secs(1);
/// For connections to be made and caches to be filled.
const WARM_UP: Duration = Duration::from_secs(2);
const BEFORE: Duration = Duration::from_secs(8);
/// How long the black hole may stay in balancing.
const EJECTION_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than the first ejection, so that a server that comes back too early is noticed.
const AFTER: Duration = Duration::from_secs(12);
/// The load while all servers fail, and for how long: as long as a retry budget looks back.
const FAILING_RATE: u32 = 500;
const FAILING: Duration = Duration::from_secs(10);
/// Retries that are allowed in that time however few the requests.
const RETRY_FLOOR: u64 = 10;

pub(crate) fn measure(bench: &Bench<'_>) -> anyhow::Result<Findings> {
    let mut findings = with_one_black_hole(bench)?;
    findings.push(with_all_failing(bench)?);
    Ok(Findings {
        title: "One of three servers stops answering",
        setting: format!(
            "Each server works on {SLOTS} requests at a time, {} ms each. {RATE} requests/s, \
             40 % of what three can do, go out whether or not answers come; latency counts from \
             when a request was due. One server is stopped (SIGSTOP): its connections stay, \
             new ones are accepted, nothing is answered. Round robin, breaker, ejection, \
             health checks every 1 s, two retries, {} s an attempt. Then all servers answer \
             503 at once to {FAILING_RATE} requests/s for {} s, without a breaker.",
            SERVICE.as_millis(),
            PER_TRY.as_secs(),
            FAILING.as_secs(),
        ),
        table: String::new(),
        findings,
    })
}

/// The gateway in front of its servers.
struct Stage {
    _gateway: Process,
    listeners: Listeners,
    servers: Vec<Origin>,
}

impl Stage {
    fn start(bench: &Bench<'_>, name: &str, kind: Kind, guards: &str) -> anyhow::Result<Self> {
        let servers: Vec<Origin> = (0..SERVERS)
            .map(|index| Origin::start(bench, &format!("{name}-{index}"), kind))
            .collect::<anyhow::Result<_>>()?;
        let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
        let listeners = free_listeners()?;
        let gateway = bench.start_gateway(name, &config(listeners, &addresses, guards))?;
        // Without a request, for each counts as one that the servers got.
        poll_until(START_DEADLINE, || {
            http::get(listeners.admin, "/upstreams", OPEN_CLIENT)?;
            http::connect(listeners.data)
        })
        .context("the gateway did not start")?;
        Ok(Self { _gateway: gateway, listeners, servers })
    }

    fn load(&self, rate: u32) -> Load {
        let address = self.listeners.data;
        Load::start(Plan { address, path: PATH, clients: &[OPEN_CLIENT], rate, fresh_every: 0 })
    }

    /// What the gateway makes of a server: `up`, or why it is not asked.
    fn state(&self, server: SocketAddr) -> anyhow::Result<String> {
        let answer = http::get(self.listeners.admin, "/upstreams", OPEN_CLIENT)?;
        let json: serde_json::Value = serde_json::from_slice(answer.body())?;
        let servers = json[0]["servers"].as_array().context("no servers")?;
        let address = server.to_string();
        let found = servers.iter().find(|server| server["address"] == address);
        let state = found.and_then(|server| server["state"].as_str());
        state.map(str::to_owned).context("the server is missing")
    }
}

fn with_one_black_hole(bench: &Bench<'_>) -> anyhow::Result<Vec<Finding>> {
    let kind = Kind { service: SERVICE, slots: SLOTS, status: 200 };
    let guards = format!(
        "
    health_check: {{type: http, path: {HEALTH}, interval: 1s, timeout: 1s}}
    breaker: {{consecutive_failures: 5, failure_ratio: 0.5}}"
    );
    let mut stage = Stage::start(bench, "black-hole", kind, &guards)?;
    let load = stage.load(RATE);
    let settled = Instant::now() + WARM_UP;
    thread::sleep(WARM_UP + BEFORE);
    let hole = stage.servers.last_mut().context("no server")?;
    let address = hole.address;
    hole.process.freeze();
    let frozen = Instant::now();
    let state = poll_until(EJECTION_DEADLINE, || {
        let state = stage.state(address)?;
        ensure!(state != "up", "the server that answers nothing is still asked");
        Ok(state)
    });
    let out = Instant::now();
    thread::sleep(AFTER);
    let shots = load.stop()?;
    let was_well = |shot: &Shot| shot.is_served() || shot.due < settled || shot.ended() >= frozen;
    ensure!(
        shots.iter().all(was_well),
        "requests failed with all servers well: is the machine busy?"
    );
    Ok(judge(&shots, &Moments { settled, frozen, out }, &state?))
}

/// When what happened.
struct Moments {
    settled: Instant,
    frozen: Instant,
    out: Instant,
}

fn judge(shots: &[Shot], moments: &Moments, state: &str) -> Vec<Finding> {
    let Moments { settled, frozen, out } = *moments;
    let pick = |is_in: &dyn Fn(&Shot) -> bool| -> Vec<Shot> {
        shots.iter().filter(|shot| is_in(shot)).copied().collect()
    };
    let before = pick(&|shot| shot.due >= settled && shot.ended() < frozen);
    let during = pick(&|shot| shot.due < out && shot.ended() >= frozen);
    let after = pick(&|shot| shot.due >= out);
    let errors = |shots: &[Shot]| shots.iter().filter(|shot| !shot.is_served()).count();
    let p99 = |shots: &[Shot]| quantile(shots.iter().map(|shot| shot.took).collect(), 0.99);
    let failed = |shots: &[Shot]| {
        let (bad, all) = (errors(shots), shots.len());
        format!("{bad} of {all} ({:.2} %)", percent(bad, all))
    };
    let lost = percent(errors(&after), after.len());
    let growth = p99(&after).as_secs_f64() / p99(&before).as_secs_f64().max(f64::EPSILON);
    let held = format!("{} ({state})", millis(out - frozen));
    vec![
        Finding::plain("time until it is out of balancing", held),
        Finding::plain("errors until then", failed(&during)),
        Finding::bounded("errors after", failed(&after), "at most 0.1 %", lost <= 0.1),
        Finding::plain("p99 before", millis(p99(&before))),
        Finding::plain("p99 until it is out", millis(p99(&during))),
        Finding::plain("p99 after", millis(p99(&after))),
        Finding::bounded(
            "p99 after ÷ before",
            format!("{growth:.3}"),
            "at most 1.20",
            growth <= 1.2,
        ),
    ]
}

/// Nothing holds retries back here but their budget: there is no breaker.
fn with_all_failing(bench: &Bench<'_>) -> anyhow::Result<Finding> {
    let kind = Kind { service: Duration::ZERO, slots: SLOTS, status: 503 };
    let stage = Stage::start(bench, "all-failing", kind, "")?;
    let load = stage.load(FAILING_RATE);
    thread::sleep(FAILING);
    let shots = load.stop()?;
    let mut others = shots.iter().filter(|shot| shot.status != Some(503));
    if let Some(other) = others.next() {
        bail!("{} requests were not told 503, one of them {:?}", others.count() + 1, other.status);
    }
    let mut attempts = 0;
    for server in &stage.servers {
        attempts += server.counts()?.requests;
    }
    let requests = shots.len() as u64;
    let ratio = attempts as f64 / requests as f64;
    let most = requests + (requests / 5).max(RETRY_FLOOR);
    Ok(Finding::bounded(
        "attempts ÷ requests while all fail",
        format!("{ratio:.3} ({attempts} for {requests})"),
        "at most 1.2",
        attempts <= most,
    ))
}

fn config(listeners: Listeners, servers: &[SocketAddr], guards: &str) -> String {
    let Listeners { data, admin, metrics } = listeners;
    let servers: Vec<String> = servers.iter().map(|server| format!("\"{server}\"")).collect();
    let servers = servers.join(", ");
    let per_try = PER_TRY.as_millis();
    format!(
        "server: {{listen: \"{data}\", workers: 1}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
clients: {{default_tier: open}}
tiers:
  open: {{rate: 1000000/s, burst: 1000000}}
upstreams:
  trio:
    servers: [{servers}]
    timeouts: {{connect: 1s}}
    concurrency: {{max: 1000, queue: 100}}{guards}
routes:
  - name: users
    path: /api/users
    upstream: trio
    timeout: 3s
    retry: {{attempts: 2, per_try_timeout: {per_try}ms}}
"
    )
}
