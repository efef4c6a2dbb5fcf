//! One case: checks of every contender, then rounds of each alone and of all by turns.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::Path;
use std::slice;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::configs::UPSTREAM_BODY;
use crate::contenders::{Bench, Target};
use crate::http::{self, Answer};
use crate::process::{Meter, poll_until};
use crate::turns::{self, Driven};
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
    /// How often the contenders are started anew: where a program and its memory come to lie
    /// moves its CPU per request by a hundredth or two until it ends.
    pub(crate) starts: usize,
    /// Rounds by turns after each start.
    pub(crate) rounds: usize,
    /// Length of a round for one contender.
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

/// All samples of a case, a row per target.
pub(crate) struct Measured {
    pub(crate) case: Case,
    /// An entry per round by turns: what a request costs.
    pub(crate) by_turns: Vec<Vec<Sample>>,
    /// An entry per start: how many requests, how fast, when nothing else is driven.
    pub(crate) alone: Vec<Vec<Sample>>,
    /// What went wrong, in sentences; a case with problems proves nothing.
    pub(crate) problems: Vec<String>,
}

impl Measured {
    /// Takes in the same case of another start.
    pub(crate) fn extend(&mut self, other: Self) {
        for (rows, more) in [(&mut self.by_turns, other.by_turns), (&mut self.alone, other.alone)] {
            for (row, more) in rows.iter_mut().zip(more) {
                row.extend(more);
            }
        }
        self.problems.extend(other.problems);
    }

    /// Requests that one target answered.
    pub(crate) fn requests(&self, target: usize) -> u64 {
        let rows = [&self.by_turns[target], &self.alone[target]];
        rows.into_iter().flatten().map(|sample| sample.counts.requests).sum()
    }
}

impl Bench<'_> {
    /// Measures a case with its contenders as they run: each alone, one after another, then all
    /// by turns.
    pub(crate) fn measure(&self, case: Case, pace: Pace) -> anyhow::Result<Measured> {
        let script = self.dir.join("summary.lua");
        fs::write(&script, wrk::SUMMARY_SCRIPT)?;
        let round = Round {
            expect: case.expect,
            seconds: pace.seconds,
            core: self.cores.load,
            script: &script,
        };
        let mut entrants = Vec::with_capacity(case.targets.len());
        for target in &case.targets {
            let length = check(target, case.expect)?.raw.len();
            wrk::drive(target, 1, self.cores.load, &script)?;
            entrants.push(Entrant { target, length });
        }
        let mut problems = Vec::new();
        let mut alone = Vec::with_capacity(entrants.len());
        for entrant in &entrants {
            alone.push(round.run(slice::from_ref(entrant), 0, &mut problems)?);
        }
        let mut by_turns = vec![Vec::with_capacity(pace.rounds); entrants.len()];
        for number in 0..pace.rounds {
            let samples = round.run(&entrants, number, &mut problems)?;
            for (row, sample) in by_turns.iter_mut().zip(samples) {
                row.push(sample);
            }
        }
        // A contender that broke under load may have gone on answering wrongly.
        for target in &case.targets {
            check(target, case.expect)?;
        }
        Ok(Measured { case, by_turns, alone, problems })
    }
}

/// Who takes part in a round.
struct Entrant<'a> {
    target: &'a Target,
    /// Bytes of the answer that was checked.
    length: usize,
}

/// What the rounds of a case have in common.
struct Round<'a> {
    expect: Expect,
    /// For each entrant.
    seconds: u64,
    /// The load's.
    core: usize,
    script: &'a Path,
}

impl Round<'_> {
    /// Drives all entrants by turns, the one numbered `first` to begin with, or the only one
    /// without a break. What makes their samples worthless goes to `problems`.
    fn run(
        &self,
        entrants: &[Entrant<'_>],
        first: usize,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<Vec<Sample>> {
        let processes: HashSet<u32> = entrants.iter().map(|entrant| entrant.target.id).collect();
        ensure!(
            processes.len() == entrants.len(),
            "two entrants are one process: each pays for both"
        );
        let mut targets = Vec::with_capacity(entrants.len());
        let mut before = Vec::with_capacity(entrants.len());
        for Entrant { target, .. } in entrants {
            if let Some(log) = &target.access_log {
                truncate(log)?;
            }
            let meter = Meter::of(target.id);
            before.push(meter.cpu_ns()?);
            targets.push((*target, meter));
        }
        let driven = turns::drive(&targets, first, self.seconds, self.core, self.script)?;
        thread::sleep(SETTLE);
        // Lines of a log may be written when the turn that they are of is over.
        let is_logged = targets.iter().any(|(target, _)| target.access_log.is_some());
        let mut samples = Vec::with_capacity(entrants.len());
        for (index, Driven { counts, waiting_ns }) in driven.into_iter().enumerate() {
            let (target, meter) = &targets[index];
            if let Some(log) = &target.access_log {
                let written = poll_until(LOG_DEADLINE, || logged(log, counts.requests));
                problems.extend(written.err().map(|error| format!("{}: {error}", target.name)));
            }
            if let Err(problem) = verify(target, self.expect, &counts, entrants[index].length) {
                problems.push(format!("{}: {problem}", target.name));
            }
            // Not before the log is written, which costs as well.
            let apart_ns = if is_logged { 0 } else { waiting_ns };
            let cpu_ns = meter.cpu_ns()? - before[index] - apart_ns;
            samples.push(Sample { cpu_ns, counts });
        }
        Ok(samples)
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
