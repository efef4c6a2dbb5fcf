//! Who is taken out for failing.

use super::*;
use proptest::prelude::*;

fn out(upstream: &Upstream, now_ns: u64) -> Vec<u8> {
    let set = upstream.servers.current();
    let out = set.servers.iter().filter(|server| server.ejection().is_out(now_ns));
    out.filter_map(|server| server.address).map(|a| (a.port() - 1_000) as u8).collect()
}

#[test]
fn failures_in_a_row_take_a_server_out_until_its_time_is_over() {
    let upstream = upstream(weighing(&[1, 1]), Balance::RoundRobin);
    fail(&upstream, 1, 2, START);
    server(&upstream, 1).tell(true, 1, START);
    fail(&upstream, 1, 2, START);
    assert!(out(&upstream, START).is_empty(), "a success began the count anew");
    fail(&upstream, 1, 1, START);
    assert_eq!(out(&upstream, START), [1]);
    assert_eq!(counts(&upstream, 10, START), BTreeMap::from([(2, 10)]));
    let back = START + 10 * SECOND;
    assert_eq!(counts(&upstream, 10, back), BTreeMap::from([(1, 5), (2, 5)]));
}

#[test]
fn no_more_than_half_are_out_and_the_spared_must_fail_again() {
    for (servers, most) in [(1_u8, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let upstream = upstream(weighing(&vec![1; servers.into()]), Balance::RoundRobin);
        for _ in 0..5 {
            (1..=servers).for_each(|n| fail(&upstream, n, 3, START));
        }
        assert_eq!(out(&upstream, START).len(), most, "of {servers}");
        // When the time of those is over, the others need a whole run to go.
        let later = START + 10 * SECOND;
        fail(&upstream, servers, 2, later);
        assert!(out(&upstream, later).is_empty());
        fail(&upstream, servers, 1, later);
        assert_eq!(out(&upstream, later).len(), most.min(1));
    }
}

#[test]
fn who_is_drained_or_unhealthy_leaves_less_to_eject() {
    let upstream = upstream(weighing(&[1; 4]), Balance::RoundRobin);
    upstream.set_drained("10.0.0.4:1004", true);
    upstream.servers.set_healthy(&server(&upstream, 3), false);
    fail(&upstream, 1, 3, START);
    fail(&upstream, 2, 3, START);
    assert_eq!(out(&upstream, START), [1]);
}

#[test]
fn without_a_policy_nobody_is_taken_out() {
    let config =
        config::Upstream { ejection: None, ..config(weighing(&[1, 1]), Balance::RoundRobin) };
    let upstream = Upstream::new(&config, &Metrics::register(&Registry::new()).unwrap());
    fail(&upstream, 1, 100, START);
    assert!(out(&upstream, START).is_empty());
}

#[test]
fn when_the_set_shrinks_who_has_least_left_comes_back() {
    let upstream = upstream(vec![named("a")], Balance::RoundRobin);
    let resolve = |n: &[u8], now| {
        upstream.servers.resolved(0, n.iter().map(|&n| address(n)).collect(), now);
    };
    resolve(&[1, 2, 3, 4], START);
    fail(&upstream, 1, 3, START);
    fail(&upstream, 2, 3, START + SECOND);
    resolve(&[1, 2], START + 2 * SECOND);
    assert_eq!(out(&upstream, START + 2 * SECOND), [2]);
}

#[test]
fn the_gauge_follows_ejections_and_their_end() {
    let registry = Registry::new();
    let config = config(weighing(&[1; 4]), Balance::RoundRobin);
    let upstream = Upstream::new(&config, &Metrics::register(&registry).unwrap());
    fail(&upstream, 1, 3, START);
    fail(&upstream, 2, 3, START + SECOND);
    assert_eq!(gauge(&registry, "gateway_upstream_ejected"), 2);
    assert_eq!(gauge(&registry, "gateway_upstream_healthy"), 4, "ejection is not health");
    let first_end = START + 10 * SECOND;
    assert_eq!(upstream.servers.end_ejections(START + 2 * SECOND), Some(first_end));
    assert_eq!(upstream.servers.end_ejections(first_end), Some(first_end + SECOND));
    assert_eq!(gauge(&registry, "gateway_upstream_ejected"), 1);
    assert_eq!(upstream.servers.end_ejections(first_end + SECOND), None);
    assert_eq!(gauge(&registry, "gateway_upstream_ejected"), 0);
}

#[test]
fn a_server_that_left_the_set_or_whose_upstream_is_gone_takes_no_place() {
    let upstream = upstream(vec![named("a")], Balance::RoundRobin);
    let resolve = |n: &[u8]| {
        upstream.servers.resolved(0, n.iter().map(|&n| address(n)).collect(), START);
    };
    resolve(&[1, 2, 3]);
    let gone = server(&upstream, 3);
    resolve(&[1, 2]);
    (0..3).for_each(|_| gone.tell(false, 0, START));
    fail(&upstream, 1, 3, START);
    assert_eq!(out(&upstream, START), [1]);
    let last = server(&upstream, 2);
    drop(upstream);
    (0..9).for_each(|_| last.tell(false, 0, START));
    assert!(!last.ejection().is_out(START));
}

#[test]
fn threads_that_see_all_servers_fail_never_take_out_more_than_half() {
    for _ in 0..20 {
        let upstream = upstream(weighing(&[1; 5]), Balance::RoundRobin);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let upstream = &upstream;
                scope.spawn(move || {
                    for turn in 0..60 {
                        fail(upstream, 1 + (turn + thread) % 5, 1, START);
                        assert!(out(upstream, START).len() <= 2);
                    }
                });
            }
        });
        assert_eq!(out(&upstream, START).len(), 2);
    }
}

