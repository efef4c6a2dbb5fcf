//! Several limits on one request: all or nothing.

use super::super::limiter::{Demand, Limiter, Receipt, Standing, Verdict};
use super::*;
use proptest::prelude::*;

/// Three limits: a client's tier, its address, everybody.
struct Limits {
    limiter: Limiter,
    buckets: [TokenBucket; 3],
    overflow: TokenBucket,
}

impl Limits {
    fn new(bursts: [u64; 3]) -> Limits {
        Limits {
            limiter: Limiter::new(64, hasher()),
            buckets: bursts.map(bucket),
            overflow: bucket(10),
        }
    }

    fn demands(&self, holders: [u64; 3], costs: [u32; 3]) -> [Demand<'_>; 3] {
        std::array::from_fn(|policy| {
            let policy_digest = digest(KeyKind::Policy, ["tier", "per-ip", "all"][policy]);
            let holder = hasher().digest(KeyKind::Header, &holders[policy].to_le_bytes());
            Demand {
                policy,
                key: Key::new(policy_digest, holder),
                class: Class::Unregistered,
                meter: Meter::TokenBucket(&self.buckets[policy]),
                cost: costs[policy],
                since: START,
            }
        })
    }

    fn decide(&self, demands: &[Demand<'_>], now: u64) -> Verdict {
        let mut receipt = Receipt::default();
        self.limiter.decide(demands, &self.overflow, &mut receipt, now, || now)
    }

    fn standings(&self, demands: &[Demand<'_>], now: u64) -> Vec<Standing> {
        demands.iter().map(|demand| self.limiter.peek(demand, now)).collect()
    }
}

#[test]
fn what_is_on_a_receipt_can_be_given_back_once() {
    let limits = Limits::new([5, 10, 20]);
    let demands = limits.demands([1; 3], [1, 2, 3]);
    let untouched = limits.standings(&demands, START);
    let mut receipt = Receipt::default();
    let decide = |receipt: &mut Receipt| {
        limits.limiter.decide(&demands, &limits.overflow, receipt, START, || START)
    };
    let meter_of = |policy: usize| Meter::TokenBucket(&limits.buckets[policy]);
    decide(&mut receipt);
    assert_ne!(limits.standings(&demands, START), untouched);
    for _ in 0..2 {
        limits.limiter.give_back(&mut receipt, meter_of, &limits.overflow, || START);
        assert_eq!(limits.standings(&demands, START), untouched);
    }
}

#[test]
fn no_limit_at_all_admits() {
    assert_eq!(Limits::new([1; 3]).decide(&[], START), Verdict::Admitted(None));
}

#[test]
fn the_policy_with_the_smallest_share_left_is_the_tightest() {
    let limits = Limits::new([10, 100, 1_000]);
    let Verdict::Admitted(Some(tightest)) =
        limits.decide(&limits.demands([1; 3], [1, 20, 100]), START)
    else {
        panic!("refused")
    };
    let expected = Standing {
        policy: 1,
        burst: 100,
        window_seconds: 1,
        tokens: 80,
        full_in_seconds: 1,
        wait_ns: Some(0),
    };
    assert_eq!(tightest, expected);
}

#[test]
fn a_cost_of_nothing_passes_an_empty_bucket_and_leaves_a_full_one_alone() {
    let limits = Limits::new([1; 3]);
    let free = limits.demands([1; 3], [0; 3]);
    assert!(matches!(limits.decide(&free, START), Verdict::Admitted(Some(_))));
    assert_eq!(limits.limiter.table().used_slots(START), 0);
    let paid = limits.demands([1; 3], [1; 3]);
    assert!(matches!(limits.decide(&paid, START), Verdict::Admitted(_)));
    assert!(matches!(limits.decide(&free, START), Verdict::Admitted(Some(s)) if s.tokens == 0));
}

#[test]
fn a_cost_no_wait_can_meet_outweighs_every_wait() {
    let limits = Limits::new([10, 10, 10]);
    let spent = limits.demands([1; 3], [10; 3]);
    assert!(matches!(limits.decide(&spent, START), Verdict::Admitted(_)));
    for costs in [[1, 11, 10], [10, 1, 11], [11, 10, 1]] {
        let Verdict::Refused(standing) = limits.decide(&limits.demands([1; 3], costs), START)
        else {
            panic!("admitted")
        };
        assert_eq!((costs[standing.policy], standing.wait_ns), (11, None));
    }
}

#[test]
fn a_smaller_limit_takes_effect_on_the_next_request_and_an_own_wait_is_enough() {
    let large = Limits::new([1_000; 3]);
    let spend = large.demands([1; 3], [900, 1, 1]);
    assert!(matches!(large.decide(&spend, START), Verdict::Admitted(_)));
    let small = Limits { buckets: [bucket(10); 3], ..large };
    let next = small.demands([1; 3], [1; 3]);
    let peeked = small.limiter.peek(&next[0], START);
    let Verdict::Refused(refused) = small.decide(&next, START) else { panic!("admitted") };
    assert_eq!(refused.wait_ns, Some(TICK), "an empty bucket, and not 900 tokens to wait for");
    assert_eq!(peeked, refused, "a look says what the charge would");
    assert!(matches!(small.decide(&next, START + TICK), Verdict::Admitted(_)));
}

#[test]
fn a_smaller_default_tier_frees_the_overflow_bucket_as_well() {
    let crowd = |limits: &Limits, holder: u64, cost: u32| {
        limits.decide(&limits.demands([holder; 3], [cost, 0, 0])[..1], START)
    };
    let mut limits = Limits { limiter: Limiter::new(16, hasher()), ..Limits::new([500; 3]) };
    limits.overflow = bucket(1_000);
    for holder in 0..OPEN_SLOTS as u64 {
        assert!(matches!(crowd(&limits, holder, 1), Verdict::Admitted(_)));
    }
    assert!(matches!(crowd(&limits, 100, 500), Verdict::Admitted(_)));
    assert!(matches!(crowd(&limits, 101, 400), Verdict::Admitted(_)));
    limits.overflow = bucket(5);
    let Verdict::Refused(standing) = crowd(&limits, 102, 1) else { panic!("admitted") };
    assert_eq!((standing.wait_ns, standing.burst), (Some(TICK), 5));
}

#[test]
fn who_waits_for_the_overflow_bucket_is_told_its_wait() {
    let limits = Limits { limiter: Limiter::new(16, hasher()), ..Limits::new([100; 3]) };
    for holder in 0..OPEN_SLOTS as u64 {
        let first = limits.demands([holder; 3], [1, 0, 0]);
        assert!(matches!(limits.decide(&first, START), Verdict::Admitted(_)));
    }
    // Both limits find no room; the overflow bucket of ten is empty for both.
    let costs = [10, 1, 0];
    let demands = limits.demands([100; 3], costs);
    let Verdict::Refused(standing) = limits.decide(&demands[..2], START) else {
        panic!("admitted")
    };
    assert_eq!((standing.policy, standing.wait_ns), (1, Some(TICK)));
    assert_eq!(standing.burst, 10);
    assert!(matches!(limits.decide(&demands[..1], START), Verdict::Admitted(_)), "all given back");
}

proptest! {
    #[test]
    fn every_limit_is_charged_or_none(
        requests in prop::collection::vec(
            ([0..3_u64, 0..2, 0..1], [0..4_u32, 0..4, 0..3], 0..3 * TICK),
            1..80,
        ),
        bursts in [1..6_u64, 1..8, 1..10],
    ) {
        let limits = Limits::new(bursts);
        let mut now = START;
        for (holders, costs, pause) in requests {
            now += pause;
            let demands = limits.demands(holders, costs);
            let before = limits.standings(&demands, now);
            let verdict = limits.decide(&demands, now);
            let after = limits.standings(&demands, now);
            let may_pass = before.iter().all(|standing| standing.wait_ns == Some(0));
            match verdict {
                Verdict::Admitted(_) => {
                    prop_assert!(may_pass);
                    for ((before, after), cost) in before.iter().zip(&after).zip(costs) {
                        prop_assert_eq!(after.tokens, before.tokens - u64::from(cost));
                    }
                }
                Verdict::Refused(refused) => {
                    prop_assert!(!may_pass);
                    prop_assert_eq!(&before, &after);
                    let length = |s: &Standing| s.wait_ns.unwrap_or(u64::MAX);
                    prop_assert_eq!(Some(length(&refused)), before.iter().map(length).max());
                    prop_assert_eq!(refused, before[refused.policy]);
                    if let Some(wait_ns) = refused.wait_ns {
                        let still = limits.decide(&demands, now + wait_ns - 1);
                        prop_assert!(matches!(still, Verdict::Refused(_)), "a shorter wait");
                        now += wait_ns;
                        prop_assert!(matches!(limits.decide(&demands, now), Verdict::Admitted(_)));
                    }
                }
            }
        }
    }
}
