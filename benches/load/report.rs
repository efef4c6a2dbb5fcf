//! What a run prints and what it leaves in `benches/RESULTS.md`: quotients
//! first, since they hold on other machines, absolute figures beside them.

use std::fmt::{self, Write as _};
use std::process::Command;

use crate::faults::findings::Findings;
use crate::memory::Memory;
use crate::process::Cores;
use crate::rounds::{Measured, Pace, Sample};

/// Figures of DESIGN §9 for memory.
const MAX_IDLE_BYTES: u64 = 30_000_000;
const MAX_CONNECTION_BYTES: u64 = 28 * 1024;

/// Median and extremes of rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        let median = f64::midpoint(at(last / 2), at(last - last / 2));
        Self { median, min: at(0), max: at(last) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ({:.3} – {:.3})", self.median, self.min, self.max)
    }
}

/// Memory of the gateway beside that of its yardsticks.
pub(crate) struct MemoryReport {
    pub(crate) rows: Vec<Memory>,
    /// Bytes of the limiter table in the gateway's row.
    pub(crate) table_bytes: u64,
    /// The gateway's idle size with the table of the default configuration.
    pub(crate) default_idle_bytes: Option<u64>,
    pub(crate) default_table_bytes: u64,
    pub(crate) connections: usize,
}

/// One case as a heading, its quotients, and what they were made of.
pub(crate) fn case_section(measured: &Measured) -> String {
    let mut text = format!("## {}\n\n", measured.case.title);
    text.push_str("| quotient | CPU per request | at most | requests/s |\n|---|---|---|---|\n");
    for pair in &measured.case.pairs {
        let (Some(above), Some(below)) = (row(measured, pair.above), row(measured, pair.below))
        else {
            continue;
        };
        let quotients = |rows: &[Vec<Sample>], value: fn(&Sample) -> f64| {
            let rounds = rows[above].iter().zip(&rows[below]);
            Spread::of(rounds.map(|(above, below)| value(above) / value(below)))
        };
        let cpu = quotients(&measured.by_turns, Sample::cpu_us);
        let rate = quotients(&measured.alone, |sample| sample.counts.per_second());
        let bound = match pair.bound {
            Some(bound) if cpu.median > bound => format!("{bound:.2} **missed**"),
            Some(bound) => format!("{bound:.2} met"),
            None => "–".to_owned(),
        };
        let _ = writeln!(text, "| {} ÷ {} | {cpu} | {bound} | {rate} |", pair.above, pair.below);
    }
    text.push_str(
        "\n| contender | CPU µs per request | requests/s | core used | p50 µs | p99 µs |\n",
    );
    text.push_str("|---|---|---|---|---|---|\n");
    let rows = measured.by_turns.iter().zip(&measured.alone);
    for (target, (by_turns, alone)) in measured.case.targets.iter().zip(rows) {
        let median = |value: fn(&Sample) -> f64| Spread::of(alone.iter().map(value)).median;
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.0} | {:.0} % | {:.0} | {:.0} |",
            target.name,
            Spread::of(by_turns.iter().map(Sample::cpu_us)).median,
            median(|sample| sample.counts.per_second()),
            median(Sample::busy) * 100.0,
            median(|sample| sample.counts.p50_us as f64),
            median(|sample| sample.counts.p99_us as f64),
        );
    }
    text
}

fn row(measured: &Measured, name: &str) -> Option<usize> {
    measured.case.targets.iter().position(|target| target.name == name)
}