/// Something that happens to one of eight servers.
#[derive(Debug, Clone)]
enum Event {
    Failures(u8, u32),
    Success(u8),
    Time(u64),
    Drain(u8, bool),
    Health(u8, bool),
    Resolve(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1..9_u8, 1..4_u32).prop_map(|(n, times)| Event::Failures(n, times)),
        2 => (1..9_u8).prop_map(Event::Success),
        2 => (0..30 * SECOND).prop_map(Event::Time),
        1 => (1..9_u8, any::<bool>()).prop_map(|(n, is)| Event::Drain(n, is)),
        1 => (1..9_u8, any::<bool>()).prop_map(|(n, is)| Event::Health(n, is)),
        1 => prop::collection::vec(1..9_u8, 1..9).prop_map(Event::Resolve),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_no_more_than_half_are_out_and_some_server_answers(
        events in prop::collection::vec(event(), 1..120),
    ) {
        let upstream = upstream(vec![named("a")], Balance::LeastLoaded);
        let mut now = START;
        upstream.servers.resolved(0, (1..9).map(address).collect(), now);
        for event in events {
            let find = |n: &u8| {
                let set = upstream.servers.current();
                set.servers.iter().find(|s| s.address == Some(address(*n))).cloned()
            };
            match &event {
                Event::Failures(n, times) => {
                    let server = find(n);
                    (0..*times).for_each(|_| server.iter().for_each(|s| s.tell(false, 0, now)));
                }
                Event::Success(n) => find(n).iter().for_each(|s| s.tell(true, 5, now)),
                Event::Time(ns) => now += ns,
                Event::Drain(n, is) => {
                    upstream.set_drained(&address(*n).to_string(), *is);
                }
                Event::Health(n, is) => {
                    find(n).iter().for_each(|s| upstream.servers.set_healthy(s, *is));
                }
                Event::Resolve(n) => {
                    let found = n.iter().map(|&n| address(n)).collect();
                    upstream.servers.resolved(0, found, now);
                }
            }
            let (usable, total) = upstream.counts();
            prop_assert!(out(&upstream, now).len() <= total / 2, "after {event:?}");
            prop_assert_eq!(chosen(&upstream, &at(now)) != 0, usable > 0);
        }
    }
}
