//! The configuration as it is in effect, in the shape of the file: defaults filled in, secrets
//! masked.

use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::value::{duration_text, percent_text, size_text};
use super::{
    AccessLog, AccessLogFormat, Affinity, Auth, Balance, Clients, Concurrency, Config, Cost,
    HealthCheck, HealthCheckKind, Identifier, Redis, Route, Secret, Server, Timeouts, Upstream,
};
use crate::policy::breaker::BreakerPolicy;
use crate::policy::ejection::EjectionPolicy;
use crate::policy::limit::{Limit, LimitCost, LimitKey, OnStoreFailure, Role, Store};
use crate::policy::meter::Algorithm;
use crate::policy::rate::TokenBucket;
use crate::policy::reload_watch::WatchPolicy;
use crate::policy::retry::{RetryOn, RetryPolicy};
use crate::policy::route::{HostMatch, PathMatch};
use crate::policy::share::Share;
use crate::policy::tier::{Tier, Tiers};

/// What a secret is shown as.
const MASK: &str = "***";

/// The configuration in effect as JSON, with the key names of the file.
pub fn effective(config: &Config) -> Value {
    let tiers = config.tiers.iter().map(|(_, tier)| (tier.name.to_string(), tier_value(tier)));
    let upstreams = config.upstreams.iter().map(|u| (u.name.to_string(), upstream(u)));
    json!({
        "state_dir": config.state_dir.as_ref().map(|path| path.to_string_lossy()),
        "server": server(&config.server),
        "admin": {
            "listen": config.admin.listen.to_string(),
            "token": config.admin.token.as_ref().map(|_| MASK),
        },
        "metrics": {"listen": config.metrics.listen.to_string()},
        "redis": config.redis.as_ref().map(redis),
        "clients": clients(&config.clients, &config.tiers),
        "limiter": {"slots": config.limiter.slots},
        "tiers": tiers.collect::<Map<_, _>>(),
        "limits": limits(&config.limits),
        "upstreams": upstreams.collect::<Map<_, _>>(),
        "routes": config.routes.iter().map(|r| route(r, config)).collect::<Vec<_>>(),
    })
}

fn redis(redis: &Redis) -> Value {
    let urls: Vec<String> =
        redis.servers.iter().map(|address| redis.url_of(address, MASK)).collect();
    let mask = |secret: &Option<Secret>| secret.as_ref().map(|_| MASK);
    json!({
        "url": urls,
        "timeout": duration_text(redis.timeout),
        "prefix": *redis.prefix,
        "expected_gateways": redis.expected_gateways,
        "cluster": redis.is_cluster,
        "sentinel": redis.sentinel.as_ref().map(|sentinel| json!({
            "master": *sentinel.master,
            "username": sentinel.username,
            "password": mask(&sentinel.password),
        })),
        "tls": redis.ca.as_ref().map(|path| json!({"ca": path.to_string_lossy()})),
    })
}

fn server(server: &Server) -> Value {
    json!({
        "listen": texts(&server.listen),
        "workers": server.workers,
        "trusted_proxies": texts(&server.trusted_proxies),
        "grace_period": duration_text(server.grace_period),
        "health_path": server.health_path,
        "strip_headers": texts(&server.strip_headers),
        "max_head": size_text(server.max_head as u64),
        "max_headers": server.max_headers,
        "max_uri": size_text(server.max_uri as u64),
        "header_timeout": duration_text(server.connections.header_timeout),
        "idle_timeout": duration_text(server.connections.idle_timeout),
        "min_body_rate": size_text(server.connections.min_body_rate),
        "max_connections": server.connections.max,
        "max_connections_per_ip": server.connections.max_per_ip,
        "max_requests_per_connection": server.connections.max_requests,
        "access_log": access_log(&server.access_log),
        "x_ratelimit_headers": server.x_ratelimit_headers,
        "upgrade_socket": server.upgrade_socket,
        "reload_watch": server.reloading.watch.as_ref().map(reload_watch),
        "watch_file": server.reloading.watch_file,
    })
}

fn reload_watch(policy: &WatchPolicy) -> Value {
    json!({
        "window": nanos_text(policy.window_ns),
        "max_error_ratio": policy.max_error_ratio(),
    })
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(T::to_string).collect()
}

fn access_log(log: &AccessLog) -> Value {
    match log {
        AccessLog::None => json!("none"),
        AccessLog::Stdout { .. } => json!("stdout"),
        AccessLog::File { path, format } => {
            let format = match format {
                AccessLogFormat::Json => "json",
                AccessLogFormat::Combined => "combined",
            };
            json!({"file": path.to_string_lossy(), "format": format})
        }
    }
}

