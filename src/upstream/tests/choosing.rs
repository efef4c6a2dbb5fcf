//! Who is chosen.

use super::*;
use crate::config::Affinity;
use std::slice::from_ref;

#[test]
fn turns_follow_weights_and_leave_out_who_cannot_be_used() {
    let upstream = upstream(weighing(&[5, 1, 2]), Balance::RoundRobin);
    assert_eq!(counts(&upstream, 80, START), BTreeMap::from([(1, 50), (2, 10), (3, 20)]));
    assert!(upstream.set_drained("10.0.0.1:1001", true));
    assert_eq!(counts(&upstream, 300, START), BTreeMap::from([(2, 100), (3, 200)]));
    upstream.set_drained("10.0.0.1:1001", false);
    assert_eq!(counts(&upstream, 80, START), BTreeMap::from([(1, 50), (2, 10), (3, 20)]));
}

#[test]
fn untried_servers_come_before_tried_ones_and_those_before_ejected_ones() {
    for balance in [Balance::RoundRobin, Balance::LeastLoaded] {
        let upstream = upstream(weighing(&[1, 1, 1]), balance);
        fail(&upstream, 3, 3, START);
        let [one, two, three] = [1, 2, 3].map(|n| server(&upstream, n));
        for _ in 0..50 {
            let choose = |tried: &[_]| chosen(&upstream, &Choice { tried, ..at(START) });
            assert_eq!(choose(from_ref(&one)), 2);
            assert_ne!(choose(&[one.clone(), two.clone()]), 3);
            upstream.set_drained("10.0.0.1:1001", true);
            assert_eq!(choose(from_ref(&two)), 2);
            upstream.set_drained("10.0.0.2:1002", true);
            assert_eq!(choose(from_ref(&three)), 3, "an ejected one is better than none");
            upstream.set_drained("10.0.0.3:1003", true);
            assert_eq!(choose(&[]), 0, "a drained one is not");
            for address in ["10.0.0.1:1001", "10.0.0.2:1002", "10.0.0.3:1003"] {
                upstream.set_drained(address, false);
            }
        }
    }
}

#[test]
fn of_several_ejected_servers_an_untried_one_is_asked() {
    let upstream = upstream(weighing(&[1, 1, 1, 1]), Balance::RoundRobin);
    fail(&upstream, 1, 3, START);
    fail(&upstream, 2, 3, START);
    for address in ["10.0.0.3:1003", "10.0.0.4:1004"] {
        upstream.set_drained(address, true);
    }
    let tried = [server(&upstream, 1)];
    for _ in 0..10 {
        assert_eq!(chosen(&upstream, &Choice { tried: &tried, ..at(START) }), 2);
    }
}

#[test]
fn the_idle_server_is_chosen_before_the_busy_one() {
    let upstream = upstream(weighing(&[1, 1]), Balance::LeastLoaded);
    let busy = server(&upstream, 1).enter();
    assert_eq!(counts(&upstream, 100, START), BTreeMap::from([(2, 100)]));
    assert_eq!(busy.server().in_flight(), 1);
    drop(busy);
    assert_eq!(server(&upstream, 1).in_flight(), 0);
    assert_eq!(counts(&upstream, 100, START).len(), 2);
}

#[test]
fn the_fast_server_is_chosen_before_the_slow_one_until_that_is_forgotten() {
    let upstream = upstream(weighing(&[1, 1]), Balance::LeastLoaded);
    server(&upstream, 1).tell(true, 9_000_000, START);
    server(&upstream, 2).tell(true, 1_000_000, START);
    assert_eq!(counts(&upstream, 100, START), BTreeMap::from([(2, 100)]));
    // Only the fast one is asked, so only its latency stays known.
    for second in 1..=300 {
        server(&upstream, 2).tell(true, 1_000_000, START + second * SECOND);
    }
    assert!(counts(&upstream, 100, START + 300 * SECOND)[&1] > 20);
}

