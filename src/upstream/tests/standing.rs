//! How servers stand: resolved, drained, healthy, and what operators see of it.

use super::*;
use crate::upstream::ServerState;

fn states(upstream: &Upstream, now_ns: u64) -> Vec<(String, &'static str)> {
    let views = upstream.servers(now_ns);
    let text = |view: &crate::upstream::ServerView| {
        view.address.map_or_else(|| view.configured.to_string(), |a| a.to_string())
    };
    views.iter().map(|view| (text(view), view.state.label())).collect()
}

fn resolve(upstream: &Upstream, entry: usize, n: &[u8]) -> bool {
    upstream.servers.resolved(entry, n.iter().map(|&n| address(n)).collect(), START)
}

#[test]
fn a_name_is_one_unresolved_server_until_it_resolves_to_several() {
    let upstream = upstream(vec![named("a.test"), ip(9, 1)], Balance::RoundRobin);
    assert_eq!(upstream.counts(), (1, 2));
    assert_eq!(counts(&upstream, 10, START), BTreeMap::from([(9, 10)]));
    assert_eq!(states(&upstream, START)[0], ("a.test:80".to_owned(), "unresolved"));
    assert!(resolve(&upstream, 0, &[2, 1, 2]));
    assert_eq!(upstream.counts(), (3, 3));
    assert_eq!(counts(&upstream, 9, START), BTreeMap::from([(1, 3), (2, 3), (9, 3)]));
    assert!(resolve(&upstream, 0, &[]));
    assert_eq!(upstream.counts(), (1, 2));
}

#[test]
fn an_upstream_of_names_alone_has_nobody_until_one_resolves() {
    let upstream = upstream(vec![named("a.test")], Balance::LeastLoaded);
    assert!(upstream.choose(&at(START)).is_none());
    resolve(&upstream, 0, &[1]);
    assert_eq!(chosen(&upstream, &at(START)), 1);
}

#[test]
fn a_server_that_is_found_again_stays_what_it_was() {
    let upstream = upstream(vec![named("a.test")], Balance::RoundRobin);
    resolve(&upstream, 0, &[1, 2]);
    let (one, _load) = (server(&upstream, 1), server(&upstream, 1).enter());
    one.tell(true, 5_000, START);
    assert!(!resolve(&upstream, 0, &[2, 1]), "the order is no change");
    assert!(resolve(&upstream, 0, &[1, 3]));
    assert!(Arc::ptr_eq(&one, &server(&upstream, 1)));
    let view = &upstream.servers(START)[0];
    assert_eq!(view.in_flight, 1);
    assert_eq!(view.latency.unwrap().as_nanos(), 5_000);
}

#[test]
fn an_address_behind_two_entries_is_one_server() {
    let upstream = upstream(vec![ip(1, 1), named("a.test")], Balance::RoundRobin);
    resolve(&upstream, 1, &[1, 2]);
    assert_eq!(upstream.counts(), (2, 2));
    assert_eq!(upstream.servers(START)[0].configured.as_ref(), "10.0.0.1:1001");
}

#[test]
fn a_name_counts_for_a_bounded_number_of_addresses() {
    let upstream = upstream(vec![named("a.test")], Balance::RoundRobin);
    resolve(&upstream, 0, &(1..=200).collect::<Vec<_>>());
    assert_eq!(upstream.counts(), (64, 64));
    let many = (0..1_000).map(|n| named(&format!("{n}.test"))).collect();
    let upstream = self::upstream(many, Balance::RoundRobin);
    resolve(&upstream, 0, &(1..=200).collect::<Vec<_>>());
    assert_eq!(upstream.counts(), (4, 1_003));
}

#[test]
fn a_drained_name_stays_drained_whatever_it_resolves_to() {
    let upstream = upstream(vec![named("a.test"), ip(9, 1)], Balance::RoundRobin);
    resolve(&upstream, 0, &[1]);
    assert!(upstream.set_drained("A.test:80", true));
    assert_eq!(chosen(&upstream, &at(START)), 9);
    resolve(&upstream, 0, &[2, 3]);
    assert_eq!(upstream.counts(), (1, 3));
    assert!(upstream.set_drained("a.test:80", false));
    assert_eq!(upstream.counts(), (3, 3));
}

#[test]
fn what_is_said_of_a_name_goes_for_addresses_it_had_and_will_have_again() {
    let upstream = upstream(vec![named("a.test")], Balance::RoundRobin);
    for (address, of_name, expected) in [(true, false, "up"), (false, true, "drained")] {
        resolve(&upstream, 0, &[1, 2]);
        assert!(upstream.set_drained("a.test:80", !address));
        assert!(upstream.set_drained("10.0.0.1:1001", address));
        resolve(&upstream, 0, &[2]);
        assert!(upstream.set_drained("a.test:80", of_name));
        resolve(&upstream, 0, &[1, 2]);
        assert_eq!(states(&upstream, START)[0], ("10.0.0.1:1001".to_owned(), expected));
    }
}

