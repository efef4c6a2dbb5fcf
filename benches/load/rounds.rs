//! One case: checks of every contender, then interleaved rounds over all.

use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::configs::UPSTREAM_BODY;
use crate::contenders::{Bench, Target};
use crate::http::{self, Answer};
use crate::process::{cpu_ns, poll_until};
use crate::wrk::{self, Counts};

/// How long a contender may go on working after a round, for instance on
/// connections that were closed, before its CPU time is read.
const SETTLE: Duration = Duration::from_millis(250);
/// How long a background writer may take to write what a round logged.
const LOG_DEADLINE: Duration = Duration::from_secs(3);
/// Share of a round's requests that must be in the access log. A log that
/// drops lines under load would otherwise look cheap.
const MIN_LOGGED_SHARE: f64 = 0.99;
/// How far bytes per answer may be from the answer that was checked.
const LENGTH_TOLERANCE: f64 = 0.03;
/// Attempts until a client with a bucket of one token is refused.
const REFUSAL_ATTEMPTS: u32 = 3;

/// What every answer of a case must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// 200 with the upstream's body.
    Upstream,
    /// This status, whatever the answer looks like.
    Refusal(u16),
}

/// A quotient to report: what `above` costs in terms of `below`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) above: &'static str,
    pub(crate) below: &'static str,
    /// The figure that CPU per request must not exceed, where there is one.
    pub(crate) bound: Option<f64>,
}

/// One comparison.
pub(crate) struct Case {
    pub(crate) title: &'static str,
    pub(crate) expect: Expect,
    pub(crate) targets: Vec<Target>,
    pub(crate) pairs: Vec<Pair>,
}

/// How long and how often a case is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
}

/// One contender in one round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) cpu_ns: u64,
    pub(crate) counts: Counts,
}

impl Sample {
    /// Microseconds of CPU time for one request.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.counts.requests.max(1) as f64
    }

    /// Share of the core that was used while the load ran.
    pub(crate) fn busy(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.counts.micros.max(1) as f64
    }
}

/// All samples of a case: one row per target, one entry per round.
pub(crate) struct Measured {
    pub(crate) case: Case,
    pub(crate) samples: Vec<Vec<Sample>>,
    /// What went wrong, in sentences; a case with problems proves nothing.
    pub(crate) problems: Vec<String>,
}

impl Bench<'_> {
    /// Measures a case. Within a round the contenders take turns, and each
    /// round begins with another one, so that a drift of the machine meets all.
    pub(crate) fn measure(&self, case: Case, pace: Pace) -> anyhow::Result<Measured> {
        let script = self.dir.join("summary.lua");
        fs::write(&script, wrk::SUMMARY_SCRIPT)?;
        let count = case.targets.len();
        let mut lengths = Vec::with_capacity(count);
        for target in &case.targets {
            lengths.push(check(target, case.expect)?.raw.len());
            wrk::drive(target, 1, self.cores.load, &script)?;
        }
        let mut samples = vec![Vec::with_capacity(pace.rounds); count];
        let mut problems = Vec::new();
        for round in 0..pace.rounds {
            for turn in 0..count {
                let index = (round + turn) % count;
                let (target, length) = (&case.targets[index], lengths[index]);
                let sample = self.sample(target, pace.seconds, &script, &mut problems)?;
                if let Err(problem) = verify(target, case.expect, &sample.counts, length) {
                    problems.push(format!("round {}: {}: {problem}", round + 1, target.name));
                }
                samples[index].push(sample);
            }
        }
        // A contender that broke under load may have gone on answering wrongly.
        for target in &case.targets {
            check(target, case.expect)?;
        }
        Ok(Measured { case, samples, problems })
    }

    fn sample(
        &self,
        target: &Target,
        seconds: u64,
        script: &Path,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<Sample> {
        if let Some(log) = &target.access_log {
            truncate(log)?;
        }
        let before = cpu_ns(target.id)?;
        let counts = wrk::drive(target, seconds, self.cores.load, script)?;
        thread::sleep(SETTLE);
        if let Some(log) = &target.access_log {
            let written = poll_until(LOG_DEADLINE, || logged(log, counts.requests));
            problems.extend(written.err().map(|error| format!("{}: {error}", target.name)));
        }
        Ok(Sample { cpu_ns: cpu_ns(target.id)? - before, counts })
    }
}

/// Asks once and compares the answer with what the case expects.
pub(crate) fn check(target: &Target, expect: Expect) -> anyhow::Result<Answer> {
    let ask = || http::get(target.address, target.path, target.client);
    let answer = match expect {
        Expect::Upstream => ask()?,
        Expect::Refusal(status) => {
            let mut answer = ask()?;
            for _ in 1..REFUSAL_ATTEMPTS {
                if answer.status == status {
                    break;
                }
                answer = ask()?;
            }
            answer
        }
    };
    let text = || String::from_utf8_lossy(&answer.raw).into_owned();
    match expect {
        Expect::Upstream => {
            let right = answer.status == 200 && answer.body() == UPSTREAM_BODY.as_bytes();
            ensure!(right, "{} does not forward: {}", target.name, text());
        }
        Expect::Refusal(status) => {
            ensure!(answer.status == status, "{} does not refuse: {}", target.name, text());
        }
    }
    Ok(answer)
}

/// Whether a refusal is one as Tollgate's users rely on.
pub(crate) fn check_problem(answer: &Answer) -> anyhow::Result<()> {
    let limits: &[&str] =
        if answer.status == 429 { &["ratelimit", "ratelimit-policy"] } else { &[] };
    for name in ["retry-after", "x-trace-id"].iter().chain(limits) {
        ensure!(answer.header(name).is_some(), "the refusal has no {name}");
    }
    let kind = answer.header("content-type").context("the refusal has no content type")?;
    ensure!(kind.starts_with("application/problem+json"), "the refusal is {kind}");
    let body: serde_json::Value = serde_json::from_slice(answer.body())?;
    ensure!(body["status"] == answer.status, "the refusal's body has another status: {body}");
    Ok(())
}

/// Whether a round's counts are those of a contender that did its work.
fn verify(target: &Target, expect: Expect, counts: &Counts, length: usize) -> anyhow::Result<()> {
    ensure!(counts.requests > 0, "no request was answered");
    ensure!(counts.socket_errors == 0, "{} socket errors", counts.socket_errors);
    let wrong = match expect {
        Expect::Upstream => counts.error_statuses,
        Expect::Refusal(_) => counts.requests.saturating_sub(counts.error_statuses),
    };
    let strays = if expect == Expect::Upstream { 0 } else { target.stray_admissions };
    ensure!(wrong <= strays, "{wrong} of {} answers had another status", counts.requests);
    // wrk does not tell 429 from 500; a different status has a different length.
    let mean = counts.bytes as f64 / counts.requests as f64;
    let off = (mean / length as f64 - 1.0).abs();
    ensure!(off <= LENGTH_TOLERANCE, "answers of {mean:.0} bytes on average, not {length}");
    Ok(())
}

fn truncate(log: &Path) -> anyhow::Result<()> {
    File::options().write(true).open(log)?.set_len(0).context("cannot empty the access log")
}

/// Succeeds once the log holds a line for nearly every request.
fn logged(log: &Path, requests: u64) -> anyhow::Result<()> {
    let lines = fs::read(log)?.iter().filter(|byte| **byte == b'\n').count();
    if lines as f64 >= requests as f64 * MIN_LOGGED_SHARE {
        return Ok(());
    }
    bail!("the access log holds {lines} lines for {requests} requests")
}
