//! The comparisons: who takes part in each, what is asked of their answers, and which
//! quotients are of interest.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::bail;

use crate::configs::Setup;
use crate::contenders::{self, Bench, Running, Target};
use crate::options::{Options, Part};
use crate::rounds::{self, Case, Expect, Measured, Pair};
use crate::{Contender, EVERYTHING, http};

/// The gateway without what contains a failing upstream, as the report names it.
const UNCONTAINED: &str = "tollgate uncontained";
/// What the bare program writes when there is no Tollgate to take it from.
const STAND_IN_REFUSAL: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\n\
    content-type: application/problem+json\r\nretry-after: 3600\r\ncontent-length: 16\r\n\r\n\
    {\"status\": 429}\n";

/// Measures every comparison that is wanted, with the contenders started as often as the pace
/// asks for.
pub(crate) fn measure(
    bench: &Bench<'_>,
    options: &Options,
    upstream: SocketAddr,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured: Vec<Measured> = Vec::new();
    if !options.parts.iter().any(|part| part.compares_cpu()) {
        return Ok(measured);
    }
    for start in 1..=options.pace.starts {
        println!("Start {start} of {}", options.pace.starts);
        let of_start = measure_start(bench, options, upstream)?;
        if measured.is_empty() {
            measured = of_start;
        } else {
            measured.iter_mut().zip(of_start).for_each(|(all, more)| all.extend(more));
        }
    }
    Ok(measured)
}

fn measure_start(
    bench: &Bench<'_>,
    options: &Options,
    upstream: SocketAddr,
) -> anyhow::Result<Vec<Measured>> {
    let mut measured = Vec::new();
    let field = Field::start(bench, options, upstream)?;
    if options.wants(Part::Forward) {
        println!("  forwarding …");
        measured.push(bench.measure(forward_case(&field), options.pace)?);
    }
    if options.wants(Part::Refuse) {
        println!("  refusing …");
        // Held here, since the program has to live as long as the case.
        let responder = start_responder(bench, &field)?;
        measured.push(bench.measure(refuse_case(&field, responder.as_ref()), options.pace)?);
    }
    if options.wants(Part::Open) && options.has(Contender::Tollgate) {
        println!("  refusing behind an open circuit …");
        let gateway = bench.start_open_tollgate(upstream, EVERYTHING)?;
        let refuse = gateway.refuse.as_ref();
        let responder = refuse.map(|gateway| start_copy(bench, gateway, 503)).transpose()?;
        let case = open_case([Some(&gateway), responder.as_ref().and_then(Option::as_ref)]);
        measured.push(bench.measure(case, options.pace)?);
    }
    if options.wants(Part::Log) {
        println!("  logging …");
        measured.push(bench.measure(log_case(&field), options.pace)?);
    }
    Ok(measured)
}

/// The contenders that forward, started once for all cases of a start.
struct Field {
    tollgate: Option<Running>,
    /// The same without breaker, retries and cap on concurrency.
    tollgate_uncontained: Option<Running>,
    tollgate_logged: Option<Running>,
    bare: Option<Running>,
    nginx: Option<Running>,
    nginx_logged: Option<Running>,
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
        let nginx = |name, is_wanted: bool| {
            let is_started = is_wanted && with(Contender::Nginx);
            is_started.then(|| bench.start_nginx_proxy(name, upstream)).transpose()
        };
        let uncontained = Setup { is_contained: false, ..EVERYTHING };
        let logged = Setup { log: Some(&log), ..EVERYTHING };
        Ok(Self {
            tollgate: tollgate("tollgate", true, EVERYTHING)?,
            tollgate_uncontained: tollgate(UNCONTAINED, options.wants(Part::Forward), uncontained)?,
            tollgate_logged: tollgate("tollgate with log", options.wants(Part::Log), logged)?,
            bare: with(Contender::Bare).then(|| bench.start_bare_forward(upstream)).transpose()?,
            nginx: nginx("nginx", true)?,
            nginx_logged: nginx("nginx-with-log", options.wants(Part::Log))?,
            haproxy: with(Contender::Haproxy).then(|| bench.start_haproxy(upstream)).transpose()?,
        })
    }

    /// Those that are there, the gateway first.
    fn all(&self) -> impl Iterator<Item = &Running> {
        [&self.tollgate, &self.bare, &self.nginx, &self.haproxy].into_iter().flatten()
    }
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
        field.nginx_logged.as_ref().and_then(|running| running.logged.as_ref()),
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
