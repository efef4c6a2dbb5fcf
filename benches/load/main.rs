//! The load benchmark: Tollgate as a whole process against a bare Pingora
//! proxy, nginx and HAProxy, in CPU per request, throughput and memory; what
//! its clients notice of a failing or overloaded upstream; and limits that
//! several gateways share.
//!
//! Everything runs on loopback ports that were free, in a temporary folder,
//! and ends with the benchmark. `cargo bench --bench load -- --help` lists the
//! options.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it talks to the person who started it

mod cases;
mod configs;
mod contenders;
mod faults;
mod http;
mod memory;
mod options;
mod process;
mod report;
mod rounds;
mod shared;
mod turns;
mod wrk;

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};

use configs::Setup;
use contenders::{Bench, Running};
use faults::findings::Findings;
use options::{Options, Part, USAGE};
use process::Cores;
use report::MemoryReport;

/// Slots of the limiter table by default, and those of the run that measures
/// memory: there the table is so small that it hardly matters how much of it
/// is resident.
const DEFAULT_SLOTS: u64 = 1 << 20;
const SMALL_SLOTS: u64 = 1 << 16;
const BYTES_PER_SLOT: u64 = 16;
/// Tollgate with everything on.
pub(crate) const EVERYTHING: Setup<'static> =
    Setup { slots: DEFAULT_SLOTS, log: None, is_contained: true, redis: None };
/// Open files beyond the idle connections that a contender may need.
const SPARE_FILES: u64 = 4096;

/// The programs compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contender {
    Tollgate,
    Bare,
    Nginx,
    Haproxy,
}

impl Contender {
    const ALL: [Self; 4] = [Self::Tollgate, Self::Bare, Self::Nginx, Self::Haproxy];

