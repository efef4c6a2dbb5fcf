//! Who a request claims to come from, and who has a right to say so.

use crate::rig::Rig;
use crate::support::{Gateway, Upstream};

/// Fields by which a client could claim an identity towards the upstream.
const IDENTITY: [&str; 33] = [
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Server",
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Client-Cert",
    "X-Real-IP",
    "x-real-ip",
    "X-Client-Cert",
    "X-Client-Cert-Subject",
    "X-SSL-Client-Cert",
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Consumer-ID",
    "X-Consumer-Username",
    "X-Consumer-Custom-ID",
    "X-Authenticated-Userid",
    "X-Authenticated-Scope",
    "X-Gateway-User",
    "X_Forwarded_For",
    "X-Forwarded_Host",
    "X_Real_IP",
    "x_consumer_id",
    "X_Authenticated_Userid",
    "X_Gateway_User",
    "X_Client_Cert",
    "X-Client-Verify",
    "X_Client_DN",
    "CF-Connecting-IP",
];

/// Trusts the test's own address and a private network before it.
const TRUSTING: &str = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]";

/// One token a day for each address, so that addresses can be told apart.
const ONE_PER_ADDRESS: &str =
    "- {name: all, path: /, upstream: main, limit: {rate: 1/d, burst: 1, key: ip}}";

#[test]
fn a_stranger_cannot_claim_an_identity() {
    let rig = Rig::new();
    for name in IDENTITY {
        let request = format!("GET / HTTP/1.1\r\nHost: tollgate.test\r\n{name}: spoof\r\n\r\n");
        let seen = rig.forwards(name, request);
        let raw = String::from_utf8_lossy(&seen.head.raw).into_owned();
        assert!(!raw.contains("spoof"), "{name} came through:\n{raw}");
    }
}

#[test]
fn a_header_that_names_clients_comes_only_from_peers_that_may_name_them() {
    let request =
        "GET / HTTP/1.1\r\nHost: tollgate.test\r\nX-Client-ID: boss\r\nX_Client_ID: boss\r\n\r\n";
    let everybody = "{header: X-Client-ID}";
    let may = "{header: X-Client-ID, from: [127.0.0.0/8]}";
    let may_not = "{header: X-Client-ID, from: [10.0.0.0/8]}";
    for (identifier, seen) in [(everybody, 2), (may, 2), (may_not, 0)] {
        let upstream = Upstream::new();
        let clients = format!("{{identify: [{identifier}, ip]}}");
        let gateway = Gateway::before(&upstream).clients(&clients).start();
        let mut client = gateway.client();
        client.send(request);
        assert_eq!(client.reply().status, 200);
        let raw = String::from_utf8_lossy(&upstream.last().head.raw).into_owned();
        assert_eq!(raw.matches("boss").count(), seen, "{identifier}:\n{raw}");
    }
}

#[test]
fn nominating_what_the_gateway_tells_the_upstream_is_refused() {
    let rig = Rig::new();
    let names = ["X-Forwarded-For", "close, X_Forwarded_Host", "Via", "Host", "\"Via\"", ":path"];
    let rows = names.map(|name| {
        (name, format!("GET / HTTP/1.1\r\nHost: tollgate.test\r\nConnection: {name}\r\n\r\n"))
    });
    rig.refuses(400, &rows);
}

#[test]
fn a_trusted_proxy_may_assert_identities() {
    let rig = Rig::with(|builder| builder.server(TRUSTING));
    let own = ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"];
    for name in IDENTITY.iter().filter(|name| !own.contains(name) && !name.contains('_')) {
        let request = format!("GET / HTTP/1.1\r\nHost: tollgate.test\r\n{name}: asserted\r\n\r\n");
        let seen = rig.forwards(name, request);
        assert_eq!(seen.head.header(name), Some("asserted"), "{name}");
    }
}

