//! Several gateways over their real binary, sharing one Redis.

use crate::support::{Client, Gateway, GatewayBuilder, RedisServer, Upstream, until};
use std::thread;
use std::time::{Duration, Instant};

const GATEWAYS: usize = 4;

/// Gateways that identify clients by a header and share everything that is not local.
struct Fleet {
    gateways: Vec<Gateway>,
    _upstream: Upstream,
}

/// What was answered to requests.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: usize,
    limited: usize,
    other: usize,
}

impl Tally {
    fn note(&mut self, status: u16) {
        match status {
            200 => self.passed += 1,
            429 => self.limited += 1,
            _ => self.other += 1,
        }
    }

    fn and(self, other: Tally) -> Tally {
        Tally {
            passed: self.passed + other.passed,
            limited: self.limited + other.limited,
            other: self.other + other.other,
        }
    }
}

impl Fleet {
    fn start(redis: &RedisServer, tier: &str, limits: &str) -> Fleet {
        let upstream = Upstream::new();
        let builder = Gateway::before(&upstream)
            .redis(&format!("{{url: \"{}\", timeout: 500ms, expected_gateways: 4}}", redis.url()))
            .clients("identify: [{header: X-Client-ID}, ip]\ndefault_tier: free")
            .tiers(&format!("free: {tier}"))
            .limits(limits);
        let gateways: Vec<Gateway> = (0..GATEWAYS).map(|_| builder.start()).collect();
        let fleet = Fleet { gateways, _upstream: upstream };
        fleet.until_redis_is("up");
        fleet
    }

    fn until_redis_is(&self, state: &str) {
        for gateway in &self.gateways {
            until(&format!("Redis is {state}"), || {
                (gateway.admin_get("/health").json()["redis"] == state).then_some(())
            });
        }
    }

    /// Requests of one client, one after the other, at the gateways in turn.
    fn in_turn(&self, client: &str, requests: usize) -> Tally {
        let mut connections: Vec<Client> = self.gateways.iter().map(Gateway::client).collect();
        let mut tally = Tally::default();
        for number in 0..requests {
            let connection = &mut connections[number % GATEWAYS];
            tally.note(connection.get_with("/", &[("X-Client-ID", client)]).status);
        }
        tally
    }