#[test]
fn a_server_of_unknown_latency_is_not_flooded() {
    let upstream = upstream(weighing(&[1, 1]), Balance::LeastLoaded);
    server(&upstream, 1).tell(true, 9_000_000_000, START);
    let _busy = server(&upstream, 2).enter();
    assert_eq!(counts(&upstream, 100, START), BTreeMap::from([(1, 100)]));
}

const KEYS: u64 = 10_000;

/// The server of each key.
fn placed(upstream: &Upstream) -> Vec<u8> {
    let choice =
        |key: u64| Choice { affinity: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)), ..at(START) };
    (0..KEYS).map(|key| chosen(upstream, &choice(key))).collect()
}

fn consistent(weights: &[u32]) -> Arc<Upstream> {
    upstream(weighing(weights), Balance::Consistent(Affinity::Client))
}

#[test]
fn a_value_stays_at_its_server_and_moves_only_while_that_is_out() {
    let upstream = consistent(&[1; 8]);
    let before = placed(&upstream);
    assert_eq!(placed(&upstream), before);
    upstream.set_drained("10.0.0.3:1003", true);
    let during = placed(&upstream);
    let moved = before.iter().zip(&during).filter(|(before, during)| before != during);
    assert!(moved.clone().all(|(before, _)| *before == 3), "only the values of server 3 move");
    let count = moved.count() as u64;
    assert!((KEYS / 8 / 2..KEYS / 8 * 2).contains(&count), "{count} of {KEYS}");
    assert!(!during.contains(&3));
    // They go to several others, not all to one.
    let new_homes: std::collections::BTreeSet<_> =
        before.iter().zip(&during).filter(|(b, _)| **b == 3).map(|(_, d)| *d).collect();
    assert!(new_homes.len() >= 5, "{new_homes:?}");
    upstream.set_drained("10.0.0.3:1003", false);
    assert_eq!(placed(&upstream), before, "they come back");
}

#[test]
fn without_a_server_in_the_file_the_same_values_move() {
    let (all, fewer) = (weighing(&[1; 8]), weighing(&[1; 8]));
    let fewer: Vec<_> = fewer.into_iter().filter(|s| *s != ip(3, 1)).rev().collect();
    let balance = Balance::Consistent(Affinity::Path);
    let (all, fewer) = (upstream(all, balance.clone()), upstream(fewer, balance));
    all.set_drained("10.0.0.3:1003", true);
    assert_eq!(placed(&all), placed(&fewer), "a ring is made of addresses, not of their order");
}

#[test]
fn a_heavier_server_has_more_of_the_ring() {
    let upstream = consistent(&[1, 3]);
    let heavy = placed(&upstream).iter().filter(|&&n| n == 2).count();
    assert!((6_000..9_000).contains(&heavy), "{heavy} of {KEYS}");
}

#[test]
fn values_are_spread_over_the_untried_and_found_however_few_can_be_used() {
    let upstream = consistent(&[1; 200]);
    for n in 2..=200 {
        upstream.set_drained(&address(n).to_string(), true);
    }
    assert!(placed(&upstream).iter().all(|&n| n == 1));
    upstream.set_drained(&address(1).to_string(), true);
    assert!(placed(&upstream).iter().all(|&n| n == 0));
}

#[test]
fn a_request_without_the_value_takes_its_turn() {
    let upstream = consistent(&[1, 1]);
    assert_eq!(counts(&upstream, 10, START), BTreeMap::from([(1, 5), (2, 5)]));
}

#[test]
fn a_tried_server_is_passed_over_on_the_ring() {
    let upstream = consistent(&[1; 4]);
    let choice = Choice { affinity: Some(77), ..at(START) };
    let first = upstream.choose(&choice).unwrap();
    let second = upstream.choose(&Choice { tried: from_ref(&first), ..choice }).unwrap();
    assert!(!Arc::ptr_eq(&first, &second));
}
