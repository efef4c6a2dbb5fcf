//! Gateways as their operators see them: with Redis, without it, and how many there are.

use serde_json::Value;
use std::time::Duration;

use crate::support::{Gateway, GatewayBuilder, RedisServer, Upstream, until};

/// A gateway that shares this Redis, with a patience that no test exhausts by accident.
pub(crate) fn sharing(upstream: &Upstream, server: &RedisServer) -> GatewayBuilder {
    let section = format!("{{url: \"{}\", timeout: 200ms, expected_gateways: 7}}", server.url());
    Gateway::before(upstream).redis(&section)
}

pub(crate) fn health(gateway: &Gateway) -> Value {
    let reply = gateway.admin_get("/health");
    assert_eq!(reply.status, 200);
    serde_json::from_str(&reply.text()).unwrap()
}

#[track_caller]
pub(crate) fn until_redis_is(state: &str, gateway: &Gateway) {
    until("Redis is as it should be", || (health(gateway)["redis"] == state).then_some(()));
}

#[test]
fn a_gateway_without_its_redis_serves_and_says_so() {
    let (upstream, mut server) = (Upstream::new(), RedisServer::absent(&[]));
    let gateway = sharing(&upstream, &server).start();
    assert_eq!(gateway.get("/").status, 200);
    let shown = health(&gateway);
    assert_eq!(shown["status"], "degraded");
    assert_eq!(shown["redis"], "down");
    assert_eq!(shown["gateways"], 7, "as expected, before any was seen");
    gateway.series_once("gateway_redis_up", 0.0);
    until("the log says so", || gateway.stderr().contains("Redis is not asked").then_some(()));
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(gateway.stderr().matches("Redis is not asked").count(), 1, "{}", gateway.stderr());
    server.run();
    until_redis_is("up", &gateway);
    until("it is alone", || (health(&gateway)["gateways"] == 1).then_some(()));
    assert_eq!(health(&gateway)["status"], "ok");
    gateway.series_once("gateway_redis_up", 1.0);
    server.kill();
    until_redis_is("down", &gateway);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(health(&gateway)["gateways"], 1, "as last known");
    assert_eq!(gateway.stderr().matches("Redis is reached").count(), 1, "{}", gateway.stderr());
    assert_eq!(gateway.stderr().matches("Redis is not asked").count(), 2, "{}", gateway.stderr());
}

#[test]
fn without_redis_in_the_file_there_is_none_to_be_down() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).redis("{url: \"${TOLLGATE_NO_REDIS:-}\"}").start();
    let shown = health(&gateway);
    assert_eq!((&shown["status"], &shown["redis"]), (&"ok".into(), &"off".into()));
    assert_eq!(shown["gateways"], Value::Null);
    assert!(!gateway.series().names().iter().any(|name| name.starts_with("gateway_redis")));
}

#[test]
fn a_ca_that_cannot_be_read_fails_the_start() {
    let upstream = Upstream::new();
    let section = "{url: \"rediss://127.0.0.1:1\", tls: {ca: missing.pem}}";
    let [data, admin, metrics] = crate::support::free_addresses();
    let mut gateway = Gateway::before(&upstream).redis(section).spawn(data, admin, metrics);
    let status = gateway.exit_within(crate::support::DEADLINE).expect("it ends");
    assert!(!status.success());
    until("it says why", || gateway.stderr().contains("redis.tls.ca: missing.pem").then_some(()));
}

#[test]
fn four_gateways_know_each_other_and_notice_when_one_is_killed_or_leaves() {
    let (upstream, server) = (Upstream::new(), RedisServer::start());
    let mut gateways: Vec<_> = (0..4).map(|_| sharing(&upstream, &server).start()).collect();
    let all_count = |gateways: &[Gateway], live: u32| {
        until("all know how many there are", || {
            gateways.iter().all(|gateway| health(gateway)["gateways"] == live).then_some(())
        });
    };
    all_count(&gateways, 4);
    gateways[3].kill();
    let killed = std::time::Instant::now();
    gateways.truncate(3);
    all_count(&gateways, 3);
    let took = killed.elapsed();
    assert!(took > Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");
    let mut leaving = gateways.pop().unwrap();
    leaving.terminate();
    assert!(leaving.exit_within(crate::support::DEADLINE).is_some());
    let members = server.ask::<u32>(&["ZCARD", "tollgate:gateways"]);
    assert_eq!(members, 2, "it took itself off");
    all_count(&gateways, 2);
}

#[test]
fn a_beat_from_a_clock_that_was_set_back_does_not_outlive_its_gateway() {
    let (upstream, server) = (Upstream::new(), RedisServer::start());
    let gateway = sharing(&upstream, &server).start();
    until("it is alone", || (health(&gateway)["gateways"] == 1).then_some(()));
    server.ask::<u32>(&["ZADD", "tollgate:gateways", "9000000000000000", "00000000000000ff"]);
    until("the other is counted", || (health(&gateway)["gateways"] == 2).then_some(()));
    until("and forgotten", || (health(&gateway)["gateways"] == 1).then_some(()));
}

#[test]
fn requests_are_served_while_redis_is_frozen() {
    let (upstream, server) = (Upstream::new(), RedisServer::start());
    let gateway = sharing(&upstream, &server).start();
    until_redis_is("up", &gateway);
    server.freeze();
    until_redis_is("down", &gateway);
    assert_eq!(gateway.get("/").status, 200);
    server.thaw();
    until_redis_is("up", &gateway);
}
