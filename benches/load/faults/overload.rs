//! Three times the load an upstream can take, from clients of four tiers.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::findings::{Finding, Findings, millis, percent, quantile};
use super::origin::{Kind, Origin};
use super::steady::{Load, Plan, Shot};
use crate::configs::Listeners;
use crate::contenders::{Bench, PATH, START_DEADLINE, free_listeners};
use crate::http;
use crate::process::poll_until;

/// One client of each tier, the lowest first; each is called like its tier.
const TIERS: [&str; 4] = ["free", "basic", "premium", "enterprise"];
/// What the gateway lets through at a time and how long each takes: 500 requests a second.
const MAX: u64 = 10;
const SERVICE: Duration = Duration::from_millis(20);
/// Three times that.
const RATE: u32 = 1500;
const QUEUE: u32 = 50;
const QUEUE_TIMEOUT: Duration = Duration::from_millis(100);
const WARM_UP: Duration = Duration::from_secs(2);
const LENGTH: Duration = Duration::from_secs(15);

pub(crate) fn measure(bench: &Bench<'_>) -> anyhow::Result<Findings> {
    // The server would take any number at a time: what it has at most is the gateway's doing.
    let kind = Kind { service: SERVICE, slots: usize::MAX, status: 200 };
    let server = Origin::start(bench, "overloaded", kind)?;
    let listeners = free_listeners()?;
    let _gateway = bench.start_gateway("overload", &config(listeners, server.address))?;
    poll_until(START_DEADLINE, || {
        let answer = http::get(listeners.data, PATH, TIERS[0])?;
        ensure!(answer.status == 200, "the gateway answers {}", answer.status);
        Ok(())
    })
    .context("the gateway did not start")?;

    let load = Load::start(Plan {
        address: listeners.data,
        path: PATH,
        clients: &TIERS,
        rate: RATE,
        fresh_every: 0,
    });
    thread::sleep(WARM_UP);
    let (begun, at_begin) = (Instant::now(), server.counts()?);
    thread::sleep(LENGTH);
    let (length, at_end) = (begun.elapsed(), server.counts()?);
    let shots = load.stop()?;

    let requests = at_end.requests - at_begin.requests;
    let held = (at_end.busy - at_begin.busy).as_secs_f64() / requests.max(1) as f64;
    let throughput = Throughput {
        served: requests as f64 / length.as_secs_f64(),
        possible: MAX as f64 / held,
        held,
        peak: at_end.peak,
    };
    let window = begun..begun + length;
    let shots: Vec<Shot> = shots.into_iter().filter(|shot| window.contains(&shot.due)).collect();
    Ok(judge(&shots, &throughput))
}

/// What the upstream did.
struct Throughput {
    /// Requests per second.
    served: f64,
    /// What as many places as there are could do, each held for as long as they were.
    possible: f64,
    /// Seconds the server took for a request.
    held: f64,
    /// The most requests it had at a time.
    peak: u64,
}

/// What came of one tier.
struct Share {
    offered: usize,
    served: usize,
    p99: Duration,
}

impl Share {
    fn of(shots: &[Shot], client: usize) -> Self {
        let offered = shots.iter().filter(|shot| shot.client == client);
        let served: Vec<Duration> =
            offered.clone().filter(|shot| shot.is_served()).map(|shot| shot.took).collect();
        Self { offered: offered.count(), served: served.len(), p99: quantile(served, 0.99) }
    }

    fn percent(&self) -> f64 {
        percent(self.served, self.offered)
    }
}

fn judge(shots: &[Shot], throughput: &Throughput) -> Findings {
    let shares: Vec<Share> = (0..TIERS.len()).map(|client| Share::of(shots, client)).collect();
    let percents: Vec<f64> = shares.iter().map(Share::percent).collect();
    let (lowest, highest) = (percents[0], percents[TIERS.len() - 1]);
    let strange = shots.iter().filter(|shot| !matches!(shot.status, Some(200 | 503))).count();
    let Throughput { served, possible, held, peak } = *throughput;
    let used = served / possible;
    let bounded = Finding::bounded;
    let findings = vec![
        bounded("ENTERPRISE served", format!("{highest:.2} %"), "at least 99 %", highest >= 99.0),
        bounded("FREE served", format!("{lowest:.2} %"), "at most 5 %", lowest <= 5.0),
        bounded(
            "share served, from FREE to ENTERPRISE",
            percents.iter().map(|share| format!("{share:.1} %")).collect::<Vec<_>>().join(", "),
            "falling by 1 at most",
            percents.is_sorted_by(|lower, higher| *lower <= higher + 1.0),
        ),
        Finding::plain("requests/s the upstream served", format!("{served:.0}")),
        bounded(
            "of what its places could do",
            format!("{:.1} % of {possible:.0}, at {:.1} ms each", used * 100.0, held * 1e3),
            "at least 95 %",
            used >= 0.95,
        ),
        bounded(
            "most requests at a time",
            format!("{peak}"),
            &format!("at most {MAX}"),
            peak <= MAX,
        ),
        bounded("answers that were neither 200 nor 503", strange.to_string(), "none", strange == 0),
    ];
    Findings {
        title: "Three times the load an upstream can take, four tiers",
        setting: format!(
            "{RATE} requests/s, a quarter from each tier, whether or not answers come; the \
             upstream takes {} ms for a request and may have {MAX} at a time, which makes 500 \
             requests/s. {QUEUE} may wait, for {} ms at most. Latency counts from when a request \
             was due, and for those that were served.",
            SERVICE.as_millis(),
            QUEUE_TIMEOUT.as_millis(),
        ),
        table: table(&shares),
        findings,
    }
}

/// What each tier was served, the highest first.
fn table(shares: &[Share]) -> String {
    let mut table = "| tier | offered | served | share | p99 |\n|---|---|---|---|---|\n".to_owned();
    for (tier, share) in TIERS.iter().zip(shares).rev() {
        let Share { offered, served, p99 } = share;
        let p99 = if *served == 0 { "–".to_owned() } else { millis(*p99) };
        let percent = share.percent();
        let _ = writeln!(table, "| {tier} | {offered} | {served} | {percent:.1} % | {p99} |");
    }
    table
}

/// No tier's rate limits anything; they differ only in order to be in order.
fn config(listeners: Listeners, server: SocketAddr) -> String {
    let Listeners { data, admin, metrics } = listeners;
    let mut tiers = String::new();
    let mut known = String::new();
    for (index, tier) in TIERS.iter().enumerate() {
        let rate = 1_000_000 * (index + 1);
        let _ = write!(tiers, "\n  {tier}: {{rate: {rate}/s, burst: 1000000}}");
        let _ = write!(known, "\n    {tier}: {{tier: {tier}}}");
    }
    let queue_timeout = QUEUE_TIMEOUT.as_millis();
    format!(
        "server: {{listen: \"{data}\", workers: 1}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
clients:
  identify: [{{header: X-Client-ID}}, ip]
  default_tier: free
  known:{known}
tiers:{tiers}
upstreams:
  busy:
    servers: [\"{server}\"]
    concurrency: {{max: {MAX}, queue: {QUEUE}, queue_timeout: {queue_timeout}ms}}
routes:
  - {{name: users, path: /api/users, upstream: busy}}
"
    )
}