    fn name(self) -> &'static str {
        match self {
            Self::Tollgate => "tollgate",
            Self::Bare => "bare",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    fn parse(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|contender| contender.name() == name);
        found.with_context(|| format!("no contender {name:?}"))
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // The benchmark starts itself again as the servers that fail.
    let outcome = match args.split_first() {
        Some((first, rest)) if first == faults::origin::MODE => faults::origin::serve(rest),
        _ => start(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Vec<String>) -> anyhow::Result<()> {
    match Options::parse(args.into_iter())? {
        Some(options) => run(&options),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    // Said now and not when half an hour of measuring is over.
    let missing = options.missing_programs();
    if !missing.is_empty() {
        bail!("{} must be installed, which `make bench` does", missing.join(", "));
    }
    let cores = Cores::of_this_machine()?;
    if cores.shared() {
        println!("There is one core only: load and contender share it, throughput says nothing.");
    }
    process::raise_open_files(options.connections as u64 + SPARE_FILES)?;
    let has_contenders = options.parts.iter().any(|part| part.has_contenders());
    let bare = if has_contenders && options.has(Contender::Bare) {
        println!("Building the bare proxy with the gateway's profile …");
        Some(contenders::build_bare_proxy()?)
    } else {
        None
    };
    let dir = tempfile::tempdir()?;
    let bench = Bench { dir: dir.path(), cores, bare };
    let mut text = report::preamble(cores, options.pace);
    let mut problems = Vec::new();
    if has_contenders {
        problems = compare(&bench, options, &mut text)?;
    }
    let mut missed = Vec::new();
    for found in find_faults(&bench, options) {
        match found {
            Ok(findings) => {
                missed.extend(findings.missed());
                text.push_str(&report::findings_section(&findings));
                text.push('\n');
            }
            Err(error) => problems.push(format!("{error:#}")),
        }
    }
    let shared = shared::measure(&bench, options);
    problems.extend(shared.problems.iter().cloned());
    missed.extend(shared.missed.iter().cloned());
    text.push_str(
        "## Again\n\n`make bench` installs what is missing and runs this; \
                   `cargo bench --bench load -- --quick` tries it in a minute or two.\n",
    );
    println!("\n{text}\n{}", shared.text);
    if !problems.is_empty() {
        bail!("the figures prove nothing, because:\n  {}", problems.join("\n  "));
    }
    keep(&text, options)?;
    if options.is_complete_of_shared() {
        shared.keep()?;
    }
    if !missed.is_empty() {
        bail!("missed:\n  {}", missed.join("\n  "));
    }
    Ok(())
}

/// Writes the report of a complete run to where the project's results are.
fn keep(text: &str, options: &Options) -> anyhow::Result<()> {
    if !options.is_complete() {
        println!("A partial run: benches/RESULTS.md stays as it is.");
        return Ok(());
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
    std::fs::write(path, text)?;
    println!("Written to benches/RESULTS.md.");
    Ok(())
}

/// Adds to `text` how the contenders compare and returns what makes that worthless.
fn compare(bench: &Bench<'_>, options: &Options, text: &mut String) -> anyhow::Result<Vec<String>> {
    let (_origin, upstream) = bench.start_upstream()?;
    let mut problems = Vec::new();
    for measured in cases::measure(bench, options, upstream)? {
        problems.extend(measured.problems.iter().cloned());
        text.push_str(&report::case_section(&measured));
        text.push('\n');
    }
    if options.wants(Part::Memory) {
        let report = measure_memory(bench, options, upstream)?;
        text.push_str(&report::memory_section(&report));
        text.push('\n');
    }
    Ok(problems)
}

/// What clients notice of upstreams in trouble. Unlike quotients of CPU these bounds hold on
/// any machine that has time for them, so that one that is missed fails the benchmark.
fn find_faults(bench: &Bench<'_>, options: &Options) -> Vec<anyhow::Result<Findings>> {
    let mut found = Vec::new();
    if !options.has(Contender::Tollgate) {
        return found;
    }
    if options.wants(Part::BlackHole) {
        println!("A black hole …");
        found.push(faults::black_hole::measure(bench).context("black hole"));
    }
    if options.wants(Part::Overload) {
        println!("Overload …");
        found.push(faults::overload::measure(bench).context("overload"));
    }
    if options.wants(Part::Reload) {
        println!("Reloads …");
        found.push(faults::reloads::measure(bench, options.reload_length()).context("reload"));
    }
    if options.wants(Part::Upgrade) {
        println!("Upgrades and restarts …");
        found.push(faults::successions::measure(bench).context("upgrade"));
    }
    if options.wants(Part::Hostile) {
        println!("Hostile clients …");
        found.push(faults::hostile::measure(bench).context("hostile"));
    }
    if options.wants(Part::SlowReaders) {
        println!("Slow readers …");
        found.push(faults::slow_peers::measure(bench).context("slow readers"));
    }
    found
}

fn measure_memory(
    bench: &Bench<'_>,
    options: &Options,
    upstream: SocketAddr,
) -> anyhow::Result<MemoryReport> {
    println!("Memory …");
    let mut report = MemoryReport {
        rows: Vec::new(),
        table_bytes: SMALL_SLOTS * BYTES_PER_SLOT,
        default_idle_bytes: None,
        default_table_bytes: DEFAULT_SLOTS * BYTES_PER_SLOT,
        connections: options.connections,
    };
    // Fresh processes: what load left behind in an allocator is not idle size.
    let mut measure = |running: Running| -> anyhow::Result<()> {
        report.rows.push(memory::measure(&running, options.connections)?);
        Ok(())
    };
    if options.has(Contender::Tollgate) {
        let setup = Setup { slots: SMALL_SLOTS, ..EVERYTHING };
        measure(bench.start_tollgate("tollgate", upstream, setup)?)?;
    }
    if options.has(Contender::Bare) {
        measure(bench.start_bare_forward(upstream)?)?;
    }
    if options.has(Contender::Nginx) {
        measure(bench.start_nginx_proxy("nginx", upstream)?)?;
    }
    if options.has(Contender::Tollgate) {
        let running = bench.start_tollgate("tollgate", upstream, EVERYTHING)?;
        report.default_idle_bytes = Some(memory::settled(&running.forward)?);
    }
    Ok(report)
}
