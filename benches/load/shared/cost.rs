//! What it costs to share a limit: calls of Redis, tokens that lie idle, CPU and time a request.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::accuracy::admissions;
use super::crowd::{GATEWAYS, Load, Pattern, Shot, Stream};
use super::fleet::{Fleet, Tier};
use super::redis::Redis;
use crate::EVERYTHING;
use crate::configs::Setup;
use crate::contenders::{Bench, OPEN_CLIENT, Target};
use crate::faults::findings::{Finding, Findings, quantile};
use crate::rounds::{Case, Expect, Measured, Pace, Pair};

/// The limit, and what is offered of it.
const RATE: u64 = 10_000;
/// Of what was meant to be offered, what must have been.
const LEAST_OFFERED: f64 = 0.97;
/// How long the calls of gateways without load are counted.
const IDLE: Duration = Duration::from_secs(2);
/// How often the tokens on lease are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long after a load the last of its calls are waited for.
const SETTLE: Duration = Duration::from_millis(500);
/// A load at which requests seldom meet: what they take is their own time.
const MODERATE: f64 = 1000.0;
/// What a lease may add to the p99.
const ADDED: f64 = 50.0;
/// The gateways that are compared, as the report names them.
const SHARED: &str = "shared, on lease";
const LOCAL: &str = "local";

/// What a pattern came to.
struct Outcome {
    pattern: Pattern,
    offered: f64,
    requests: usize,
    calls: f64,
    stranded: f64,
    most_over: f64,
    strange: usize,
    /// Requests without an answer, as on a machine that cannot do so much.
    lost: usize,
}

impl Outcome {
    fn calls_per_100(&self) -> f64 {
        self.calls * 100.0 / self.requests.max(1) as f64
    }
}

/// The calls of Redis and the tokens that lie idle.
pub(crate) fn measure_calls(bench: &Bench<'_>, pace: Duration) -> anyhow::Result<Findings> {
    let mut rate = RATE;
    loop {
        let outcomes = offer(bench, pace, rate)?;
        let is_offered =
            |outcome: &Outcome| outcome.offered >= rate as f64 * LEAST_OFFERED && outcome.lost == 0;
        if rate <= 500 || outcomes.iter().all(is_offered) {
            return Ok(judge(&outcomes, rate));
        }
        rate /= 2;
    }
}

fn offer(bench: &Bench<'_>, pace: Duration, rate: u64) -> anyhow::Result<Vec<Outcome>> {
    let redis = Redis::start(bench, "redis", &[])?;
    let link = format!("url: \"redis://{}\"", redis.address);
    let clients = (0..Pattern::ALL.len()).map(|client| client.to_string());
    let tiers = [Tier::per_second("hot", rate, 2 * rate).of(clients)];
    let fleet = Fleet::start(bench, "cost", &tiers, 1, &[0; GATEWAYS].map(|_| link.clone()))?;
    let (calls, begun) = (redis.calls()?, Instant::now());
    thread::sleep(IDLE);
    let idle = (redis.calls()? - calls) as f64 / begun.elapsed().as_secs_f64();
    let [tier] = &tiers;
    let allowance = tier.allowance()?;
    let mut outcomes = Vec::new();
    for (pattern, client) in Pattern::ALL.into_iter().zip(&tier.clients) {
        let (calls, begun) = (redis.calls()?, Instant::now());
        let stream = Stream { clients: vec![client.clone()], pattern, rate: rate as f64 };
        let load = Load::start(fleet.addresses()?, vec![stream]);
        let mut stranded = 0.0_f64;
        while load.begun.elapsed() < pace {
            thread::sleep(LOOK_EVERY);
            stranded = stranded.max(fleet.sum("gateway_lease_stranded_tokens")?);
        }
        let length = load.begun.elapsed();
        let shots = load.stop()?;
        thread::sleep(SETTLE);
        let calls = (redis.calls()? - calls) as f64 - idle * begun.elapsed().as_secs_f64();
        outcomes.push(Outcome {
            pattern,
            offered: shots.len() as f64 / length.as_secs_f64(),
            requests: shots.len(),
            calls: calls.max(0.0),
            stranded: stranded / allowance.burst,
            most_over: allowance.most_over(&admissions(shots.iter())),
            strange: shots.iter().filter(|shot| !matches!(shot.status, Some(200 | 429))).count(),
            lost: shots.iter().filter(|shot| shot.status.is_none()).count(),
        });
    }
    Ok(outcomes)
}