#[test]
fn the_upstream_learns_address_scheme_and_host_of_a_stranger() {
    let rig = Rig::new();
    let seen = rig.forwards(
        "forwarded",
        "GET / HTTP/1.1\r\nHost: shop.test:8080\r\nX-Forwarded-For: 198.51.100.66\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\n\r\n",
    );
    assert_eq!(seen.head.header("X-Forwarded-For"), Some("127.0.0.1"));
    assert_eq!(seen.head.header("X-Forwarded-Proto"), Some("http"));
    assert_eq!(seen.head.header("X-Forwarded-Host"), Some("shop.test:8080"));
    assert_eq!(seen.head.header("Host"), Some("shop.test:8080"), "Host is kept");
}

#[test]
fn a_trusted_proxy_is_appended_to_the_chain_it_asserts() {
    let rig = Rig::with(|builder| builder.server(TRUSTING));
    let seen = rig.forwards(
        "forwarded",
        "GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-For: 203.0.113.7\r\n\
         X-Forwarded-Proto: https\r\nX-Forwarded-Host: www.shop.test\r\n\r\n",
    );
    assert_eq!(seen.head.list("X-Forwarded-For"), "203.0.113.7, 127.0.0.1");
    assert_eq!(seen.head.header("X-Forwarded-Proto"), Some("https"));
    assert_eq!(seen.head.header("X-Forwarded-Host"), Some("www.shop.test"));
}

#[test]
fn a_stranger_cannot_change_its_address() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).routes(ONE_PER_ADDRESS).start();
    let from = |field: &str, value: &str| gateway.client().get_with("/", &[(field, value)]).status;
    assert_eq!(from("X-Forwarded-For", "203.0.113.1"), 200);
    assert_eq!(from("X-Forwarded-For", "203.0.113.2"), 429);
    assert_eq!(from("Forwarded", "for=203.0.113.3"), 429);
    assert_eq!(from("X-Real-IP", "203.0.113.4"), 429);
}

#[test]
fn the_client_is_the_rightmost_address_that_is_no_trusted_proxy() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server(TRUSTING).routes(ONE_PER_ADDRESS).start();
    for (why, chain, status) in [
        ("a new address", "203.0.113.9", 200),
        ("the same again", "203.0.113.9", 429),
        ("what it claims about others does not matter", "198.51.100.1, 203.0.113.9", 429),
        ("trusted proxies on its right are passed over", "203.0.113.9, 10.0.0.3, 10.0.0.4", 429),
        ("both", "198.51.100.2, 203.0.113.9, 10.1.2.3", 429),
        ("nonsense on its left does not matter", "unknown, <b>, 203.0.113.9", 429),
        ("another address", "203.0.113.10, 10.0.0.3", 200),
        ("what was claimed on the left was charged to nobody", "198.51.100.1", 200),
        ("IPv6", "2001:db8:1:1::1", 200),
        ("the same /64 is the same client", "2001:db8:1:1::2", 429),
        ("another /64 is not", "2001:db8:1:2::1", 200),
    ] {
        let reply = gateway.client().get_with("/", &[("X-Forwarded-For", chain)]);
        assert_eq!(reply.status, status, "{why}: {chain}");
    }
}

#[test]
fn a_chain_over_several_fields_is_one_chain() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server(TRUSTING).routes(ONE_PER_ADDRESS).start();
    let from = |fields: &[(&str, &str)]| gateway.client().get_with("/", fields).status;
    let name = "X-Forwarded-For";
    assert_eq!(from(&[(name, "198.51.100.1"), (name, "203.0.113.9")]), 200);
    assert_eq!(from(&[(name, "203.0.113.9")]), 429);
    assert_eq!(from(&[(name, "203.0.113.9"), (name, "198.51.100.1")]), 200);
}

#[test]
fn a_trusted_proxy_may_use_the_standard_field() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server(TRUSTING).routes(ONE_PER_ADDRESS).start();
    for (why, value, status) in [
        ("plain", "for=203.0.113.9", 200),
        ("with other parameters", "proto=https;For=203.0.113.9;by=10.0.0.1", 429),
        ("with a port", "for=\"203.0.113.9:4711\"", 429),
        ("a chain", "for=198.51.100.1, for=203.0.113.9, for=10.0.0.3", 429),
        ("IPv6", "for=\"[2001:db8::1]:443\"", 200),
    ] {
        let reply = gateway.client().get_with("/", &[("Forwarded", value)]);
        assert_eq!(reply.status, status, "{why}: {value}");
    }
}

