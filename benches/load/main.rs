//! The load benchmark: Tollgate as a whole process against a bare Pingora
//! proxy, nginx and HAProxy, in CPU per request, throughput and memory; and
//! what its clients notice of a failing or overloaded upstream.
//!
//! Everything runs on loopback ports that were free, in a temporary folder,
//! and ends with the benchmark. `cargo bench --bench load -- --help` lists the
//! options.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it talks to the person who started it

mod configs;
mod contenders;
mod faults;
mod http;
mod memory;
mod options;
mod process;
mod report;
mod rounds;
mod wrk;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

use configs::Setup;
use contenders::{Bench, Running, Target};
use faults::findings::Findings;
use options::{Options, Part, USAGE};
use process::Cores;
use report::MemoryReport;
use rounds::{Case, Expect, Measured, Pair};

/// Slots of the limiter table by default, and those of the run that measures
/// memory: there the table is so small that it hardly matters how much of it
/// is resident.
const DEFAULT_SLOTS: u64 = 1 << 20;
const SMALL_SLOTS: u64 = 1 << 16;
const BYTES_PER_SLOT: u64 = 16;
/// Tollgate with everything on.
const EVERYTHING: Setup<'static> = Setup { slots: DEFAULT_SLOTS, log: None, is_contained: true };
/// The gateway without what contains a failing upstream, as the report names it.
const UNCONTAINED: &str = "tollgate uncontained";
/// Open files beyond the idle connections that a contender may need.
const SPARE_FILES: u64 = 4096;
/// What the bare program writes when there is no Tollgate to take it from.
const STAND_IN_REFUSAL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: application/problem+json\r\nretry-after: 3600\r\ncontent-length: 16\r\n\r\n\
    {\"status\": 429}\n";

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
        let (_origin, upstream) = bench.start_upstream()?;
        for measured in measure_cases(&bench, options, upstream)? {
            problems.extend(measured.problems.iter().cloned());
            text.push_str(&report::case_section(&measured));
            text.push('\n');
        }
        if options.wants(Part::Memory) {
            let report = measure_memory(&bench, options, upstream)?;
            text.push_str(&report::memory_section(&report));
            text.push('\n');
        }
    }
    let found = find_faults(&bench, options)?;
    for findings in &found {
        text.push_str(&report::findings_section(findings));
        text.push('\n');
    }
    text.push_str(
        "## Again\n\n`make bench` installs what is missing and runs this; \
                   `cargo bench --bench load -- --quick` tries it in a minute.\n",
    );
    println!("\n{text}");
    if !problems.is_empty() {
        bail!("the figures prove nothing, because:\n  {}", problems.join("\n  "));
    }
    if options.is_complete() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/RESULTS.md");
        std::fs::write(path, text)?;
        println!("Written to benches/RESULTS.md.");
    } else {
        println!("A partial run: benches/RESULTS.md stays as it is.");
    }
    let missed: Vec<String> = found.iter().flat_map(Findings::missed).collect();
    if !missed.is_empty() {
        bail!("missed:\n  {}", missed.join("\n  "));
    }
    Ok(())
}

/// What clients notice of upstreams in trouble. Unlike quotients of CPU these bounds hold on
/// any machine, so that one that is missed fails the benchmark.
fn find_faults(bench: &Bench<'_>, options: &Options) -> anyhow::Result<Vec<Findings>> {
    let mut found = Vec::new();
    if !options.has(Contender::Tollgate) {
        return Ok(found);
    }
    if options.wants(Part::BlackHole) {
        println!("A black hole …");
        found.push(faults::black_hole::measure(bench)?);
    }
    if options.wants(Part::Overload) {
        println!("Overload …");
        found.push(faults::overload::measure(bench)?);
    }
    Ok(found)
}

/// The contenders that forward, started once for all cases.
struct Field {
    tollgate: Option<Running>,
    /// The same without breaker, retries and cap on concurrency.
    tollgate_uncontained: Option<Running>,
    tollgate_logged: Option<Running>,
    bare: Option<Running>,
    nginx: Option<Running>,
    haproxy: Option<Running>,
}

