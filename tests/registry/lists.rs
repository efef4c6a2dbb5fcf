//! Clients in pages, by prefix, and many at a time.

use crate::rig::{all_of, change, lasting};
use crate::support::Upstream;
use serde_json::{Value, json};

fn ids(clients: &[Value]) -> Vec<&str> {
    clients.iter().map(|client| client["client"].as_str().unwrap()).collect()
}

#[test]
fn clients_of_the_file_and_of_the_registry_come_in_one_order() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    for id in ["zeta", "alpha", "filed", "g", "fi"] {
        change(&gateway, "PUT", &format!("/clients/{id}/tier"), r#"{"tier":"GOLD"}"#);
    }
    change(&gateway, "PUT", "/clients/own/limit", r#"{"capacity":7,"refill_rate":0.5}"#);
    let expected = ["alpha", "fi", "filed", "g", "own", "zeta"];
    for limit in [1, 2, 3, 100] {
        assert_eq!(ids(&all_of(&gateway, "clients", limit)), expected, "{limit}");
    }
    let page = gateway.admin_get("/clients?prefix=fi").json();
    let gold = json!({"tier": "gold", "capacity": null, "refill_rate": null});
    assert_eq!(
        page,
        json!({"next": null, "clients": [
            {"client": "fi", "tier": "gold", "configured": false, "changed": gold},
            {"client": "filed", "tier": "gold", "configured": true, "changed": gold},
        ]})
    );
    let own = gateway.admin_get("/clients?prefix=own").json();
    let changed = json!({"tier": null, "capacity": 7, "refill_rate": 0.5});
    assert_eq!(own["clients"][0]["changed"], changed);
    assert_eq!(own["clients"][0]["tier"], "free");

    change(&gateway, "DELETE", "/clients/filed/tier", "");
    change(&gateway, "DELETE", "/clients/zeta", "");
    let left = all_of(&gateway, "clients", 100);
    assert_eq!(ids(&left), ["alpha", "fi", "filed", "g", "own"]);
    assert_eq!(left[2]["changed"], Value::Null);
}

#[test]
fn many_clients_are_set_together_or_not_at_all() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let rows: Vec<Value> = (0..400)
        .map(|number| json!({"client": format!("c{number:03}"), "tier": "gold"}))
        .chain([json!({"client": "own", "capacity": 5, "refill_rate": 1})])
        .collect();
    let body = json!({"clients": rows}).to_string();
    assert_eq!(change(&gateway, "POST", "/clients", &body)["imported"], 401);
    assert_eq!(change(&gateway, "POST", "/clients", &body)["imported"], 401, "and again");
    assert_eq!(all_of(&gateway, "clients", 100).len(), 402);
    let wrong = json!({"clients": [
        {"client": "new", "tier": "gold", "line": 7},
        {"client": "new", "tier": "free", "line": 8},
        {"client": "a b", "tier": "gold", "line": 9},
        {"client": "x", "tier": "platinum", "line": 10},
        {"client": "x", "capacity": 5},
        {"client": "x"},
        "x",
    ]});
    let reply = gateway.admin_request("POST", "/clients", &[], &wrong.to_string());
    assert_eq!(reply.status, 400);
    let errors = reply.json()["errors"].as_array().unwrap().clone();
    let told = |index: usize, word: &str| {
        let error = errors[index].as_str().unwrap();
        assert!(error.contains(word), "{error} {word}");
    };
    told(0, "line 8: new is there twice");
    told(1, "line 9: client");
    told(2, "line 10: tier is wrong");
    told(3, "line 5: refill_rate is missing");
    told(4, "line 6: a client needs");
    told(5, "line 7: ");
    assert_eq!(all_of(&gateway, "clients", 1_000).len(), 402, "nothing was set");
}
