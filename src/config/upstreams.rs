//! `upstreams`: where requests go.

use std::sync::Arc;
use std::time::Duration;

use super::balance::{self, Balance};
use super::concurrency::{self, Concurrency};
use super::health::{self, HealthCheck};
use super::raw::{Field, Section};
use super::report::Report;
use super::servers::{self, UpstreamServer};
use super::{breaker, ejection, keys, value};
use crate::policy::breaker::BreakerPolicy;
use crate::policy::ejection::EjectionPolicy;

/// A named group of servers that can answer the same requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Its servers; at least one, no address twice.
    pub servers: Vec<UpstreamServer>,
    /// How a server is chosen.
    pub balance: Balance,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// How many requests it may have at a time; none: any number.
    pub concurrency: Option<Concurrency>,
    /// How its servers' health is checked; none: it is not.
    pub health_check: Option<HealthCheck>,
    /// What opens its circuit; none: nothing but an operator.
    pub breaker: Option<BreakerPolicy>,
    /// When a single server is taken out of balancing; none: never.
    pub ejection: Option<EjectionPolicy>,
}

/// How long an upstream is waited for; each from 1 ms to 24 h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection to stand.
    pub connect: Duration,
    /// Between two reads of the answer.
    pub read: Duration,
    /// Between two writes of the request.
    pub write: Duration,
    /// How long an unused connection is kept.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(1),
            read: Duration::from_secs(30),
            write: Duration::from_secs(30),
            idle: Duration::from_secs(60),
        }
    }
}

/// Upstreams of a file.
const MAX_UPSTREAMS: usize = 4_096;

/// Reads `upstreams`. One with errors is kept in part, so that routes can refer to its name.
pub(super) fn read(field: Option<&Field<'_>>, report: &mut Report) -> Vec<Upstream> {
    let entries = field.and_then(|field| field.entries(report, MAX_UPSTREAMS));
    let mut upstreams = Vec::new();
    for (name, field) in entries.unwrap_or_default() {
        if let Err(message) = value::name(name) {
            field.error(report, message);
        }
        upstreams.push(upstream(name, &field, report));
    }
    upstreams
}

fn upstream(name: &str, field: &Field<'_>, report: &mut Report) -> Upstream {
    let mut upstream = Upstream {
        name: name.into(),
        servers: Vec::new(),
        balance: Balance::RoundRobin,
        timeouts: Timeouts::default(),
        concurrency: None,
        health_check: None,
        breaker: None,
        ejection: Some(EjectionPolicy::default()),
    };
    let Some(section) = field.section(report, &keys::UPSTREAM) else { return upstream };
    if let Some(field) = section.require("servers", report, "servers: [127.0.0.1:9001]") {
        upstream.servers = servers::read(field, report);
    }
    if let Some(balance) = section.get("balance").and_then(|field| balance::read(field, report)) {
        upstream.balance = balance;
    }
    let timeouts = section.get("timeouts").and_then(|f| f.section(report, &keys::TIMEOUTS));
    if let Some(section) = timeouts {
        upstream.timeouts = read_timeouts(&section, report);
    }
    upstream.concurrency = section.get("concurrency").and_then(|f| concurrency::read(f, report));
    upstream.health_check = section.get("health_check").and_then(|f| health::read(f, report));
    upstream.breaker = section.get("breaker").and_then(|field| breaker::read(field, report));
    if let Some(field) = section.get("ejection") {
        upstream.ejection = ejection::read(field, report);
    }
    upstream
}

fn read_timeouts(section: &Section<'_>, report: &mut Report) -> Timeouts {
    let standard = Timeouts::default();
    let mut timeout = |key: &str, standard: Duration| {
        let parse = |text: &str| value::duration(text, value::MIN_TIMEOUT..=value::MAX_TIMEOUT);
        section.value(key, report, "a duration such as 1s", parse).unwrap_or(standard)
    };
    Timeouts {
        connect: timeout("connect", standard.connect),
        read: timeout("read", standard.read),
        write: timeout("write", standard.write),
        idle: timeout("idle", standard.idle),
    }
}
