//! The configuration as it is in effect, in the shape of the file: defaults filled in, secrets
//! masked.

use crate::policy::route::{HostMatch, PathMatch};
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::value::{duration_text, size_text};
use super::{
    AccessLog, AccessLogFormat, Auth, Balance, Clients, Config, Cost, Identifier, Route, Server,
    Upstream,
};
use crate::policy::limit::{Limit, LimitCost, LimitKey};
use crate::policy::rate::TokenBucket;
use crate::policy::tier::Tiers;

/// What a secret is shown as.
const MASK: &str = "***";

/// The configuration in effect as JSON, with the key names of the file.
pub fn effective(config: &Config) -> Value {
    let tiers = config.tiers.iter().map(|(_, tier)| (tier.name.to_string(), bucket(&tier.bucket)));
    let upstreams = config.upstreams.iter().map(|u| (u.name.to_string(), upstream(u)));
    json!({
        "server": server(&config.server),
        "admin": {
            "listen": config.admin.listen.to_string(),
            "token": config.admin.token.as_ref().map(|_| MASK),
        },
        "metrics": {"listen": config.metrics.listen.to_string()},
        "clients": clients(&config.clients, &config.tiers),
        "limiter": {"slots": config.limiter.slots},
        "tiers": tiers.collect::<Map<_, _>>(),
        "limits": config.limits.iter().map(|l| limit(l, true)).collect::<Vec<_>>(),
        "upstreams": upstreams.collect::<Map<_, _>>(),
        "routes": config.routes.iter().map(|r| route(r, config)).collect::<Vec<_>>(),
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
        "access_log": access_log(&server.access_log),
        "x_ratelimit_headers": server.x_ratelimit_headers,
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

fn bucket(bucket: &TokenBucket) -> Value {
    json!({"rate": bucket.rate_text(), "burst": bucket.burst()})
}

fn limit(limit: &Limit, named: bool) -> Value {
    let key = match &limit.key {
        LimitKey::Client => json!("client"),
        LimitKey::Ip => json!("ip"),
        LimitKey::Route => json!("route"),
        LimitKey::Global => json!("global"),
        LimitKey::Header(name) => json!({"header": name.as_str()}),
    };
    let mut value = bucket(&limit.bucket);
    if named {
        value["name"] = json!(*limit.name);
    }
    value["key"] = key;
    value["algorithm"] = json!("token_bucket");
    value["store"] = json!("local");
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
    let balance = match upstream.balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastLoaded => "least_loaded",
        Balance::Consistent(_) => "consistent",
    };
    let timeouts = upstream.timeouts;
    json!({
        "servers": servers.collect::<Vec<_>>(),
        "balance": balance,
        "timeouts": {
            "connect": duration_text(timeouts.connect),
            "read": duration_text(timeouts.read),
            "write": duration_text(timeouts.write),
            "idle": duration_text(timeouts.idle),
        },
    })
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
        "limit": route.limit.as_ref().map(|l| limit(l, false)),
        "max_body": route.max_body.map(size_text),
        "auth": match route.auth {
            Auth::None => "none",
            Auth::Required => "required",
        },
    })
}

fn cost(cost: &Cost) -> Value {
    if cost.by_method.is_empty() {
        return json!(cost.default);
    }
    cost.by_method.iter().map(|(method, cost)| (method.to_string(), json!(cost))).collect()
}
