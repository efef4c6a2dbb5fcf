//! Tiers, limits, keys and blocks that are set on one gateway and hold on all.

use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Gateway, GatewayBuilder, Link, RedisServer, Upstream, until};

/// A gateway that asks this Redis, alone with a registry of its own.
fn sharing(upstream: &Upstream, url: &str) -> GatewayBuilder {
    Gateway::before(upstream)
        .state_dir("state")
        .server("upgrade_socket: upgrade.sock")
        .redis(&format!("url: \"{url}\"\ntimeout: 100ms"))
        .clients("identify: [api_key, {header: X-Client-ID}, ip]\ndefault_tier: free")
        .tiers("free: {rate: 100000/s, burst: 100000}\ngold: {rate: 200000/s, burst: 200000}")
}

/// A change that must be made; its answer.
#[track_caller]
fn change(gateway: &Gateway, method: &str, target: &str, body: &str) -> Value {
    let reply = gateway.admin_request(method, target, &[], body);
    assert_eq!(reply.status, 200, "{method} {target}: {}", reply.text());
    reply.json()
}

fn tier(gateway: &Gateway, client: &str) -> String {
    gateway.admin_get(&format!("/clients/{client}")).json()["tier"].as_str().unwrap().to_owned()
}

#[track_caller]
fn until_tier(gateway: &Gateway, client: &str, wanted: &str) {
    until(&format!("{client} is {wanted}"), || (tier(gateway, client) == wanted).then_some(()));
}

fn status(gateway: &Gateway, header: (&str, &str)) -> u16 {
    gateway.client().get_with("/", &[header]).status
}

fn unshared(gateway: &Gateway) -> f64 {
    gateway.series().value("gateway_registry_unshared_entries")
}

fn redis_is_up(gateway: &Gateway, is_up: bool) {
    let wanted = f64::from(u8::from(is_up));
    until("the way to Redis is as it should be", || {
        let found = gateway.series().value("gateway_redis_up");
        ((found - wanted).abs() < 0.1).then_some(())
    });
}

/// Waits until `is_so`, and fails when that takes a second.
#[track_caller]
fn within_a_second(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    until(what, || is_so().then_some(()));
    assert!(begun.elapsed() < Duration::from_secs(1), "{what}: {:?}", begun.elapsed());
}

