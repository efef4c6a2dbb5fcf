//! Whose bucket it is: client, address, route, everybody, or the value of a header.

use crate::rig::{BY_HEADER, admitted, assert_limited, get_as, hashed};
use crate::support::{Gateway, GatewayBuilder, Upstream};

fn with_limit(upstream: &Upstream, limit: &str) -> GatewayBuilder {
    Gateway::builder().upstream("main", upstream.address()).clients(BY_HEADER).limits(limit).routes(
        "
            - {name: a, path: /a, upstream: main}
            - {name: b, path: /b, upstream: main}",
    )
}

/// The statuses of GET with these client ids and targets, in order.
fn statuses(gateway: &Gateway, requests: &[(&str, &str)]) -> Vec<u16> {
    requests.iter().map(|(client, target)| get_as(gateway, client, target).status).collect()
}

#[test]
fn a_limit_by_client_counts_each_client_over_all_routes() {
    let upstream = Upstream::new();
    let limit = "- {name: mine, key: client, rate: 1/h, burst: 2}";
    let gateway = with_limit(&upstream, limit).start();
    let requests = [("x", "/a"), ("x", "/b"), ("x", "/a"), ("y", "/a"), ("y", "/b"), ("y", "/b")];
    assert_eq!(statuses(&gateway, &requests), [200, 200, 429, 200, 200, 429]);
}

#[test]
fn a_limit_by_address_counts_all_clients_behind_it() {
    let upstream = Upstream::new();
    let limit = "- {name: per-ip, key: ip, rate: 1/h, burst: 2}";
    let gateway = with_limit(&upstream, limit).start();
    assert_eq!(statuses(&gateway, &[("x", "/a"), ("y", "/b"), ("z", "/a")]), [200, 200, 429]);
    assert_limited(&get_as(&gateway, "w", "/b"), "per-ip", 3_600);
    let by_address = gateway.admin_get("/clients?ip=127.0.0.1").json();
    assert_eq!(by_address["limits"][1]["policy"], "per-ip");
    assert_eq!(by_address["limits"][1]["tokens_remaining"], 0);
    assert_eq!(by_address["limits"][1]["capacity"], 2);
}

#[test]
fn a_limit_by_route_counts_each_route_over_all_clients() {
    let upstream = Upstream::new();
    let limit = "- {name: each, key: route, rate: 1/h, burst: 2}";
    let gateway = with_limit(&upstream, limit).start();
    let requests = [("x", "/a"), ("y", "/a"), ("z", "/a"), ("z", "/b"), ("z", "/b"), ("x", "/b")];
    assert_eq!(statuses(&gateway, &requests), [200, 200, 429, 200, 200, 429]);
}

#[test]
fn a_global_limit_counts_everything() {
    let upstream = Upstream::new();
    let limit = "- {name: all, key: global, rate: 1/h, burst: 3}";
    let gateway = with_limit(&upstream, limit).start();
    let requests = [("x", "/a"), ("y", "/b"), ("z", "/a"), ("w", "/b")];
    assert_eq!(statuses(&gateway, &requests), [200, 200, 200, 429]);
}

#[test]
fn a_limit_by_header_counts_each_value_and_leaving_it_out_is_no_way_around() {
    let upstream = Upstream::new();
    let limit = "- {name: tenants, key: {header: X-Tenant}, rate: 1/h, burst: 2}";
    let gateway = with_limit(&upstream, limit).start();
    let as_tenant = |client: &str, tenant: &str| {
        let headers = [("X-Client-ID", client), ("x-tenant", tenant)];
        gateway.client().get_with("/a", &headers).status
    };
    assert_eq!([("x", "t"), ("y", "t"), ("z", "t")].map(|(c, t)| as_tenant(c, t)), [200, 200, 429]);
    assert_eq!([("x", "u"), ("x", "u"), ("x", "u")].map(|(c, t)| as_tenant(c, t)), [200, 200, 429]);
    assert_eq!(statuses(&gateway, &[("p", "/a"), ("q", "/b"), ("r", "/a")]), [200, 200, 429]);
}

