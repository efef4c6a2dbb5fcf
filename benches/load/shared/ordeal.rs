//! Four gateways under load while something happens to Redis, against the same load before.

use std::time::Duration;

use anyhow::Context;

use super::account::Allowance;
use super::accuracy::admissions;
use super::crowd::{GATEWAYS, Load, Pattern, Shot, Stream};
use super::fleet::{Fleet, Tier};
use super::troubles::{Promise, Stage, Trouble};
use crate::contenders::Bench;
use crate::faults::findings::{Finding, Findings, millis, quantile};

/// For connections to be made and leases to be sized.
const WARM_UP: Duration = Duration::from_secs(2);
/// How long gateways may go without Redis once it is back.
const RECOVERY: Duration = Duration::from_secs(2);
/// How long that is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// By how much no request may be slower.
const ADDED: Duration = Duration::from_millis(20);
/// The part of their core that the gateways may need for the load.
const LOADED: f64 = 0.40;
/// Tokens that gateways may hold on lease, of a burst.
const ON_LEASE: f64 = 0.05;
/// The part of its rate that a limit must admit once all is well again.
const AFTERWARDS: f64 = 0.90;

/// The streams of the load: a key over its limit that is leased, one that is asked for every time,
/// and clients within theirs. 21 clients over four gateways: each meets all of them.
const HOT: usize = 0;
const SMALL: usize = 1;
const WITHIN: usize = 2;
const CLIENTS_WITHIN: usize = 21;

fn tiers() -> [Tier; 3] {
    let one = || ["0".to_owned()];
    [
        Tier::per_second("hot", 1000, 1000).of(one()),
        Tier::per_second("small", 20, 40).of(one()),
        Tier::per_second("within", 50, 100)
            .of((0..CLIENTS_WITHIN).map(|client| client.to_string())),
    ]
}

/// Requests per second of each.
const RATES: [f64; 3] = [1500.0, 60.0, 210.0];

/// `pace` is how long the load goes on after a trouble is over.
pub(crate) fn measure(
    bench: &Bench<'_>,
    trouble: Trouble,
    pace: Duration,
) -> anyhow::Result<Findings> {
    let tiers = tiers();
    let mut stage = Stage::start(bench, trouble)?;
    let fleet = Fleet::start(bench, trouble.name(), &tiers, 1, &stage.links()?)?;
    let streams = tiers.iter().zip(RATES).map(|(tier, rate)| Stream {
        clients: tier.clients.clone(),
        pattern: Pattern::Even,
        rate,
    });
    let load = Load::start(fleet.addresses()?, streams.collect());
    let length = pace + Duration::from_secs(3);
    std::thread::sleep(WARM_UP);
    let (quiet_from, cpu) = (load.begun.elapsed(), fleet.cpu()?);
    std::thread::sleep(length);
    let from = load.begun.elapsed();
    let busy = (fleet.cpu()? - cpu).as_secs_f64() / (from - quiet_from).as_secs_f64();
    let unasked = fleet.sum("gateway_unasked_tokens_total")?;
    stage.inflict(bench, trouble)?;
    let until = load.begun.elapsed();
    let recovery = fleet.recovery(PATIENCE)?;
    let recovered = load.begun.elapsed();
    let shots = load.stop_after((from + length).max(until + RECOVERY + pace))?;
    let unasked = fleet.sum("gateway_unasked_tokens_total")? - unasked;
    let run = Run { trouble, shots, quiet_from, from, until, recovered, recovery, busy, unasked };
    run.judge(&tiers).with_context(|| trouble.name())
}

/// What came of a run; times are since the load began.
struct Run {
    trouble: Trouble,
    shots: Vec<Shot>,
    /// From when the load is taken as the run without the trouble.
    quiet_from: Duration,
    /// From when to when it lasted, and until when the gateways did without Redis.
    from: Duration,
    until: Duration,
    recovered: Duration,
    /// From its end until all used Redis again; none: they did not.
    recovery: Option<Duration>,
    /// The part of their core the gateways needed.
    busy: f64,
    /// Tokens that were let pass without Redis.
    unasked: f64,
}

impl Run {
    fn judge(&self, tiers: &[Tier; 3]) -> anyhow::Result<Findings> {
        let promise = self.trouble.promise();
        let mut findings = self.answers();
        findings.extend(self.times());
        for (stream, what) in [
            (HOT, "limit of 1000/s, worst window against burst + rate · t"),
            (SMALL, "limit of 20/s, the same"),
        ] {
            findings.push(self.total(stream, what, tiers[stream].allowance()?, promise));
        }
        if self.trouble == Trouble::Partition {
            findings.push(self.total_of_others(tiers[HOT].allowance()?));
        }
        findings.extend(self.return_to_normal(tiers[HOT].allowance()?));
        let rate: f64 = RATES.iter().sum();
        Ok(Findings {
            title: self.trouble.title(),
            setting: format!(
                "{rate:.0} requests/s over four gateways, for which these need {:.0} % of their core; \
                 it lasted {:.1} s.",
                self.busy * 100.0,
                (self.until - self.from).as_secs_f64(),
            ),
            table: String::new(),
            findings,
        })
    }

