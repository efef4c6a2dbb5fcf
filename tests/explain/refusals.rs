//! What became of refused requests, and who is refused most.

use serde_json::{Value, json};

use crate::rig::{BY_HEADER, explain, get_as};
use crate::support::{Gateway, Upstream, run_to_exit, until};

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::before(upstream)
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/d, burst: 2}")
        .limits("- {name: all, key: global, rate: 40/d, burst: 40}")
        .start()
}

/// The only refusal of a trace id, once the gateway has noted it.
#[track_caller]
fn refusal_of(gateway: &Gateway, trace_id: &str) -> Value {
    let target = format!("/explain?trace_id={trace_id}");
    let answer = until("the refusal is noted", || {
        let reply = gateway.admin_get(&target);
        (reply.status == 200).then(|| reply.json())
    });
    assert_eq!(answer["trace_id"], trace_id);
    let refusals = answer["refusals"].as_array().unwrap();
    assert_eq!(refusals.len(), 1, "{answer}");
    refusals[0].clone()
}

#[test]
fn a_trace_id_tells_why_its_request_was_refused() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    for _ in 0..2 {
        assert_eq!(get_as(&gateway, "c", "/x").status, 200);
    }
    let limited = get_as(&gateway, "c", "/x");
    assert_eq!(limited.status, 429);
    let refusal = refusal_of(&gateway, limited.header("x-trace-id").unwrap());
    let route = explain(&gateway, "path=/x")["route"]["name"].clone();
    assert_eq!((&refusal["status"], &refusal["refusal"]), (&json!(429), &json!("rate-limited")));
    assert_eq!(refusal["refused_by"], json!({"kind": "policy", "name": "tier"}));
    assert_eq!((&refusal["client"], &refusal["tier"]), (&json!("c"), &json!("free")));
    assert_eq!((&refusal["identified_by"], &refusal["route"]), (&json!("header"), &route));
    assert_eq!(
        (&refusal["limit"]["tokens_remaining"], &refusal["limit"]["burst"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(refusal["retry_after_seconds"], limited.json()["retry_after_seconds"]);
    let admitted = get_as(&gateway, "d", "/x");
    let trace_id = admitted.header("x-trace-id").unwrap();
    assert_eq!(gateway.admin_get(&format!("/explain?trace_id={trace_id}")).status, 404);
}

#[test]
fn a_503_names_the_circuit_and_can_be_looked_up() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let forced = r#"{"force": "open", "ttl": "1h"}"#;
    assert_eq!(gateway.admin_request("POST", "/circuit-breakers/main", &[], forced).status, 200);
    let refused = get_as(&gateway, "c", "/x");
    assert_eq!((refused.status, &refused.json()["circuit"]), (503, &json!("main")));
    let refusal = refusal_of(&gateway, refused.header("x-trace-id").unwrap());
    assert_eq!(refusal["refused_by"], json!({"kind": "circuit", "name": "main"}));
    assert_eq!((&refusal["refusal"], &refusal["limit"]), (&json!("circuit-open"), &Value::Null));
}

#[test]
fn the_most_limited_clients_are_listed_with_what_limits_them() {
    let upstream = Upstream::new();
    let gateway = gateway(&upstream);
    let top = || gateway.admin_get("/limits/top").json();
    assert_eq!((&top()["clients"], &top()["limited"]), (&json!([]), &json!(0)));
    for (client, requests) in [("a", 5), ("b", 12), ("c", 2)] {
        for _ in 0..requests {
            get_as(&gateway, client, "/");
        }
    }
    let expected = [("b", 10), ("a", 3)].map(|(client, limited)| {
        json!({"client": client, "identified_by": "header", "policy": "tier",
               "limited": limited, "error": 0})
    });
    let told = top();
    assert_eq!(told["clients"], json!(expected), "{told}");
    assert_eq!((&told["limited"], &told["missed_at_most"]), (&json!(13), &json!(0)));
    assert!(told["seconds"].as_f64().is_some_and(|seconds| seconds <= 60.0), "{told}");
    let config = gateway.config();
    let arguments = ["status", "-c", config.to_str().unwrap()];
    let screen = run_to_exit(config.parent().unwrap(), &arguments).stdout;
    let mut lines = screen.lines().skip_while(|line| !line.starts_with("MOST LIMITED"));
    let first = lines.nth(1).unwrap_or_default();
    assert_eq!(first.split_whitespace().collect::<Vec<_>>(), ["b", "tier", "10"], "{screen}");
}
