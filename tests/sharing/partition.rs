//! One of four gateways is cut off from Redis by a network that goes silent: nothing is closed, and
//! nothing arrives. Then the network is whole again.

use crate::support::{Gateway, Link, RedisServer, Upstream, until};
use std::time::{Duration, Instant};

const GATEWAYS: usize = 4;
/// Far below what a request waits for on any other account, and above what a busy machine adds.
const TIMEOUT: Duration = Duration::from_millis(200);

/// Gateways of which the last has a way to Redis of its own.
struct Fleet {
    gateways: Vec<Gateway>,
    way: Link,
    redis: RedisServer,
    _upstream: Upstream,
}

impl Fleet {
    fn start(tier: &str) -> Fleet {
        let (upstream, redis) = (Upstream::new(), RedisServer::start());
        let way = Link::to(redis.address());
        let gateway = |url: String| {
            Gateway::before(&upstream)
                .redis(&format!("{{url: \"{url}\", timeout: {}ms}}", TIMEOUT.as_millis()))
                .clients("identify: [{header: X-Client-ID}, ip]\ndefault_tier: free")
                .tiers(&format!("free: {tier}"))
                .start()
        };
        let mut gateways: Vec<_> = (1..GATEWAYS).map(|_| gateway(redis.url())).collect();
        gateways.push(gateway(format!("redis://{}", way.address())));
        let fleet = Fleet { gateways, way, redis, _upstream: upstream };
        for gateway in &fleet.gateways {
            until("all know of each other", || {
                (gateway.admin_get("/health").json()["gateways"] == GATEWAYS).then_some(())
            });
        }
        fleet
    }

    fn others(&self) -> &[Gateway] {
        &self.gateways[..GATEWAYS - 1]
    }

    fn cut_off(&self) -> &Gateway {
        &self.gateways[GATEWAYS - 1]
    }

    fn partition(&self) {
        self.way.freeze();
        self.until_cut_off_says("down");
    }

    fn heal(&self) {
        self.way.restore();
        self.until_cut_off_says("up");
    }

    #[track_caller]
    fn until_cut_off_says(&self, state: &str) {
        until(&format!("Redis is {state}"), || {
            (self.cut_off().admin_get("/health").json()["redis"] == state).then_some(())
        });
    }
}

/// How many of so many requests of a client pass, sent to these gateways in turn.
#[track_caller]
fn passed(gateways: &[Gateway], client: &str, requests: usize) -> usize {
    let mut connections: Vec<_> = gateways.iter().map(Gateway::client).collect();
    let mut passed = 0;
    for number in 0..requests {
        let connection = &mut connections[number % gateways.len()];
        let status = connection.get_with("/", &[("X-Client-ID", client)]).status;
        assert!(matches!(status, 200 | 429), "{status}");
        passed += usize::from(status == 200);
    }
    passed
}

#[test]
fn a_gateway_that_is_cut_off_grants_its_part_and_the_others_stay_exact() {
    let fleet = Fleet::start("{rate: 1/h, burst: 40}");
    fleet.partition();
    assert_eq!(passed(fleet.others(), "somebody", 90), 40, "as if nothing were wrong");
    let begun = Instant::now();
    let of_cut_off = passed(std::slice::from_ref(fleet.cut_off()), "somebody", 90);
    let took = begun.elapsed();
    assert_eq!(of_cut_off, 10, "a quarter of the limit");
    // It knows that Redis is away, so none of ninety has waited.
    assert!(took < TIMEOUT * 90 / 4, "{took:?}");
    fleet.heal();
    assert_eq!(passed(&fleet.gateways, "somebody", 80), 0);
}

#[test]
fn what_a_gateway_granted_while_it_was_cut_off_is_missing_to_all_afterwards() {
    let fleet = Fleet::start("{rate: 1/h, burst: 40}");
    fleet.partition();
    assert_eq!(passed(std::slice::from_ref(fleet.cut_off()), "somebody", 90), 10);
    fleet.heal();
    // In the background; nobody else has a bucket, and a full one is not kept.
    until("the debt is charged", || {
        let buckets: Vec<String> = fleet.redis.ask(&["KEYS", "tollgate:limit:*"]);
        (!buckets.is_empty()).then_some(())
    });
    assert_eq!(passed(&fleet.gateways, "somebody", 120), 30);
}

#[test]
fn a_limit_that_is_leased_is_exceeded_by_no_more_than_a_part_and_what_was_on_lease() {
    let fleet = Fleet::start("{rate: 1/h, burst: 400}");
    // Some demand everywhere, so that each gateway holds tokens when it happens.
    let before = passed(&fleet.gateways, "somebody", 80);
    assert_eq!(before, 80);
    fleet.partition();
    let others = passed(fleet.others(), "somebody", 600);
    let of_cut_off = passed(std::slice::from_ref(fleet.cut_off()), "somebody", 300);
    assert!(before + others <= 400, "{before} and {others}");
    let sum = before + others + of_cut_off;
    assert!(sum <= 400 + 100 + 20, "{before}, {others} and {of_cut_off}");
    assert!(of_cut_off > 0, "it serves");
    fleet.heal();
    let afterwards = passed(&fleet.gateways, "somebody", 200);
    assert!(sum + afterwards <= 520, "{sum} and {afterwards}");
}

#[test]
fn requests_wait_for_a_silent_redis_no_longer_than_its_timeout() {
    let fleet = Fleet::start("{rate: 1000/s, burst: 100}");
    fleet.way.freeze();
    let cut_off = fleet.cut_off();
    let mut client = cut_off.client();
    let slowest = (0..30)
        .map(|number| {
            let begun = Instant::now();
            let name = number.to_string();
            assert_eq!(client.get_with("/", &[("X-Client-ID", &name)]).status, 200);
            begun.elapsed()
        })
        .max();
    assert!(slowest < Some(TIMEOUT * 2), "{slowest:?}");
    fleet.way.restore();
    fleet.until_cut_off_says("up");
}