fn clients(clients: &Clients, tiers: &Tiers) -> Value {
    let known = clients.known.iter().map(|client| {
        let tier = tiers.get(client.tier.unwrap_or_else(|| tiers.default_tier()));
        let keys = vec![MASK; client.api_keys.len()];
        (client.id.to_string(), json!({"tier": *tier.name, "api_keys": keys}))
    });
    json!({
        "identify": clients.identify.iter().map(identifier).collect::<Vec<_>>(),
        "default_tier": *tiers.get(tiers.default_tier()).name,
        "ipv6_prefix": clients.ipv6_prefix,
        "known": known.collect::<Map<_, _>>(),
        "api_key_header": clients.api_key_header.as_str(),
    })
}

fn identifier(identifier: &Identifier) -> Value {
    match identifier {
        Identifier::ApiKey => json!("api_key"),
        Identifier::Ip => json!("ip"),
        Identifier::Header { name, from } => {
            json!({"header": name.as_str(), "from": texts::<IpNet>(from)})
        }
    }
}

fn tier_value(tier: &Tier) -> Value {
    let mut value = bucket(&tier.bucket);
    value["concurrency"] = json!(tier.concurrency);
    value
}

fn bucket(bucket: &TokenBucket) -> Value {
    json!({"rate": bucket.rate_text(), "burst": bucket.burst()})
}

/// Limits in the shape of the file: what belongs to a limit follows it here and stands in it
/// there.
fn limits(limits: &[Limit]) -> Vec<Value> {
    let mut written: Vec<Value> = Vec::new();
    for one in limits {
        match (one.role, written.last_mut()) {
            (Role::Rate, _) | (_, None) => written.push(limit(one)),
            (Role::Quota, Some(section)) => section["quota"] = quota_value(one),
            (Role::Escalation, Some(section)) => {
                let own = section["burst"].as_u64().unwrap_or(1);
                section["ipv6_escalation"] = json!(one.algorithm.burst() / own);
            }
        }
    }
    written
}

fn quota_value(quota: &Limit) -> Value {
    let per = match &quota.algorithm {
        Algorithm::FixedWindow(window) => window.span().name(),
        _ => "",
    };
    json!({"limit": quota.algorithm.burst(), "per": per})
}

fn limit(limit: &Limit) -> Value {
    let key = match &limit.key {
        LimitKey::Client => json!("client"),
        LimitKey::Ip | LimitKey::Network => json!("ip"),
        LimitKey::Route => json!("route"),
        LimitKey::Global => json!("global"),
        LimitKey::Header(name) => json!({"header": name.as_str()}),
    };
    let algorithm = &limit.algorithm;
    let mut value = json!({"rate": algorithm.rate_text(), "burst": algorithm.burst()});
    // A route's own is named after it.
    if !limit.name.contains(':') {
        value["name"] = json!(*limit.name);
    }
    if let Algorithm::LeakyBucket(bucket) = algorithm {
        value["max_delay"] = json!(duration_text(Duration::from_nanos(bucket.max_delay_ns())));
    }
    value["key"] = key;
    value["algorithm"] = json!(limit.algorithm.name());
    value["store"] = json!(if limit.store == Store::Local { "local" } else { "shared" });
    if let Store::Shared(on_failure) = limit.store {
        value["on_store_failure"] = json!(match on_failure {
            OnStoreFailure::FairShare => "fair_share",
            OnStoreFailure::Allow => "allow",
            OnStoreFailure::Deny => "deny",
        });
    }
    value["shadow"] = json!(limit.is_shadow);
    value["quota"] = Value::Null;
    value["ipv6_escalation"] = Value::Null;
    value["cost"] = match limit.cost {
        LimitCost::Route => json!("route"),
        LimitCost::One => json!(1),
    };
    value
}

fn upstream(upstream: &Upstream) -> Value {
    let servers = upstream
        .servers
        .iter()
        .map(|server| json!({"address": server.address.to_string(), "weight": server.weight}));
    json!({
        "servers": servers.collect::<Vec<_>>(),
        "balance": balance(&upstream.balance),
        "timeouts": timeouts(upstream.timeouts),
        "concurrency": upstream.concurrency.map(concurrency),
        "health_check": upstream.health_check.as_ref().map(health_check),
        "breaker": upstream.breaker.as_ref().map(breaker),
        // Absent it would be read back as the default.
        "ejection": upstream.ejection.as_ref().map_or_else(|| json!("none"), ejection),
    })
}

