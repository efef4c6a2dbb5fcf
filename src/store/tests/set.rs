//! What one set does, step by step.

use super::*;

/// Fills the open slots of a set with strangers 0 to 12, each with one token taken.
fn full_set(burst: u64, overflow_burst: u64) -> OneSet {
    let set = OneSet::new(burst, overflow_burst);
    for client in 0..OPEN_SLOTS as u64 {
        assert_eq!(place_of(set.charge(client, 1, START)), Place::Own);
    }
    assert_eq!(set.used(START), OPEN_SLOTS);
    set
}

#[test]
fn a_table_is_a_power_of_two_and_never_less_than_a_set() {
    for (asked, slots) in [(0, 16), (1, 16), (16, 16), (17, 32), (1_000, 1_024), (1 << 20, 1 << 20)]
    {
        let table = Table::new(asked);
        assert_eq!((table.slots(), table.used_slots(START), table.overflowed()), (slots, 0, 0));
    }
}

#[test]
fn a_key_looks_at_every_slot_but_the_first_once_and_in_its_own_cache_line_first() {
    use super::super::set::Set;
    let set = Set::empty();
    for client in 0..200 {
        let key = key(client);
        let order: Vec<usize> = Set::indices(key).collect();
        assert_eq!(set.first(key).0, order[0]);
        let nearest = order.iter().take_while(|&index| index / 4 == key.start() / 4).count();
        assert!(nearest >= 3, "{order:?}");
        let mut slots = order;
        slots.sort_unstable();
        assert!(slots.into_iter().eq(1..16));
    }
}

#[test]
fn a_stranger_without_a_slot_shares_the_overflow_bucket_at_its_limit() {
    let set = full_set(100, 3);
    let newcomers: Vec<Charge> = (100..110).map(|client| set.charge(client, 1, START)).collect();
    assert!(newcomers.iter().all(|&charge| place_of(charge) == Place::Overflow));
    assert_eq!(newcomers.iter().filter(|&&charge| is_taken(charge)).count(), 3);
    let refused =
        Charge::Refused { state: START + 3 * TICK, wait_ns: Some(TICK), place: Place::Overflow };
    assert_eq!(newcomers[9], refused);
    assert_eq!(set.table.overflowed(), 10);
    assert_eq!(set.used(START), OPEN_SLOTS, "nobody was pushed out");
}

#[test]
fn registered_clients_find_room_where_strangers_do_not() {
    let set = full_set(100, 3);
    for client in 200..202 {
        let charge = set.charge_as(Class::Registered, client, 1, START);
        assert_eq!(place_of(charge), Place::Own);
    }
    assert_eq!(set.used(START), OWN_SLOTS);
    assert_eq!(place_of(set.charge(200, 1, START)), Place::Own, "found again as a stranger too");
}

#[test]
fn a_slot_is_taken_over_at_the_instant_its_bucket_is_full_and_not_before() {
    let set = full_set(100, 1);
    assert_eq!(place_of(set.charge(100, 1, START + TICK - 1)), Place::Overflow);
    assert_eq!(place_of(set.charge(100, 1, START + TICK)), Place::Own);
}

#[test]
fn a_limited_client_is_limited_however_many_others_come() {
    let set = OneSet::new(5, 5);
    assert!(is_taken(set.charge(1, 5, START)));
    for client in 1_000..3_000 {
        // Each of them is gone again before the limited client has its first token back.
        let _ = set.charge(client, 1, START);
        assert!(!is_taken(set.charge(1, 1, START + TICK - 1)));
    }
    assert!(is_taken(set.charge(1, 1, START + TICK)));
}

#[test]
fn a_late_thread_cannot_start_a_bucket_before_the_one_that_was_taken_over() {
    let set = full_set(10, 1);
    // Client 0 empties its bucket; when it is full again, others take all the slots.
    assert!(is_taken(set.charge(0, 9, START)));
    let later = START + 10 * TICK;
    for client in 100..100 + OPEN_SLOTS as u64 {
        assert_eq!(place_of(set.charge(client, 1, later)), Place::Own);
    }
    // By then a slot is free for a thread that is not late, at the latest for a registered one.
    let late = set.charge_as(Class::Registered, 0, 10, START);
    assert_eq!(late, Charge::Taken { state: later + 10 * TICK, place: Place::Own });
    assert!(!is_taken(set.charge_as(Class::Registered, 0, 1, later + TICK - 1)));
}

