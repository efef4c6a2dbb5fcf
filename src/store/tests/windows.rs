//! Windows and queues in the table: exact among threads, free again when they are over, and all
//! or nothing together with buckets.

use super::super::limiter::{Demand, Limiter, Receipt, Standing, Verdict};
use super::super::table::Payment;
use super::threads::in_threads;
use super::*;
use crate::policy::calendar::Span;
use crate::policy::fixed_window::FixedWindow;
use crate::policy::leaky_bucket::LeakyBucket;
use crate::policy::meter::Algorithm;
use crate::policy::sliding_window::SlidingWindow;
use std::sync::atomic::{AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;
const TOKENS: u64 = 9_000;

fn fixed(tokens: u64) -> Algorithm {
    Algorithm::FixedWindow(FixedWindow::new(Span::Period(Period::Second), tokens).unwrap())
}

fn sliding(tokens: u64) -> Algorithm {
    Algorithm::SlidingWindow(SlidingWindow::new(Period::Second, tokens).unwrap())
}

fn leaky(burst: u64) -> Algorithm {
    Algorithm::LeakyBucket(LeakyBucket::new(bucket(burst), SECOND))
}

/// What the windows' meters are at `now`, with a wall clock that agrees.
fn meter(algorithm: &Algorithm, now: u64) -> Meter<'_> {
    algorithm.meter(now, |now| now)
}

fn charge(table: &Table, algorithm: &Algorithm, client: u64, now: u64) -> Charge {
    let overflow = bucket(1);
    let meter = meter(algorithm, now);
    table.charge(key(client), Class::Unregistered, meter, &overflow, 1, now)
}

#[test]
fn threads_get_exactly_what_a_window_has_in_one_window_and_the_next() {
    for algorithm in [fixed(TOKENS), sliding(TOKENS)] {
        let table = Table::new(16);
        // Two windows later the first counts nothing, whatever the algorithm.
        for now in [START + 5, START + 2 * SECOND] {
            let admitted = in_threads(|_| {
                (0..5_000).filter(|_| is_taken(charge(&table, &algorithm, 1, now))).count() as u64
            });
            assert_eq!(admitted, TOKENS, "{algorithm:?}");
        }
    }
}

#[test]
fn threads_that_give_back_half_leave_exactly_the_other_half() {
    for algorithm in [fixed(TOKENS), sliding(TOKENS)] {
        let table = Table::new(16);
        let kept = in_threads(|id| {
            let mut kept = 0;
            for turn in 0..1_000_u64 {
                let Charge::Taken { state, place } = charge(&table, &algorithm, 1, START) else {
                    panic!("refused")
                };
                if (turn + id as u64).is_multiple_of(2) {
                    kept += 1;
                    continue;
                }
                let payment = Payment { place, state, cost: 1, at: START };
                table.refund(key(1), meter(&algorithm, START), &payment, || START);
            }
            kept
        });
        let (state, _) = table.peek(key(1), Class::Unregistered, START);
        assert_eq!(meter(&algorithm, START).level(state, START).tokens, TOKENS - kept);
    }
}

#[test]
fn threads_in_a_queue_leave_one_at_a_time() {
    let algorithm = leaky(TOKENS);
    let table = Table::new(16);
    let turns: Vec<AtomicU64> = (0..TOKENS).map(|_| AtomicU64::new(0)).collect();
    let admitted = in_threads(|_| {
        let mut admitted = 0;
        for _ in 0..5_000 {
            if let Charge::Taken { state, .. } = charge(&table, &algorithm, 1, START) {
                let turn = (state - START) / TICK - 1;
                turns[turn as usize].fetch_add(1, Ordering::Relaxed);
                admitted += 1;
            }
        }
        admitted
    });
    assert_eq!(admitted, TOKENS);
    assert!(turns.iter().all(|turn| turn.load(Ordering::Relaxed) == 1));
}

#[test]
fn a_slot_is_free_when_its_window_is_over_whatever_the_next_one_counts_by() {
    // The time in a state is rounded up; half a second is more than that of any here.
    for (algorithm, over) in [(fixed(5), SECOND), (sliding(5), 2 * SECOND)] {
        let table = Table::new(16);
        for client in 0..OPEN_SLOTS as u64 {
            assert_eq!(place_of(charge(&table, &algorithm, client, START)), Place::Own);
        }
        let bucket = Algorithm::TokenBucket(bucket(5));
        let in_time = START + over - 1;
        assert_eq!(place_of(charge(&table, &bucket, 100, in_time)), Place::Overflow);
        assert_eq!(table.used_slots(in_time), OPEN_SLOTS);
        let later = START + over + SECOND / 2;
        assert_eq!(table.used_slots(later), 0);
        assert_eq!(place_of(charge(&table, &bucket, 100, later)), Place::Own);
    }
}