impl Field {
    fn start(bench: &Bench<'_>, options: &Options, upstream: SocketAddr) -> anyhow::Result<Self> {
        let log: PathBuf = bench.dir.join("tollgate-access.log");
        let with = |contender| options.has(contender);
        let tollgate = |name, is_wanted: bool, setup| {
            let is_started = is_wanted && with(Contender::Tollgate);
            is_started.then(|| bench.start_tollgate(name, upstream, setup)).transpose()
        };
        let uncontained = Setup { is_contained: false, ..EVERYTHING };
        let logged = Setup { log: Some(&log), ..EVERYTHING };
        Ok(Self {
            tollgate: tollgate("tollgate", true, EVERYTHING)?,
            tollgate_uncontained: tollgate(UNCONTAINED, options.wants(Part::Forward), uncontained)?,
            tollgate_logged: tollgate("tollgate with log", options.wants(Part::Log), logged)?,
            bare: with(Contender::Bare).then(|| bench.start_bare_forward(upstream)).transpose()?,
            nginx: with(Contender::Nginx).then(|| bench.start_nginx_proxy(upstream)).transpose()?,
            haproxy: with(Contender::Haproxy).then(|| bench.start_haproxy(upstream)).transpose()?,
        })
    }

    /// Those that are there, the gateway first.
    fn all(&self) -> impl Iterator<Item = &Running> {
        [&self.tollgate, &self.bare, &self.nginx, &self.haproxy].into_iter().flatten()
    }
}

fn measure_cases(
    bench: &Bench<'_>,
    options: &Options,
    upstream: SocketAddr,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured = Vec::new();
    if !options.parts.iter().any(|part| part.compares_cpu()) {
        return Ok(measured);
    }
    let field = Field::start(bench, options, upstream)?;
    if options.wants(Part::Forward) {
        println!("Forwarding …");
        measured.push(bench.measure(forward_case(&field), options.pace)?);
    }
    if options.wants(Part::Refuse) {
        println!("Refusing …");
        // Held here, since the program has to live as long as the case.
        let responder = start_responder(bench, &field)?;
        measured.push(bench.measure(refuse_case(&field, responder.as_ref()), options.pace)?);
    }
    if options.wants(Part::Open) && options.has(Contender::Tollgate) {
        println!("Refusing behind an open circuit …");
        let gateway = bench.start_open_tollgate(upstream, EVERYTHING)?;
        let refuse = gateway.refuse.as_ref();
        let responder = refuse.map(|gateway| start_copy(bench, gateway, 503)).transpose()?;
        let case = open_case([Some(&gateway), responder.as_ref().and_then(Option::as_ref)]);
        measured.push(bench.measure(case, options.pace)?);
    }
    if options.wants(Part::Log) {
        println!("Logging …");
        measured.push(bench.measure(log_case(&field), options.pace)?);
    }
    Ok(measured)
}

fn forward_case(field: &Field) -> Case {
    let uncontained = field
        .tollgate_uncontained
        .as_ref()
        .map(|running| Target { name: UNCONTAINED, ..running.forward.clone() });
    let mut pairs = against_all(1.05);
    pairs.extend([
        Pair { above: Contender::Tollgate.name(), below: UNCONTAINED, bound: None },
        Pair { above: UNCONTAINED, below: Contender::Bare.name(), bound: None },
    ]);
    Case {
        title: "Forwarding, everything on (tier limit, route limit, breaker, retries, \
                concurrency cap, metrics, trace id)",
        expect: Expect::Upstream,
        targets: field.all().map(|running| running.forward.clone()).chain(uncontained).collect(),
        pairs,
    }
}

