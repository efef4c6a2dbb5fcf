//! A table of another size: who is limited stays limited.

use super::super::carry::carry_over;
use super::super::set::{PENDING, SLOTS_PER_SET, Set, Slot};
use super::*;
use std::collections::HashMap;

fn empty(sets: usize) -> Vec<Set> {
    (0..sets).map(|_| Set::empty()).collect()
}

/// Fingerprints and states of all buckets, each found where its key looks for it.
fn buckets(table: &[Set]) -> HashMap<u64, u64> {
    let mut found = HashMap::new();
    for (number, set) in table.iter().enumerate() {
        for slot in (1..SLOTS_PER_SET).map(|index| set.load(index)) {
            if slot != Slot::EMPTY {
                assert_eq!(slot.fingerprint as usize & (table.len() - 1), number);
                assert!(found.insert(slot.fingerprint, slot.state).is_none(), "two buckets");
            }
        }
    }
    found
}

/// A table of `sets` full sets; bucket `n` of all is full again `n` ticks after [`START`].
fn crowded(sets: usize) -> Vec<Set> {
    let table = empty(sets);
    for (number, set) in table.iter().enumerate() {
        for index in 1..SLOTS_PER_SET {
            let order = (index - 1) * sets + number + 1;
            let fingerprint = ((order as u64) << 32) | number as u64;
            let slot = Slot { fingerprint, state: START + order as u64 * TICK };
            assert!(set.swap(index, Slot::EMPTY, slot));
        }
        let shared = Slot { fingerprint: START - TICK, state: START + TICK };
        assert!(set.swap(0, Slot::EMPTY, shared));
    }
    table
}

#[test]
fn a_larger_table_takes_every_bucket() {
    let old = crowded(4);
    for sets in [4, 8, 64] {
        let new = empty(sets);
        assert_eq!(carry_over(&old, &new, START), 0);
        let (known, kept) = (buckets(&old), buckets(&new));
        assert!(known.iter().all(|(key, state)| kept.get(key) == Some(state)));
        // Where there is more room, it is kept from newcomers until the overflow bucket is full.
        let others = kept.iter().filter(|(key, _)| !known.contains_key(key));
        let others: Vec<u64> = others.map(|(_, state)| *state).collect();
        assert!(others.iter().all(|state| *state == START + TICK));
        assert_eq!(others.is_empty(), sets == 4);
        for set in &new {
            let shared = set.load(0);
            assert_eq!((shared.fingerprint, shared.state), (START - TICK, START + TICK));
        }
    }
}

#[test]
fn a_smaller_table_keeps_those_that_wait_longest() {
    let old = crowded(4);
    let new = empty(1);
    assert_eq!(carry_over(&old, &new, START), 45);
    let states = buckets(&new);
    let kept: Vec<u64> = states.values().map(|state| (state - START) / TICK).collect();
    assert!(kept.len() == OWN_SLOTS && kept.iter().all(|order| *order > 45), "{kept:?}");
    // The overflow bucket is charged like the emptiest of those that were left out: when the first
    // slot is free, all of these would have been full.
    assert_eq!(new[0].load(0).state, START + 45 * TICK);
    assert_eq!(kept.iter().min(), Some(&46));
}

#[test]
fn what_is_full_announced_or_damaged_is_left_behind() {
    let old = empty(2);
    let slot = |fingerprint, state| Slot { fingerprint, state };
    assert!(old[0].swap(1, Slot::EMPTY, slot(2, START)));
    assert!(old[0].swap(2, Slot::EMPTY, slot(4, PENDING | 7)));
    assert!(old[0].swap(3, Slot::EMPTY, slot(6, START + 1)));
    assert!(old[0].swap(4, Slot::EMPTY, slot(9, START + 1)), "of another set");
    assert!(old[0].swap(0, Slot::EMPTY, slot(u64::MAX, START + 1)));
    let new = empty(2);
    assert_eq!(carry_over(&old, &new, START), 0);
    assert_eq!(buckets(&new), HashMap::from([(6, START + 1)]));
    assert_eq!(new[0].load(0).fingerprint, START, "no takeover lies in the future");
}

#[test]
fn the_reserve_stays_free_of_who_was_not_in_it() {
    let old = empty(1);
    for index in 1..=OPEN_SLOTS {
        let slot = Slot { fingerprint: (index as u64) << 58 | 1, state: START + 1 };
        assert!(old[0].swap(index, Slot::EMPTY, slot));
    }
    let new = empty(1);
    assert_eq!(carry_over(&old, &new, START), 0);
    assert!((OPEN_SLOTS + 1..SLOTS_PER_SET).all(|index| new[0].load(index) == Slot::EMPTY));
}

#[test]
fn a_takeover_in_the_future_is_mended() {
    let set = Set::empty();
    assert!(set.swap(0, Slot::EMPTY, Slot { fingerprint: u64::MAX, state: 5 }));
    assert!(set.latest_takeover() < 1 << 62, "no sum overflows meanwhile");
    set.mend(START);
    let shared = set.load(0);
    assert_eq!((shared.fingerprint, shared.state), (START, 5));
}

mod clients {
    //! The same, seen by clients that are charged before and after.

    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever was charged before, no client has more after than it would have had.
        #[test]
        fn nobody_gains(
            before in prop::collection::vec((0..120_u64, 1..6_u32), 1..200),
            after in prop::collection::vec((0..120_u64, 1..4_u32, 0..4_u64), 1..200),
            sizes in (0..4_u32, 0..4_u32, 0..4_u32),
        ) {
            let limit = bucket(6);
            let sizes = [sizes.0, sizes.1, sizes.2];
            let [old, between, new] = sizes.map(|sets| Table::new(SLOTS_PER_SET << sets));
            // What each client's own bucket paid, as (time, cost).
            let mut passed: HashMap<u64, Vec<(u64, u32)>> = HashMap::new();
            let mut charge = |table: &Table, client, cost, now| {
                let class = Class::Unregistered;
                let charge = table.charge(key(client), class, Meter::TokenBucket(&limit), &limit, cost, now);
                if is_taken(charge) && place_of(charge) == Place::Own {
                    passed.entry(client).or_default().push((now, cost));
                }
            };
            for (client, cost) in before {
                charge(&old, client, cost, START);
            }
            carry_over(old.sets(), between.sets(), START);
            carry_over(between.sets(), new.sets(), START);
            let mut now = START;
            for (client, cost, ticks) in after {
                now += ticks * TICK;
                charge(&new, client, cost, now);
            }
            for (client, passed) in passed {
                for &(from, _) in &passed {
                    for &(to, _) in passed.iter().filter(|(to, _)| *to >= from) {
                        let window = passed.iter().filter(|(at, _)| (from..=to).contains(at));
                        let tokens: u64 = window.map(|&(_, cost)| u64::from(cost)).sum();
                        let most = limit.burst() + (to - from) / TICK;
                        prop_assert!(tokens <= most, "{client}: {tokens} in {from}..={to}");
                    }
                }
            }
        }
    }
}
