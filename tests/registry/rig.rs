//! What these tests ask again and again.

use crate::support::{Client, Gateway, GatewayBuilder, Reply, Upstream};
use serde_json::Value;

/// Clients by key, by header and by address; what is set for them lies beside the configuration.
pub(crate) fn lasting(upstream: &Upstream) -> GatewayBuilder {
    Gateway::before(upstream)
        .state_dir("state")
        .server("upgrade_socket: upgrade.sock\ntrusted_proxies: [127.0.0.1]")
        .clients(
            "identify: [api_key, {header: X-Client-ID}, ip]\ndefault_tier: free\n\
             known: {filed: {tier: gold}}",
        )
        .tiers("free: {rate: 100000/s, burst: 100000}\ngold: {rate: 200000/s, burst: 200000}")
}

/// GET with these headers, on a connection of its own.
#[track_caller]
pub(crate) fn get_with(gateway: &Gateway, headers: &[(&str, &str)]) -> Reply {
    gateway.client().get_with("/", headers)
}

/// A change on the admin port that must be made; its answer.
#[track_caller]
pub(crate) fn change(gateway: &Gateway, method: &str, target: &str, body: &str) -> Value {
    let reply = gateway.admin_request(method, target, &[], body);
    assert_eq!(reply.status, 200, "{method} {target}: {}", reply.text());
    reply.json()
}

/// All entries of a list, read in pages of this size.
#[track_caller]
pub(crate) fn all_of(gateway: &Gateway, list: &str, limit: usize) -> Vec<Value> {
    let mut all = Vec::new();
    let mut client = Client::connect(gateway.admin);
    let mut after = String::new();
    loop {
        let reply = client.get(&format!("/{list}?limit={limit}{after}"));
        assert_eq!(reply.status, 200, "{}", reply.text());
        let page = reply.json();
        let entries = page[list].as_array().expect("a list");
        assert!(entries.len() <= limit, "{page}");
        all.extend(entries.iter().cloned());
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", next.replace('/', "%2F")),
            None => return all,
        }
    }
}
