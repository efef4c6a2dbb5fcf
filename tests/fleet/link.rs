//! The way to Redis: up, down, and what a request notices of either.

use std::thread;
use std::time::{Duration, Instant};
use tokio::task::yield_now;
use tollgate::fleet::{LinkError, Script};

use crate::rig::{Attended, TIMEOUT};
use crate::support::{Link, RedisCluster, RedisSentinels, RedisServer};

fn to(server: &RedisServer) -> Attended {
    Attended::to(&format!("url: \"{}\"", server.url()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_run_and_are_counted() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
    assert_eq!(gateway.count("a").await.unwrap(), 2);
    assert_eq!(server.ask::<i64>(&["GET", "tollgate:a"]), 2);
    assert_eq!(gateway.sample("gateway_redis_calls_total", Some("ok")), 2.0);
    assert_eq!(gateway.sample("gateway_redis_up", None), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_redis_has_forgotten_runs_all_the_same() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    for expected in 1..=5 {
        assert_eq!(gateway.count("a").await.unwrap(), expected);
        server.ask::<()>(&["SCRIPT", "FLUSH"]);
    }
    assert!(gateway.link.is_up());
    assert_eq!(gateway.sample("gateway_redis_calls_total", Some("ok")), 5.0);
    assert_eq!(gateway.sample("gateway_redis_calls_total", Some("error")), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_later_is_found() {
    let mut server = RedisServer::absent(&[]);
    let gateway = to(&server);
    let (took, error) = gateway.failing().await;
    assert!(matches!(error, LinkError::Down), "{error}");
    assert!(took < TIMEOUT, "{took:?}");
    assert!(!gateway.link.is_up());
    server.run();
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_delays_nobody_and_is_found_again() {
    let mut server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.kill();
    let (took, _) = gateway.failing().await;
    assert!(took < TIMEOUT, "{took:?}");
    gateway.until_up(false).await;
    assert_eq!(gateway.sample("gateway_redis_up", None), 0.0);
    let (took, error) = gateway.failing().await;
    assert!(matches!(error, LinkError::Down), "{error}");
    assert!(took < TIMEOUT / 10, "{took:?}");
    server.run();
    let begun = Instant::now();
    gateway.until_up(true).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(gateway.count("a").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_frozen_delays_few_by_the_timeout_and_then_nobody() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.freeze();
    let mut waited = 0;
    for _ in 0..20 {
        let (took, error) = gateway.failing().await;
        match error {
            LinkError::Down => assert!(took < TIMEOUT / 10, "{took:?}"),
            error => {
                waited += 1;
                assert!(error.may_have_run(), "{error}");
                assert!(took < TIMEOUT + Duration::from_millis(50), "{took:?}");
            }
        }
    }
    assert!((1..=3).contains(&waited), "{waited}");
    assert!(!gateway.link.is_up());
    server.thaw();
    let begun = Instant::now();
    gateway.until_up(true).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_little_time_left_waits_no_longer_and_has_not_found_redis_slow() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    gateway.count("hasty").await.expect("Redis knows the script from here on");
    server.freeze();
    for _ in 0..10 {
        let begun = Instant::now();
        let answer = gateway.count_until("hasty", begun + TIMEOUT / 40).await;
        assert!(matches!(answer, Err(LinkError::Timeout)), "{answer:?}");
        assert!(begun.elapsed() < TIMEOUT / 2, "{:?}", begun.elapsed());
    }
    let answer = gateway.count_until("late", Instant::now()).await;
    assert!(matches!(answer, Err(LinkError::Timeout)), "{answer:?}");
    assert!(gateway.link.is_up(), "ten that had no patience are no failure");
    server.thaw();
    let (hasty, late) = (gateway.count("hasty").await, gateway.count("late").await);
    assert!(matches!(hasty, Ok(12)), "what was sent is carried out later: {hasty:?}");
    assert!(matches!(late, Ok(1)), "nothing is sent for who has no time at all: {late:?}");
}

#[tokio::test]
async fn a_gateway_that_was_late_itself_finds_the_answer_and_no_slow_redis() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    gateway.count("a").await.expect("Redis knows the script from here on");
    for expected in 2..=20 {
        let be_late = async {
            // Redis has answered, and nobody has had the time to read it.
            while server.ask::<i64>(&["GET", "tollgate:a"]) != expected {
                yield_now().await;
            }
            thread::sleep(2 * TIMEOUT);
        };
        let (answer, ()) = tokio::join!(gateway.count("a"), be_late);
        assert!(matches!(answer, Ok(count) if count == expected), "{answer:?}");
    }
    assert_eq!(gateway.sample("gateway_redis_calls_total", Some("timeout")), 0.0);
    assert!(gateway.link.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_are_ended_when_others_have_found_that_nobody_answers() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.freeze();
    let script = Script::new("return 1");
    let patient = gateway.link.run(&script, &["tollgate:a"], &["b"], Duration::from_secs(60));
    let begun = Instant::now();
    let (patient, ..) =
        tokio::join!(patient, gateway.failing(), gateway.failing(), gateway.failing());
    assert!(matches!(patient, Err(LinkError::Cut)), "{patient:?}");
    assert!(begun.elapsed() < 2 * TIMEOUT, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_link_notices_by_itself() {
    let mut server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.kill();
    gateway.until_up(false).await;
    server.run();
    gateway.until_up(true).await;
    server.freeze();
    gateway.until_up(false).await;
    server.thaw();
    gateway.until_up(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_to_write_is_not_asked() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    gateway.until_up(false).await;
    server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_of_one_call_says_nothing_about_redis() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.ask::<()>(&["RPUSH", "tollgate:list", "x"]);
    for _ in 0..10 {
        let error = gateway.count("list").await.unwrap_err();
        assert!(matches!(error, LinkError::Refused(_)), "{error}");
        assert!(!error.may_have_run());
    }
    assert!(gateway.link.is_up());
    assert_eq!(gateway.sample("gateway_redis_calls_total", Some("error")), 10.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_told() {
    let server = RedisServer::with(&["--requirepass", "secret"]);
    let gateway = to(&server);
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
    let wrong = Attended::to(&format!("url: \"redis://:wrong@{}\"", server.address()));
    crate::support::until("it was refused", || {
        let refusals: Vec<redis::Value> = server.ask(&["ACL", "LOG"]);
        (!refusals.is_empty()).then_some(())
    });
    assert!(!wrong.link.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_reset_is_made_again_at_once() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let changes = gateway.link.changes();
    server.ask::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
    let begun = Instant::now();
    while gateway.count("a").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!changes.has_changed().unwrap(), "it was never down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_resets_makes_few_connections() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    let connections = || -> i64 {
        let info: String = server.ask(&["INFO", "STATS"]);
        let line = info.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().parse().unwrap()
    };
    let (before, begun, mut own) = (connections(), Instant::now(), 1);
    while begun.elapsed() < Duration::from_secs(3) {
        server.ask::<()>(&["CLIENT", "KILL", "TYPE", "normal"]);
        own += 1;
        let _ = gateway.count("a").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let made = connections() - before - own;
    assert!((2..=20).contains(&made), "{made}");
    gateway.until_up(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_one_address_a_server_that_became_a_replica_is_left() {
    let (primary, server) = (RedisServer::start(), RedisServer::start());
    let gateway = to(&server);
    gateway.until_up(true).await;
    let port = primary.address().port().to_string();
    server.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    gateway.until_up(false).await;
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    gateway.until_up(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_asked_by_slot_and_followed_where_a_slot_goes() {
    let cluster = RedisCluster::start();
    let gateway = Attended::to(&format!("url: {}, cluster: true", cluster.urls()));
    gateway.until_up(true).await;
    for key in 0..50 {
        assert_eq!(gateway.count(&key.to_string()).await.unwrap(), 1, "{key}");
    }
    for node in &cluster.nodes {
        assert!(node.ask::<i64>(&["DBSIZE"]) > 5);
    }
    let slot: u16 = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", "tollgate:7"]);
    let from = usize::from(slot / 5461).min(2);
    cluster.move_slot(slot, from, (from + 1) % 3);
    for expected in 2..10 {
        assert_eq!(gateway.count("7").await.unwrap(), expected);
    }
    assert!(gateway.link.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_the_file_that_answers_nobody_does_not_hide_the_cluster() {
    let (cluster, hole) = (RedisCluster::start(), RedisServer::start());
    hole.freeze();
    let urls = [hole.url(), cluster.nodes[0].url()].map(|url| format!("\"{url}\""));
    let gateway = Attended::to(&format!("url: [{}], cluster: true", urls.join(", ")));
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_without_one_of_its_masters_is_down_until_that_is_back() {
    let mut cluster = RedisCluster::start();
    let gateway = Attended::to(&format!("url: {}, cluster: true", cluster.urls()));
    gateway.until_up(true).await;
    cluster.nodes[1].freeze();
    gateway.until_up(false).await;
    cluster.nodes[1].thaw();
    gateway.until_up(true).await;
    cluster.nodes[2].kill();
    gateway.until_up(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_pauses_its_clients_is_left_until_it_goes_on() {
    let server = RedisServer::start();
    let gateway = to(&server);
    gateway.until_up(true).await;
    server.ask::<()>(&["CLIENT", "PAUSE", "3000", "ALL"]);
    gateway.until_up(false).await;
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_swallows_everything_is_left_and_found_again() {
    let server = RedisServer::start();
    let network = Link::to(server.address());
    let gateway = Attended::to(&format!("url: \"redis://{}\"", network.address()));
    let mut news = gateway.link.subscribe("news");
    gateway.until_up(true).await;
    receive(&gateway, &mut news, b"before").await;
    for _ in 0..2 {
        network.freeze();
        gateway.until_up(false).await;
        let (took, error) = gateway.failing().await;
        assert!(matches!(error, LinkError::Down) && took < TIMEOUT / 10, "{took:?} {error}");
        network.restore();
        gateway.until_up(true).await;
        receive(&gateway, &mut news, b"after").await;
        network.cut();
        gateway.until_up(false).await;
        network.restore();
        gateway.until_up(true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_are_asked_again_after_a_failover() {
    let mut all = RedisSentinels::start();
    let section = format!("url: {}, sentinel: {{master: main}}", all.urls());
    let gateway = Attended::to(&section);
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
    all.servers[0].kill();
    gateway.until_up(false).await;
    gateway.until_up(true).await;
    gateway.count("b").await.unwrap();
    assert_eq!(all.servers[1].ask::<i64>(&["GET", "tollgate:b"]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_reach_all_who_listen_and_survive_a_restart() {
    let mut server = RedisServer::start();
    let [one, other] = [to(&server), to(&server)];
    let mut news = other.link.subscribe("news");
    for link in [&one, &other] {
        link.until_up(true).await;
    }
    receive(&one, &mut news, b"a").await;
    server.kill();
    one.until_up(false).await;
    other.until_up(false).await;
    server.run();
    one.until_up(true).await;
    receive(&one, &mut news, b"b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cross_a_cluster() {
    let cluster = RedisCluster::start();
    let section = |node: usize| format!("url: \"{}\", cluster: true", cluster.nodes[node].url());
    let [one, other] = [Attended::to(&section(0)), Attended::to(&section(1))];
    let mut news = other.link.subscribe("news");
    one.until_up(true).await;
    receive(&one, &mut news, b"a").await;
}

/// Sends until it comes: nobody says when the other side has begun to listen.
pub(crate) async fn receive(
    from: &Attended,
    news: &mut tollgate::fleet::channels::Messages,
    text: &[u8],
) {
    let arrives = async {
        loop {
            let _ = from.link.publish("news", text).await;
            let wait = tokio::time::timeout(Duration::from_millis(100), news.recv());
            match wait.await {
                Ok(message) if message.as_deref() == Some(text) => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(crate::support::DEADLINE, arrives).await.expect("a message");
}
