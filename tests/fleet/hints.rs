//! A circuit that opened on one gateway makes the others warier, and no more.

use serde_json::{Value, json};

use crate::gateways::{sharing, until_redis_is};
use crate::support::{Gateway, RedisServer, Upstream, fault, until};

/// Two gateways before an upstream of each one's own, of the same name.
struct Pair {
    one: Gateway,
    other: Gateway,
    broken: Upstream,
    fine: Upstream,
    server: RedisServer,
}

impl Pair {
    fn start() -> Pair {
        let (broken, fine, server) = (Upstream::new(), Upstream::new(), RedisServer::start());
        let [one, other] = [&broken, &fine].map(|upstream| {
            let breaker = "breaker: {consecutive_failures: 6, window: 60s, cooldown: 60s}";
            let upstreams = format!("main: {{servers: [\"{}\"], {breaker}}}", upstream.address());
            sharing(upstream, &server).upstreams(&upstreams).start()
        });
        for gateway in [&one, &other] {
            until_redis_is("up", gateway);
        }
        // Whoever is not listening yet does not hear.
        until("both listen", || {
            let answer: Vec<redis::Value> = server.ask(&["PUBSUB", "NUMSUB", "tollgate:circuits"]);
            (answer[1] == redis::Value::Int(2)).then_some(())
        });
        Pair { one, other, broken, fine, server }
    }
}

fn circuit(gateway: &Gateway) -> Value {
    let all: Value = serde_json::from_str(&gateway.admin_get("/circuit-breakers").text()).unwrap();
    all[0].clone()
}

#[test]
fn a_circuit_that_opens_makes_others_warier_and_opens_none() {
    let pair = Pair::start();
    pair.broken.switch_to(fault::status(500));
    for _ in 0..6 {
        assert_eq!(pair.one.get("/").status, 500);
    }
    assert_eq!(circuit(&pair.one)["state"], "open");
    until("the other has heard", || circuit(&pair.other)["hinted_until"].as_str().map(drop));
    assert_eq!(circuit(&pair.one)["hinted_until"], Value::Null, "not of itself");
    assert_eq!(circuit(&pair.other)["state"], "closed");
    assert_eq!(pair.other.get("/").status, 200);
    assert!(pair.other.stderr().contains("another gateway has opened its own"));
    pair.fine.switch_to(fault::status(500));
    for _ in 0..3 {
        assert_eq!(pair.other.get("/").status, 500);
    }
    assert_eq!(circuit(&pair.other)["state"], "open", "after half as many failures");
    assert_eq!(circuit(&pair.other)["hinted_until"], Value::Null);
}

#[test]
fn hints_about_nothing_and_floods_of_them_change_nothing() {
    let pair = Pair::start();
    for message in ["", "nonsense", "00000000000000ff route:nobody", "ff main"] {
        pair.server.ask::<i64>(&["PUBLISH", "tollgate:circuits", message]);
    }
    for _ in 0..500 {
        pair.server.ask::<i64>(&["PUBLISH", "tollgate:circuits", "00000000000000ff main"]);
    }
    until("it has heard", || circuit(&pair.other)["hinted_until"].as_str().map(drop));
    let until_then = circuit(&pair.other)["hinted_until"].clone();
    pair.server.ask::<i64>(&["PUBLISH", "tollgate:circuits", "00000000000000ff main"]);
    for _ in 0..6 {
        assert_eq!(pair.other.get("/").status, 200);
    }
    let shown = circuit(&pair.other);
    assert_eq!((&shown["state"], &shown["hinted_until"]), (&json!("closed"), &until_then));
    assert_eq!(pair.other.stderr().matches("another gateway has opened").count(), 1);
}
