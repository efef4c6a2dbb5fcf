//! What these tests ask again and again: a gateway whose one route leads to one upstream,
//! and what it says of circuits, attempts and places.
#![allow(dead_code, reason = "the tests of each part use a part of it")]

use std::fs;
use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{DEADLINE, Gateway, GatewayBuilder, eventually};

/// Opens after three failures in a row, for a moment, and closes at the first success.
pub(crate) const BREAKER: &str = "breaker: {consecutive_failures: 3, cooldown: 300ms, \
     max_cooldown: 1s, probes: 1, ramp: 0s}";

/// Never opens by itself, for tests that are about something else.
pub(crate) const NO_BREAKER: &str = "breaker: {consecutive_failures: 1000000}";

/// Two more attempts after a short wait, and a budget that a test does not exhaust.
pub(crate) const RETRY: &str = "retry: {attempts: 2, per_try_timeout: 300ms, \
     backoff: {base: 1ms, max: 5ms}, when: [connect, timeout, reset, 502, 503, 504], budget: 100%}";

/// Asks often and believes at once.
pub(crate) const HEALTH_CHECK: &str = "health_check: {type: http, path: /health, \
     interval: 100ms, timeout: 100ms, healthy_after: 1, unhealthy_after: 1}";

/// One place, and one request that waits for it for a moment.
pub(crate) const ONE_PLACE: &str = "concurrency: {max: 1, queue: 1, queue_timeout: 200ms}";

/// A gateway still to be started. Its upstream is named `main`, its route `all`, its access
/// log is JSON in a file.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    servers: Vec<SocketAddr>,
    upstream: Vec<String>,
    route: Vec<String>,
    builder: GatewayBuilder,
}

/// A gateway in front of these servers of one upstream.
pub(crate) fn before(servers: &[SocketAddr]) -> Setup {
    let builder = Gateway::builder().server("access_log: {file: access.log}");
    Setup { servers: servers.to_vec(), upstream: Vec::new(), route: Vec::new(), builder }
}

impl Setup {
    /// One more key of the upstream, such as [`BREAKER`].
    pub(crate) fn upstream(mut self, key: &str) -> Self {
        self.upstream.push(key.to_owned());
        self
    }

    /// One more key of the route, such as [`RETRY`].
    pub(crate) fn route(mut self, key: &str) -> Self {
        self.route.push(key.to_owned());
        self
    }

    /// Anything else of the configuration, but upstreams and routes.
    pub(crate) fn with(mut self, change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        self.builder = change(self.builder);
        self
    }

    #[track_caller]
    pub(crate) fn start(self) -> Gateway {
        let servers: Vec<String> =
            self.servers.iter().map(|server| format!("\"{server}\"")).collect();
        let lines =
            |keys: &[String]| -> String { keys.iter().map(|key| format!("  {key}\n")).collect() };
        let upstream = format!("servers: [{}]", servers.join(", "));
        let upstreams = format!("main:\n  {upstream}\n{}", lines(&self.upstream));
        let routes = format!("- name: all\n  path: /\n  upstream: main\n{}", lines(&self.route));
        self.builder.upstreams(&upstreams).routes(&routes).start()
    }
}

/// What GET /circuit-breakers says of the circuit of this name.
#[track_caller]
pub(crate) fn circuit(gateway: &Gateway, name: &str) -> Value {
    let reply = gateway.admin_get("/circuit-breakers");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let all = reply.json();
    let found = all.as_array().expect("a list").iter().find(|circuit| circuit["name"] == name);
    found.unwrap_or_else(|| panic!("no circuit {name} in {all}")).clone()
}

/// The same once the circuit is in this state.
#[track_caller]
pub(crate) fn circuit_once(gateway: &Gateway, name: &str, state: &str) -> Value {
    let mut last = Value::Null;
    let found = eventually(DEADLINE, || {
        last = circuit(gateway, name);
        (last["state"] == state).then_some(())
    });
    assert!(found.is_some(), "not {state}: {last}");
    last
}

/// Attempts at the upstream `main` with this outcome, as metrics tell.
#[track_caller]
pub(crate) fn attempts(gateway: &Gateway, outcome: &str) -> f64 {
    let labels = format!("outcome=\"{outcome}\",upstream=\"main\"");
    gateway.series().value(&format!("gateway_upstream_attempts_total{{{labels}}}"))
}

/// Attempts at all upstreams.
#[track_caller]
pub(crate) fn all_attempts(gateway: &Gateway) -> f64 {
    gateway.series().sum("gateway_upstream_attempts_total")
}

/// Waits until no request is under way, holds a place or waits for one.
#[track_caller]
pub(crate) fn settled(gateway: &Gateway) {
    const GAUGES: [&str; 3] =
        ["gateway_inflight_requests", "gateway_upstream_concurrency", "gateway_upstream_queued"];
    let mut last = GAUGES.map(|_| 0.0);
    let found = eventually(DEADLINE, || {
        let series = gateway.series();
        last = GAUGES.map(|gauge| series.sum(gauge));
        (last == [0.0; 3]).then_some(())
    });
    assert!(found.is_some(), "{GAUGES:?} are {last:?}");
}

/// The access log once it has so many lines; fails the test where it has more.
#[track_caller]
pub(crate) fn log_entries(gateway: &Gateway, count: usize) -> Vec<Value> {
    let mut text = String::new();
    let found = eventually(DEADLINE, || {
        text = fs::read_to_string(gateway.path("access.log")).unwrap_or_default();
        (text.ends_with('\n') && text.lines().count() >= count).then_some(())
    });
    assert!(found.is_some(), "not {count} lines:\n{text}");
    let entries = text.lines().map(|line| serde_json::from_str(line).expect(line));
    let entries: Vec<Value> = entries.collect();
    assert_eq!(entries.len(), count, "{text}");
    entries
}
