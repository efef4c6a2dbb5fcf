//! One row of the matrix: its cells side by side before one gateway.

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use super::Faulty;
use crate::rig::{
    BY_HEADER, NO_REFILL, PATIENCE, Seen, TOKENS, addresses, circuit, expect_attempts,
    expect_nothing_held, get, half_open, tokens,
};
use crate::support::{DEADLINE, Gateway, Upstream, fault, ok};

/// The whole request. Long enough for two attempts that `read` ends.
pub(super) const ROUTE_TIMEOUT: Duration = Duration::from_secs(3);

/// One fault and what it does.
pub(super) struct Row {
    pub(super) fault: fn() -> Faulty,
    pub(super) alone: &'static str,
    pub(super) second: &'static str,
    pub(super) alike: &'static str,
    pub(super) outcome: &'static str,
    pub(super) asked: Asked,
    pub(super) ended_by: EndedBy,
}

/// Whether the server got the request.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    No,
    Yes,
}

/// What ended an attempt.
#[derive(Clone, Copy)]
pub(super) enum EndedBy {
    /// The upstream, by an answer or a break.
    Upstream,
    /// `timeouts.read` of the upstream.
    Read,
    /// `timeout` of the route.
    Route,
}

impl Row {
    /// Whether circuits and retries take it for a failure.
    fn is_failure(&self) -> bool {
        self.outcome != "ok"
    }

    /// Whether there is another attempt.
    fn is_retried(&self) -> bool {
        self.is_failure() && !self.alone.ends_with("cut")
    }

    /// How many requests the servers got of so many attempts.
    fn asked_of(&self, attempts: usize) -> usize {
        match self.asked {
            Asked::No => 0,
            Asked::Yes => attempts,
        }
    }

    /// The least time so many attempts take, and proof that it was ours to end them.
    fn least(&self, attempts: u32) -> Duration {
        match self.ended_by {
            EndedBy::Upstream => Duration::ZERO,
            EndedBy::Read => PATIENCE * attempts,
            EndedBy::Route => ROUTE_TIMEOUT,
        }
    }
}

/// What a cell of the table checks.
type Check = fn(&Cell<'_>);

/// The protections; each has an upstream, a route and a client of its name.
const CELLS: [(&str, Check); 6] = [
    ("alone", alone),
    ("second", second),
    ("alike", alike),
    ("closed", closed),
    ("opens", opens),
    ("half-open", half_open_circuit),
];

const RETRY: &str = "retry: {attempts: 1, backoff: {base: 1ms, max: 1ms}, when: [connect, timeout, reset, 500, 503]}";

/// What a cell has besides its servers: keys of its upstream, keys of its route.
fn protection(name: &str) -> (&'static str, &'static str) {
    const OPENS_AT_ONCE: &str = "breaker: {consecutive_failures: 1, probes: 1, cooldown: 1m}";
    match name {
        "second" | "alike" => ("", RETRY),
        "closed" => ("breaker: {consecutive_failures: 2, cooldown: 1m}", ""),
        "opens" | "half-open" => (OPENS_AT_ONCE, ""),
        _ => ("", ""),
    }
}

/// One fault under one protection.
struct Cell<'a> {
    name: &'static str,
    row: &'a Row,
    gateway: &'a Gateway,
    /// The server with the fault; two of them in `alike`.
    faulty: Vec<Faulty>,
    /// The second server of `second`.
    healthy: Option<Upstream>,
}

/// Runs the cells of a row, each on a thread of its own.
pub(super) fn check(row: &Row) {
    let servers = CELLS.map(|(name, _)| {
        let faulty = if name == "alike" { 2 } else { 1 };
        let faulty: Vec<Faulty> = (0..faulty).map(|_| (row.fault)()).collect();
        let healthy = (name == "second").then(|| Upstream::answering(ok(fault::BODY)));
        (name, faulty, healthy)
    });
    let gateway = before(&servers);
    thread::scope(|scope| {
        for ((_, check), (name, faulty, healthy)) in CELLS.into_iter().zip(servers) {
            let cell = Cell { name, row, gateway: &gateway, faulty, healthy };
            scope.spawn(move || check(&cell));
        }
    });
    expect_nothing_held(&gateway);
}

fn before(servers: &[(&str, Vec<Faulty>, Option<Upstream>)]) -> Gateway {
    let (patience, whole) = (PATIENCE.as_millis(), ROUTE_TIMEOUT.as_millis());
    let timeouts = format!("{{connect: {patience}ms, read: {patience}ms, write: {patience}ms}}");
    let (mut upstreams, mut routes) = (String::new(), String::new());
    for (name, faulty, healthy) in servers {
        let faulty = faulty.iter().map(|faulty| faulty.address);
        let servers = addresses(faulty.chain(healthy.as_ref().map(Upstream::address)));
        let (of_upstream, of_route) = protection(name);
        let places = "concurrency: {max: 10}";
        let _ = writeln!(
            upstreams,
            "{name}: {{servers: {servers}, timeouts: {timeouts}, {places}, {of_upstream}}}"
        );
        let _ = writeln!(
            routes,
            "- {{name: {name}, path: /{name}, upstream: {name}, timeout: {whole}ms, {of_route}}}"
        );
    }
    Gateway::builder()
        .clients(BY_HEADER)
        .tiers(NO_REFILL)
        .upstreams(&upstreams)
        .routes(&routes)
        .start()
}

