//! `/explain` against what then happens.

use serde_json::{Value, json};

use crate::rig::{BY_HEADER, explain, get_as, limit, refused_by};
use crate::support::{Gateway, Upstream, run_to_exit};

const KEY: &str = "k-1";

fn hashed(key: &str) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write as _;
    Sha256::digest(key.as_bytes()).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A gateway that has something of everything; no bucket refills while a test runs.
fn gateway(upstream: &Upstream) -> Gateway {
    let at = upstream.address();
    Gateway::before(upstream)
        .clients(&format!(
            "identify: [api_key, {{header: X-Client-ID}}, ip]\ndefault_tier: free\n\
             known: {{keyed: {{tier: premium, api_keys: [\"{}\"]}}}}",
            hashed(KEY)
        ))
        .tiers("free: {rate: 1/d, burst: 4}\npremium: {rate: 2/d, burst: 6, concurrency: 3}")
        .limits(
            "
            - {name: per-ip, key: ip, rate: 60/d, burst: 60}
            - {name: region, key: {header: X-Region}, rate: 9/d, burst: 9, quota: {limit: 7, per: month}}
            - {name: candidate, key: client, rate: 1/d, burst: 1, shadow: true}",
        )
        .upstreams(&format!(
            "main: {{servers: [\"{at}\"], concurrency: {{max: 9}}}}\n\
             open: {{servers: [\"{at}\"]}}\nempty: {{servers: [\"{at}\"]}}"
        ))
        .routes(
            "
            - {name: all, path: /a, upstream: main}
            - {name: dear, path: /a/dear, upstream: main, cost: 5}
            - {name: posts, path: {exact: /posts}, methods: [POST], upstream: main, max_body: 3}
            - {name: own, path: /own, upstream: main, limit: {rate: 2/d, burst: 2}}
            - {name: private, path: /private, upstream: main, auth: required}
            - {name: there, path: /a, hosts: [there.test, '*.there.test'], upstream: main}
            - {name: broken, path: /broken, upstream: open}
            - {name: nobody, path: /nobody, upstream: empty}",
        )
        .start()
}

/// What an explanation says that time alone does not change.
fn left(told: &Value) -> Vec<[Value; 3]> {
    let limits = told["limits"].as_array().unwrap().iter();
    let limits =
        limits.map(|limit| ["policy", "tokens_remaining", "refuses"].map(|m| limit[m].clone()));
    let answer = ["status", "refusal", "refused_by"].map(|m| told["answer"][m].clone());
    limits.chain([answer]).collect()
}

type Headers<'a> = &'a [(&'a str, &'a str)];

