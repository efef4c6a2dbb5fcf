//! What an operator can do.

use super::*;

#[test]
fn forced_open_refuses_everything_until_its_time_is_over() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.force(ForceTo::Open { until_ns: START + 60 * SECOND });
    let view = rig.view();
    assert_eq!((view.state, view.reason), (State::Open, Some(Reason::Forced)));
    assert_eq!(view.forced_until_ns, Some(START + 60 * SECOND));
    assert_eq!(rig.ask(), Err(60 * SECOND));
    assert_eq!(rig.after(60 * SECOND - 1).ask(), Err(SECOND), "never less than a second");
    rig.after(1).pass();
    assert_eq!((rig.state(), rig.view().forced_until_ns), (State::HalfOpen, None));
}

#[test]
fn forced_open_for_days_asks_to_come_back_in_an_hour() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.force(ForceTo::Open { until_ns: u64::MAX });
    assert_eq!(rig.ask(), Err(3_600 * SECOND));
}

#[test]
fn after_forced_open_probes_decide_and_the_cooldown_is_the_first() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.half_open();
    rig.call(FAILURE);
    rig.force(ForceTo::Open { until_ns: u64::MAX });
    rig.force(ForceTo::Auto);
    assert_eq!(rig.state(), State::HalfOpen);
    rig.call(FAILURE);
    assert_eq!(rig.ask(), Err(SECOND));
}

#[test]
fn forced_closed_lets_everything_through_and_nothing_opens_it() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.open();
    rig.force(ForceTo::Closed { until_ns: START + 60 * SECOND });
    rig.calls(100, retry_after(SECOND));
    let view = rig.view();
    assert_eq!((view.state, view.reason), (State::Closed, None));
    assert_eq!(view.forced_until_ns, Some(START + 60 * SECOND));
}

#[test]
fn after_forced_closed_it_is_closed_with_a_fresh_window_and_old_answers_count_nothing() {
    for is_ended_early in [false, true] {
        let mut rig = Rig::new(THREE_IN_A_ROW);
        rig.calls(2, FAILURE);
        rig.force(ForceTo::Closed { until_ns: START + SECOND });
        let early: Vec<Pass> = (0..5).map(|_| rig.pass()).collect();
        if is_ended_early {
            rig.force(ForceTo::Auto);
        } else {
            rig.after(SECOND);
        }
        early.into_iter().for_each(|pass| rig.tell(pass, FAILURE));
        let view = rig.view();
        assert_eq!((view.state, view.forced_until_ns), (State::Closed, None));
        assert_eq!((view.failures, view.window.calls, view.ramp), (0, 0, None));
        rig.calls(2, FAILURE);
        assert_eq!(rig.state(), State::Closed);
        rig.call(FAILURE);
        assert_eq!(rig.state(), State::Open);
    }
}

#[test]
fn a_circuit_without_conditions_can_be_forced_and_closes_when_that_ends() {
    let mut rig = Rig::new(BreakerPolicy::NEVER);
    rig.force(ForceTo::Open { until_ns: START + SECOND });
    assert!(rig.ask().is_err());
    rig.after(SECOND).call(FAILURE);
    assert_eq!((rig.state(), rig.view().reason), (State::Closed, None));
}

#[test]
fn auto_leaves_alone_what_is_not_forced() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.open();
    let before = rig.view();
    rig.force(ForceTo::Auto);
    assert_eq!(rig.view(), before);
}

#[test]
fn an_operator_may_change_their_mind() {
    let mut rig = Rig::new(THREE_IN_A_ROW);
    rig.force(ForceTo::Closed { until_ns: u64::MAX });
    rig.force(ForceTo::Open { until_ns: u64::MAX });
    assert!(rig.ask().is_err());
    rig.force(ForceTo::Closed { until_ns: u64::MAX });
    rig.pass();
    rig.force(ForceTo::Open { until_ns: START });
    assert_eq!(rig.state(), State::HalfOpen, "that time was over already");
}
