//! Four gateways with one limit: what they admit together, under loads that are uneven and shift.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::account::{Admission, Allowance};
use super::crowd::{GATEWAYS, Load, Pattern, Shot, Stream};
use super::fleet::{Fleet, Tier};
use super::redis::Redis;
use crate::contenders::Bench;
use crate::faults::findings::{Finding, Findings, millis, quantile};

/// The load that a machine must be able to offer for a limit to be tried, in parts of what was
/// meant to be offered.
const LEAST_OFFERED: f64 = 0.97;

/// The largest limit, in tokens per second.
const LARGEST: u64 = 10_000;

/// What a request may cost, so that a machine that cannot offer as many requests as a limit has
/// tokens tries it all the same.
const COSTS: [u64; 4] = [1, 2, 4, 10];

/// The p99 beyond which gateways or load have more than they can do: twice `redis.timeout`. A gateway
/// that is late by so much goes on with its share, as the ladder has it, and what is tried then is
/// the ladder.
const LATEST: Duration = Duration::from_millis(20);

/// One limit and how it is tried.
struct Trial {
    tier: Tier,
    /// Tokens that a request costs.
    cost: u64,
    /// Requests per second that each pattern offers.
    offered: f64,
    length: Duration,
    /// Whether all patterns run at a time, each with a client of its own.
    is_together: bool,
}

/// One pattern's outcome.
struct Outcome {
    limit: String,
    pattern: Pattern,
    offered: f64,
    admitted: usize,
    possible: usize,
    /// In tokens.
    most_over: f64,
    strange: usize,
    p99: Duration,
    /// Calls of Redis that were given up, and tokens that were let pass without it.
    timeouts: f64,
    unasked: f64,
}

impl Outcome {
    fn share(&self) -> f64 {
        self.admitted as f64 / self.possible.max(1) as f64
    }
}

/// `pace` is how long a pattern is kept up; six times that on the smallest limit.
pub(crate) fn measure(bench: &Bench<'_>, pace: Duration) -> anyhow::Result<Findings> {
    let clients = || (0..Pattern::ALL.len()).map(|client| client.to_string());
    let mut outcomes = Vec::new();
    let small = Tier { rate: "10/m".to_owned(), ..Tier::per_second("small", 10, 10) }.of(clients());
    let medium = Tier::per_second("medium", 100, 100).of(clients());
    for (tier, offered, length) in [(small, 1.0, pace * 6), (medium, 180.0, pace)] {
        let trial = Trial { tier, cost: 1, offered, length, is_together: true };
        outcomes.extend(try_limit(bench, &trial)?);
    }
    for (burst_of_rate, name) in [(0.1, "large"), (2.0, "roomy")] {
        let burst = (LARGEST as f64 * burst_of_rate) as u64;
        // As long again as the bucket gives more than its rate.
        let length = pace + Duration::from_secs_f64(2.0 * burst_of_rate / 0.3);
        let trials = COSTS.map(|cost| Trial {
            tier: Tier::per_second(name, LARGEST, burst).of(clients()),
            cost,
            offered: LARGEST as f64 * 1.3 / cost as f64,
            length,
            is_together: false,
        });
        outcomes.extend(first_that_is_offered(bench, &trials)?);
    }
    Ok(judge(&outcomes))
}

fn first_that_is_offered(bench: &Bench<'_>, trials: &[Trial]) -> anyhow::Result<Vec<Outcome>> {
    let (last, others) = trials.split_last().context("no trials")?;
    for trial in others {
        match try_limit(bench, trial) {
            Err(error) if error.is::<TooMuch>() => {}
            outcome => return outcome,
        }
    }
    try_limit(bench, last)
}

/// The machine cannot offer the load that was meant.
#[derive(Debug, thiserror::Error)]
#[error("of {0:.0} requests/s {1:.0} were offered, and the p99 is {2:?}")]
struct TooMuch(f64, f64, Duration);

fn try_limit(bench: &Bench<'_>, trial: &Trial) -> anyhow::Result<Vec<Outcome>> {
    let redis = Redis::start(bench, "redis", &[])?;
    let link = format!("url: \"redis://{}\"", redis.address);
    let tiers = [trial.tier.clone()];
    let links = [0; GATEWAYS].map(|_| link.clone());
    let fleet = Fleet::start(bench, trial.tier.name, &tiers, trial.cost, &links)?;
    let streams: Vec<Stream> = Pattern::ALL
        .iter()
        .zip(&trial.tier.clients)
        .map(|(pattern, client)| Stream {
            clients: vec![client.clone()],
            pattern: *pattern,
            rate: trial.offered,
        })
        .collect();
    let mut outcomes = Vec::new();
    let mut run = |streams: Vec<Stream>| -> anyhow::Result<()> {
        let troubles = || -> anyhow::Result<[f64; 2]> {
            Ok([fleet.timeouts()?, fleet.sum("gateway_unasked_tokens_total")?])
        };
        let before = troubles()?;
        let shots = Load::start(fleet.addresses()?, streams.clone()).stop_after(trial.length)?;
        let after = troubles()?;
        let troubles = [after[0] - before[0], after[1] - before[1]];
        for (index, stream) in streams.iter().enumerate() {
            let own: Vec<Shot> =
                shots.iter().filter(|shot| shot.stream == index).copied().collect();
            outcomes.push(outcome(trial, stream, &own, troubles)?);
        }
        Ok(())
    };
    if trial.is_together {
        run(streams)?;
    } else {
        streams.into_iter().try_for_each(|stream| run(vec![stream]))?;
    }
    Ok(outcomes)
}

