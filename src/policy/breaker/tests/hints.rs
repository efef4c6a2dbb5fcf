use super::*;
use crate::policy::share::Share;

const SIX_IN_A_ROW: BreakerPolicy =
    BreakerPolicy { consecutive_failures: Some(6), ..THREE_IN_A_ROW };

/// A circuit that has just been hinted at.
fn hinted(policy: BreakerPolicy) -> Rig {
    let mut rig = Rig::new(policy);
    assert!(rig.breaker.hint(&rig.policy, rig.now));
    rig
}

#[test]
fn a_hint_halves_the_failures_in_a_row_that_it_takes() {
    let mut rig = hinted(SIX_IN_A_ROW);
    assert_eq!(rig.view().hinted_until_ns, Some(START + 10 * SECOND));
    rig.calls(2, FAILURE);
    assert_eq!(rig.state(), State::Closed);
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open);
    assert_eq!(rig.view().hinted_until_ns, None);
}

#[test]
fn a_hint_is_never_an_order() {
    let mut rig = Rig::new(SIX_IN_A_ROW);
    rig.calls(5, FAILURE);
    assert!(rig.breaker.hint(&rig.policy, rig.now));
    assert_eq!(rig.state(), State::Closed);
    rig.call(Outcome::Success);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_hint_is_forgotten_after_a_window_and_a_flood_of_them_is_one() {
    let mut rig = hinted(SIX_IN_A_ROW);
    for _ in 0..9 {
        rig.after(SECOND);
        assert!(!rig.breaker.hint(&rig.policy, rig.now));
    }
    rig.after(SECOND);
    assert_eq!(rig.view().hinted_until_ns, None);
    rig.calls(5, FAILURE);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_hint_means_nothing_to_a_circuit_that_is_not_closed_or_opens_only_by_hand() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.open();
    assert!(!rig.breaker.hint(&rig.policy, rig.now));
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.force(ForceTo::Closed { until_ns: START + SECOND });
    assert!(!rig.breaker.hint(&rig.policy, rig.now));
    assert!(!Breaker::new().hint(&BreakerPolicy::NEVER, START));
}

#[test]
fn a_hint_halves_the_calls_that_a_ratio_takes_and_not_the_ratio() {
    let ratio = BreakerPolicy {
        consecutive_failures: None,
        failure_ratio: Some(Share::from_percent(50)),
        min_requests: 10,
        ..THREE_IN_A_ROW
    };
    let mut rig = hinted(ratio.clone());
    rig.calls(4, FAILURE);
    assert_eq!(rig.state(), State::Closed);
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open);
    let mut rig = hinted(ratio);
    rig.calls(40, Outcome::Success);
    rig.calls(30, FAILURE);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn two_failures_in_a_row_are_the_least_unless_one_was_enough() {
    let alerted = |most| {
        let policy = BreakerPolicy { consecutive_failures: Some(most), ..THREE_IN_A_ROW };
        policy.alerted().consecutive_failures.unwrap()
    };
    let expected = [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (6, 3), (u32::MAX, 1 << 31)];
    for (most, fewer) in expected {
        assert_eq!(alerted(most), fewer, "{most}");
    }
    let least = BreakerPolicy { min_requests: 1, ..THREE_IN_A_ROW };
    assert_eq!(least.alerted().min_requests, 1);
}