fn judge(outcomes: &[Outcome], rate: u64) -> Findings {
    let most = |value: fn(&Outcome) -> f64| outcomes.iter().map(value).fold(f64::MIN, f64::max);
    let (calls, stranded) = (most(Outcome::calls_per_100), most(|outcome| outcome.stranded));
    let over = most(|outcome| outcome.most_over);
    let strange: usize = outcomes.iter().map(|outcome| outcome.strange).sum();
    let bounded = Finding::bounded;
    let what = "most calls per 100 requests";
    let findings = vec![
        // A lease is some time of a gateway's demand: the less of it, the fewer tokens a call gets.
        if rate == RATE {
            bounded(what, format!("{calls:.2}"), "at most 1", calls <= 1.0)
        } else {
            Finding::plain(what, format!("{calls:.2}, which is judged at {RATE}/s alone"))
        },
        bounded(
            "most tokens on lease and not spent",
            format!("{:.2} % of the burst", stranded * 100.0),
            "at most 5 %",
            stranded <= 0.05,
        ),
        bounded(
            "worst window, against burst + rate · t",
            format!("{over:+.0} tokens"),
            "never above",
            over <= 0.0,
        ),
        bounded("answers that were neither 200 nor 429", strange.to_string(), "none", strange == 0),
    ];
    let mut table = "| pattern | offered/s | requests | calls | per 100 | most on lease |\n\
                     |---|---|---|---|---|---|\n"
        .to_owned();
    for outcome in outcomes {
        let Outcome { pattern, offered, requests, calls, stranded, .. } = outcome;
        let _ = writeln!(
            table,
            "| {} | {offered:.0} | {requests} | {calls:.0} | {:.2} | {:.2} % |",
            pattern.name(),
            outcome.calls_per_100(),
            stranded * 100.0,
        );
    }
    let scaled = if rate == RATE {
        String::new()
    } else {
        format!(" This machine cannot offer {RATE} requests/s, so the limit is {rate}/s.")
    };
    Findings {
        title: "Calls of Redis for a shared limit",
        setting: format!(
            "Four gateways, one key, a limit of {rate}/s with a burst of {} and as many requests/s, \
             whether or not answers come.{scaled} Calls are what Redis itself counted of EVAL and \
             EVALSHA, returns of tokens included, less what the gateways' beats make without load. \
             Tokens on lease are summed over the gateways every {} ms.",
            2 * rate,
            LOOK_EVERY.as_millis(),
        ),
        table,
        findings,
    }
}

/// CPU and time a request, on lease against the same limits kept in the gateway itself.
pub(crate) struct Hit {
    pub(crate) cpu: Measured,
    pub(crate) latency: Findings,
}

pub(crate) fn measure_hits(bench: &Bench<'_>, pace: Pace) -> anyhow::Result<Hit> {
    let (_upstream, upstream) = bench.start_upstream()?;
    let redis = Redis::start(bench, "redis", &[])?;
    let shared = Setup { redis: Some(redis.address), ..EVERYTHING };
    let mut calls = 0;
    let mut cpu: Option<Measured> = None;
    let mut p99s = Vec::new();
    for _ in 0..pace.starts {
        let local = bench.start_tollgate(LOCAL, upstream, EVERYTHING)?;
        let shared = bench.start_tollgate(SHARED, upstream, shared)?;
        let targets = [shared.forward.clone(), local.forward.clone()];
        let case = Case {
            title: "Forwarding with limits on lease and with local ones",
            expect: Expect::Upstream,
            targets: targets.to_vec(),
            pairs: vec![Pair { above: SHARED, below: LOCAL, bound: Some(1.02) }],
        };
        let before = redis.calls()?;
        let of_start = bench.measure(case, pace)?;
        calls += redis.calls()? - before;
        match &mut cpu {
            Some(cpu) => cpu.extend(of_start),
            None => cpu = Some(of_start),
        }
        measure_p99(&targets, pace, &mut p99s)?;
    }
    let mut cpu = cpu.context("the contenders were never started")?;
    let requests = cpu.requests(0);
    // Else the figures would be about something else than leases.
    if calls * 20 > requests {
        cpu.problems.push(format!("{calls} calls of Redis for {requests} requests on lease"));
    }
    Ok(Hit { cpu, latency: judge_latency(&p99s, pace)? })
}

/// Adds the p99 of both in microseconds, the one on lease first, for each round.
fn measure_p99(
    targets: &[Target; 2],
    pace: Pace,
    rounds: &mut Vec<[f64; 2]>,
) -> anyhow::Result<()> {
    for _ in 0..pace.rounds {
        // Who is first takes turns, so that a drift of the machine meets both.
        let first = rounds.len() % 2;
        let mut p99 = [0.0; 2];
        for index in [first, 1 - first] {
            p99[index] = p99_of(targets[index].address, Duration::from_secs(pace.seconds))?;
        }
        rounds.push(p99);
    }
    Ok(())
}

fn judge_latency(rounds: &[[f64; 2]], pace: Pace) -> anyhow::Result<Findings> {
    let median = |value: fn(&[f64; 2]) -> f64| -> anyhow::Result<f64> {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().context("no rounds")
    };
    let (shared, local) = (median(|[shared, _]| *shared)?, median(|[_, local]| *local)?);
    let added = median(|[shared, local]| shared - local)?;
    let findings = vec![
        Finding::plain("p99, on lease", format!("{shared:.0} µs")),
        Finding::plain("p99, local", format!("{local:.0} µs")),
        Finding::bounded(
            "p99 added by leases, median of the rounds",
            format!("{added:+.0} µs"),
            "at most 50 µs",
            added <= ADDED,
        ),
    ];
    Ok(Findings {
        title: "Time a lease adds",
        setting: format!(
            "The same two gateways in {} rounds of {} s each by turns, {MODERATE} requests/s whether \
             or not answers come. Time counts from when a request was sent, since at this load none \
             waits for another.",
            rounds.len(),
            pace.seconds,
        ),
        table: String::new(),
        findings,
    })
}

/// In microseconds.
fn p99_of(gateway: SocketAddr, length: Duration) -> anyhow::Result<f64> {
    let stream = Stream {
        clients: vec![OPEN_CLIENT.to_owned()],
        pattern: Pattern::AllOnOne,
        rate: MODERATE,
    };
    let shots = Load::start([gateway; GATEWAYS], vec![stream]).stop_after(length)?;
    ensure!(shots.iter().all(Shot::is_admitted), "a request was not let through");
    let took = shots.iter().map(|shot| shot.answered.saturating_sub(shot.sent)).collect();
    Ok(quantile(took, 0.99).as_secs_f64() * 1e6)
}
