//! What these tests ask again and again.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{
    Answer, Client, DEADLINE, Gateway, Reply, Series, Upstream, eventually, until,
};

/// A time-out of the gateway's: long beside an answer on a busy machine, and short enough
/// to be waited for.
pub(crate) const PATIENCE: Duration = Duration::from_millis(600);

/// Clients by header, so that each has tokens of its own.
pub(crate) const BY_HEADER: &str = "identify: [{header: X-Client-ID}, ip]\ndefault_tier: free";

/// Tokens that do not come back within a test.
pub(crate) const NO_REFILL: &str = "free: {rate: 1/h, burst: 1000}";

/// What [`NO_REFILL`] gives each client.
pub(crate) const TOKENS: u64 = 1000;

/// A problem's type, up to its name.
const PROBLEM: &str = "urn:tollgate:problem:";

/// An upstream with a fault that [`Upstream::switch_back`] heals.
pub(crate) fn failing(answer: Answer) -> Upstream {
    let upstream = Upstream::new();
    upstream.switch_to(answer);
    upstream
}

/// Upstreams as a list of servers in YAML.
pub(crate) fn list<'a>(upstreams: impl IntoIterator<Item = &'a Upstream>) -> String {
    addresses(upstreams.into_iter().map(Upstream::address))
}

/// Addresses as a list of servers in YAML.
pub(crate) fn addresses(servers: impl IntoIterator<Item = SocketAddr>) -> String {
    let servers: Vec<String> =
        servers.into_iter().map(|address| format!("\"{address}\"")).collect();
    format!("[{}]", servers.join(", "))
}

/// A gateway whose one route `all` leads to one upstream `main` with these keys; the route's
/// further keys follow.
#[track_caller]
pub(crate) fn gateway(upstream: &str, route: &str) -> Gateway {
    let further = if route.is_empty() { String::new() } else { format!(", {route}") };
    Gateway::builder()
        .clients(BY_HEADER)
        .tiers(NO_REFILL)
        .upstreams(&format!("main: {{{upstream}}}"))
        .routes(&format!("- {{name: all, path: /, upstream: main{further}}}"))
        .start()
}

/// Status and problem of an answer: `503 circuit-open`; what is no problem of the
/// gateway's is its status alone.
pub(crate) fn told(reply: &Reply) -> String {
    match problem(&reply.body) {
        Some(problem) => format!("{} {problem}", reply.status),
        None => reply.status.to_string(),
    }
}

fn problem(body: &[u8]) -> Option<String> {
    let problem: Value = serde_json::from_slice(body).ok()?;
    Some(problem["type"].as_str()?.strip_prefix(PROBLEM)?.to_owned())
}

/// What a client got for one request on a connection of its own.
#[derive(Debug)]
pub(crate) struct Seen {
    /// As [`told`]; `200 cut` where the body did not come whole, `nothing` where nothing
    /// came, `hung` where the connection was still open after [`DEADLINE`].
    pub(crate) what: String,
    /// The head as it came.
    pub(crate) head: String,
    /// The body, or what came of it.
    pub(crate) body: String,
    /// From the request to the end of the connection.
    pub(crate) took: Duration,
}

/// GET by this client, read to the end of the connection.
pub(crate) fn get(gateway: &Gateway, client: &str, target: &str) -> Seen {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&gateway.data, DEADLINE).expect("a connection");
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: tollgate.test\r\nX-Client-ID: {client}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a request");
    let mut bytes = Vec::new();
    let mut hung = false;
    loop {
        let left = DEADLINE.saturating_sub(start.elapsed()).max(Duration::from_millis(1));
        stream.set_read_timeout(Some(left)).unwrap();
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) => {
                hung = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                break;
            }
        }
    }
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let what = if hung { "hung".to_owned() } else { outcome(head, body) };
    Seen { what, head: head.to_owned(), body: body.to_owned(), took: start.elapsed() }
}

fn outcome(head: &str, body: &str) -> String {
    let Some(status) = head.split(' ').nth(1) else { return "nothing".to_owned() };
    let length = field(head, "content-length").and_then(|length| length.parse::<usize>().ok());
    match (problem(body.as_bytes()), length) {
        (_, Some(length)) if body.len() != length => format!("{status} cut"),
        (Some(problem), _) => format!("{status} {problem}"),
        (None, _) => status.to_owned(),
    }
}

impl Seen {
    /// The value of a header field.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        field(&self.head, name)
    }

    /// The tokens left, as its `RateLimit` says.
    pub(crate) fn tokens(&self) -> Option<u64> {
        let (_, rest) = self.header("ratelimit")?.split_once("r=")?;
        rest.split(';').next()?.parse().ok()
    }
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut named = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    named.next().map(|(_, value)| value.trim())
}

/// A connection on which this client's GET was sent, and nothing read yet.
#[track_caller]
pub(crate) fn sent(gateway: &Gateway, client: &str, target: &str) -> Client {
    let mut connection = gateway.client();
    connection.send(format!(
        "GET {target} HTTP/1.1\r\nHost: tollgate.test\r\nX-Client-ID: {client}\r\n\r\n"
    ));
    connection
}

