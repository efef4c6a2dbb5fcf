//! `tollgate simulate`: an access log replayed through a configuration.
//!
//! Routes, clients and limits are decided by the functions that decide requests, on a gateway
//! that has no sockets; its clock is the log's. What a log does not say is not guessed: the
//! report names what was left out.

mod line;
mod order;
mod progress;
mod report;
#[cfg(test)]
mod tests;

use crate::config::{Config, Identifier};
use crate::decision::client::{self, Caller};
use crate::decision::find_route;
use crate::decision::refusal::Refusal;
use crate::decision::shared::{Decided, Payments};
use crate::decision::toll::{self, Moment, Paid, Toll, policy_at};
use crate::gateway::{Gateway, Generation};
use crate::metrics::Metrics;
use crate::policy::limit::{Limit, LimitKey};
use crate::policy::path;
use crate::policy::router::RouteId;
use crate::policy::tier::TierId;
use crate::store::key::{KeyHasher, KeyKind};
use crate::store::limiter::{Receipt, Verdict};
use anyhow::Context;
use http::{HeaderMap, HeaderValue, Method};
use line::{Line, Lines, Next};
use order::Ordered;
pub use progress::Progress;
use prometheus::Registry;
pub use report::Report;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

/// An access log to be read.
pub struct Source {
    input: Box<dyn BufRead>,
    bytes: Option<u64>,
}

impl Source {
    /// A log that is there already.
    pub fn of(input: impl BufRead + 'static) -> Source {
        Source { input: Box::new(input), bytes: None }
    }

    /// How large it is, where that is known.
    pub fn bytes(&self) -> Option<u64> {
        self.bytes
    }
}

/// Opens an access log; `-` is standard input.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> anyhow::Result<Source> {
    if path == Path::new("-") {
        return Ok(Source::of(BufReader::new(io::stdin())));
    }
    let file = File::open(path)?;
    let about = file.metadata()?;
    let bytes = about.is_file().then_some(about.len());
    Ok(Source { input: Box::new(BufReader::with_capacity(1 << 20, file)), bytes })
}

/// Replays a log through a configuration. Takes as much memory as the configuration's table and
/// some 30 MB, however long the log is.
///
/// # Errors
/// The log cannot be read, or nothing in it is a request.
pub fn replay(config: &Config, source: Source, mut progress: Progress) -> anyhow::Result<Report> {
    let mut simulation = Simulation::new(config)?;
    let mut lines = Lines::new(source.input);
    let mut ordered = Ordered::default();
    loop {
        match lines.next().context("reading failed")? {
            Next::Line(line) => {
                if let Some(line) = ordered.push(*line) {
                    simulation.take(&line);
                }
            }
            Next::Malformed(number, why) => simulation.report.malformed(number, why),
            Next::End => break,
        }
        progress.show(lines.bytes(), lines.number());
    }
    while let Some(line) = ordered.pop() {
        simulation.take(&line);
    }
    progress.end();
    let mut report = simulation.report;
    report.late = ordered.late();
    if report.requests == 0 {
        let first = report.malformed_lines.first();
        let first = first.map(|(number, why)| format!("; line {number}: {why}"));
        anyhow::bail!("no line of it is a request in JSON{}", first.unwrap_or_default());
    }
    Ok(report)
}

/// What a policy that only watches is called in the report.
fn shadow_row(policy: &str) -> String {
    format!("{policy} (shadow)")
}

/// What a request came to, then or now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Passed,
    Limited,
}

struct Simulation {
    gateway: Gateway,
    generation: Arc<Generation>,
    report: Report,
    last_ns: u64,
}

impl Simulation {
    fn new(config: &Config) -> anyhow::Result<Simulation> {
        let mut config = config.clone();
        let report = Report::new(leave_out(&mut config));
        let metrics = Arc::new(Metrics::register(&Registry::new())?);
        let hasher = KeyHasher::from_os().context("the system has no randomness to give")?;
        let gateway = Gateway::new(config, hasher, metrics);
        let generation = gateway.generation();
        Ok(Simulation { gateway, generation, report, last_ns: 0 })
    }