/// The bare program with Tollgate's own 429, taken from the wire.
fn start_responder(bench: &Bench<'_>, field: &Field) -> anyhow::Result<Option<Running>> {
    match field.tollgate.as_ref().and_then(|running| running.refuse.as_ref()) {
        Some(gateway) => start_copy(bench, gateway, 429),
        None if bench.bare.is_none() => Ok(None),
        None => bench.start_bare_respond(STAND_IN_REFUSAL, 429).map(Some),
    }
}

/// The bare program with a refusal of the gateway, taken from the wire.
fn start_copy(bench: &Bench<'_>, gateway: &Target, status: u16) -> anyhow::Result<Option<Running>> {
    if bench.bare.is_none() {
        return Ok(None);
    }
    let refusal = rounds::check(gateway, Expect::Refusal(status))?;
    rounds::check_problem(&refusal)?;
    let responder = bench.start_bare_respond(&refusal.raw, status)?;
    // Digits of the waiting time may differ by the second asked, nothing else.
    let copy = http::get(responder.forward.address, contenders::PATH, contenders::OPEN_CLIENT)?;
    if copy.raw.len().abs_diff(refusal.raw.len()) > 4 {
        bail!(
            "the bare program writes {} bytes where Tollgate writes {}",
            copy.raw.len(),
            refusal.raw.len()
        );
    }
    Ok(Some(responder))
}

/// The gateway with an open circuit and the bare program that writes the same.
fn open_case(refusing: [Option<&Running>; 2]) -> Case {
    let targets = refusing.into_iter().flatten().filter_map(|running| running.refuse.clone());
    Case {
        title: "Refusing behind an open circuit (503)",
        expect: Expect::Refusal(503),
        targets: targets.collect(),
        pairs: vec![Pair {
            above: Contender::Tollgate.name(),
            below: Contender::Bare.name(),
            bound: Some(1.10),
        }],
    }
}

fn refuse_case(field: &Field, responder: Option<&Running>) -> Case {
    let refusing =
        [field.tollgate.as_ref(), responder, field.nginx.as_ref(), field.haproxy.as_ref()];
    let targets = refusing.into_iter().flatten().filter_map(|running| running.refuse.clone());
    Case {
        title: "Refusing (429; nginx and HAProxy with their own short pages)",
        expect: Expect::Refusal(429),
        targets: targets.collect(),
        pairs: against_all(1.10),
    }
}

fn log_case(field: &Field) -> Case {
    let with_and_without = [
        field.tollgate.as_ref().map(|running| &running.forward),
        field.tollgate_logged.as_ref().and_then(|running| running.logged.as_ref()),
        field.nginx.as_ref().map(|running| &running.forward),
        field.nginx.as_ref().and_then(|running| running.logged.as_ref()),
    ];
    let targets: Vec<Target> = with_and_without.into_iter().flatten().cloned().collect();
    Case {
        title: "Forwarding with a JSON access log in a file",
        expect: Expect::Upstream,
        targets,
        pairs: vec![
            Pair { above: "tollgate with log", below: "tollgate", bound: Some(1.10) },
            Pair { above: "nginx with log", below: "nginx", bound: None },
            Pair { above: "tollgate with log", below: "nginx with log", bound: None },
        ],
    }
}

/// The gateway against each other contender, and the others against `bare`.
fn against_all(bound: f64) -> Vec<Pair> {
    let pair = |above: Contender, below: Contender, bound| Pair {
        above: above.name(),
        below: below.name(),
        bound,
    };
    vec![
        pair(Contender::Tollgate, Contender::Bare, Some(bound)),
        pair(Contender::Tollgate, Contender::Nginx, None),
        pair(Contender::Tollgate, Contender::Haproxy, None),
        pair(Contender::Nginx, Contender::Bare, None),
        pair(Contender::Haproxy, Contender::Bare, None),
    ]
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
        measure(bench.start_nginx_proxy(upstream)?)?;
    }
    if options.has(Contender::Tollgate) {
        let running = bench.start_tollgate("tollgate", upstream, EVERYTHING)?;
        report.default_idle_bytes = Some(memory::settled(&running.forward)?);
    }
    Ok(report)
}
