//! Upstreams and their servers: how they stand, and taking one out.

use super::*;
use crate::config::Concurrency;
use crate::policy::ejection::EjectionPolicy;
use crate::upstream::{Choice, Server};
use serde_json::json;
use std::collections::BTreeSet;

const LATER: &str = "/upstreams/users/servers/127.0.0.1:9001";

fn serving(servers: Vec<UpstreamServer>) -> Rig {
    let mut config = config();
    config.upstreams[0].servers = servers;
    Rig::serving(config)
}

fn name(host: &str, port: u16) -> UpstreamServer {
    UpstreamServer { address: ServerAddress::Name { host: host.into(), port }, weight: 3 }
}

fn choose(rig: &Rig) -> Option<Arc<Server>> {
    let choice = Choice { affinity: None, tried: &[], now_ns: clock::now_ns() };
    rig.gateway.generation().upstreams[0].choose(&choice)
}

/// The servers that get requests.
fn asked(rig: &Rig) -> BTreeSet<String> {
    (0..20).filter_map(|_| choose(rig)).map(|server| server.name.to_string()).collect()
}

async fn states(rig: &Rig) -> Vec<String> {
    let shown = rig.json("/upstreams").await;
    let servers = shown[0]["servers"].as_array().unwrap();
    servers.iter().map(|server| server["state"].as_str().unwrap().to_owned()).collect()
}

async fn put(rig: &Rig, target: &str, state: &str) -> Answer {
    rig.change(Method::PUT, target, &json!({"state": state}).to_string()).await
}

#[tokio::test]
async fn every_field_of_an_upstream_is_shown() {
    let mut config = config();
    let queue_timeout = Duration::from_secs(1);
    config.upstreams[0].concurrency = Some(Concurrency { max: 5, queue: 2, queue_timeout });
    config.upstreams.push(Upstream {
        name: "named".into(),
        servers: vec![name("nowhere.invalid", 80)],
        concurrency: None,
        ..config.upstreams[0].clone()
    });
    let rig = Rig::serving(config);
    let quiet = json!({
        "configured": "127.0.0.1:9001", "address": "127.0.0.1:9001", "weight": 1, "state": "up",
        "in_flight": 0, "latency_seconds": null, "ejected_seconds": null,
    });
    let second = json!({
        "configured": "127.0.0.1:9002", "address": "127.0.0.1:9002", "weight": 1, "state": "up",
        "in_flight": 0, "latency_seconds": null, "ejected_seconds": null,
    });
    let named = json!({
        "configured": "nowhere.invalid:80", "address": null, "weight": 3, "state": "unresolved",
        "in_flight": 0, "latency_seconds": null, "ejected_seconds": null,
    });
    assert_eq!(
        rig.json("/upstreams").await,
        json!([
            {"name": "users", "concurrency": {"max": 5, "used": 0, "queued": 0},
             "servers": [quiet, second]},
            {"name": "named", "concurrency": null, "servers": [named]},
        ])
    );

    let place = rig.gateway.generation().upstreams[0].places.as_ref().unwrap().try_take();
    let server = choose(&rig).unwrap();
    let load = server.enter();
    server.tell(true, 250_000_000, clock::now_ns());
    let shown = rig.json("/upstreams").await;
    assert_eq!(shown[0]["concurrency"]["used"], 1);
    let busy = &shown[0]["servers"][0];
    assert_eq!((&busy["in_flight"], &busy["latency_seconds"]), (&json!(1), &json!(0.25)));
    drop((place, load));
    let shown = rig.json("/upstreams").await;
    assert_eq!(shown[0]["concurrency"]["used"], 0);
    assert_eq!(shown[0]["servers"][0]["in_flight"], 0);
}

#[tokio::test]
async fn a_drained_server_gets_nothing_until_it_is_up_again() {
    let rig = Rig::new();
    assert_eq!(asked(&rig).len(), 2);
    for _ in 0..2 {
        let answer = put(&rig, LATER, "drain").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let upstream = answer.json();
        assert_eq!(upstream["name"], "users");
        assert_eq!(upstream["servers"][0]["state"], "drained");
        assert_eq!(upstream["servers"][1]["state"], "up");
    }
    assert_eq!(asked(&rig), ["127.0.0.1:9002".to_owned()].into());
    let health = rig.json("/health").await;
    assert_eq!(health["status"], "degraded");
    assert_eq!(health["upstreams"]["users"], json!({"healthy": 1, "total": 2}));
    put(&rig, "/upstreams/users/servers/127.0.0.1:9002", "drain").await;
    assert_eq!(asked(&rig).len(), 0, "an operator may take out all of them");

    assert_eq!(put(&rig, LATER, "up").await.json()["servers"][0]["state"], "up");
    assert_eq!(asked(&rig), ["127.0.0.1:9001".to_owned()].into());
    put(&rig, "/upstreams/users/servers/127.0.0.1:9002", "up").await;
    let health = rig.json("/health").await;
    assert_eq!((&health["status"], asked(&rig).len()), (&json!("ok"), 2));
}

