//! Limits that four gateways share through Redis: what they admit together, what it costs, and
//! what clients notice when something happens to Redis. Everything is real: four processes, and
//! a Redis or a cluster of the benchmark's own. What stands in the way between them, to make it
//! slow or silent, is the benchmark.

mod account;
mod accuracy;
mod cluster;
mod cost;
mod crowd;
mod fleet;
mod ordeal;
mod redis;
pub(crate) mod troubles;
mod way;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use crate::contenders::Bench;
use crate::faults::findings::Findings;
use crate::options::{Options, Part};
use crate::process::Cores;
use crate::report;

/// Where the results are kept, and the heading below which.
const RESULTS: &str = "docs/SHARED-LIMITS.md";
const HEADING: &str = "## Measured\n";

/// What was measured, in Markdown, and what became of it.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) text: String,
    pub(crate) missed: Vec<String>,
    pub(crate) problems: Vec<String>,
}

impl Report {
    fn add(&mut self, findings: anyhow::Result<Findings>) {
        match findings {
            Ok(findings) => {
                self.missed.extend(findings.missed());
                self.write(&report::findings_section(&findings));
            }
            Err(error) => self.problems.push(format!("{error:#}")),
        }
    }

    /// A section, below the heading of all of them.
    fn write(&mut self, section: &str) {
        let _ = writeln!(self.text, "#{section}");
    }

    /// Puts the results of a whole run in the place of those before.
    pub(crate) fn keep(&self) -> anyhow::Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RESULTS);
        let document = std::fs::read_to_string(&path)?;
        let (before, rest) = document.split_once(HEADING).context("no heading for the results")?;
        let after = rest.split_once("\n## ").map(|(_, after)| format!("\n## {after}"));
        let after = after.unwrap_or_default();
        let text = self.text.trim_end();
        std::fs::write(&path, format!("{before}{HEADING}\n{text}\n{after}"))?;
        println!("Written to {RESULTS}.");
        Ok(())
    }
}

/// Measures what is wanted of it.
pub(crate) fn measure(bench: &Bench<'_>, options: &Options) -> Report {
    let mut report = Report::default();
    if !options.parts.iter().any(|part| part.is_shared()) {
        return report;
    }
    report.text = preamble(bench.cores);
    let pace = options.shared_length();
    if options.wants(Part::SharedAccuracy) {
        println!("Accuracy of shared limits …");
        report.add(accuracy::measure(bench, pace).context("accuracy of shared limits"));
    }
    if options.wants(Part::SharedCost) {
        println!("Cost of shared limits …");
        report.add(cost::measure_calls(bench, pace).context("calls of Redis"));
        match cost::measure_hits(bench, options.pace).context("cost of a lease") {
            Ok(hit) => {
                report.problems.extend(hit.cpu.problems.iter().cloned());
                report.write(&report::case_section(&hit.cpu));
                report.add(Ok(hit.latency));
            }
            Err(error) => report.problems.push(format!("{error:#}")),
        }
    }
    if options.wants(Part::SharedFaults) {
        for trouble in options.troubles() {
            println!("{} …", trouble.title());
            let found = ordeal::measure(bench, trouble, pace / 2);
            report.add(found.with_context(|| trouble.title()));
        }
    }
    report
}

fn preamble(cores: Cores) -> String {
    let place = if cores.shared() {
        "The machine gave **one core** for everything, so times say nothing here."
    } else {
        "Two cores: the four gateways, one worker each, shared the first; Redis, the upstream and \
         the load the second."
    };
    let wait = Duration::from_millis(10).as_millis();
    format!(
        "Written by `make bench` (`cargo bench --bench load -- --case shared-accuracy`, `shared-cost`, \
         `shared-faults`); do not edit. {place} `redis.timeout` is {wait} ms.\n\n"
    )
}
