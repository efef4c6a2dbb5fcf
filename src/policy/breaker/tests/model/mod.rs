//! All sequences of events up to a depth, each step checked against a second account of what
//! a breaker is ([`world`]).
//!
//! States that this account cannot tell apart, whenever they were reached, are visited once;
//! that is what makes depth affordable. In case the machine knows of a difference that the
//! account does not, a second search of less depth merges nothing, and random walks of great
//! length follow one history each.

mod world;

use super::*;
use crate::policy::share::Share;
use std::collections::HashSet;
use world::{Event, World};

/// One failure is enough; two probes; every bound is close.
const HASTY: BreakerPolicy = BreakerPolicy {
    consecutive_failures: Some(1),
    failure_ratio: None,
    slow_calls: None,
    min_requests: 1,
    window_ns: 400 * MS,
    cooldown_ns: 50 * MS,
    max_cooldown_ns: 150 * MS,
    probes: 2,
    ramp_ns: 0,
};

/// Two failures in a row, one probe, a ramp.
const CAREFUL: BreakerPolicy = BreakerPolicy {
    consecutive_failures: Some(2),
    window_ns: 100 * MS,
    cooldown_ns: 200 * MS,
    max_cooldown_ns: 800 * MS,
    probes: 1,
    ramp_ns: 300 * MS,
    ..HASTY
};

/// Ratios over a window that moves on.
const COUNTING: BreakerPolicy = BreakerPolicy {
    consecutive_failures: None,
    failure_ratio: Some(Share::from_percent(40)),
    slow_calls: Some(SlowCalls { longer_than_ns: 10, ratio: Share::from_percent(60) }),
    min_requests: 3,
    window_ns: 1_000 * MS,
    cooldown_ns: 300 * MS,
    max_cooldown_ns: 300 * MS,
    probes: 1,
    ramp_ns: 0,
};

/// Four failures in a row, two after a hint.
const WARY: BreakerPolicy = BreakerPolicy {
    consecutive_failures: Some(4),
    window_ns: 100 * MS,
    cooldown_ns: 200 * MS,
    max_cooldown_ns: 200 * MS,
    probes: 1,
    ..HASTY
};

/// Most of four calls, of two after a hint.
const WARY_COUNTING: BreakerPolicy = BreakerPolicy {
    consecutive_failures: None,
    failure_ratio: Some(Share::from_percent(40)),
    min_requests: 4,
    ..WARY
};

/// Nothing but an operator.
const FORCED_ONLY: BreakerPolicy = BreakerPolicy::NEVER;

/// Visits every state within `depth` events, once each if `is_merging`. Returns how many
/// there were, and whether those were all there are, at any depth.
fn explore(policy: &BreakerPolicy, depth: usize, is_merging: bool) -> (usize, bool) {
    let first = World::new(policy);
    let mut visited = HashSet::from([first.key()]);
    let (mut layer, mut count) = (vec![first], 1);
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &layer {
            for event in world.events() {
                let mut after = world.clone();
                after.apply(event);
                if !is_merging || visited.insert(after.key()) {
                    after.check_return();
                    next.push(after);
                }
            }
        }
        count += next.len();
        layer = next;
    }
    (count, layer.is_empty())
}

/// Follows random histories of 400 events each.
fn walk(policy: &BreakerPolicy, walks: u64) {
    for seed in 0..walks {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new(policy);
        for _ in 0..400 {
            // An operator comes rarely, or nothing else would ever get far.
            let is_operator = random.u8(..20) == 0;
            let mut events = world.events();
            events.retain(|event| is_operator || !matches!(event, Event::Force(_)));
            world.apply(events[random.usize(..events.len())]);
        }
        world.check_return();
    }
}

/// Two leases can end at ever new distances from each other, so this has no end.
#[test]
fn every_history_of_24_events_of_a_hasty_breaker_is_as_it_should_be() {
    let (states, _) = explore(&HASTY, 24, true);
    assert!(states > 30_000, "{states} states");
}

#[test]
fn every_history_of_a_careful_breaker_is_as_it_should_be() {
    let (states, is_complete) = explore(&CAREFUL, 100, true);
    assert!(is_complete && states > 5_000, "{states} states");
}

#[test]
fn every_history_of_8_events_of_a_wary_breaker_is_as_it_should_be() {
    for policy in [WARY, WARY_COUNTING] {
        let (states, _) = explore(&policy, 8, true);
        assert!(states > 500, "{states} states");
    }
}

#[test]
fn every_history_of_a_breaker_that_is_only_forced_is_as_it_should_be() {
    let (states, is_complete) = explore(&FORCED_ONLY, 100, true);
    assert!(is_complete && states > 50, "{states} states");
}

#[test]
fn every_history_of_10_events_of_a_breaker_that_counts_is_as_it_should_be() {
    let (states, _) = explore(&COUNTING, 10, true);
    assert!(states > 100_000, "{states} states");
}

#[test]
fn histories_that_are_not_merged_are_as_they_should_be() {
    for policy in [HASTY, CAREFUL, COUNTING, WARY, WARY_COUNTING, FORCED_ONLY] {
        explore(&policy, 5, false);
    }
}

#[test]
fn long_histories_are_as_they_should_be() {
    for policy in [HASTY, CAREFUL, COUNTING, WARY, WARY_COUNTING, FORCED_ONLY] {
        walk(&policy, 300);
    }
}