    /// Requests of one client at all gateways at a time, as fast as they are answered.
    fn at_once(&self, client: &str, requests: usize) -> Tally {
        thread::scope(|scope| {
            let threads: Vec<_> = self
                .gateways
                .iter()
                .map(|gateway| {
                    scope.spawn(move || {
                        let (mut connection, mut tally) = (gateway.client(), Tally::default());
                        for _ in 0..requests {
                            let reply = connection.get_with("/", &[("X-Client-ID", client)]);
                            tally.note(reply.status);
                        }
                        tally
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .fold(Tally::default(), Tally::and)
        })
    }
}

/// How often the script has looked at a bucket, which it does once for each that it is called for.
fn calls(redis: &RedisServer) -> u64 {
    commands(redis, "hgetall")
}

/// How often a command was carried out.
fn commands(redis: &RedisServer, name: &str) -> u64 {
    let stats: String = redis.ask(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{name}:")));
    let calls = line.and_then(|line| line.split("calls=").nth(1)?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn a_small_limit_is_exact_over_all_gateways() {
    let redis = RedisServer::start();
    let fleet = Fleet::start(&redis, "{rate: 1/h, burst: 7}", "");
    let tally = fleet.in_turn("somebody", 40);
    assert_eq!(tally, Tally { passed: 7, limited: 33, other: 0 });
    let tally = fleet.at_once("somebody else", 20);
    assert_eq!(tally, Tally { passed: 7, limited: 73, other: 0 });
}

#[test]
fn who_is_over_the_limit_costs_redis_nothing() {
    let redis = RedisServer::start();
    let fleet = Fleet::start(&redis, "{rate: 1/h, burst: 3}", "");
    assert_eq!(fleet.in_turn("somebody", 20).passed, 3);
    let before = calls(&redis);
    assert_eq!(fleet.in_turn("somebody", 100), Tally { passed: 0, limited: 100, other: 0 });
    assert_eq!(calls(&redis), before);
}

#[test]
fn a_large_limit_is_spent_from_leases_never_beyond_it_and_nearly_to_the_end() {
    let redis = RedisServer::start();
    let fleet = Fleet::start(&redis, "{rate: 1/h, burst: 4000}", "");
    let before = calls(&redis);
    let tally = fleet.at_once("somebody", 800).and(fleet.at_once("somebody", 300));
    assert_eq!(tally.other, 0);
    assert!(tally.passed <= 4_000, "{tally:?}");
    assert!(tally.passed >= 3_800, "{tally:?}");
    let per_request = (calls(&redis) - before) as f64 / tally.passed as f64;
    assert!(per_request < 0.5, "{per_request} calls a request");
    // What one gateway did not spend has gone back: now all of it is spent.
    let mut passed = tally.passed;
    until("everything is spent", || {
        let more = fleet.in_turn("somebody", 40);
        passed += more.passed;
        assert!(passed <= 4_000);
        (passed == 4_000).then_some(())
    });
}

#[test]
fn buckets_that_run_out_together_are_spoken_of_in_one_call() {
    let redis = RedisServer::start();
    let own = "- {name: own, key: client, rate: 1/h, burst: 40000}";
    let fleet = Fleet::start(&redis, "{rate: 1/h, burst: 40000}", own);
    // Every script asks for the time, and only that of the roster removes by score.
    let scripts = || commands(&redis, "time") - commands(&redis, "zremrangebyscore");
    let before = (calls(&redis), scripts());
    let tally = fleet.at_once("somebody", 800);
    assert_eq!(tally, Tally { passed: 3_200, limited: 0, other: 0 });
    let (buckets, scripts) = (calls(&redis) - before.0, scripts() - before.1);
    assert!(buckets * 10 >= scripts * 17, "{scripts} calls about {buckets} buckets");
}

#[test]
fn a_request_that_a_local_limit_refuses_is_charged_to_no_shared_one() {
    let redis = RedisServer::start();
    let limits = "- {name: own, key: global, rate: 1/h, burst: 1, store: local}";
    let fleet = Fleet::start(&redis, "{rate: 1/h, burst: 8}", limits);
    // One of each gateway passes, all others fail by its own limit.
    assert_eq!(fleet.in_turn("somebody", 40), Tally { passed: 4, limited: 36, other: 0 });
    let client = fleet.gateways[0].admin_get("/clients/somebody").json();
    let tier = &client["limits"][0];
    assert!(tier["tokens_remaining"].as_u64().unwrap() >= 4, "{client}");
}

#[test]
fn a_limit_that_redis_decides_is_never_shown_as_a_bucket_that_keys_share_here() {
    let (redis, upstream) = (RedisServer::start(), Upstream::new());
    let gateway = Gateway::before(&upstream)
        .redis(&format!("{{url: \"{}\", timeout: 500ms}}", redis.url()))
        .clients("identify: [{header: X-Client-ID}, ip]\ndefault_tier: free")
        .tiers("free: {rate: 1/h, burst: 3}")
        .limits("- {name: own, key: client, rate: 1/h, burst: 70, store: local}")
        .limiter("slots: 1024")
        .start();
    let mut client = gateway.client();
    for id in 0..1_500 {
        client.get_with("/", &[("X-Client-ID", &format!("invented-{id}"))]);
    }
    let mut shared = 0;
    for id in (0..1_500).step_by(10) {
        let told = gateway.admin_get(&format!("/explain?path=/&client=invented-{id}")).json();
        let shown = gateway.admin_get(&format!("/clients/invented-{id}")).json();
        assert_eq!(told["limits"][0]["shared_bucket"], false, "{told}");
        assert!(shown["limits"][0]["shared_bucket"].is_null(), "{shown}");
        assert_eq!(shown["limits"][0]["refill_rate"], 1.0 / 3_600.0, "{shown}");
        shared += usize::from(shown["limits"][1]["shared_bucket"] == true);
    }
    assert!(shared > 10, "the local one is: {shared}");
}

#[test]
fn without_redis_each_gateway_has_its_share_and_owes_it_afterwards() {
    let mut redis = RedisServer::start();
    let fleet = Fleet::start(&redis, "{rate: 1/h, burst: 40}", "");
    until("all know of each other", || {
        let live = |gateway: &Gateway| gateway.admin_get("/health").json()["gateways"] == 4;
        fleet.gateways.iter().all(live).then_some(())
    });
    redis.kill();
    fleet.until_redis_is("down");
    let tally = fleet.in_turn("somebody", 80);
    assert_eq!(tally, Tally { passed: 40, limited: 40, other: 0 }, "ten at each");
    redis.run();
    fleet.until_redis_is("up");
    // The server came back empty. What was let pass without it is charged to it.
    until("debts are paid", || {
        let keys: Vec<String> = redis.ask(&["KEYS", "tollgate:limit:*"]);
        (!keys.is_empty()).then_some(())
    });
    thread::sleep(Duration::from_millis(200));
    assert_eq!(fleet.in_turn("somebody", 40).passed, 0);
}

#[test]
fn a_limit_says_what_becomes_of_requests_without_its_store() {
    let redis = RedisServer::absent(&[]);
    let upstream = Upstream::new();
    let limited = |on_failure: &str| {
        GatewayBuilder::default()
            .redis(&format!("{{url: \"{}\"}}", redis.url()))
            .tiers("free: {rate: 100000/s, burst: 100000}")
            .limits(&format!(
                "- {{name: all, key: global, rate: 1/h, burst: 2, on_store_failure: {on_failure}}}"
            ))
            .upstream("main", upstream.address())
            .routes("- {name: main, path: /, upstream: main}")
            .start()
    };
    for (on_failure, passed) in [("fair_share", 2), ("allow", 10), ("deny", 0)] {
        let gateway = limited(on_failure);
        let mut client = gateway.client();
        let mut tally = Tally::default();
        for _ in 0..10 {
            tally.note(client.get("/").status);
        }
        assert_eq!(tally, Tally { passed, limited: 10 - passed, other: 0 }, "{on_failure}");
    }
}

#[test]
fn a_shared_leaky_bucket_lets_requests_of_all_gateways_go_one_by_one() {
    let redis = RedisServer::start();
    let limits = "- {name: pace, key: global, rate: 20/s, algorithm: leaky_bucket, max_delay: 5s}";
    let fleet = Fleet::start(&redis, "{rate: 1000/s, burst: 1000}", limits);
    let begun = Instant::now();
    let tally = fleet.at_once("somebody", 5);
    assert_eq!(tally, Tally { passed: 20, limited: 0, other: 0 });
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(19 * 50), "{took:?} for 20 requests, 50 ms apart");
}

#[test]
fn what_was_charged_to_a_request_that_could_not_be_served_is_given_back() {
    let redis = RedisServer::start();
    let upstream = Upstream::new();
    let gateway = GatewayBuilder::default()
        .redis(&format!("{{url: \"{}\", timeout: 500ms}}", redis.url()))
        .clients("identify: [{header: X-Client-ID}]")
        .tiers("free: {rate: 1/h, burst: 5}")
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], concurrency: {{max: 1, queue: 0}}}}",
            upstream.address()
        ))
        .routes("- {name: main, path: /, upstream: main}")
        .start();
    until("Redis is up", || (gateway.admin_get("/health").json()["redis"] == "up").then_some(()));
    let gate = crate::support::Gate::default();
    upstream.switch_to(crate::support::Answer::Held(
        gate.clone(),
        Box::new(crate::support::ok("late")),
    ));
    let mut first = gateway.client();
    first.send("GET / HTTP/1.1\r\nHost: a\r\nX-Client-ID: one\r\n\r\n");
    upstream.wait_for(1);
    for _ in 0..20 {
        let reply = gateway.client().get_with("/", &[("X-Client-ID", "two")]);
        assert_eq!(reply.status, 503);
    }
    gate.open();
    assert_eq!(first.reply().status, 200);
    upstream.switch_back();
    let mut client = gateway.client();
    let mut passed = 0;
    until("all five are there again", || {
        passed += usize::from(client.get_with("/", &[("X-Client-ID", "two")]).status == 200);
        (passed == 5).then_some(())
    });
    assert_eq!(client.get_with("/", &[("X-Client-ID", "two")]).status, 429);
}