fn balance(balance: &Balance) -> Value {
    match balance {
        Balance::RoundRobin => json!("round_robin"),
        Balance::LeastLoaded => json!("least_loaded"),
        Balance::Consistent(Affinity::Client) => json!({"consistent": "client"}),
        Balance::Consistent(Affinity::Ip) => json!({"consistent": "ip"}),
        Balance::Consistent(Affinity::Path) => json!({"consistent": "path"}),
        Balance::Consistent(Affinity::Header(name)) => {
            json!({"consistent": {"header": name.as_str()}})
        }
    }
}

fn timeouts(timeouts: Timeouts) -> Value {
    json!({
        "connect": duration_text(timeouts.connect),
        "read": duration_text(timeouts.read),
        "write": duration_text(timeouts.write),
        "idle": duration_text(timeouts.idle),
    })
}

fn concurrency(concurrency: Concurrency) -> Value {
    json!({
        "max": concurrency.max,
        "queue": concurrency.queue,
        "queue_timeout": duration_text(concurrency.queue_timeout),
    })
}

fn health_check(check: &HealthCheck) -> Value {
    let (kind, path) = match &check.kind {
        HealthCheckKind::Tcp => ("tcp", None),
        HealthCheckKind::Http { path } => ("http", Some(path)),
    };
    json!({
        "type": kind,
        "path": path,
        "interval": duration_text(check.interval),
        "timeout": duration_text(check.timeout),
        "healthy_after": check.healthy_after,
        "unhealthy_after": check.unhealthy_after,
    })
}

fn breaker(policy: &BreakerPolicy) -> Value {
    json!({
        "consecutive_failures": policy.consecutive_failures,
        "failure_ratio": policy.failure_ratio.map(Share::fraction),
        "slow_call": policy.slow_calls.map(|slow| nanos_text(slow.longer_than_ns)),
        "slow_ratio": policy.slow_calls.map(|slow| slow.ratio.fraction()),
        "min_requests": policy.min_requests,
        "window": nanos_text(policy.window_ns),
        "cooldown": nanos_text(policy.cooldown_ns),
        "max_cooldown": nanos_text(policy.max_cooldown_ns),
        "probes": policy.probes,
        "ramp": nanos_text(policy.ramp_ns),
    })
}

fn ejection(policy: &EjectionPolicy) -> Value {
    json!({
        "consecutive_failures": policy.consecutive_failures,
        "base": nanos_text(policy.base_ns),
        "max": nanos_text(policy.max_ns),
    })
}

fn retry(policy: &RetryPolicy) -> Value {
    json!({
        "attempts": policy.attempts,
        "per_try_timeout": policy.per_try_timeout_ns.map(nanos_text),
        "backoff": {
            "base": nanos_text(policy.backoff.base_ns),
            "max": nanos_text(policy.backoff.max_ns),
        },
        "when": retry_on(&policy.when),
        // A fraction this small could be written as 1e-6 in JSON, which is not read back.
        "budget": percent_text(policy.budget),
    })
}

fn retry_on(when: &RetryOn) -> Vec<Value> {
    let words = [("connect", when.connect), ("timeout", when.timeout), ("reset", when.reset)];
    let words = words.into_iter().filter(|&(_, listed)| listed).map(|(word, _)| json!(word));
    words.chain(when.statuses.iter().map(|status| json!(status))).collect()
}

fn nanos_text(nanos: u64) -> String {
    duration_text(Duration::from_nanos(nanos))
}

fn route(route: &Route, config: &Config) -> Value {
    let path = match &route.path {
        PathMatch::Exact(path) => json!({"exact": path}),
        PathMatch::Prefix(path) => json!({"prefix": path}),
        PathMatch::Pattern(path) => json!({"pattern": path}),
    };
    let hosts = route.hosts.iter().map(|host| match host {
        HostMatch::Exact(host) => host.clone(),
        HostMatch::Suffix(domain) => format!("*.{domain}"),
    });
    json!({
        "name": *route.name,
        "path": path,
        "hosts": hosts.collect::<Vec<_>>(),
        "methods": texts(&route.methods),
        "upstream": config.upstreams.get(route.upstream).map(|upstream| &*upstream.name),
        "strip_prefix": route.strip_prefix,
        "timeout": route.timeout.map(duration_text),
        "cost": cost(&route.cost),
        "limit": limits(&route.limits).into_iter().next(),
        "max_body": route.max_body.map(size_text),
        "auth": match route.auth {
            Auth::None => "none",
            Auth::Required => "required",
        },
        "retry": route.retry.as_ref().map(retry),
        "breaker": route.breaker.as_ref().map(breaker),
    })
}

fn cost(cost: &Cost) -> Value {
    if cost.by_method.is_empty() {
        return json!(cost.default);
    }
    cost.by_method.iter().map(|(method, cost)| (method.to_string(), json!(cost))).collect()
}