/// A bucket, two windows and a queue, and what a request does with all of them.
struct Mixed {
    limiter: Limiter,
    algorithms: [Algorithm; 4],
    overflow: TokenBucket,
}

impl Mixed {
    fn new() -> Mixed {
        let algorithms = [Algorithm::TokenBucket(bucket(5)), fixed(4), sliding(3), leaky(6)];
        Mixed { limiter: Limiter::new(64, hasher()), algorithms, overflow: bucket(1) }
    }

    fn demands(&self, costs: [u32; 4], now: u64) -> [Demand<'_>; 4] {
        std::array::from_fn(|policy| Demand {
            policy,
            key: Key::new(
                digest(KeyKind::Policy, ["bucket", "fixed", "sliding", "leaky"][policy]),
                digest(KeyKind::Header, "client"),
            ),
            class: Class::Unregistered,
            meter: meter(&self.algorithms[policy], now),
            cost: costs[policy],
            since: 0,
        })
    }

    fn standings(&self, now: u64) -> Vec<Standing> {
        self.demands([1; 4], now).iter().map(|d| self.limiter.peek(d, now)).collect()
    }

    fn decide(&self, costs: [u32; 4], receipt: &mut Receipt, now: u64) -> Verdict {
        let demands = self.demands(costs, now);
        self.limiter.decide(&demands, &self.overflow, receipt, now, || now)
    }
}

#[test]
fn limits_of_all_kinds_are_charged_together_or_not_at_all() {
    let mixed = Mixed::new();
    let mut receipt = Receipt::default();
    for taken in 1..=3 {
        assert!(matches!(mixed.decide([1; 4], &mut receipt, START), Verdict::Admitted(_)));
        let tokens: Vec<u64> = mixed.standings(START).iter().map(|s| s.tokens).collect();
        assert_eq!(tokens, [5 - taken, 4 - taken, 3 - taken, 6 - taken]);
        assert_eq!(receipt.delay().map_or(0, |delay| delay.delay_ns), (taken - 1) * TICK);
    }
    let before = mixed.standings(START);
    let Verdict::Refused(standing) = mixed.decide([1; 4], &mut receipt, START) else {
        panic!("admitted")
    };
    assert_eq!(standing.policy, 2, "the sliding window has three");
    assert_eq!(mixed.standings(START), before);
}

#[test]
fn what_a_request_was_charged_by_all_kinds_comes_back() {
    let mixed = Mixed::new();
    let untouched = mixed.standings(START);
    let mut receipt = Receipt::default();
    assert!(matches!(mixed.decide([2, 1, 2, 3], &mut receipt, START), Verdict::Admitted(_)));
    assert_ne!(mixed.standings(START), untouched);
    let meter_of = |policy: usize| meter(&mixed.algorithms[policy], START);
    mixed.limiter.give_back(&mut receipt, meter_of, &mixed.overflow, || START);
    assert_eq!(mixed.standings(START), untouched);
    assert_eq!(mixed.limiter.table().used_slots(START), 0, "and the slots are free");
}

#[test]
fn a_watched_limit_refuses_nothing_and_is_charged_by_itself() {
    let mixed = Mixed::new();
    let watch = |receipt: &mut Receipt, costs| {
        let mut refused = Vec::new();
        let demands = mixed.demands(costs, START);
        let push = |policy| refused.push(policy);
        mixed.limiter.watch(&demands, &mixed.overflow, receipt, START, || START, push);
        refused
    };
    let mut receipt = Receipt::default();
    assert_eq!(watch(&mut receipt, [1; 4]), [] as [usize; 0]);
    assert_eq!(watch(&mut receipt, [1, 1, 3, 1]), [2], "the others were charged all the same");
    let tokens: Vec<u64> = mixed.standings(START).iter().map(|s| s.tokens).collect();
    assert_eq!(tokens, [3, 2, 2, 4]);
    assert_eq!(receipt.delay(), None, "a watched queue holds nobody back");
}