#[test]
fn a_drained_address_stays_drained_when_it_comes_back() {
    let upstream = upstream(vec![named("a.test")], Balance::RoundRobin);
    resolve(&upstream, 0, &[1, 2]);
    assert!(upstream.set_drained("10.0.0.1:1001", true));
    resolve(&upstream, 0, &[2]);
    assert!(!upstream.set_drained("10.0.0.7:1007", true), "nobody is there");
    resolve(&upstream, 0, &[1, 2]);
    assert_eq!(counts(&upstream, 4, START), BTreeMap::from([(2, 4)]));
}

#[test]
fn what_is_set_last_counts_for_a_name_and_its_addresses() {
    let upstream = upstream(vec![named("a.test")], Balance::RoundRobin);
    resolve(&upstream, 0, &[1, 2]);
    upstream.set_drained("a.test:80", true);
    upstream.set_drained("10.0.0.1:1001", false);
    assert_eq!(counts(&upstream, 4, START), BTreeMap::from([(1, 4)]));
    upstream.set_drained("a.test:80", true);
    assert_eq!(upstream.counts(), (0, 2));
    upstream.set_drained("10.0.0.1:1001", false);
    upstream.set_drained("a.test:80", false);
    assert_eq!(upstream.counts(), (2, 2));
}

#[test]
fn every_spelling_of_an_address_is_understood() {
    let v6 = ServerAddress::Ip("[2001:db8::1]:80".parse().unwrap());
    let upstream = upstream(vec![UpstreamServer { address: v6, weight: 1 }], Balance::RoundRobin);
    assert!(upstream.set_drained("[2001:DB8:0::1]:80", true));
    assert_eq!(upstream.counts(), (0, 1));
    assert!(!upstream.set_drained("2001:db8::1", true), "a port belongs to it");
}

#[test]
fn the_state_names_the_reason_that_lasts_longest() {
    let upstream = upstream(weighing(&[1, 1]), Balance::RoundRobin);
    let state = || upstream.servers(START)[0].state;
    assert_eq!(state(), ServerState::Up);
    fail(&upstream, 1, 3, START);
    assert_eq!(state(), ServerState::Ejected);
    assert_eq!(upstream.servers(START)[0].ejected_for.unwrap().as_secs(), 10);
    upstream.servers.set_healthy(&server(&upstream, 1), false);
    assert_eq!(state(), ServerState::Unhealthy);
    upstream.set_drained("10.0.0.1:1001", true);
    assert_eq!(state(), ServerState::Drained);
    assert_eq!(upstream.servers(START + 10 * SECOND)[0].ejected_for, None);
}

#[test]
fn the_gauge_counts_servers_that_may_be_asked() {
    let registry = Registry::new();
    let config = config(vec![ip(8, 1), ip(9, 1), named("a.test")], Balance::RoundRobin);
    let upstream = Upstream::new(&config, &Metrics::register(&registry).unwrap());
    let healthy = || gauge(&registry, "gateway_upstream_healthy");
    assert_eq!(healthy(), 2);
    resolve(&upstream, 2, &[1, 2]);
    assert_eq!(healthy(), 4);
    upstream.servers.set_healthy(&server(&upstream, 1), false);
    assert_eq!(healthy(), 3);
    upstream.set_drained("10.0.0.9:1009", true);
    assert_eq!(healthy(), 2);
    upstream.set_drained("10.0.0.9:1009", false);
    upstream.servers.set_healthy(&server(&upstream, 1), true);
    assert_eq!(healthy(), 4);
}

#[test]
fn a_peer_carries_the_timeouts_and_an_unresolved_server_has_none() {
    let upstream = upstream(vec![ip(1, 1), named("a.test")], Balance::RoundRobin);
    let peer = server(&upstream, 1).peer().unwrap();
    assert_eq!(peer.options.connection_timeout, Some(Timeouts::default().connect));
    assert_eq!(peer.options.idle_timeout, Some(Timeouts::default().idle));
    let set = upstream.servers.current();
    assert!(set.servers.iter().find(|s| s.address.is_none()).unwrap().peer().is_none());
}

#[test]
fn what_lookups_and_checks_found_can_be_told_from_outside() {
    let upstream = upstream(vec![ip(9, 1), named("a.test")], Balance::RoundRobin);
    assert!(upstream.set_addresses("a.test:80", vec![address(2), address(1)], START));
    assert!(!upstream.set_addresses("a.test:80", vec![address(1), address(2)], START));
    for nobody in ["b.test:80", "10.0.0.9:1009"] {
        assert!(!upstream.set_addresses(nobody, vec![address(3)], START), "{nobody} is no name");
    }
    assert_eq!(upstream.counts(), (3, 3));
    assert!(upstream.set_healthy(address(1), false));
    assert!(!upstream.set_healthy(address(3), false), "nobody is there");
    assert_eq!(counts(&upstream, 4, START), BTreeMap::from([(2, 2), (9, 2)]));
    assert!(upstream.set_healthy(address(1), true));
    assert_eq!(upstream.counts(), (3, 3));
}