#[test]
fn what_is_foretold_is_what_happens_and_asking_changes_nothing() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let forced = r#"{"force": "open", "ttl": "1h"}"#;
    assert_eq!(gateway.admin_request("POST", "/circuit-breakers/open", &[], forced).status, 200);
    let server = format!("/upstreams/empty/servers/{}", upstream.address());
    assert_eq!(gateway.admin_put(&server, r#"{"state": "drain"}"#).status, 200);
    let long = format!("/a/{}", "x".repeat(8 << 10));
    let cases: [(&str, &str, Headers<'_>); 20] = [
        ("CONNECT", "/a", &[("X-Client-ID", "c")]),
        ("GET", &long, &[("X-Client-ID", "c")]),
        ("GET", "/a#b", &[]),
        ("GET", "/a/1?q=2", &[]),
        ("GET", "/a", &[("X-Client-ID", "c")]),
        ("GET", "/a//%61", &[("X-Client-ID", "c"), ("X-Region", "eu")]),
        ("GET", "/own", &[("X-Client-ID", "d")]),
        ("GET", "/a/dear", &[("X-Client-ID", "e")]),
        ("GET", "/a/dear", &[("X-API-Key", KEY)]),
        ("GET", "/a", &[("X-API-Key", "unknown")]),
        ("GET", "/private", &[("X-API-Key", KEY)]),
        ("GET", "/private", &[("X-Client-ID", "keyed")]),
        ("POST", "/posts", &[("Content-Length", "3")]),
        ("POST", "/posts", &[("Content-Length", "4")]),
        ("GET", "/posts", &[]),
        ("GET", "/nothing", &[]),
        ("GET", "/a/../b", &[]),
        ("GET", "/a", &[("Host", "x.There.test:80"), ("X-Client-ID", "f")]),
        ("GET", "/broken", &[("X-Client-ID", "g")]),
        ("GET", "/nobody", &[("X-Client-ID", "h")]),
    ];
    for round in 0..4 {
        for (method, target, headers) in cases {
            let place = format!("round {round}: {method} {target} {headers:?}");
            let mut query = format!(
                "method={method}&path={}",
                target
                    .replace('%', "%25")
                    .replace('#', "%23")
                    .replace('?', "%3F")
                    .replace('=', "%3D")
            );
            for (name, value) in headers {
                query += &format!("&header.{name}={value}");
            }
            let foretold = explain(&gateway, &query);
            let again = explain(&gateway, &query);
            assert_eq!(left(&again), left(&foretold), "{place}: asking changed something");
            let length = headers.iter().find(|(name, _)| *name == "Content-Length");
            let body = vec![b'x'; length.map_or(0, |(_, length)| length.parse().unwrap())];
            let sent: Vec<_> =
                headers.iter().filter(|h| h.0 != "Content-Length").copied().collect();
            let reply = gateway.client().request(method, target, &sent, &body);
            let answer = &foretold["answer"];
            if answer["status"].is_null() {
                assert_eq!(reply.status, 200, "{place}: {answer}");
                continue;
            }
            let problem = reply.json();
            let kind = format!("urn:tollgate:problem:{}", answer["refusal"].as_str().unwrap());
            assert_eq!(answer["status"], reply.status, "{place}: {problem} {answer}");
            assert_eq!(problem["type"], *kind, "{place}: {answer}");
            assert_eq!(answer["refused_by"], refused_by(&problem), "{place}: {problem}");
            // Time goes on between the two: what is left of the wait can only shrink.
            let [told, met] = [answer, &problem].map(|said| said["retry_after_seconds"].as_i64());
            let passed = told.zip(met).map(|(told, met)| told - met);
            assert!(
                told.is_some() == met.is_some() && passed.is_none_or(|s| (0..10).contains(&s)),
                "{place}: {answer} {problem}"
            );
        }
    }
    let series = gateway.series();
    assert!(series.sum("gateway_rate_limited_total") > 5.0);
}

#[test]
fn every_limit_is_named_with_its_key_and_what_is_left() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    assert_eq!(get_as(&gateway, "c", "/a").status, 200);
    let told = explain(&gateway, "path=/a&client=c&header.X-Region=eu&ip=192.0.2.7");
    assert_eq!(told["client"]["client"], "c");
    assert_eq!(
        (&told["client"]["identified_by"], &told["client"]["tier"]),
        (&json!("header"), &json!("free"))
    );
    let tier = limit(&told, "tier");
    assert_eq!(
        (&tier["tokens_remaining"], &tier["burst"], &tier["cost"]),
        (&json!(3), &json!(4), &json!(1))
    );
    assert_eq!(tier["key"], json!({"kind": "client", "value": "c"}));
    assert_eq!(limit(&told, "per-ip")["key"], json!({"kind": "ip", "value": "192.0.2.7"}));
    assert_eq!(limit(&told, "region")["key"], json!({"kind": "header", "value": "eu"}));
    assert_eq!(limit(&told, "region:quota")["quota"], true);
    let shadow = limit(&told, "candidate");
    assert_eq!((&shadow["shadow"], &shadow["refuses"]), (&json!(true), &json!(true)));
    assert_eq!(told["answer"]["summary"], "forwarded to upstream main");
    assert_eq!(told["circuit"]["state"], "closed");
    // The request before may not have given its place back yet.
    assert_eq!(told["upstream"]["concurrency"]["max"], 9);
    assert_eq!(told["upstream"]["servers"][0]["state"], "up");
    let keyed = explain(&gateway, "path=/private&client=keyed");
    assert_eq!(
        (&keyed["client"]["identified_by"], &keyed["client"]["registered"]),
        (&json!("api_key"), &json!(true))
    );
    assert_eq!(keyed["client_concurrency"], json!({"used": 0, "max": 3}));
}

#[test]
fn a_limit_by_address_is_shown_with_the_address_also_of_a_client_that_has_no_other_name() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for (ip, shown) in [("192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::")] {
        let told = explain(&gateway, &format!("path=/a&ip={ip}"));
        let key = |policy| limit(&told, policy)["key"].clone();
        assert_eq!(key("per-ip"), json!({"kind": "ip", "value": shown}));
        assert_eq!(key("tier"), json!({"kind": "client", "value": shown}));
        assert_eq!(key("candidate"), json!({"kind": "client", "value": shown}));
    }
}