    fn during(&self) -> impl Iterator<Item = &Shot> {
        self.shots.iter().filter(|shot| shot.due >= self.from)
    }

    fn answers(&self) -> Vec<Finding> {
        let count = |is_bad: fn(&Shot) -> bool| self.during().filter(|shot| is_bad(shot)).count();
        let lost = count(|shot| shot.status.is_none());
        let errors = count(|shot| shot.status.is_some_and(|status| status >= 500));
        let refused = count(|shot| shot.stream == WITHIN && shot.status == Some(429));
        let none =
            |what, number: usize| Finding::bounded(what, number.to_string(), "none", number == 0);
        vec![
            Finding::bounded(
                "the gateways' part of their core",
                format!("{:.0} %", self.busy * 100.0),
                "at most 40 %",
                self.busy <= LOADED,
            ),
            none("answers 5xx", errors),
            none("requests without an answer", lost),
            none("refusals of clients within their limits", refused),
        ]
    }

    fn times(&self) -> Vec<Finding> {
        let quiet = self.quiet_from..self.from;
        let without: Vec<Duration> =
            self.shots.iter().filter(|shot| quiet.contains(&shot.due)).map(Shot::took).collect();
        let with: Vec<Duration> = self.during().map(Shot::took).collect();
        let compared = |what, share: f64| {
            let (without, with) = (quantile(without.clone(), share), quantile(with.clone(), share));
            Finding::bounded(
                what,
                format!("{}, without {}", millis(with), millis(without)),
                "at most 20 ms more",
                with <= without + ADDED,
            )
        };
        // What the load itself was late is in the times above; much of it says that the machine had
        // other things to do.
        let late = |from: Duration, to: Duration| {
            let shots = self.shots.iter().filter(|shot| shot.due >= from && shot.due < to);
            let late = shots.map(|shot| shot.sent.saturating_sub(shot.due)).max();
            millis(late.unwrap_or_default())
        };
        let late = format!(
            "{}, without {}",
            late(self.from, Duration::MAX),
            late(self.quiet_from, self.from)
        );
        vec![
            compared("p99.9", 0.999),
            compared("slowest", 1.0),
            Finding::plain("of that the load's own delay, at most", late),
        ]
    }

    fn of(&self, stream: usize) -> impl Iterator<Item = &Shot> {
        self.shots.iter().filter(move |shot| shot.stream == stream)
    }

    /// What the gateways admitted together, against what the ladder promises.
    fn total(
        &self,
        stream: usize,
        what: &'static str,
        allowance: Allowance,
        promise: Promise,
    ) -> Finding {
        // What came before found a bucket that held a burst at most, and is not judged here.
        let shots = self.of(stream).filter(|shot| shot.due >= self.from);
        let over = allowance.most_over(&admissions(shots));
        let Allowance { rate, burst } = allowance;
        let without_redis = (self.recovered - self.from).as_secs_f64();
        let cut_off = promise.cut_off as f64 / GATEWAYS as f64;
        let mut most =
            cut_off * (burst + rate * without_redis) + promise.more_bursts as f64 * burst;
        if promise.cut_off == 0 {
            // On a machine that is busy, Redis may be late without any trouble.
            most += self.unasked;
        } else {
            // A part is never less than one token, and what was on lease may have been spent.
            most += ON_LEASE * burst + promise.cut_off as f64;
        }
        let bound = format!("at most {most:+.0}");
        Finding::bounded(what, format!("{over:+.1} tokens"), &bound, over <= most)
    }

    fn total_of_others(&self, allowance: Allowance) -> Finding {
        let cut_off = GATEWAYS - 1;
        let others = self.of(HOT).filter(|shot| shot.gateway != cut_off && shot.due >= self.from);
        let over = allowance.most_over(&admissions(others));
        let what = "the same of 1000/s without the gateway that was cut off";
        Finding::bounded(what, format!("{over:+.1} tokens"), "never above", over <= 0.0)
    }

    fn return_to_normal(&self, hot: Allowance) -> Vec<Finding> {
        let end = self.shots.last().map(|shot| shot.due).unwrap_or_default();
        let from = (self.until + RECOVERY).min(end);
        let admitted = self.of(HOT).filter(|shot| shot.is_admitted() && shot.due >= from).count();
        let afterwards =
            admitted as f64 / (hot.rate * (end - from).as_secs_f64().max(f64::EPSILON));
        let recovery = match self.recovery {
            Some(recovery) => format!("{:.2} s", recovery.as_secs_f64()),
            None => format!("not within {} s", PATIENCE.as_secs()),
        };
        vec![
            Finding::plain("tokens let pass without Redis", format!("{:.0}", self.unasked)),
            Finding::bounded(
                "until all used Redis again, once it was back",
                recovery,
                "below 2 s",
                self.recovery.is_some_and(|recovery| recovery < RECOVERY),
            ),
            Finding::bounded(
                "admitted of 1000/s, from 2 s later",
                format!("{:.1} %", afterwards * 100.0),
                "at least 90 %",
                afterwards >= AFTERWARDS,
            ),
        ]
    }
}