fn outcome(
    trial: &Trial,
    stream: &Stream,
    shots: &[Shot],
    [timeouts, unasked]: [f64; 2],
) -> anyhow::Result<Outcome> {
    ensure!(!shots.is_empty(), "nothing was sent");
    let offered = shots.len() as f64 / trial.length.as_secs_f64();
    let p99 = quantile(shots.iter().map(Shot::took).collect(), 0.99);
    let lost = shots.iter().any(|shot| shot.status.is_none());
    if offered < trial.offered * LEAST_OFFERED || p99 > LATEST || lost {
        return Err(TooMuch(trial.offered, offered, p99).into());
    }
    let Allowance { rate, burst } = trial.tier.allowance()?;
    // Counted in requests.
    let cost = trial.cost as f64;
    let allowance = Allowance { rate: rate / cost, burst: burst / cost };
    let mut limit = format!("{}, burst {}", trial.tier.rate, trial.tier.burst);
    if trial.cost > 1 {
        let _ = write!(limit, ", cost {}", trial.cost);
    }
    let sent: Vec<f64> = shots.iter().map(|shot| shot.sent.as_secs_f64()).collect();
    Ok(Outcome {
        limit,
        pattern: stream.pattern,
        offered,
        admitted: shots.iter().filter(|shot| shot.is_admitted()).count(),
        possible: allowance.possible(&sent),
        most_over: allowance.most_over(&admissions(shots.iter())) * cost,
        strange: shots.iter().filter(|shot| !matches!(shot.status, Some(200 | 429))).count(),
        p99,
        timeouts,
        unasked,
    })
}

/// What was admitted of some requests.
pub(crate) fn admissions<'a>(shots: impl Iterator<Item = &'a Shot>) -> Vec<Admission> {
    let admitted = shots.filter(|shot| shot.is_admitted());
    let admission = |shot: &Shot| Admission {
        sent: shot.sent.as_secs_f64(),
        answered: shot.answered.as_secs_f64(),
    };
    admitted.map(admission).collect()
}

fn judge(outcomes: &[Outcome]) -> Findings {
    let most_over = outcomes.iter().map(|outcome| outcome.most_over).fold(f64::MIN, f64::max);
    let least = outcomes.iter().map(Outcome::share).fold(f64::INFINITY, f64::min);
    let strange: usize = outcomes.iter().map(|outcome| outcome.strange).sum();
    let bounded = Finding::bounded;
    let findings = vec![
        bounded(
            "worst window, against burst + rate · t",
            format!("{most_over:+.1} tokens"),
            "never above",
            most_over <= 0.0,
        ),
        bounded(
            "least share of what one bucket would have admitted",
            format!("{:.1} %", least * 100.0),
            "at least 95 %",
            least >= 0.95,
        ),
        bounded("answers that were neither 200 nor 429", strange.to_string(), "none", strange == 0),
    ];
    Findings {
        title: "Accuracy of limits shared by four gateways",
        setting: "Four gateways with one worker each and one Redis; a client of its own for each row, \
             whose requests go out at a constant rate, whether or not answers come, to the gateways \
             by the pattern. Where a machine cannot do 1.3 times as many requests as the limit has \
             tokens (all of them sent, p99 at most 20 ms), a request costs several. A request counts for a window of time when it was sent and \
             answered inside it, and all windows of all lengths are looked at. What one bucket would \
             have admitted is the same requests, at the times they were sent, replayed against one \
             bucket. Calls of Redis that were given up and tokens that were let pass without it are \
             those of the whole run, which the patterns of a small limit share."
            .to_owned(),
        table: table(outcomes),
        findings,
    }
}

fn table(outcomes: &[Outcome]) -> String {
    let mut table =
        "| limit | pattern | offered/s | admitted | one bucket | share | worst window | \
                     p99 | given up | without Redis |\n\
                     |---|---|---|---|---|---|---|---|---|---|\n"
            .to_owned();
    for outcome in outcomes {
        let Outcome { limit, offered, admitted, possible, most_over, timeouts, unasked, .. } =
            outcome;
        let (pattern, share) = (outcome.pattern.name(), outcome.share() * 100.0);
        let p99 = millis(outcome.p99);
        let _ = writeln!(
            table,
            "| {limit} | {pattern} | {offered:.0} | {admitted} | {possible} | {share:.1} % | \
             {most_over:+.1} | {p99} | {timeouts} | {unasked} |"
        );
    }
    table
}
