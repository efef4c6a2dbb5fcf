//! The block list: whom it keeps out, from when and until when.

use crate::rig::{all_of, change, get_with, lasting};
use crate::support::{Gateway, Upstream, until};

fn status_from(gateway: &Gateway, address: &str) -> u16 {
    get_with(gateway, &[("X-Forwarded-For", address)]).status
}

fn status_as(gateway: &Gateway, client: &str) -> u16 {
    get_with(gateway, &[("X-Client-ID", client)]).status
}

#[test]
fn a_block_acts_on_the_next_request_and_ends_when_it_is_taken_back() {
    let upstream = Upstream::new();
    let mut gateway = lasting(&upstream).start();
    for (path, blocked, others) in [
        ("ip/203.0.113.7", &["203.0.113.7", "::ffff:203.0.113.7"][..], &["203.0.113.8"][..]),
        ("cidr/198.51.100.0%2F24", &["198.51.100.1", "198.51.100.255"], &["198.51.101.1"]),
        ("cidr/192.0.2.0/25", &["192.0.2.127"], &["192.0.2.128"]),
        ("cidr/2001:db8::%2F32", &["2001:db8:ffff::1"], &["2001:db9::1"]),
        ("ip/2001:db9::1", &["2001:db9::1"], &["2001:db9::2"]),
    ] {
        let path = format!("/blocks/{path}");
        assert!(blocked.iter().all(|ip| status_from(&gateway, ip) == 200), "{path}");
        change(&gateway, "PUT", &path, "{}");
        assert!(blocked.iter().all(|ip| status_from(&gateway, ip) == 403), "{path}");
        assert!(others.iter().all(|ip| status_from(&gateway, ip) == 200), "{path}");
    }
    change(&gateway, "PUT", "/blocks/client/evil%2Fone", "{}");
    assert_eq!((status_as(&gateway, "evil/one"), status_as(&gateway, "evil")), (403, 200));
    gateway.kill();
    let gateway = gateway.another();
    assert_eq!(status_from(&gateway, "203.0.113.7"), 403, "it outlives the process");
    assert_eq!(status_as(&gateway, "evil/one"), 403);
    let listed: Vec<String> = all_of(&gateway, "blocks", 2)
        .iter()
        .map(|block| format!("{}/{}", block["kind"], block["value"]).replace('"', ""))
        .collect();
    let expected = [
        "cidr/192.0.2.0/25",
        "cidr/198.51.100.0/24",
        "cidr/2001:db8::/32",
        "client/evil/one",
        "ip/2001:db9::1",
        "ip/203.0.113.7",
    ];
    assert_eq!(listed, expected);
    for path in listed {
        change(&gateway, "DELETE", &format!("/blocks/{}", path.replace("l/one", "l%2Fone")), "");
    }
    assert_eq!(status_from(&gateway, "203.0.113.7"), 200);
    assert_eq!(status_from(&gateway, "192.0.2.127"), 200);
    assert_eq!(status_as(&gateway, "evil/one"), 200);
    assert_eq!(gateway.admin_request("DELETE", "/blocks/client/evil", &[], "").status, 404);
}

#[test]
fn a_block_is_a_problem_that_costs_no_tokens_and_is_named_in_log_and_metrics() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream)
        .server("access_log: {file: access.log, format: json}\ntrusted_proxies: [127.0.0.1]")
        .tiers("free: {rate: 1/h, burst: 3}\ngold: {rate: 2/h, burst: 3}")
        .start();
    change(&gateway, "PUT", "/blocks/client/evil", r#"{"ttl":"1h"}"#);
    let mut client = gateway.client();
    for _ in 0..5 {
        let reply = client.get_with("/", &[("X-Client-ID", "evil")]);
        assert_eq!(reply.status, 403);
        let problem = reply.json();
        assert_eq!(problem["type"], "urn:tollgate:problem:blocked");
        assert!(!reply.says_close());
    }
    assert_eq!(upstream.requests().len(), 0);
    change(&gateway, "DELETE", "/blocks/client/evil", "");
    let mut statuses = (0..4).map(|_| status_as(&gateway, "evil"));
    assert!(statuses.by_ref().take(3).all(|status| status == 200));
    assert_eq!(statuses.next(), Some(429));
    gateway.series_once("gateway_requests_total{route=\"all\",status=\"403\"}", 5.0);
    let lines = until("the log has them", || {
        let text = std::fs::read_to_string(gateway.path("access.log")).unwrap_or_default();
        (text.lines().count() >= 9).then_some(text)
    });
    let refused = lines.lines().filter(|line| line.contains("\"refusal\":\"blocked\""));
    let refused: Vec<&str> = refused.collect();
    assert_eq!(refused.len(), 5);
    assert!(refused.iter().all(|line| line.contains("\"client\":\"evil\"")), "{refused:?}");
}

#[test]
fn a_ttl_ends_by_itself() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let block = change(&gateway, "PUT", "/blocks/ip/203.0.113.7", r#"{"ttl":"1s"}"#);
    assert!(block["until"].is_string(), "{block}");
    assert_eq!(status_from(&gateway, "203.0.113.7"), 403);
    until("it has ended", || (status_from(&gateway, "203.0.113.7") == 200).then_some(()));
    assert_eq!(all_of(&gateway, "blocks", 10), [serde_json::Value::Null; 0]);
}

#[test]
fn what_nobody_can_be_blocked_by_is_named() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    for (path, body, field) in [
        ("ip/localhost", "{}", "value"),
        ("ip/10.0.0.0%2F8", "{}", "value"),
        ("cidr/10.0.0.0", "{}", "value"),
        ("cidr/10.0.0.0/33", "{}", "value"),
        ("host/example.com", "{}", "kind"),
        ("ip/10.0.0.1", r#"{"ttl":"forever"}"#, "ttl"),
        ("ip/10.0.0.1", r#"{"ttl":"0s"}"#, "ttl"),
        ("ip/10.0.0.1", r#"{"til":"1h"}"#, "til"),
    ] {
        let reply = gateway.admin_request("PUT", &format!("/blocks/{path}"), &[], body);
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text());
        assert_eq!(reply.json()["field"], field, "{path} {body}");
    }
    assert_eq!(all_of(&gateway, "blocks", 10), [serde_json::Value::Null; 0]);
}
