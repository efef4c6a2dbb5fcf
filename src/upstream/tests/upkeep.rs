//! Names and health checks over real sockets and the system's resolver.

use super::*;
use crate::config::{HealthCheck, HealthCheckKind};
use std::sync::Weak;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(20);

async fn until(what: &str, is_true: impl Fn() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_true() {
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A server whose answer can be changed.
struct Patient {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    checks: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Patient {
    async fn new(status: u16) -> Patient {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let status = Arc::new(AtomicU16::new(status));
        let checks = Arc::new(AtomicUsize::new(0));
        let mut serving = JoinSet::new();
        let (answer, count) = (status.clone(), checks.clone());
        serving.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let status = answer.load(Ordering::Relaxed);
                let _ = stream.read(&mut [0; 512]).await;
                let text = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.write_all(text.as_bytes()).await;
            }
        });
        Patient { address, status, checks, _serving: serving }
    }

    fn server(&self) -> UpstreamServer {
        UpstreamServer { address: ServerAddress::Ip(self.address), weight: 1 }
    }

    fn answer(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }

    fn checks(&self) -> usize {
        self.checks.load(Ordering::Relaxed)
    }
}

fn checked(servers: Vec<UpstreamServer>, interval: Duration) -> Arc<Upstream> {
    let config = config::Upstream {
        health_check: Some(HealthCheck {
            kind: HealthCheckKind::Http { path: "/health".into() },
            interval,
            timeout: Duration::from_secs(5),
            healthy_after: 2,
            unhealthy_after: 3,
        }),
        ..config(servers, Balance::RoundRobin)
    };
    let upstream = Upstream::new(&config, &Metrics::register(&Registry::new()).unwrap());
    upstream.spawn_upkeep(&Handle::current());
    upstream
}

const OFTEN: Duration = Duration::from_millis(10);

#[tokio::test]
async fn a_server_that_fails_its_checks_is_left_out_until_it_passes_them() {
    let (well, ill) = (Patient::new(200).await, Patient::new(200).await);
    let upstream = checked(vec![well.server(), ill.server()], OFTEN);
    assert_eq!(upstream.counts(), (2, 2), "healthy before the first check");
    ill.answer(503);
    until("it is unhealthy", || upstream.counts() == (1, 2)).await;
    assert!(ill.checks() >= 3);
    for _ in 0..10 {
        assert_eq!(upstream.choose(&at(START)).unwrap().address, Some(well.address));
    }
    ill.answer(204);
    let before = ill.checks();
    until("it is healthy", || upstream.counts() == (2, 2)).await;
    assert!(ill.checks() >= before + 2);
}

#[tokio::test]
async fn the_first_check_comes_soon_however_long_the_interval() {
    let patient = Patient::new(200).await;
    let upstream = checked(vec![patient.server()], Duration::from_secs(3_600));
    let begin = Instant::now();
    until("it was checked", || patient.checks() == 1).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(upstream.counts(), (1, 1));
}

#[tokio::test]
async fn when_all_are_unhealthy_nobody_is_asked() {
    let patient = Patient::new(500).await;
    let upstream = checked(vec![patient.server()], OFTEN);
    until("it is unhealthy", || upstream.counts() == (0, 1)).await;
    assert!(upstream.choose(&at(START)).is_none());
}

#[tokio::test]
async fn checks_follow_the_addresses_of_a_name() {
    let (first, second) = (Patient::new(500).await, Patient::new(500).await);
    // Nothing but the test says where it is: it is looked up in vain.
    let upstream = checked(vec![named("nonexistent.invalid")], OFTEN);
    upstream.servers.resolved(0, vec![first.address], START);
    until("the first is unhealthy", || upstream.counts() == (0, 1)).await;
    upstream.servers.resolved(0, vec![second.address], START);
    assert_eq!(upstream.counts(), (1, 1), "a new server is healthy at first");
    until("the second is unhealthy", || upstream.counts() == (0, 1)).await;
    let (before, seen) = (first.checks(), second.checks());
    until("the second is checked further", || second.checks() >= seen + 5).await;
    assert!(first.checks() <= before + 1, "who left is not checked, but one may be under way");
}

#[tokio::test]
async fn upkeep_ends_with_its_upstream() {
    let patient = Patient::new(200).await;
    for is_retired in [false, true] {
        let upstream = checked(vec![patient.server(), named("localhost")], OFTEN);
        let servers = Arc::downgrade(&upstream.servers);
        let before = patient.checks();
        until("it is checked", || patient.checks() > before).await;
        let tasks = |servers: &Weak<_>| Weak::strong_count(servers);
        if is_retired {
            upstream.retire();
            until("only the upstream holds its servers", || tasks(&servers) == 1).await;
        } else {
            drop(upstream);
            until("nobody holds its servers", || tasks(&servers) == 0).await;
        }
    }
}

fn resolving(hosts: &[&str]) -> Arc<Upstream> {
    let servers = hosts.iter().map(|host| named(host)).collect();
    let upstream = upstream(servers, Balance::RoundRobin);
    upstream.spawn_upkeep(&Handle::current());
    upstream
}

#[tokio::test]
async fn a_name_that_resolves_becomes_servers_and_one_that_does_not_stays_unhealthy() {
    let upstream = resolving(&["localhost", "nonexistent.invalid"]);
    until("localhost is found", || upstream.counts().0 >= 1).await;
    let asked = tokio::time::timeout(DEADLINE, upstream.settled()).await;
    asked.unwrap();
    let views = upstream.servers(START);
    assert!(views[0].address.unwrap().ip().is_loopback(), "{views:?}");
    assert_eq!(views[0].address.unwrap().port(), 80);
    let last = views.last().unwrap();
    assert_eq!((&*last.configured, last.state.label()), ("nonexistent.invalid:80", "unresolved"));
    assert_eq!(upstream.counts(), (views.len() - 1, views.len()));
}

#[tokio::test]
async fn addresses_alone_are_settled_at_once() {
    let upstream = upstream(weighing(&[1]), Balance::RoundRobin);
    upstream.settled().await;
}

#[tokio::test]
async fn the_end_of_an_ejection_reaches_the_gauge_without_a_request() {
    let registry = Registry::new();
    let config = config::Upstream {
        ejection: Some(EjectionPolicy {
            consecutive_failures: 1,
            base_ns: 50_000_000,
            max_ns: SECOND,
        }),
        ..config(weighing(&[1, 1]), Balance::RoundRobin)
    };
    let upstream = Upstream::new(&config, &Metrics::register(&registry).unwrap());
    upstream.spawn_upkeep(&Handle::current());
    fail(&upstream, 1, 1, crate::clock::now_ns());
    assert_eq!(gauge(&registry, "gateway_upstream_ejected"), 1);
    until("the gauge is down", || gauge(&registry, "gateway_upstream_ejected") == 0).await;
}

#[tokio::test]
async fn a_retired_upstream_leaves_the_gauges_to_its_successor() {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let old = Upstream::new(&config(weighing(&[1, 1]), Balance::RoundRobin), &metrics);
    let _new = Upstream::new(&config(weighing(&[1, 1, 1]), Balance::RoundRobin), &metrics);
    old.retire();
    old.set_drained("10.0.0.1:1001", true);
    fail(&old, 2, 3, START);
    assert_eq!(gauge(&registry, "gateway_upstream_healthy"), 3);
    assert_eq!(gauge(&registry, "gateway_upstream_ejected"), 0);
}