#[tokio::test]
async fn servers_are_meant_by_any_spelling_of_their_address() {
    let rig = serving(vec![server("[2001:db8::1]:9001"), name("db.internal", 5432)]);
    for (index, target) in [
        (0, "/upstreams/users/servers/%5B2001%3Adb8%3A%3A1%5D%3A9001"),
        (0, "/upstreams/users/servers/%5B2001:db8::1%5D:9001"),
        (0, "/upstreams/users/servers/[2001:db8::1]:9001"),
        (0, "/upstreams/users/servers/%5B2001:DB8:0:0::1%5D:9001"),
        (1, "/upstreams/users/servers/db.internal:5432"),
        (1, "/upstreams/users/servers/DB.Internal%3A5432"),
    ] {
        assert_eq!(put(&rig, target, "drain").await.status, 200, "{target}");
        assert_eq!(states(&rig).await[index], "drained", "{target}");
        assert_eq!(put(&rig, target, "up").await.status, 200, "{target}");
        assert_ne!(states(&rig).await[index], "drained", "{target}");
    }
    assert_eq!(states(&rig).await, ["up", "unresolved"]);
    let health = rig.json("/health").await;
    assert_eq!(health["upstreams"]["users"], json!({"healthy": 1, "total": 2}));
    assert_eq!(health["status"], "degraded", "a name that does not resolve");
}

#[tokio::test]
async fn an_ejected_server_says_for_how_long_and_is_healthy_still() {
    let mut config = config();
    let base_ns = 60_000_000_000;
    config.upstreams[0].ejection =
        Some(EjectionPolicy { consecutive_failures: 1, base_ns, max_ns: base_ns });
    let rig = Rig::serving(config);
    choose(&rig).unwrap().tell(false, 0, clock::now_ns());
    let shown = rig.json("/upstreams").await;
    let server = &shown[0]["servers"][0];
    assert_eq!(server["state"], "ejected", "{shown}");
    let seconds = server["ejected_seconds"].as_f64().unwrap();
    assert!((50.0..60.1).contains(&seconds), "{seconds}");
    assert_eq!(rig.json("/health").await["upstreams"]["users"]["healthy"], 2);
    put(&rig, LATER, "drain").await;
    assert_eq!(states(&rig).await, ["drained", "up"], "what lasts longer is shown");
}

#[tokio::test]
async fn wrong_changes_name_the_field_and_change_nothing() {
    let rig = Rig::new();
    let cases = [
        ("{}", Some("state"), "drain or up"),
        (r#"{"state":"drained"}"#, Some("state"), "drain or up"),
        (r#"{"state":"Drain"}"#, Some("state"), "drain or up"),
        (r#"{"state":null}"#, Some("state"), "drain or up"),
        (r#"{"state":false}"#, Some("state"), "drain or up"),
        (r#"{"state":"drain","ttl":"1m"}"#, Some("ttl"), "known here: state"),
        (r#"{"state":"drain","state":"up"}"#, Some("state"), "occurs twice"),
        ("[]", None, "expected a JSON object"),
    ];
    for (body, field, says) in cases {
        let answer = rig.change(Method::PUT, LATER, body).await;
        assert_eq!(answer.status, 400, "{body}");
        let (named, detail) = answer.problem();
        assert_eq!(named.as_deref(), field, "{body}: {detail}");
        assert!(detail.contains(says), "{body}: {detail}");
    }
    assert_eq!(states(&rig).await, ["up", "up"]);
}

#[tokio::test]
async fn what_is_not_there_is_named_with_what_is() {
    let rig = Rig::new();
    for (target, field, there) in [
        ("/upstreams/nobody/servers/127.0.0.1:9001", "upstream", "users"),
        ("/upstreams/Users/servers/127.0.0.1:9001", "upstream", "users"),
        ("/upstreams/users/servers/127.0.0.1:9003", "address", "127.0.0.1:9001, 127.0.0.1:9002"),
        ("/upstreams/users/servers/127.0.0.1", "address", "127.0.0.1:9001, 127.0.0.1:9002"),
        ("/upstreams/users/servers/%5B::1%5D:9001", "address", "127.0.0.1:9001, 127.0.0.1:9002"),
        ("/upstreams/users/servers/a%2Fb", "address", "127.0.0.1:9001, 127.0.0.1:9002"),
    ] {
        let answer = put(&rig, target, "drain").await;
        assert_eq!(answer.status, 404, "{target}");
        let (named, detail) = answer.problem();
        assert_eq!(named.as_deref(), Some(field), "{target}");
        assert!(detail.ends_with(there), "{target}: {detail}");
    }
    for (target, field) in [
        ("/upstreams/%ff/servers/127.0.0.1:9001", "upstream"),
        ("/upstreams/users/servers/%ff", "address"),
    ] {
        let answer = put(&rig, target, "drain").await;
        assert_eq!((answer.status.as_u16(), answer.problem().0.as_deref()), (400, Some(field)));
    }
    assert_eq!(states(&rig).await, ["up", "up"]);
}