/// Idle size and size per connection, the gateway's against their figures.
pub(crate) fn memory_section(report: &MemoryReport) -> String {
    let connections = report.connections;
    let mut text = format!(
        "## Memory\n\nResident sizes; {connections} connections, one request each, then idle.\n\n\
         | contender | idle MB | KiB per connection |\n|---|---|---|\n"
    );
    for memory in &report.rows {
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.1} |",
            memory.name,
            memory.idle_bytes as f64 / 1e6,
            memory.per_connection_bytes as f64 / 1024.0
        );
    }
    let Some(gateway) = report.rows.iter().find(|row| row.name == "tollgate") else { return text };
    let own = gateway.idle_bytes.saturating_sub(report.table_bytes);
    let _ = writeln!(
        text,
        "\nTollgate idle without its table of {:.1} MB: {:.1} MB, at most 30 MB: {}. \
         Per connection at most 28 KiB: {}.",
        report.table_bytes as f64 / 1e6,
        own as f64 / 1e6,
        met(own <= MAX_IDLE_BYTES),
        met(gateway.per_connection_bytes <= MAX_CONNECTION_BYTES),
    );
    if let Some(idle) = report.default_idle_bytes {
        let _ = writeln!(
            text,
            "With the default table of {:.1} MB it begins with {:.1} MB resident; pages of the \
             table that no client has touched may not be resident yet.",
            report.default_table_bytes as f64 / 1e6,
            idle as f64 / 1e6,
        );
    }
    text
}

/// A case of an upstream in trouble: what was set up, what was seen, what was asked for.
pub(crate) fn findings_section(findings: &Findings) -> String {
    let mut text = format!("## {}\n\n{}\n\n{}", findings.title, findings.setting, findings.table);
    if !findings.table.is_empty() {
        text.push('\n');
    }
    text.push_str("| what | measured | asked for |\n|---|---|---|\n");
    for finding in &findings.findings {
        let asked = match &finding.bound {
            Some(bound) => format!("{}: {}", bound.text, met(bound.is_met)),
            None => "–".to_owned(),
        };
        let _ = writeln!(text, "| {} | {} | {asked} |", finding.what, finding.measured);
    }
    text
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

/// What was measured on what, and how to do it again.
pub(crate) fn preamble(cores: Cores, pace: Pace) -> String {
    let place = if cores.shared() {
        "The machine gave **one core**: contenders, load and upstream shared it, so only CPU per \
         request means anything here."
    } else {
        "Two cores: each contender ran with one worker on the first; wrk (one thread, 64 kept \
         connections) and the upstream (nginx, one worker) on the second."
    };
    format!(
        "# Results of the load benchmark\n\n\
         Written by `make bench` (`cargo bench --bench load`); do not edit. {place}\n\n\
         Quotients are medians, with the least and the greatest in brackets; below 1 the first of \
         the two is cheaper (CPU) or slower (requests/s). All contenders were started {} times. CPU \
         per request is of {} rounds after each start, of {} s for every contender, in which they \
         took turns of 50 ms, each with a wrk of its own that was frozen while others had theirs: \
         so whatever slows the machine down meets all. It is user and kernel time of the \
         contender's whole process tree, from /proc, less what it used between its turns (unless one \
         of the contenders logs, whose lines may be written then), divided by the requests wrk saw \
         answered. Requests/s, the share of the core used \
         and latencies are of one round of {} s after each start, each contender alone. Where it \
         used less than its core, load generator or upstream were the limit, and its requests/s say \
         little. Every contender was checked before and after: right status, right body, no socket \
         errors. `bare` is a Pingora program with the gateway's profile, allocator and buffers that \
         does nothing but forward, or write Tollgate's own refusal.\n\n\
         {}.\n\n",
        pace.starts,
        pace.rounds,
        pace.seconds,
        pace.seconds,
        versions(),
    )
}

/// The versions of the programs used, as they name themselves.
fn versions() -> String {
    let version = |program: &str, prefix: &str| {
        let output = Command::new(program).arg("-v").output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        let rest = text.split_once(prefix)?.1;
        Some(rest.split_whitespace().next()?.to_owned())
    };
    let unknown = || "of unknown version".to_owned();
    format!(
        "nginx {}, HAProxy {}, wrk {}",
        version("nginx", "nginx/").unwrap_or_else(unknown),
        version("haproxy", "version ").unwrap_or_else(unknown),
        version("wrk", "wrk ").unwrap_or_else(unknown),
    )
}
