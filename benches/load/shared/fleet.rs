//! Four gateways that share limits, in front of one trivial upstream.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::account::Allowance;
use super::crowd::GATEWAYS;
use crate::configs::Listeners;
use crate::contenders::{Bench, START_DEADLINE, free_listeners};
use crate::faults::origin::{Kind, Origin};
use crate::http;
use crate::process::{Meter, Process, poll_until};

/// A tier and who is in it. Tiers are shared as soon as there is a Redis, so nothing else has to
/// be limited, and each request is charged in one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Tier {
    pub(crate) name: &'static str,
    /// As it is written, such as `10/m`.
    pub(crate) rate: String,
    pub(crate) burst: u64,
    pub(crate) clients: Vec<String>,
}

impl Tier {
    /// One of so many tokens per second.
    pub(crate) fn per_second(name: &'static str, rate: u64, burst: u64) -> Self {
        Self { name, rate: format!("{rate}/s"), burst, clients: Vec::new() }
    }

    /// The same with these clients, whom `NAME-CLIENT` names.
    pub(crate) fn of(mut self, clients: impl IntoIterator<Item = String>) -> Self {
        self.clients =
            clients.into_iter().map(|client| format!("{}-{client}", self.name)).collect();
        self
    }

    pub(crate) fn allowance(&self) -> anyhow::Result<Allowance> {
        let (tokens, unit) = self.rate.split_once('/').context("a rate without a unit")?;
        let seconds = if unit == "m" { 60.0 } else { 1.0 };
        Ok(Allowance { rate: tokens.parse::<f64>()? / seconds, burst: self.burst as f64 })
    }
}

/// The gateways; they end with this value.
pub(crate) struct Fleet {
    gateways: Vec<(Process, Listeners)>,
    _origin: Origin,
}

impl Fleet {
    /// Starts them and waits until each uses Redis and counts all others. A request costs `cost`
    /// tokens; `redis` is what the configuration of each says of it, without the braces.
    pub(crate) fn start(
        bench: &Bench<'_>,
        name: &str,
        tiers: &[Tier],
        cost: u64,
        redis: &[String; GATEWAYS],
    ) -> anyhow::Result<Self> {
        let kind = Kind { service: Duration::ZERO, slots: usize::MAX, status: 200 };
        let origin = Origin::start(bench, &format!("{name}-origin"), kind)?;
        let mut gateways = Vec::new();
        for (index, redis) in redis.iter().enumerate() {
            let listeners = free_listeners()?;
            let config = config(listeners, origin.address, tiers, cost, redis);
            gateways.push((bench.start_gateway(&format!("{name}-{index}"), &config)?, listeners));
        }
        let mut fleet = Self { gateways, _origin: origin };
        poll_until(START_DEADLINE, || {
            for (process, _) in &mut fleet.gateways {
                process.check_alive(bench.dir)?;
            }
            let up = fleet.sum("gateway_redis_up")?;
            ensure!(up == GATEWAYS as f64, "{up} of {GATEWAYS} gateways reach Redis");
            Ok(())
        })
        .context("the gateways did not start")?;
        // Their beats are half a second apart; a roster that is not complete makes leases larger.
        std::thread::sleep(Duration::from_millis(700));
        Ok(fleet)
    }

    /// Where the load goes.
    pub(crate) fn addresses(&self) -> anyhow::Result<[SocketAddr; GATEWAYS]> {
        let addresses: Vec<SocketAddr> = self.gateways.iter().map(|(_, at)| at.data).collect();
        addresses.try_into().ok().context("another number of gateways")
    }

    pub(crate) fn metrics(&self, gateway: usize) -> anyhow::Result<Metrics> {
        let (_, listeners) = self.gateways.get(gateway).context("no such gateway")?;
        let answer = http::get(listeners.admin, "/metrics", "")?;
        ensure!(answer.status == 200, "no metrics: status {}", answer.status);
        Ok(Metrics(String::from_utf8_lossy(answer.body()).into_owned()))
    }

    /// A metric over all gateways.
    pub(crate) fn sum(&self, metric: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for gateway in 0..GATEWAYS {
            sum += self.metrics(gateway)?.get(metric).with_context(|| format!("no {metric}"))?;
        }
        Ok(sum)
    }

    /// Calls of Redis that were given up, over all gateways.
    pub(crate) fn timeouts(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for gateway in 0..GATEWAYS {
            let timeouts = r#"gateway_redis_calls_total{outcome="timeout"}"#;
            sum += self.metrics(gateway)?.get(timeouts).unwrap_or_default();
        }
        Ok(sum)
    }

    /// CPU time of all gateways so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut sum = 0;
        for (process, _) in &self.gateways {
            sum += Meter::of(process.id()).cpu_ns()?;
        }
        Ok(Duration::from_nanos(sum))
    }

    /// Waits until every gateway has had an answer of Redis about a limit that it had not had when
    /// this began, and says how long that took; none: longer than `patience`.
    pub(crate) fn recovery(&self, patience: Duration) -> anyhow::Result<Option<Duration>> {
        let begun = Instant::now();
        let answered = |gateway: usize| -> anyhow::Result<f64> {
            let metrics = self.metrics(gateway)?;
            let is_up = metrics.get("gateway_redis_up").context("no gateway_redis_up")? == 1.0;
            let calls = metrics.get(r#"gateway_redis_calls_total{outcome="ok"}"#);
            Ok(if is_up { calls.unwrap_or_default() } else { 0.0 })
        };
        let before = (0..GATEWAYS).map(|gateway| {
            let calls = self.metrics(gateway)?.get(r#"gateway_redis_calls_total{outcome="ok"}"#);
            Ok(calls.unwrap_or_default())
        });
        let before: Vec<f64> = before.collect::<anyhow::Result<_>>()?;
        let recovered = poll_until(patience, || {
            for (gateway, before) in before.iter().enumerate() {
                ensure!(answered(gateway)? > *before, "gateway {gateway} does not use Redis");
            }
            Ok(begun.elapsed())
        });
        Ok(recovered.ok())
    }
}

/// What a gateway exposes.
pub(crate) struct Metrics(String);

impl Metrics {
    /// The sum of all series that begin so, none where there is none.
    pub(crate) fn get(&self, metric: &str) -> Option<f64> {
        let mut found = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(metric)?;
            let is_whole = rest.starts_with([' ', '{']);
            is_whole.then(|| rest.rsplit(' ').next()?.parse::<f64>().ok()).flatten()
        });
        let first = found.next()?;
        Some(first + found.sum::<f64>())
    }
}

fn config(
    listeners: Listeners,
    server: SocketAddr,
    tiers: &[Tier],
    cost: u64,
    redis: &str,
) -> String {
    let Listeners { data, admin, metrics } = listeners;
    let (mut limits, mut known) = (String::new(), String::new());
    for Tier { name, rate, burst, clients } in tiers {
        let _ = write!(limits, "\n  {name}: {{rate: {rate}, burst: {burst}}}");
        for client in clients {
            let _ = write!(known, "\n    {client}: {{tier: {name}}}");
        }
    }
    let default = tiers.first().map_or("free", |tier| tier.name);
    format!(
        "server: {{listen: \"{data}\", workers: 1}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
redis: {{{redis}, expected_gateways: {GATEWAYS}}}
clients:
  identify: [{{header: X-Client-ID}}, ip]
  default_tier: {default}
  known:{known}
tiers:{limits}
upstreams:
  origin: {{servers: [\"{server}\"]}}
routes:
  - {{name: users, path: /api/users, upstream: origin, cost: {cost}}}
"
    )
}
