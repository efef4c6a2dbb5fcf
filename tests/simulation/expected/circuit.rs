//! A circuit, and whether it does what it has to.

use super::breaker::{Breaker, Kind, Phase};
use super::window::{Due, Told};
use crate::tally::{Happening, Tally};
use std::sync::Arc;
use tollgate::policy::breaker::{BreakerPolicy, Reason, State, View};
use tollgate::upstream::circuit::{Circuit, ForceTo, Outcome, Ticket};

/// A circuit with its expected state.
///
/// While the circuit is plainly closed it is rarely looked at: looking would empty the counter
/// of successes that works without the lock, and nothing of that would be simulated. Nothing
/// is lost by it. Only a bad call or an operator ends that state, and after both it is looked
/// at; and that every call passes is seen by asking.
pub(crate) struct WatchedCircuit {
    real: Arc<Circuit>,
    expected: Breaker,
}

/// A ticket, and what it is expected to be.
pub(crate) struct Leave {
    ticket: Ticket,
    generation: u64,
    kind: Kind,
}

impl WatchedCircuit {
    pub(crate) fn new(real: Arc<Circuit>) -> WatchedCircuit {
        let policy = real.policy().cloned().unwrap_or(BreakerPolicy::NEVER);
        WatchedCircuit { real, expected: Breaker::new(policy) }
    }

    /// The longest that it stays open, and that a probe may be out.
    pub(crate) fn longest_ns(&self) -> u64 {
        self.expected.policy.max_cooldown_ns + self.expected.lease_ns()
    }

    pub(crate) fn assert_closed(&self) {
        let is_closed = matches!(self.expected.phase, Phase::Closed { .. });
        assert!(is_closed, "it is stuck: {}", self.told());
    }

    pub(crate) fn ask(&mut self, said_ns: u64, tally: &mut Tally) -> Option<Leave> {
        if !self.expected.is_plain() {
            self.expected.elapse(said_ns);
        }
        let refusal_ns = self.expected.refusal_ns();
        let answer = self.real.ask(said_ns);
        if let Some(refusal_ns) = refusal_ns {
            let Err(refused) = answer else { panic!("it passed a call: {}", self.told()) };
            assert_eq!(refused.retry_after_ns, refusal_ns.max(1), "{}", self.told());
            tally.note(match self.expected.phase {
                Phase::HalfOpen { .. } => Happening::RefusedForProbes,
                _ => Happening::RefusedByOpenCircuit,
            });
            return None;
        }
        let Ok(ticket) = answer else {
            assert!(self.expected.may_refuse(), "it refused a call: {}", self.told());
            tally.note(Happening::RefusedOnRamp);
            return None;
        };
        let kind = self.expected.pass();
        if matches!(kind, Kind::Ramp) {
            tally.note(Happening::PassedOnRamp);
        }
        Some(Leave { ticket, generation: self.expected.generation, kind })
    }

    /// Tells what came of a call.
    pub(crate) fn tell(
        &mut self,
        leave: Leave,
        outcome: Outcome,
        took_ns: u64,
        said_ns: u64,
        tally: &mut Tally,
    ) {
        let Leave { ticket, generation, kind } = leave;
        ticket.tell(outcome, took_ns, said_ns);
        let expected = &mut self.expected;
        if !expected.policy.has_condition()
            || generation == expected.generation
                && expected.count_unlocked(kind, outcome, took_ns, said_ns)
        {
            return;
        }
        expected.elapse(said_ns);
        if generation != expected.generation {
            tally.note(Happening::ToldToLaterGeneration);
            return;
        }
        expected.release(kind);
        match expected.phase {
            Phase::Closed { .. } => self.told_while_closed(outcome, took_ns, said_ns, tally),
            Phase::HalfOpen { .. } => self.told_of_probe(kind, outcome, said_ns, tally),
            Phase::Open { .. } | Phase::ForcedOpen { .. } | Phase::ForcedClosed { .. } => {}
        }
    }

    /// A call that nothing came of.
    pub(crate) fn give_back(&mut self, leave: Leave, tally: &mut Tally) {
        drop(leave.ticket);
        if !matches!(leave.kind, Kind::Plain) {
            self.expected.was_locked();
        }
        if leave.generation == self.expected.generation {
            if matches!(leave.kind, Kind::Probe(_)) {
                tally.note(Happening::ProbeGivenBack);
            }
            self.expected.release(leave.kind);
        }
    }

    /// Whether a retry would certainly be refused.
    pub(crate) fn would_refuse(&mut self, said_ns: u64) -> bool {
        if !self.expected.is_plain() {
            self.expected.elapse(said_ns);
        }
        let would_refuse = self.real.would_refuse(said_ns);
        assert_eq!(would_refuse, self.expected.refusal_ns().is_some(), "{}", self.told());
        would_refuse
    }

    pub(crate) fn force(&mut self, to: ForceTo, now_ns: u64) {
        self.real.force(to, now_ns);
        self.expected.elapse(now_ns);
        self.expected.force(to);
        self.look(now_ns);
    }

    pub(crate) fn hint(&mut self, now_ns: u64, tally: &mut Tally) {
        let is_heeded = self.real.hint(now_ns);
        self.expected.elapse(now_ns);
        assert_eq!(is_heeded, self.expected.hint(), "{}", self.told());
        if is_heeded {
            tally.note(Happening::Hinted);
        }
        self.look(now_ns);
    }