#[test]
fn the_admin_port_finds_a_client_by_its_address() {
    let upstream = Upstream::new();
    let gateway =
        Gateway::before(&upstream).server(TRUSTING).tiers("free: {rate: 1/h, burst: 10}").start();
    for _ in 0..3 {
        let chain = [("X-Forwarded-For", "198.51.100.1, 203.0.113.9")];
        assert_eq!(gateway.client().get_with("/", &chain).status, 200);
    }
    let remaining = |ip: &str| {
        let client = gateway.admin_get(&format!("/clients?ip={ip}")).json();
        let limits = client["limits"].as_array().cloned().unwrap_or_default();
        let tier = limits.into_iter().find(|limit| limit["policy"] == "tier");
        tier.and_then(|limit| limit["tokens_remaining"].as_f64())
    };
    assert_eq!(remaining("203.0.113.9").map(f64::floor), Some(7.0));
    assert_eq!(remaining("198.51.100.1").map(f64::floor), Some(10.0), "claimed by a client");
    assert_eq!(remaining("127.0.0.1").map(f64::floor), Some(10.0), "the proxy itself");
}

#[test]
fn further_headers_can_be_stripped() {
    let rig = Rig::with(|builder| builder.server("strip_headers: [X-Internal-Token, x-debug]"));
    let seen = rig.forwards(
        "stripped",
        "GET / HTTP/1.1\r\nHost: tollgate.test\r\nx-internal-token: a\r\nX-DEBUG: b\r\n\
         X-Debugger: c\r\n\r\n",
    );
    assert_eq!(seen.head.header("X-Internal-Token"), None);
    assert_eq!(seen.head.header("X-Debug"), None);
    assert_eq!(seen.head.header("X-Debugger"), Some("c"), "only what was named");
}

#[test]
fn the_gateway_appends_itself_to_via() {
    let rig = Rig::new();
    let seen = rig.forwards("first", "GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    let own = seen.head.list("Via");
    assert!(own.starts_with("1.1 tollgate"), "{own}");
    let seen = rig.forwards("second", "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 fred\r\n\r\n");
    assert_eq!(seen.head.list("Via"), format!("1.0 fred, {own}"));
}

#[test]
fn a_request_that_has_been_here_before_is_a_loop() {
    let rig = Rig::new();
    let seen = rig.forwards("first", "GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    let own = seen.head.list("Via");
    rig.upstream.forget();
    for via in [own.clone(), format!("1.0 fred, {own}"), format!("{own}, 1.1 p.example.net")] {
        let reply = rig.gateway.client().get_with("/", &[("Via", &via)]);
        assert_eq!(reply.status, 508, "{via}");
        assert_eq!(reply.json()["status"], 508);
    }
    let twice = [("Via", "1.1 p.example.net"), ("via", own.as_str())];
    assert_eq!(rig.gateway.client().get_with("/", &twice).status, 508, "in a second field");
    assert_eq!(rig.upstream.transcript(), "");
}

#[test]
fn one_gateway_behind_another_is_no_loop() {
    let upstream = Upstream::new();
    let inner = Gateway::before(&upstream).start();
    let outer = Gateway::builder()
        .upstream("inner", inner.data)
        .routes("- {name: all, path: /, upstream: inner}")
        .start();
    assert_eq!(outer.get("/through-both").text(), "GET /through-both");
    assert_eq!(upstream.last().head.list("Via").split(',').count(), 2);
}

#[test]
fn a_gateway_that_is_its_own_upstream_ends_the_loop() {
    let [data, admin, metrics] = crate::support::free_addresses();
    let gateway = Gateway::builder()
        .upstream("itself", data)
        .routes("- {name: all, path: /, upstream: itself}")
        .spawn(data, admin, metrics);
    crate::support::until("it is ready", || (gateway.readiness() == Some(200)).then_some(()));
    assert_eq!(gateway.get("/").status, 508);
}