#[test]
fn the_limit_of_a_route_is_its_own_and_named_after_it() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients(BY_HEADER)
        .routes(
            "
            - {name: a, path: /a, upstream: main, limit: {rate: 1/h, burst: 1, key: client}}
            - {name: b, path: /b, upstream: main, limit: {rate: 1/h, burst: 1, key: route}}",
        )
        .start();
    let requests = [("x", "/a"), ("x", "/a"), ("y", "/a"), ("x", "/b"), ("y", "/b")];
    assert_eq!(statuses(&gateway, &requests), [200, 429, 200, 200, 429]);
    assert_limited(&get_as(&gateway, "x", "/a"), "route:a", 3_600);
    assert_limited(&get_as(&gateway, "z", "/b"), "route:b", 3_600);
}

#[test]
fn a_header_and_an_address_of_one_spelling_are_two_clients() {
    let upstream = Upstream::new();
    let gateway =
        Gateway::before(&upstream).clients(BY_HEADER).tiers("free: {rate: 1/h, burst: 2}").start();
    assert_eq!(admitted(&gateway, 4, &[("X-Client-ID", "127.0.0.1")]), 2);
    assert_eq!(admitted(&gateway, 4, &[]), 2, "the address has a bucket of its own");
}

#[test]
fn a_header_and_an_api_key_of_one_client_have_two_buckets() {
    let upstream = Upstream::new();
    let key = hashed("s3cret");
    let gateway = Gateway::before(&upstream)
        .clients(&format!(
            "identify: [api_key, {{header: X-Client-ID}}, ip]\ndefault_tier: free\n\
             known: {{alpha: {{tier: big, api_keys: [\"{key}\"]}}}}"
        ))
        .tiers("free: {rate: 1/h, burst: 2}\nbig: {rate: 1/h, burst: 3}")
        .start();
    assert_eq!(admitted(&gateway, 5, &[("X-Client-ID", "alpha")]), 3);
    assert_eq!(admitted(&gateway, 5, &[("X-API-Key", "s3cret")]), 3);
    assert_eq!(admitted(&gateway, 5, &[("X-Client-ID", "alpha")]), 0);
}

#[test]
fn only_peers_in_from_may_name_a_client() {
    let upstream = Upstream::new();
    let start = |from: &str| {
        Gateway::before(&upstream)
            .clients(&format!("identify: [{{header: X-Client-ID, from: {from}}}, ip]"))
            .tiers("free: {rate: 1/h, burst: 2}")
            .start()
    };
    let believed = start("[10.0.0.0/8, 127.0.0.0/8]");
    let requests = [("x", "/"), ("x", "/"), ("x", "/"), ("y", "/")];
    assert_eq!(statuses(&believed, &requests), [200, 200, 429, 200]);
    let not_believed = start("[10.0.0.0/8]");
    assert_eq!(statuses(&not_believed, &[("x", "/"), ("y", "/"), ("z", "/")]), [200, 200, 429]);
}

#[test]
fn who_may_name_a_client_is_the_peer_and_not_whom_it_forwards_for() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("trusted_proxies: [127.0.0.0/8]")
        .clients("identify: [{header: X-Client-ID, from: [203.0.113.0/24]}, ip]")
        .tiers("free: {rate: 1/h, burst: 1}")
        .start();
    let ask = |client: &str| {
        let headers = [("X-Client-ID", client), ("X-Forwarded-For", "203.0.113.7")];
        gateway.client().get_with("/", &headers).status
    };
    assert_eq!([ask("x"), ask("y")], [200, 429]);
}

#[test]
fn an_id_that_cannot_be_one_counts_by_address() {
    let upstream = Upstream::new();
    let gateway =
        Gateway::before(&upstream).clients(BY_HEADER).tiers("free: {rate: 1/h, burst: 3}").start();
    let long = "i".repeat(257);
    let ask = |ids: &[&str]| {
        let headers: Vec<_> = ids.iter().map(|&id| ("X-Client-ID", id)).collect();
        gateway.client().get_with("/", &headers).status
    };
    assert_eq!([ask(&[""]), ask(&[&long]), ask(&["a b"])], [200; 3]);
    assert_eq!(ask(&["x", "y"]), 429, "two ids are none");
    assert_eq!(ask(&["x"]), 200, "one is one");
}