#[test]
fn a_cost_above_the_burst_touches_nothing() {
    let set = OneSet::new(5, 5);
    let never = |state| Charge::Refused { state, wait_ns: None, place: Place::Own };
    assert_eq!(set.charge(1, 6, START), never(0));
    assert_eq!(set.used(START), 0);
    assert!(is_taken(set.charge(1, 1, START)));
    assert_eq!(set.charge(1, 6, START), never(START + TICK));
}

#[test]
fn a_peek_sees_what_a_charge_would_meet_and_changes_nothing() {
    let set = full_set(100, 3);
    let peek = |client, class| set.table.peek(key(client), class, START);
    assert_eq!(peek(0, Class::Unregistered), (START + TICK, Place::Own));
    assert_eq!(peek(100, Class::Unregistered), (0, Place::Overflow));
    assert_eq!(peek(100, Class::Registered), (0, Place::Own), "room in reserve");
    assert!(is_taken(set.charge(100, 2, START)));
    assert_eq!(peek(101, Class::Unregistered), (START + 2 * TICK, Place::Overflow));
    let free_again = set.table.peek(key(101), Class::Unregistered, START + TICK);
    assert_eq!(free_again, (0, Place::Own));
}

#[test]
fn a_refund_goes_where_the_charge_was_made() {
    let set = full_set(10, 3);
    let clock = || START;
    for client in [0, 100] {
        let Charge::Taken { state, place } = set.charge(client, 2, START) else {
            panic!("{client} was refused")
        };
        let limit = if place == Place::Own { set.bucket } else { set.overflow };
        let payment = super::super::table::Payment { place, state, cost: 2, at: START };
        set.table.refund(key(client), Meter::TokenBucket(&limit), &payment, clock);
        let (left, _) = set.table.peek(key(client), Class::Unregistered, START);
        assert_eq!(left, state - 2 * TICK);
    }
}

#[test]
fn a_refund_after_a_takeover_gives_the_next_bucket_nothing() {
    let set = OneSet::new(4, 1);
    let Charge::Taken { state, place } = set.charge(1, 2, START) else { panic!("refused") };
    // The bucket fills up, its slot goes to others and comes back to the same client.
    let later = START + 2 * TICK;
    for client in 100..100 + OPEN_SLOTS as u64 {
        let _ = set.charge(client, 1, later);
    }
    let again = later + TICK;
    assert!(is_taken(set.charge(1, 4, again)));
    let payment = super::super::table::Payment { place, state, cost: 2, at: START };
    set.table.refund(key(1), Meter::TokenBucket(&set.bucket), &payment, || again);
    assert!(!is_taken(set.charge(1, 1, again)), "a fifth token of four");
}

#[test]
fn a_cut_meets_own_and_overflow_buckets_and_only_what_is_beyond() {
    let small = bucket(10);
    // The limit has changed just now, three tokens ago, and so long ago that the bucket is full.
    for (ago, left) in [(0, 10), (3, 7), (20, 0)] {
        let set = full_set(1_000, 1_000);
        assert!(is_taken(set.charge(0, 500, START)) && is_taken(set.charge(100, 500, START)));
        let since = START - ago * TICK;
        for (client, place) in [(0, Place::Own), (100, Place::Overflow)] {
            set.table.cut(key(client), place, Meter::TokenBucket(&small), since, || START);
            let (state, _) = set.table.peek(key(client), Class::Unregistered, START);
            assert_eq!(state.max(START), START + left * TICK);
        }
    }
    let set = full_set(1_000, 1_000);
    set.table.cut(key(1), Place::Own, Meter::TokenBucket(&small), START, || START);
    let (state, _) = set.table.peek(key(1), Class::Unregistered, START);
    assert_eq!(state, START + TICK, "one token of ten is within the new limit");
}