impl Cell<'_> {
    fn get(&self) -> Seen {
        get(self.gateway, self.name, &format!("/{}", self.name))
    }

    /// One request, which must bring this after no less than the attempts' time.
    #[track_caller]
    fn expect(&self, what: &str, attempts: u32) -> Seen {
        let seen = self.get();
        assert_eq!(seen.what, what, "{}: {seen:?}", self.name);
        if what == "200" {
            assert_eq!(seen.body, fault::BODY, "{}", self.name);
        }
        let least = self.row.least(attempts);
        assert!((least..DEADLINE).contains(&seen.took), "{}: {:?}", self.name, seen.took);
        seen
    }

    /// How many requests the servers with the fault got, and the healthy one.
    fn asked(&self) -> (usize, usize) {
        let faulty = self.faulty.iter().map(|faulty| faulty.upstream.attempts()).sum();
        (faulty, self.healthy.as_ref().map_or(0, Upstream::attempts))
    }

    /// What all is over for: requests seen, attempts counted, tokens charged.
    #[track_caller]
    fn expect_charged(&self, tokens_charged: u64, attempts: u64, further: &[(&str, u64)]) {
        let counted = [further, &[(self.row.outcome, attempts)]].concat();
        expect_attempts(self.gateway, self.name, &counted);
        assert_eq!(tokens(self.gateway, self.name), TOKENS - tokens_charged, "{}", self.name);
        let asked = self.asked().0;
        assert_eq!(asked, self.row.asked_of(attempts as usize), "{}", self.name);
    }

    #[track_caller]
    fn expect_circuit(&self, state: &str, failures: u64) {
        let circuit = circuit(self.gateway, self.name);
        assert_eq!(circuit["state"], state, "{circuit}");
        assert_eq!(circuit["failures"], failures, "{circuit}");
        assert_eq!(circuit["probes"]["out"], 0, "{circuit}");
    }
}

/// Without any protection: the fault as it is. It costs its token like any request, and the
/// circuit that every upstream has without a breaker stays closed.
fn alone(cell: &Cell<'_>) {
    let seen = cell.expect(cell.row.alone, 1);
    assert_eq!(seen.tokens(), Some(TOKENS - 1), "{seen:?}");
    cell.expect_charged(1, 1, &[]);
    cell.expect_circuit("closed", 0);
}

/// With a retry and a second server that is well: nobody notices, as long as nothing of the
/// answer was sent.
fn second(cell: &Cell<'_>) {
    cell.expect(cell.row.second, 1);
    let is_retried = cell.row.is_retried();
    let well: &[(&str, u64)] = if is_retried { &[("ok", 1)] } else { &[] };
    cell.expect_charged(1, 1, well);
    assert_eq!(cell.asked().1, usize::from(is_retried));
}

/// With a retry where it does not help: the client is told what the last attempt came to,
/// and pays for one request.
fn alike(cell: &Cell<'_>) {
    let attempts = if cell.row.is_retried() { 2 } else { 1 };
    let seen = cell.expect(cell.row.alike, attempts);
    if seen.what == "503" {
        assert_eq!(seen.header("retry-after"), Some("7"), "the upstream's own answer");
    }
    cell.expect_charged(1, u64::from(attempts), &[]);
}

/// Before a breaker that bears one failure: it counts and the circuit stays closed.
fn closed(cell: &Cell<'_>) {
    cell.expect(cell.row.alone, 1);
    cell.expect_charged(1, 1, &[]);
    cell.expect_circuit("closed", u64::from(cell.row.is_failure()));
}

/// Before a breaker that bears none: the next request is refused, is free, and is not seen
/// by the upstream.
fn opens(cell: &Cell<'_>) {
    cell.expect(cell.row.alone, 1);
    cell.expect_charged(1, 1, &[]);
    if !cell.row.is_failure() {
        cell.expect_circuit("closed", 0);
        cell.expect(cell.row.alone, 1);
        return cell.expect_charged(2, 2, &[]);
    }
    cell.expect_circuit("open", 1);
    let seen = cell.get();
    assert_eq!(seen.what, "503 circuit-open", "{seen:?}");
    let retry_after: u64 = seen.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!((55..=66).contains(&retry_after), "a cooldown of 60 s: {retry_after}");
    assert_eq!(seen.header("ratelimit"), None, "{seen:?}");
    cell.expect_charged(1, 1, &[]);
}

/// As the probe of a half-open circuit: a failure opens it again, and anything else closes it.
fn half_open_circuit(cell: &Cell<'_>) {
    half_open(cell.gateway, cell.name);
    cell.expect(cell.row.alone, 1);
    cell.expect_charged(1, 1, &[]);
    if cell.row.is_failure() {
        cell.expect_circuit("open", 0);
        assert_eq!(circuit(cell.gateway, cell.name)["reason"], "a probe failed");
        assert_eq!(cell.get().what, "503 circuit-open");
    } else {
        cell.expect_circuit("closed", 0);
    }
}