#[test]
fn other_routes_are_listed_with_the_reason_the_nearest_first() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let why = |query: &str| -> Vec<(String, String)> {
        let told = explain(&gateway, query);
        assert_eq!(told["other_routes"]["total"], if told["route"].is_null() { 8 } else { 7 });
        let nearest = told["other_routes"]["nearest"].as_array().unwrap().clone();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        nearest.iter().map(|other| (text(&other["name"]), text(&other["why_not"]))).collect()
    };
    let expect = |query: &str, expected: &[(&str, &str)]| {
        let expected: Vec<_> =
            expected.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned())).collect();
        assert_eq!(why(query), expected, "{query}");
    };
    let hosts = "it takes other hosts";
    expect(
        "path=/a/dear/x",
        &[("all", "a route with a more specific path goes first"), ("there", hosts)],
    );
    expect(
        "path=/a/b&host=there.test",
        &[
            ("all", "a route with a more specific host goes first"),
            ("dear", "it takes other paths"),
        ],
    );
    expect("path=/posts", &[("posts", "it takes other methods")]);
    expect("path=/nothing", &[]);
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    for (query, field) in [
        ("", "path"),
        ("method=GET", "path"),
        ("path=/&method=G%20T", "method"),
        ("path=/&ip=here", "ip"),
        ("path=/&client=a%20b", "client"),
        ("path=/&host=a%0Ab", "host"),
        ("path=/&header.=x", "header."),
        ("path=/&colour=red", "colour"),
        ("path=/&trace_id=x", "path"),
        ("path=/a&path=/b", "path"),
        ("path=/&ip=192.0.2.1&ip=192.0.2.1", "ip"),
        ("trace_id=x&trace_id=y", "trace_id"),
    ] {
        let reply = gateway.admin_get(&format!("/explain?{query}"));
        assert_eq!((reply.status, &reply.json()["field"]), (400, &json!(field)), "{query}");
    }
    assert_eq!(gateway.admin_get("/explain?trace_id=unknown").status, 404);
    explain(&gateway, "path=/&header.X-A=1&header.X-A=2");
}

#[test]
fn the_command_says_it_for_people() {
    let upstream = Upstream::new();
    let gateway =
        Gateway::before(&upstream).clients(BY_HEADER).tiers("free: {rate: 1/d, burst: 1}").start();
    let config = gateway.config();
    let run = |more: &[&str]| {
        let arguments = [&["explain", "-c", config.to_str().unwrap()], more].concat();
        run_to_exit(config.parent().unwrap(), &arguments)
    };
    let question = ["--method", "GET", "--path", "/api/users", "--client", "X"];
    let told = run(&question);
    assert_eq!(told.code, Some(0), "{told:?}");
    assert!(told.stdout.contains("forwarded to upstream main"), "{told:?}");
    assert_eq!(get_as(&gateway, "X", "/api/users").status, 200);
    let told = run(&question).stdout;
    for part in ["429 rate-limited by policy tier, again after", "client X: costs 1, 0 of 1 left"] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    let wrong = run(&["--path", "/", "--ip", "here"]);
    assert_eq!(wrong.code, Some(64), "{wrong:?}");
    assert!(wrong.stderr.contains("ip is wrong"), "{wrong:?}");
    assert_eq!(run(&[]).code, Some(2), "a path or a trace id is needed");
    let colonless = run(&["--path", "/", "-H", "X-Foo"]);
    assert_eq!(colonless.code, Some(2), "{colonless:?}");
    assert!(colonless.stderr.contains("it must be NAME: VALUE"), "{colonless:?}");
    assert_eq!(run(&["--path", "/", "-H", "X-Foo:", "-H", "X-Bar: a:b"]).code, Some(0));
    let unknown = run(&["--trace-id", "unknown"]);
    assert_eq!(unknown.code, Some(1), "as its help says: {unknown:?}");
    assert!(run(&["--help"]).stdout.contains("1 when there is none"));
}

#[test]
fn who_is_blocked_is_foretold_as_such() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let block = |what: &str| {
        assert_eq!(gateway.admin_put(&format!("/blocks/{what}"), "{}").status, 200, "{what}");
    };
    let answer = |query: &str| {
        let told = gateway.admin_get(&format!("/explain?path=/a&{query}")).json();
        (told["answer"]["status"].clone(), told["answer"]["refusal"].clone())
    };
    let blocked = (json!(403), json!("blocked"));
    block("client/mallory");
    block("cidr/192.0.2.0%2F24");
    assert_eq!(answer("client=mallory"), blocked);
    assert_eq!(answer("client=alice&ip=192.0.2.7"), blocked);
    assert_eq!(answer("client=alice&ip=198.51.100.7").0, Value::Null);
    let refused = gateway.client().get_with("/a", &[("X-Client-ID", "mallory")]);
    assert_eq!(refused.status, 403);
}
