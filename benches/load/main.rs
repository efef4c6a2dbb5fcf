//! The load benchmark: Tollgate as a whole process against a bare Pingora
//! proxy, nginx and HAProxy, in CPU per request, throughput and memory.
//!
//! Everything runs on loopback ports that were free, in a temporary folder,
//! and ends with the benchmark. `cargo bench --bench load -- --help` lists the
//! options.

#![allow(clippy::print_stdout, clippy::print_stderr)] // it talks to the person who started it

mod configs;
mod contenders;
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

use contenders::{Bench, Running, Target};
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
    let outcome = Options::parse(std::env::args().skip(1)).and_then(|options| match options {
        Some(options) => run(&options),
        None => {
            println!("{USAGE}");
            Ok(())
        }
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let cores = Cores::of_this_machine()?;
    if cores.shared() {
        println!("There is one core only: load and contender share it, throughput says nothing.");
    }
    process::raise_open_files(options.connections as u64 + SPARE_FILES)?;
    let bare = if options.has(Contender::Bare) {
        println!("Building the bare proxy with the gateway's profile …");
        Some(contenders::build_bare_proxy()?)
    } else {
        None
    };
    let dir = tempfile::tempdir()?;
    let bench = Bench { dir: dir.path(), cores, bare };
    let (_origin, upstream) = bench.start_upstream()?;

    let mut text = report::preamble(cores, options.pace);
    let mut problems = Vec::new();
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
    Ok(())
}

/// The contenders that forward, started once for all cases.
struct Field {
    tollgate: Option<Running>,
    tollgate_logged: Option<Running>,
    bare: Option<Running>,
    nginx: Option<Running>,
    haproxy: Option<Running>,
}

impl Field {
    fn start(bench: &Bench<'_>, options: &Options, upstream: SocketAddr) -> anyhow::Result<Self> {
        let log: PathBuf = bench.dir.join("tollgate-access.log");
        let with = |contender| options.has(contender);
        let tollgate = |name, log| bench.start_tollgate(name, upstream, DEFAULT_SLOTS, log);
        let has_tollgate = with(Contender::Tollgate);
        Ok(Self {
            tollgate: has_tollgate.then(|| tollgate("tollgate", None)).transpose()?,
            tollgate_logged: (has_tollgate && options.wants(Part::Log))
                .then(|| tollgate("tollgate with log", Some(&log)))
                .transpose()?,
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
    if options.parts == [Part::Memory] {
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
    if options.wants(Part::Log) {
        println!("Logging …");
        measured.push(bench.measure(log_case(&field), options.pace)?);
    }
    Ok(measured)
}

fn forward_case(field: &Field) -> Case {
    Case {
        title: "Forwarding, everything on (tier limit, route limit, metrics, trace id)",
        expect: Expect::Upstream,
        targets: field.all().map(|running| running.forward.clone()).collect(),
        pairs: against_all(1.05),
    }
}

/// The bare program with Tollgate's own refusal, taken from the wire.
fn start_responder(bench: &Bench<'_>, field: &Field) -> anyhow::Result<Option<Running>> {
    if bench.bare.is_none() {
        return Ok(None);
    }
    let Some(gateway) = field.tollgate.as_ref().and_then(|running| running.refuse.as_ref()) else {
        return bench.start_bare_respond(STAND_IN_REFUSAL).map(Some);
    };
    let refusal = rounds::check(gateway, Expect::Refusal)?;
    rounds::check_problem(&refusal)?;
    let responder = bench.start_bare_respond(&refusal.raw)?;
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

fn refuse_case(field: &Field, responder: Option<&Running>) -> Case {
    let refusing =
        [field.tollgate.as_ref(), responder, field.nginx.as_ref(), field.haproxy.as_ref()];
    let targets = refusing.into_iter().flatten().filter_map(|running| running.refuse.clone());
    Case {
        title: "Refusing (429; nginx and HAProxy with their own short pages)",
        expect: Expect::Refusal,
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
        measure(bench.start_tollgate("tollgate", upstream, SMALL_SLOTS, None)?)?;
    }
    if options.has(Contender::Bare) {
        measure(bench.start_bare_forward(upstream)?)?;
    }
    if options.has(Contender::Nginx) {
        measure(bench.start_nginx_proxy(upstream)?)?;
    }
    if options.has(Contender::Tollgate) {
        let running = bench.start_tollgate("tollgate", upstream, DEFAULT_SLOTS, None)?;
        report.default_idle_bytes = Some(memory::settled(&running.forward)?);
    }
    Ok(report)
}
