//! What a file may say: every key there is, section by section. A key that is in none of these
//! tables is an error.

/// The keys of one kind of section.
#[derive(Debug)]
pub(super) struct Keys {
    /// Keys that can be used.
    pub(super) known: &'static [&'static str],
    /// Keys whose subject does not exist yet; refused by name, so that nobody believes that a
    /// protection is on.
    pub(super) later: &'static [&'static str],
}

/// Keys whose subject does not exist yet, wherever they stand.
pub(super) const LATER_ANYWHERE: &[&str] =
    &["tls", "h2c", "proxy_protocol", "jwt", "mtls", "upstream_tls", "cache", "grpc", "dashboard"];

pub(super) const FILE: Keys = Keys {
    known: &[
        "state_dir",
        "server",
        "admin",
        "metrics",
        "redis",
        "clients",
        "limiter",
        "tiers",
        "limits",
        "upstreams",
        "routes",
    ],
    later: &[],
};
pub(super) const SERVER: Keys = Keys {
    known: &[
        "listen",
        "workers",
        "trusted_proxies",
        "grace_period",
        "health_path",
        "strip_headers",
        "max_head",
        "max_headers",
        "max_uri",
        "header_timeout",
        "idle_timeout",
        "min_body_rate",
        "max_connections",
        "max_connections_per_ip",
        "max_requests_per_connection",
        "access_log",
        "x_ratelimit_headers",
        "reload_watch",
        "watch_file",
        "upgrade_socket",
    ],
    later: &[],
};
pub(super) const RELOAD_WATCH: Keys = Keys { known: &["window", "max_error_ratio"], later: &[] };
pub(super) const ACCESS_LOG: Keys = Keys { known: &["file", "format"], later: &[] };
pub(super) const ADMIN: Keys = Keys { known: &["listen", "token"], later: &[] };
pub(super) const METRICS: Keys = Keys { known: &["listen"], later: &[] };
pub(super) const REDIS: Keys = Keys {
    known: &["url", "timeout", "prefix", "expected_gateways", "cluster", "sentinel", "tls"],
    later: &[],
};
pub(super) const REDIS_SENTINEL: Keys =
    Keys { known: &["master", "username", "password"], later: &[] };
pub(super) const REDIS_TLS: Keys = Keys { known: &["ca"], later: &[] };
pub(super) const CLIENTS: Keys = Keys {
    known: &["identify", "default_tier", "ipv6_prefix", "known", "api_key_header"],
    later: &[],
};
pub(super) const IDENTIFIER: Keys = Keys { known: &["header", "from"], later: &[] };
pub(super) const KNOWN_CLIENT: Keys = Keys { known: &["tier", "api_keys"], later: &[] };
pub(super) const LIMITER: Keys = Keys { known: &["slots"], later: &[] };
pub(super) const TIER: Keys = Keys { known: &["rate", "burst", "concurrency"], later: &[] };
pub(super) const LIMIT: Keys = Keys {
    known: &[
        "name",
        "key",
        "rate",
        "burst",
        "algorithm",
        "max_delay",
        "quota",
        "ipv6_escalation",
        "store",
        "on_store_failure",
        "cost",
        "shadow",
    ],
    later: &[],
};
pub(super) const ROUTE_LIMIT: Keys = Keys {
    known: &[
        "key",
        "rate",
        "burst",
        "algorithm",
        "max_delay",
        "quota",
        "ipv6_escalation",
        "store",
        "on_store_failure",
        "cost",
        "shadow",
    ],
    later: &[],
};
pub(super) const QUOTA: Keys = Keys { known: &["limit", "per"], later: &[] };
pub(super) const LIMIT_KEY: Keys = Keys { known: &["header"], later: &[] };
pub(super) const UPSTREAM: Keys = Keys {
    known: &[
        "servers",
        "balance",
        "timeouts",
        "concurrency",
        "health_check",
        "breaker",
        "ejection",
    ],
    later: &[],
};
pub(super) const UPSTREAM_SERVER: Keys = Keys { known: &["address", "weight"], later: &[] };
pub(super) const BALANCE: Keys = Keys { known: &["consistent"], later: &[] };
pub(super) const AFFINITY: Keys = Keys { known: &["header"], later: &[] };
pub(super) const TIMEOUTS: Keys = Keys { known: &["connect", "read", "write", "idle"], later: &[] };
pub(super) const CONCURRENCY: Keys = Keys { known: &["max", "queue", "queue_timeout"], later: &[] };
pub(super) const HEALTH_CHECK: Keys = Keys {
    known: &["type", "path", "interval", "timeout", "healthy_after", "unhealthy_after"],
    later: &[],
};
pub(super) const BREAKER: Keys = Keys {
    known: &[
        "consecutive_failures",
        "failure_ratio",
        "slow_call",
        "slow_ratio",
        "min_requests",
        "window",
        "cooldown",
        "max_cooldown",
        "probes",
        "ramp",
    ],
    later: &[],
};
pub(super) const EJECTION: Keys =
    Keys { known: &["consecutive_failures", "base", "max"], later: &[] };
pub(super) const ROUTE: Keys = Keys {
    known: &[
        "name",
        "path",
        "hosts",
        "methods",
        "upstream",
        "strip_prefix",
        "timeout",
        "cost",
        "limit",
        "max_body",
        "auth",
        "retry",
        "breaker",
    ],
    later: &[],
};
pub(super) const PATH: Keys = Keys { known: &["exact", "prefix", "pattern"], later: &[] };
pub(super) const RETRY: Keys =
    Keys { known: &["attempts", "per_try_timeout", "backoff", "when", "budget"], later: &[] };
pub(super) const BACKOFF: Keys = Keys { known: &["base", "max"], later: &[] };

#[cfg(test)]
pub(super) const ALL_KEYS: [&Keys; 31] = [
    &FILE,
    &SERVER,
    &RELOAD_WATCH,
    &ACCESS_LOG,
    &ADMIN,
    &METRICS,
    &REDIS,
    &REDIS_SENTINEL,
    &REDIS_TLS,
    &CLIENTS,
    &IDENTIFIER,
    &KNOWN_CLIENT,
    &LIMITER,
    &TIER,
    &LIMIT,
    &ROUTE_LIMIT,
    &LIMIT_KEY,
    &QUOTA,
    &UPSTREAM,
    &UPSTREAM_SERVER,
    &BALANCE,
    &AFFINITY,
    &TIMEOUTS,
    &CONCURRENCY,
    &HEALTH_CHECK,
    &BREAKER,
    &EJECTION,
    &ROUTE,
    &PATH,
    &RETRY,
    &BACKOFF,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_the_reference() {
        let reference = include_str!("../../docs/CONFIG.md");
        let named = |key: &str| reference.contains(&format!("`{key}`"));
        for keys in ALL_KEYS {
            for key in keys.known.iter().chain(keys.later) {
                assert!(named(key), "docs/CONFIG.md does not name `{key}`");
            }
        }
        for key in LATER_ANYWHERE {
            assert!(named(key), "docs/CONFIG.md does not name `{key}`");
        }
    }
}