/// The tokens this client has left, as the admin API says.
#[track_caller]
pub(crate) fn tokens(gateway: &Gateway, client: &str) -> u64 {
    let standing = gateway.admin_get(&format!("/clients/{client}")).json();
    standing["limits"][0]["tokens_remaining"].as_u64().expect("tokens")
}

/// One circuit, as the admin API says.
#[track_caller]
pub(crate) fn circuit(gateway: &Gateway, name: &str) -> Value {
    let circuits = gateway.admin_get("/circuit-breakers").json();
    let mut circuits = circuits.as_array().expect("a list").iter();
    circuits.find(|circuit| circuit["name"] == name).expect("the circuit").clone()
}

/// The circuit once it has this state.
#[track_caller]
pub(crate) fn circuit_once(gateway: &Gateway, name: &str, state: &str) -> Value {
    until(&format!("circuit {name} is {state}"), || {
        Some(circuit(gateway, name)).filter(|circuit| circuit["state"] == state)
    })
}

/// Forces a circuit as an operator does.
#[track_caller]
pub(crate) fn force(gateway: &Gateway, name: &str, body: &str) -> Value {
    let reply = gateway.admin_request("POST", &format!("/circuit-breakers/{name}"), &[], body);
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// Makes a circuit half-open without waiting for a cooldown.
#[track_caller]
pub(crate) fn half_open(gateway: &Gateway, name: &str) {
    force(gateway, name, r#"{"force": "open"}"#);
    let circuit = force(gateway, name, r#"{"force": "auto"}"#);
    assert_eq!(circuit["state"], "half_open");
}

/// The servers of an upstream, as the admin API says.
#[track_caller]
pub(crate) fn servers(gateway: &Gateway, upstream: &str) -> Vec<Value> {
    let upstreams = gateway.admin_get("/upstreams").json();
    let mut upstreams = upstreams.as_array().expect("a list").iter();
    let upstream = upstreams.find(|each| each["name"] == upstream).expect("the upstream");
    upstream["servers"].as_array().expect("a list").clone()
}

/// The states of the servers of an upstream.
#[track_caller]
pub(crate) fn states(gateway: &Gateway, upstream: &str) -> Vec<String> {
    let state = |server: &Value| server["state"].as_str().expect("a state").to_owned();
    servers(gateway, upstream).iter().map(state).collect()
}

/// Attempts at an upstream that came to something, by outcome.
pub(crate) fn attempts(series: &Series, upstream: &str) -> Vec<(&'static str, u64)> {
    let count = |outcome| {
        let sample = format!(
            "gateway_upstream_attempts_total{{outcome=\"{outcome}\",upstream=\"{upstream}\"}}"
        );
        (outcome, series.value(&sample) as u64)
    };
    let outcomes = ["ok", "status_5xx", "connect", "timeout", "reset", "cancelled"];
    outcomes.map(count).into_iter().filter(|(_, count)| *count > 0).collect()
}

/// Waits until attempts at an upstream came to exactly this: an attempt is counted when all
/// of it is over, a moment after its answer.
#[track_caller]
pub(crate) fn expect_attempts(gateway: &Gateway, upstream: &str, expected: &[(&str, u64)]) {
    let mut last = Vec::new();
    let found = eventually(DEADLINE, || {
        last = attempts(&gateway.series(), upstream);
        (last == expected).then_some(())
    });
    assert!(found.is_some(), "attempts at {upstream}: {last:?}, not {expected:?}");
}

/// Waits until nothing is in flight, and fails the test where something stays behind.
#[track_caller]
pub(crate) fn expect_nothing_held(gateway: &Gateway) {
    let mut held = Vec::new();
    let free = eventually(DEADLINE, || {
        held = all_held(gateway);
        held.is_empty().then_some(())
    });
    assert!(free.is_some(), "still held: {held:?}");
}

fn all_held(gateway: &Gateway) -> Vec<String> {
    let series = gateway.series();
    let gauges =
        ["gateway_inflight_requests", "gateway_upstream_concurrency", "gateway_upstream_queued"];
    let gauges = gauges.iter().flat_map(|gauge| series.of(gauge));
    let mut held: Vec<String> = gauges
        .filter(|sample| series.value(sample) != 0.0)
        .map(|sample| format!("{sample} {}", series.value(sample)))
        .collect();
    for upstream in gateway.admin_get("/upstreams").json().as_array().expect("a list") {
        let servers = upstream["servers"].as_array().expect("servers");
        let busy = servers.iter().filter(|server| server["in_flight"] != 0);
        held.extend(busy.map(|server| format!("{}: {server}", upstream["name"])));
    }
    for circuit in gateway.admin_get("/circuit-breakers").json().as_array().expect("a list") {
        if circuit["probes"]["out"] != 0 {
            held.push(circuit.to_string());
        }
    }
    held
}
