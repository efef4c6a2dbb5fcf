//! How a circuit closes again: probes, and the ramp.

use super::*;

#[test]
fn enough_successes_of_probes_close_it() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    rig.call(Outcome::Success);
    let view = rig.view();
    assert_eq!((view.state, view.probes_succeeded), (State::HalfOpen, 1));
    rig.call(Outcome::Success);
    let view = rig.view();
    assert_eq!((view.state, view.reason, view.opened_at_ns), (State::Closed, None, None));
    assert_eq!((view.failures, view.window), (0, Totals::default()));
}

#[test]
fn no_more_probes_are_out_than_allowed() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    let first = rig.pass();
    rig.after(300 * MS).pass();
    assert_eq!(rig.view().probes_out, 2);
    assert_eq!(rig.ask(), Err(700 * MS), "until the first lease ends");
    assert_eq!(rig.view().next_probe_in_ns, Some(700 * MS));
    rig.breaker.give_back(first);
    rig.pass();
    assert_eq!(rig.view().probes_out, 2);
    assert!(rig.ask().is_err());
}

#[test]
fn who_waits_for_a_probe_is_sent_away_for_a_second_at_most() {
    let mut rig = Rig::new(BreakerPolicy { cooldown_ns: 5 * SECOND, ..THREE_IN_A_ROW });
    rig.half_open();
    let _probes = [rig.pass(), rig.pass()];
    assert_eq!(rig.ask(), Err(SECOND));
    assert_eq!(rig.view().next_probe_in_ns, Some(5 * SECOND));
}

#[test]
fn a_lost_probe_frees_its_place_at_its_deadline() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    let _lost = [rig.pass(), rig.pass()];
    assert_eq!(rig.after(SECOND - 1).ask(), Err(1));
    rig.after(1).pass();
}

#[test]
fn a_lease_is_as_long_as_the_first_cooldown_within_bounds() {
    for (cooldown_ns, lease_ns) in [(MS, 100 * MS), (SECOND, SECOND), (90 * SECOND, 30 * SECOND)] {
        let max_cooldown_ns = 100 * SECOND;
        let mut rig = Rig::new(BreakerPolicy { cooldown_ns, max_cooldown_ns, ..THREE_IN_A_ROW });
        rig.half_open();
        let _lost = [rig.pass(), rig.pass()];
        assert_eq!(rig.view().next_probe_in_ns, Some(lease_ns));
    }
}

#[test]
fn a_failed_probe_opens_it_again_for_twice_as_long() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    for cooldown in [2, 4, 8, 8, 8] {
        rig.call(FAILURE);
        assert_eq!(rig.view().reason, Some(Reason::ProbeFailed));
        assert_eq!(rig.view().opened_at_ns, Some(rig.now));
        assert_eq!(rig.ask(), Err(cooldown * SECOND));
        rig.after(cooldown * SECOND);
    }
}

#[test]
fn a_failed_probe_may_ask_for_a_longer_cooldown() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    rig.call(retry_after(5 * SECOND));
    assert_eq!(rig.ask(), Err(5 * SECOND));
}

#[test]
fn the_failure_of_a_probe_counts_until_its_deadline_and_not_after() {
    for (late_ns, state) in [(SECOND - 1, State::Open), (SECOND, State::HalfOpen)] {
        let mut rig = Rig::new(THREE_IN_A_ROW);
        rig.half_open();
        let probe = rig.pass();
        rig.after(late_ns).tell(probe, FAILURE);
        assert_eq!(rig.state(), state, "after {late_ns} ns");
    }
}

#[test]
fn a_late_success_counts_or_an_upstream_slower_than_the_lease_would_never_be_back() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    let probes = [rig.pass(), rig.pass()];
    rig.after(SECOND);
    let _others = [rig.pass(), rig.pass()];
    for probe in probes {
        rig.tell(probe, Outcome::Success);
    }
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_probe_of_an_earlier_episode_neither_closes_nor_opens_nor_frees_a_place() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    let early = rig.pass();
    rig.call(FAILURE);
    rig.after(2 * SECOND);
    let _probes = [rig.pass(), rig.pass()];
    let before = rig.view();
    for outcome in [Outcome::Success, FAILURE] {
        rig.tell(early.clone(), outcome);
    }
    rig.breaker.give_back(early);
    assert_eq!(rig.view(), before);
    assert_eq!(before.probes_out, 2);
}

#[test]
fn opening_soon_after_closing_is_opening_in_a_row() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.close_again();
    rig.after(10 * SECOND - 1).open();
    assert_eq!((rig.ask(), rig.view().openings), (Err(2 * SECOND), 2));
}

#[test]
fn a_circuit_that_stayed_closed_for_window_and_ramp_begins_anew() {
    for policy in [THREE_IN_A_ROW, BreakerPolicy { window_ns: SECOND, ..THREE_IN_A_ROW }] {
        let mut rig = Rig::new(policy);
        rig.close_again();
        let proof_ns = rig.policy.window_ns.max(rig.policy.ramp_ns);
        rig.after(proof_ns).open();
        assert_eq!((rig.ask(), rig.view().openings), (Err(SECOND), 1));
    }
}

#[test]
fn the_ramp_lets_through_what_one_call_after_the_other_needs() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.random = u64::MAX;
    rig.close_again();
    for _ in 0..1_000 {
        rig.call(Outcome::Success);
    }
    let _in_flight = [rig.pass(), rig.pass()];
    assert_eq!(rig.ask(), Err(SECOND));
    assert!(!rig.breaker.would_refuse(&rig.policy, rig.now), "it is a matter of luck");
}

#[test]
fn of_the_load_beyond_the_elapsed_share_of_the_ramp_passes() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.close_again();
    let _in_flight = [rig.pass(), rig.pass()];
    let start = rig.now;
    for percent in [0, 1, 25, 50, 99] {
        rig.now = start + percent * 40 * MS;
        assert_eq!(rig.view().ramp.unwrap().millionths(), percent as u32 * 10_000);
        // Random numbers spread evenly over their range.
        let mut passed = 0;
        for step in 0..1_000 {
            rig.random = u64::MAX / 2_000 * (2 * step + 1);
            if let Ok(pass) = rig.ask() {
                rig.breaker.give_back(pass);
                passed += 1;
            }
        }
        assert_eq!(passed, percent * 10);
    }
}

#[test]
fn after_the_ramp_everything_passes_and_nobody_counts() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.random = u64::MAX;
    rig.close_again();
    let _early = [rig.pass(), rig.pass()];
    assert!(rig.after(4 * SECOND - 1).ask().is_err());
    assert_eq!(rig.breaker.plain_generation(), None);
    let pass = rig.after(1).pass();
    assert_eq!(pass.plain_generation(), rig.breaker.plain_generation());
    assert!(pass.plain_generation().is_some());
    assert_eq!(rig.view().ramp, None);
}

#[test]
fn a_call_that_began_on_the_ramp_counts_after_it() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.close_again();
    let calls = [rig.pass(), rig.pass(), rig.after(1_000).pass()];
    rig.after(5 * SECOND);
    for pass in calls {
        rig.tell(pass, FAILURE);
    }
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn without_a_ramp_everything_passes_at_once() {
    let mut rig = Rig::new(BreakerPolicy { ramp_ns: 0, ..THREE_IN_A_ROW });
    rig.random = u64::MAX;
    rig.close_again();
    let passes: Vec<Pass> = (0..100).map(|_| rig.pass()).collect();
    assert_eq!(passes.len(), 100);
}