#[test]
fn what_is_set_on_one_gateway_acts_on_all_within_a_second() {
    let (server, upstream) = (RedisServer::start(), Upstream::new());
    let gateways = [(); 3].map(|()| sharing(&upstream, &server.url()).start());
    let [one, others @ ..] = &gateways;
    gateways.iter().for_each(|gateway| redis_is_up(gateway, true));

    change(one, "PUT", "/clients/a/tier", r#"{"tier":"gold"}"#);
    within_a_second("the tier", || others.iter().all(|other| tier(other, "a") == "gold"));

    change(one, "PUT", "/clients/a/limit", r#"{"capacity":2,"refill_rate":0.01}"#);
    let capacity = |gateway: &Gateway| {
        gateway.admin_get("/clients/a").json()["limits"][0]["capacity"].as_u64()
    };
    within_a_second("the limit", || others.iter().all(|other| capacity(other) == Some(2)));
    let answers = [(); 3].map(|()| status(&others[0], ("X-Client-ID", "a")));
    assert_eq!(answers, [200, 200, 429]);

    let key = change(one, "POST", "/clients/b/keys", "{}");
    let secret = key["secret"].as_str().unwrap();
    let accepts = |gateway: &Gateway| status(gateway, ("X-API-Key", secret)) == 200;
    within_a_second("the key", || others.iter().all(accepts));
    let target = format!("/clients/b/keys/{}", key["key"].as_str().unwrap());
    change(&others[1], "DELETE", &target, "");
    within_a_second("the key's end", || !gateways.iter().any(accepts));

    change(one, "PUT", "/blocks/client/c", "{}");
    let blocks = |gateway: &Gateway| status(gateway, ("X-Client-ID", "c")) == 403;
    within_a_second("the block", || others.iter().all(blocks));
    change(&others[0], "DELETE", "/blocks/client/c", "");
    within_a_second("the block's end", || !gateways.iter().any(blocks));
}

#[test]
fn a_gateway_that_joins_has_all_and_one_that_starts_without_redis_serves() {
    let (mut server, upstream) = (RedisServer::absent(&[]), Upstream::new());
    let one = sharing(&upstream, &server.url()).start();
    change(&one, "PUT", "/clients/a/tier", r#"{"tier":"gold"}"#);
    change(&one, "PUT", "/clients/b/tier", r#"{"tier":"gold"}"#);
    change(&one, "DELETE", "/clients/b/tier", "");
    assert!((unshared(&one) - 2.0).abs() < 0.1, "{}", unshared(&one));
    server.run();
    until("all is shared", || (unshared(&one) < 0.1).then_some(()));
    let newcomer = sharing(&upstream, &server.url()).start();
    until_tier(&newcomer, "a", "gold");
    assert_eq!(tier(&newcomer, "b"), "free");
}

#[test]
fn a_redis_that_is_killed_and_comes_back_empty_loses_nothing() {
    let (mut server, upstream) = (RedisServer::start(), Upstream::new());
    let [one, other] = [(); 2].map(|()| sharing(&upstream, &server.url()).start());
    change(&one, "PUT", "/clients/a/tier", r#"{"tier":"gold"}"#);
    change(&one, "PUT", "/clients/b/tier", r#"{"tier":"gold"}"#);
    until_tier(&other, "b", "gold");
    server.kill();
    redis_is_up(&one, false);
    redis_is_up(&other, false);
    change(&one, "DELETE", "/clients/a", "");
    change(&other, "PUT", "/clients/c/tier", r#"{"tier":"gold"}"#);
    assert_eq!(tier(&one, "b"), "gold", "nobody needs Redis to know a client");
    server.run();
    until_tier(&one, "c", "gold");
    until_tier(&other, "a", "free");
    let newcomer = sharing(&upstream, &server.url()).start();
    for (client, tier) in [("a", "free"), ("b", "gold"), ("c", "gold")] {
        until_tier(&newcomer, client, tier);
    }
}

#[test]
fn after_a_partition_the_later_write_stands_and_the_conflict_is_logged() {
    let (server, upstream) = (RedisServer::start(), Upstream::new());
    let way = Link::to(server.address());
    let one = sharing(&upstream, &format!("redis://{}", way.address())).start();
    let other = sharing(&upstream, &server.url()).start();
    change(&one, "PUT", "/clients/both/tier", r#"{"tier":"free"}"#);
    change(&one, "PUT", "/clients/too/tier", r#"{"tier":"free"}"#);
    until("they are known", || {
        let listed = other.admin_get("/clients?prefix=too").json();
        (listed["clients"].as_array().unwrap().len() == 1).then_some(())
    });
    way.cut();
    redis_is_up(&one, false);
    let (gold, limit) = (r#"{"tier":"gold"}"#, r#"{"capacity":5,"refill_rate":1}"#);
    // Versions count milliseconds.
    let later = || thread::sleep(Duration::from_millis(2));
    change(&one, "PUT", "/clients/both/tier", gold);
    later();
    change(&other, "PUT", "/clients/both/limit", limit);
    change(&other, "PUT", "/clients/too/limit", limit);
    later();
    change(&one, "PUT", "/clients/too/tier", gold);
    way.restore();
    // The other wrote `both` last, the one who was away `too`.
    until_tier(&other, "too", "gold");
    until_tier(&one, "both", "free");
    for (client, tier, capacity) in [("both", "free", 5), ("too", "gold", 200_000)] {
        for gateway in [&one, &other] {
            let found = gateway.admin_get(&format!("/clients/{client}")).json();
            let found = (found["tier"].as_str(), found["limits"][0]["capacity"].as_u64());
            assert_eq!(found, (Some(tier), Some(capacity)), "{client}");
        }
    }
    let log = one.stderr();
    let conflict = |client: &str, who: &str| {
        let mut lines = log.lines().filter(|line| line.contains("registry conflict"));
        let said = format!("client/{client} was written here");
        let found = lines.find(|line| line.contains(&said)).unwrap_or_else(|| panic!("{log}"));
        assert!(found.contains(who), "{found}");
    };
    conflict("both", "what the other wrote stands");
    conflict("too", "what was written here stands");
}

#[test]
fn a_change_that_was_acknowledged_while_redis_was_away_outlives_a_kill_and_reaches_the_others() {
    let (server, upstream) = (RedisServer::start(), Upstream::new());
    let way = Link::to(server.address());
    let mut one = sharing(&upstream, &format!("redis://{}", way.address())).start();
    let other = sharing(&upstream, &server.url()).start();
    for round in 0..3 {
        let client = format!("c{round}");
        way.cut();
        let key = change(&one, "POST", &format!("/clients/{client}/keys"), "{}");
        let secret = key["secret"].as_str().unwrap();
        one.kill();
        assert_eq!(status(&other, ("X-API-Key", secret)), 401);
        way.restore();
        one = one.another();
        assert_eq!(status(&one, ("X-API-Key", secret)), 200);
        until("the other takes the key", || {
            (status(&other, ("X-API-Key", secret)) == 200).then_some(())
        });
        // And with Redis there: what was answered is there at once.
        change(&one, "PUT", &format!("/clients/{client}/tier"), r#"{"tier":"gold"}"#);
        one.kill();
        one = one.another();
        assert_eq!(tier(&one, &client), "gold");
        until_tier(&other, &client, "gold");
    }
}

#[test]
fn a_successor_goes_on_sharing() {
    let (server, upstream) = (RedisServer::start(), Upstream::new());
    let mut one = sharing(&upstream, &server.url()).start();
    let other = sharing(&upstream, &server.url()).start();
    change(&one, "PUT", "/clients/a/tier", r#"{"tier":"gold"}"#);
    until_tier(&other, "a", "gold");
    let next = one.successor();
    one.signal("QUIT");
    assert!(one.exit_within(Duration::from_secs(20)).is_some(), "{}", one.stderr());
    until("the successor is ready", || (next.readiness() == Some(200)).then_some(()));
    assert_eq!(tier(&next, "a"), "gold");
    change(&next, "PUT", "/clients/b/tier", r#"{"tier":"gold"}"#);
    until_tier(&other, "b", "gold");
    change(&other, "PUT", "/clients/a/tier", r#"{"tier":"free"}"#);
    until_tier(&next, "a", "free");
}

#[test]
fn a_gateway_without_a_folder_has_all_again_after_a_restart() {
    let (server, upstream) = (RedisServer::start(), Upstream::new());
    let mut one = sharing(&upstream, &server.url()).state_dir("").start();
    redis_is_up(&one, true);
    change(&one, "PUT", "/clients/a/tier", r#"{"tier":"gold"}"#);
    until("it is shared", || (unshared(&one) < 0.1).then_some(()));
    one.kill();
    let one = one.another();
    until_tier(&one, "a", "gold");
}