    /// Compares, unless it is plainly closed and nobody looks at it now.
    pub(crate) fn check(&mut self, is_looked_at: bool, now_ns: u64, tally: &mut Tally) {
        if is_looked_at || !self.expected.is_plain() {
            let (out, _) = self.expected.probes();
            self.look(now_ns);
            if self.expected.probes().0 < out {
                tally.note(Happening::ProbeOverdue);
            }
        }
    }

    fn look(&mut self, now_ns: u64) {
        let expected = &mut self.expected;
        expected.elapse(now_ns);
        let view = self.real.view(now_ns);
        assert_eq!(
            (view.state, view.forced_until_ns, view.retry_after_ns, view.openings),
            (
                expected.state(),
                expected.forced_until_ns(),
                expected.refusal_ns(),
                expected.openings
            ),
            "{view:?}"
        );
        assert_eq!((view.probes_out, view.probes_succeeded), expected.probes(), "{view:?}");
        assert!(view.probes_out <= expected.policy.probes, "{view:?}");
        assert_eq!(view.failures, expected.evidence.row, "failures in a row: {view:?}");
        assert_eq!(view.hinted_until_ns, expected.hinted_until_ns, "{view:?}");
        assert_eq!(view.window, expected.evidence.totals(), "the window: {view:?}");
        let is_on_ramp = matches!(expected.phase, Phase::Closed { ramp: Some(_), .. });
        assert_eq!(view.ramp.is_some(), is_on_ramp, "{view:?}");
    }

    fn told_while_closed(
        &mut self,
        outcome: Outcome,
        took_ns: u64,
        said_ns: u64,
        tally: &mut Tally,
    ) {
        let thresholds = self.expected.thresholds();
        let Breaker { policy, evidence, now_ns, .. } = &mut self.expected;
        let retry_at_ns = asked_ns(outcome).map_or(0, |ns| now_ns.saturating_add(ns));
        let is_failure = outcome != Outcome::Success;
        let told = Told { is_failure, is_slow: policy.is_slow(took_ns), retry_at_ns };
        evidence.count(policy, told, *now_ns);
        if !told.is_failure && !told.is_slow {
            return;
        }
        let due = evidence.due(&thresholds);
        if due != Due::No && evidence.due(policy) == Due::No {
            tally.note(Happening::OpenedSooner);
        }
        let view = self.real.view(said_ns);
        let is_open = view.state == State::Open;
        assert!(due == Due::Either || is_open == (due != Due::No), "{due:?}: {view:?}");
        if !is_open {
            return;
        }
        let (happening, at_ns) = match (due, view.reason) {
            (Due::Row(at_ns), Some(Reason::ConsecutiveFailures(_))) => {
                (Happening::OpenedByRow, at_ns)
            }
            (Due::Failures(at_ns), Some(Reason::FailureRatio(_))) => {
                (Happening::OpenedByFailures, at_ns)
            }
            (Due::Slow, Some(Reason::SlowCalls(_))) => (Happening::OpenedBySlowCalls, 0),
            (Due::Either, Some(_)) => (Happening::OpenedByFailures, 0),
            (due, reason) => panic!("it opened by {reason:?} and not by {due:?}"),
        };
        tally.note(happening);
        self.opened(&view, at_ns.saturating_sub(self.expected.now_ns), tally);
    }

    fn told_of_probe(&mut self, kind: Kind, outcome: Outcome, said_ns: u64, tally: &mut Tally) {
        let expected = &mut self.expected;
        let is_in_time = matches!(kind, Kind::Probe(lease) if expected.now_ns < lease.deadline_ns);
        match &mut expected.phase {
            Phase::HalfOpen { successes, .. } if outcome == Outcome::Success => {
                *successes += 1;
                let is_enough = *successes == expected.policy.probes;
                if !is_in_time {
                    tally.note(Happening::LateSuccess);
                }
                if is_enough {
                    tally.note(Happening::Closed);
                    expected.close();
                }
            }
            _ if is_in_time => {
                tally.note(Happening::OpenedByProbe);
                let view = self.real.view(said_ns);
                assert_eq!(view.reason, Some(Reason::ProbeFailed), "{view:?}");
                self.opened(&view, asked_ns(outcome).unwrap_or(0), tally);
            }
            _ => tally.note(Happening::LateFailure),
        }
    }

    /// It has opened: for how long is drawn, within bounds.
    fn opened(&mut self, view: &View, asked_ns: u64, tally: &mut Tally) {
        let expected = &mut self.expected;
        let View { opened_at_ns: Some(at_ns), next_probe_in_ns: Some(left_ns), .. } = *view else {
            panic!("it should have opened: {view:?}");
        };
        assert_eq!(at_ns, expected.now_ns, "{view:?}");
        expected.openings += 1;
        let (least_ns, most_ns) = expected.cooldown_ns(asked_ns);
        let is_within = (least_ns..=most_ns).contains(&left_ns);
        assert!(is_within, "open for {left_ns} ns and not {least_ns} to {most_ns}: {view:?}");
        if least_ns > expected.cooldown_ns(0).0 {
            tally.note(Happening::OpenedForLonger);
        }
        expected.change(Phase::Open { until_ns: at_ns + left_ns });
    }

    fn told(&self) -> String {
        let now_ns = self.expected.now_ns;
        format!("{} at {now_ns}: {:?}", self.real.name(), self.real.view(now_ns))
    }
}

/// How long a failure asked to be left alone.
fn asked_ns(outcome: Outcome) -> Option<u64> {
    match outcome {
        Outcome::Failure { retry_after_ns } => retry_after_ns,
        Outcome::Success => None,
    }
}