#[test]
fn an_ipv6_client_is_its_prefix() {
    let upstream = Upstream::new();
    let ask = |gateway: &Gateway, ip: &str| {
        gateway.client().get_with("/", &[("X-Forwarded-For", ip)]).status
    };
    let start = |prefix: &str| {
        Gateway::before(&upstream)
            .server("trusted_proxies: [127.0.0.0/8]")
            .clients(&format!("identify: [ip]\n{prefix}"))
            .tiers("free: {rate: 1/h, burst: 1}")
            .start()
    };
    let by_64 = start("");
    let ips = ["2001:db8:1:2::1", "2001:db8:1:2:ffff::2", "2001:db8:1:3::1"];
    assert_eq!(ips.map(|ip| ask(&by_64, ip)), [200, 429, 200]);
    assert_eq!(ask(&by_64, "[2001:db8:1:2::3]:4711"), 429, "with a port it is the same");
    assert_eq!(ask(&by_64, "203.0.113.7"), 200);
    assert_eq!(ask(&by_64, "::ffff:203.0.113.7"), 429, "an IPv4 address in IPv6 is that address");
    let shown = by_64.admin_get("/clients?ip=2001:db8:1:2::9").json();
    assert_eq!(shown["limits"][0]["tokens_remaining"], 0, "{shown}");
    let by_48 = start("ipv6_prefix: 48");
    assert_eq!(ips.map(|ip| ask(&by_48, ip)), [200, 429, 429]);
}

#[test]
fn a_client_that_speaks_ipv6_is_its_prefix_as_well() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 1}");
    let Some(gateway) = gateway.start_on_ipv6() else { return };
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
    let shown = gateway.admin_get("/clients?ip=::1").json();
    assert_eq!(
        (&shown["client"], &shown["limits"][0]["tokens_remaining"]),
        (&"::".into(), &0.into())
    );
}

#[test]
fn an_invented_x_forwarded_for_gives_no_new_bucket() {
    let upstream = Upstream::new();
    let limits = "- {name: per-ip, key: ip, rate: 1/h, burst: 5}";
    let direct = Gateway::before(&upstream).limits(limits).start();
    let ask = |gateway: &Gateway, headers: &[(&str, &str)]| {
        gateway.client().get_with("/", headers).status
    };
    let invented: Vec<String> = (0..20).map(|index| format!("198.51.100.{index}")).collect();
    let passed = invented.iter().filter(|ip| {
        let element = format!("for={ip}");
        ask(&direct, &[("X-Forwarded-For", ip), ("X-Real-IP", ip), ("Forwarded", &element)]) == 200
    });
    assert_eq!(passed.count(), 5, "nobody is trusted");
    let behind =
        Gateway::before(&upstream).server("trusted_proxies: [127.0.0.0/8]").limits(limits).start();
    let passed = invented.iter().filter(|ip| {
        ask(&behind, &[("X-Forwarded-For", &format!("{ip}, 203.0.113.9, 127.0.0.2"))]) == 200
    });
    assert_eq!(passed.count(), 5, "only what proxies appended counts");
}

#[test]
fn an_ipv6_network_has_so_many_times_what_one_of_its_addresses_has() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("trusted_proxies: [127.0.0.0/8]")
        .limits("- {name: addr, key: ip, rate: 1/h, burst: 3, ipv6_escalation: 4}")
        .start();
    let mut client = gateway.client();
    let mut passed = |source: &str| -> usize {
        let forwarded = [("X-Forwarded-For", source)];
        (0..5).filter(|_| client.get_with("/", &forwarded).status == 200).count()
    };
    // Four exhausted prefixes, and a fifth that finds nothing left.
    let hot: Vec<usize> = (0..5).map(|n| passed(&format!("2001:db8:1:{n}::1"))).collect();
    assert_eq!(hot, [3, 3, 3, 3, 0]);
    assert_eq!(passed("2001:db8:2::1"), 3, "another network");
    for n in 0..6 {
        assert_eq!(passed(&format!("192.0.2.{n}")), 3, "IPv4 has no such network");
    }
    let mut client = gateway.client();
    let refused = client.get_with("/", &[("X-Forwarded-For", "2001:db8:1:9::1")]);
    assert_limited(&refused, "addr:network", 900);
    let shown = gateway.admin_get("/clients?ip=2001:db8:1:9::1").json();
    let limits = shown["limits"].as_array().unwrap();
    let left = |policy: &str| {
        let limit = limits.iter().find(|limit| limit["policy"] == policy).unwrap();
        limit["tokens_remaining"].as_u64().unwrap()
    };
    assert_eq!((left("addr"), left("addr:network")), (3, 0), "its own bucket was not charged");
}
