//! What opens a circuit, what does not, and for how long it is open.

use super::*;
use crate::policy::share::Share;

/// Opens when half of at least ten calls failed.
fn half_failed() -> BreakerPolicy {
    let failure_ratio = Some(Share::from_percent(50));
    BreakerPolicy { consecutive_failures: None, failure_ratio, ..THREE_IN_A_ROW }
}

/// Opens when half of at least ten calls took longer than a second.
fn half_slow() -> BreakerPolicy {
    let slow_calls = SlowCalls { longer_than_ns: SECOND, ratio: Share::from_percent(50) };
    let slow_calls = Some(slow_calls);
    BreakerPolicy { consecutive_failures: None, slow_calls, ..THREE_IN_A_ROW }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_begins_a_new_row() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.calls(2, FAILURE);
    rig.call(Outcome::Success);
    rig.calls(2, FAILURE);
    assert_eq!(rig.state(), State::Closed);
    rig.call(FAILURE);
    let view = rig.view();
    assert_eq!((view.state, view.failures), (State::Open, 3));
    assert_eq!(view.reason, Some(Reason::ConsecutiveFailures(3)));
    assert_eq!(view.opened_at_ns, Some(START));
    assert_eq!(view.window, Totals { calls: 6, failures: 5, slow: 0 });
}

#[test]
fn successes_counted_together_break_a_row_of_failures_too() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.calls(2, FAILURE);
    rig.breaker.count_successes(&rig.policy, START, 5);
    rig.calls(2, FAILURE);
    let view = rig.view();
    assert_eq!((view.state, view.failures, view.window.calls), (State::Closed, 2, 9));
}

#[test]
fn a_call_given_back_is_no_call() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.calls(2, FAILURE);
    let pass = rig.pass();
    rig.breaker.give_back(pass);
    assert_eq!((rig.view().failures, rig.view().window.calls), (2, 2));
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn a_ratio_needs_the_minimum_of_calls() {
    let mut rig = Rig::new(half_failed());
    rig.calls(9, FAILURE);
    assert_eq!(rig.state(), State::Closed);
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open);
    let totals = Totals { calls: 10, failures: 10, slow: 0 };
    assert_eq!(rig.view().reason, Some(Reason::FailureRatio(totals)));
}

#[test]
fn a_ratio_opens_when_its_lower_bound_is_reached_and_not_when_the_share_is() {
    let mut rig = Rig::new(half_failed());
    rig.calls(6, Outcome::Success);
    rig.calls(13, FAILURE);
    assert_eq!(rig.state(), State::Closed, "13 of 19 may be luck");
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open, "14 of 20 prove a half at 95 %");
}

#[test]
fn failures_that_left_the_window_open_nothing() {
    let mut rig = Rig::new(half_failed());
    rig.calls(9, FAILURE);
    rig.after(10 * SECOND).calls(9, FAILURE);
    assert_eq!(rig.view().window.calls, 9);
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn slow_calls_open_it_though_they_succeed_and_fast_failures_do_not() {
    let mut rig = Rig::new(half_slow());
    rig.calls(30, FAILURE);
    assert_eq!(rig.state(), State::Closed);
    rig.after(20 * SECOND);
    (0..20).for_each(|_| rig.call_for(Outcome::Success, SECOND));
    assert_eq!(rig.view().window.slow, 0, "as long as the limit is not longer");
    rig.after(20 * SECOND);
    (0..9).for_each(|_| rig.call_for(Outcome::Success, SECOND + 1));
    assert_eq!(rig.state(), State::Closed);
    rig.call_for(FAILURE, SECOND + 1);
    let totals = Totals { calls: 10, failures: 1, slow: 10 };
    assert_eq!(rig.view().reason, Some(Reason::SlowCalls(totals)));
}

#[test]
fn a_fast_success_opens_nothing_even_if_it_completes_the_minimum() {
    let mut rig = Rig::new(half_failed());
    rig.calls(9, FAILURE);
    rig.call(Outcome::Success);
    assert_eq!(rig.state(), State::Closed);
    rig.call(FAILURE);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn without_a_condition_nothing_opens_it() {
    let mut rig = Rig::new(BreakerPolicy::NEVER);
    rig.calls(1_000, retry_after(SECOND));
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn an_open_circuit_refuses_until_its_cooldown_is_over() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.open();
    assert_eq!(rig.ask(), Err(SECOND));
    assert_eq!(rig.after(SECOND - 1).ask(), Err(1));
    assert!(rig.breaker.would_refuse(&rig.policy, rig.now));
    rig.after(1);
    assert!(!rig.breaker.would_refuse(&rig.policy, rig.now));
    assert_eq!(rig.view().next_probe_in_ns, Some(0));
    rig.pass();
}

#[test]
fn the_largest_retry_after_of_the_row_lengthens_the_cooldown_by_what_is_left_of_it() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.call(retry_after(7 * SECOND));
    rig.call(Outcome::Success);
    rig.call(retry_after(5 * SECOND));
    rig.after(SECOND).call(retry_after(2 * SECOND));
    rig.call(FAILURE);
    assert_eq!(rig.ask(), Err(4 * SECOND), "5 s, of which one is over; the 7 s are another row's");
}

#[test]
fn no_retry_after_is_longer_than_the_longest_cooldown() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.random = u64::MAX;
    rig.calls(3, retry_after(u64::MAX));
    assert_eq!(rig.ask(), Err(8 * SECOND));
}

#[test]
fn a_retry_after_alone_opens_nothing() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.calls(2, retry_after(u64::MAX));
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn the_ratio_hears_the_retry_after_of_its_window_and_slowness_hears_none() {
    let mut rig = Rig::new(half_failed());
    rig.call(retry_after(6 * SECOND));
    rig.after(2 * SECOND).calls(9, FAILURE);
    assert_eq!(rig.ask(), Err(4 * SECOND));
    let mut rig = Rig::new(half_slow());
    (0..10).for_each(|_| rig.call_for(retry_after(6 * SECOND), 2 * SECOND));
    assert_eq!(rig.ask(), Err(SECOND));
}

#[test]
fn the_first_cooldown_is_as_configured_and_later_ones_are_spread() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.random = u64::MAX;
    rig.half_open();
    assert_eq!(rig.view().opened_at_ns.map(|at| rig.now - at), Some(SECOND));
    rig.call(FAILURE);
    let retry_after_ns = rig.ask().unwrap_err();
    assert!((1_800 * MS..1_801 * MS).contains(&retry_after_ns), "{retry_after_ns}");
}

#[test]
fn answers_from_before_it_opened_count_nothing() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    let early: Vec<Pass> = (0..4).map(|_| rig.pass()).collect();
    rig.half_open();
    let before = rig.view();
    for (pass, outcome) in early.into_iter().zip([FAILURE, Outcome::Success].repeat(2)) {
        rig.tell(pass, outcome);
    }
    assert_eq!(rig.view(), before);
}

#[test]
fn a_clock_read_a_little_early_does_not_turn_time_back() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    rig.now -= 1;
    rig.pass();
    assert_eq!(rig.state(), State::HalfOpen);
}