    fn take(&mut self, line: &Line) {
        // The table's clock only goes forward.
        let now_ns = line.began_ns().max(self.last_ns);
        self.last_ns = now_ns;
        self.report.saw(line);
        if line.was_kept_out() {
            self.report.kept(line);
            return;
        }
        let then = line.limited_by.as_deref();
        if let Some(policy) = then {
            self.report.row(&line.tier, &line.route, policy, |row| row.then += 1);
        }
        for policy in &line.shadow {
            self.report.row(&line.tier, &line.route, &shadow_row(policy), |row| row.then += 1);
        }
        let then = if then.is_some() { Came::Limited } else { Came::Passed };
        match self.decide(line, now_ns) {
            Ok(now) => self.report.compare(then, now),
            Err(refusal) => self.report.other(refusal.name()),
        }
    }

    fn decide(&mut self, line: &Line, now_ns: u64) -> Result<Came, Refusal> {
        let generation = self.generation.clone();
        let method = Method::from_bytes(line.method.as_bytes()).unwrap_or(Method::GET);
        let target = path::normalize(&line.path).map_err(Refusal::Path)?;
        let host = HeaderValue::from_str(&line.host).ok();
        let route = find_route(&generation, host.as_ref(), &method, &target.path)?;
        let mut caller = self.caller(line, route)?;
        if let Some(tier) = set_at_run_time(line, &caller, &generation) {
            caller.identity.standing.tier = tier;
            caller.identity.standing.is_registered = true;
            self.report.tier_of_log(&generation.config.tiers.get(tier).name);
        }
        let headers = HeaderMap::new();
        let source = line.source();
        let toll = Toll { route, method: &method, headers: &headers, caller: &caller, source };
        let at = Moment { ns: now_ns, utc_ns_at: |ns| ns };
        let (mut receipt, mut payments) = (Receipt::default(), Payments::new());
        let paid = Paid { receipt: &mut receipt, payments: &mut payments };
        let charged = toll::charge(&toll, &self.gateway, &generation, paid, at, || now_ns);
        let tier = generation.config.tiers.get(caller.identity.standing.tier).name.clone();
        let route = &generation.route_config(route).name;
        self.report.asked(&tier, route);
        for &policy in &charged.shadowed {
            let policy = &policy_at(&generation, &toll, policy).name;
            self.report.row(&tier, route, &shadow_row(policy), |row| row.now += 1);
        }
        match charged.decided {
            // There is no store to be asked: everything is decided here.
            Decided::Now(Verdict::Admitted(_)) | Decided::Pending(_) => Ok(Came::Passed),
            Decided::Now(Verdict::Refused(standing)) => {
                let policy = &policy_at(&generation, &toll, standing.policy).name;
                self.report.row(&tier, route, policy, |row| row.now += 1);
                self.report.client(&caller.identity.name);
                Ok(Came::Limited)
            }
        }
    }

    /// The client that the log names, as this configuration would: a log does not say which
    /// headers there were.
    fn caller(&self, line: &Line, route: RouteId) -> Result<Caller, Refusal> {
        let (gateway, generation) = (&self.gateway, &self.generation);
        let needs_key = client::needs_key(generation, route);
        let first = generation.config.clients.identify.first();
        let (identity, digest) = match line.client_id() {
            Some(id) if needs_key || first != Some(&Identifier::Ip) => {
                let kind = client::likely_kind(id, needs_key, generation);
                client::by_name(kind, id, gateway, generation)
            }
            _ => client::by_address(line.source(), gateway, generation),
        };
        let has_api_key = identity.kind == KeyKind::ApiKey;
        match needs_key && !has_api_key {
            true => Err(Refusal::ApiKeyRequired),
            false => Ok(Caller { identity, digest, has_api_key }),
        }
    }
}

/// The tier that the log has a client in whom the configuration does not name: the admin API may
/// have put it there, which no configuration says. The default tier says nothing, and neither
/// does one that this configuration does not have.
fn set_at_run_time(line: &Line, caller: &Caller, generation: &Generation) -> Option<TierId> {
    let (identity, tiers) = (&caller.identity, &generation.config.tiers);
    if identity.kind == KeyKind::Ip || identity.standing.is_registered {
        return None;
    }
    tiers.find(&line.tier).filter(|tier| *tier != tiers.default_tier())
}

/// Takes limits out of a configuration that count by what the log does not have; their names.
fn leave_out(config: &mut Config) -> Vec<Arc<str>> {
    let is_known = |limit: &Limit| !matches!(limit.key, LimitKey::Header(_));
    let mut left_out = Vec::new();
    let lists = config.routes.iter_mut().map(|route| &mut route.limits);
    for limits in lists.chain([&mut config.limits]) {
        left_out.extend(limits.iter().filter(|limit| !is_known(limit)).map(|l| l.name.clone()));
        limits.retain(is_known);
    }
    left_out
}
