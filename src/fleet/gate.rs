//! The breaker in front of Redis: who may ask, and when nobody may.
//!
//! It is open while Redis answers in time. Three failures in a row shut it, and then no request
//! waits for Redis at all; what opens it again are probes in the background. A way that was shut
//! again soon after it had opened needs more probes to succeed, up to four: a server that answers
//! every other second should not make requests wait every other second.
//!
//! This is not the breaker of upstreams (`policy::breaker`): nothing is decided by ratios here,
//! and there is no half-open state, since no request is ever the probe.

use std::time::{Duration, Instant};

/// Failures in a row that shut the gate.
const FAILURES: u32 = 3;
/// And the time within which they must come.
const WITHIN: Duration = Duration::from_secs(2);
/// A gate that was open for less than this needs more probes than before.
const SOON: Duration = Duration::from_secs(5);
/// Probes in a row that are asked for at most.
const MOST_PROBES: u32 = 4;

/// Which opening of the gate a call passed. What a call from before has to tell is of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opening(u64);

/// What changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Requests may ask from now on.
    Opened(Opening),
    /// No request may.
    Shut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// So many probes have succeeded in a row.
    Shut { successes: u32 },
    /// Since when, how many calls have failed in a row, and when the first of these did.
    Open { since: Instant, failures: u32, first: Instant },
}

/// The state of the gate. It reads no clock.
#[derive(Debug)]
pub(super) struct Gate {
    state: State,
    opening: u64,
    /// Probes that the next opening takes.
    needed: u32,
}

impl Gate {
    /// A shut gate: nothing is known of Redis yet.
    pub(super) fn new() -> Gate {
        Gate { state: State::Shut { successes: 0 }, opening: 0, needed: 1 }
    }

    /// The opening that calls pass now; none while it is shut.
    pub(super) fn opening(&self) -> Option<Opening> {
        match self.state {
            State::Shut { .. } => None,
            State::Open { .. } => Some(Opening(self.opening)),
        }
    }

    /// A call that passed at `opening` was answered.
    pub(super) fn worked(&mut self, opening: Opening) {
        if self.opening() == Some(opening)
            && let State::Open { failures, .. } = &mut self.state
        {
            *failures = 0;
        }
    }

    /// A call that passed at `opening` failed.
    pub(super) fn failed(&mut self, opening: Opening, now: Instant) -> Option<Change> {
        if self.opening() != Some(opening) {
            return None;
        }
        let State::Open { failures, first, .. } = &mut self.state else { return None };
        if *failures == 0 || now.saturating_duration_since(*first) > WITHIN {
            (*failures, *first) = (0, now);
        }
        *failures += 1;
        if *failures < FAILURES {
            return None;
        }
        self.shut(now)
    }

    /// A probe was answered in time, or was not.
    pub(super) fn probed(&mut self, is_well: bool, now: Instant) -> Option<Change> {
        match (&mut self.state, is_well) {
            (State::Shut { successes }, true) => {
                *successes += 1;
                if *successes < self.needed {
                    return None;
                }
                self.opening += 1;
                self.state = State::Open { since: now, failures: 0, first: now };
                Some(Change::Opened(Opening(self.opening)))
            }
            (State::Shut { successes }, false) => {
                *successes = 0;
                None
            }
            (State::Open { failures, .. }, true) => {
                *failures = 0;
                None
            }
            (State::Open { .. }, false) => self.failed(Opening(self.opening), now),
        }
    }

    /// Shuts it, whatever calls said: there is no connection any more.
    pub(super) fn shut(&mut self, now: Instant) -> Option<Change> {
        let State::Open { since, .. } = self.state else { return None };
        let was_short = now.saturating_duration_since(since) < SOON;
        self.needed = if was_short { (self.needed * 2).min(MOST_PROBES) } else { 1 };
        self.state = State::Shut { successes: 0 };
        Some(Change::Shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A gate that has just opened, and the time.
    fn open() -> (Gate, Opening, Instant) {
        let now = crate::clock::now();
        let mut gate = Gate::new();
        let Some(Change::Opened(opening)) = gate.probed(true, now) else { panic!("{gate:?}") };
        assert_eq!(gate.opening(), Some(opening));
        (gate, opening, now)
    }

    #[test]
    fn it_is_shut_until_a_probe_was_answered() {
        let mut gate = Gate::new();
        assert_eq!(gate.opening(), None);
        assert_eq!(gate.probed(false, crate::clock::now()), None);
        assert_eq!(gate.opening(), None);
        open();
    }

    #[test]
    fn three_failures_in_a_row_shut_it_once() {
        let (mut gate, opening, now) = open();
        assert_eq!(gate.failed(opening, now), None);
        assert_eq!(gate.failed(opening, now + 10 * MS), None);
        assert_eq!(gate.failed(opening, now + 20 * MS), Some(Change::Shut));
        assert_eq!(gate.opening(), None);
        assert_eq!(gate.failed(opening, now + 20 * MS), None);
    }

    #[test]
    fn an_answer_between_failures_begins_a_new_row() {
        let (mut gate, opening, now) = open();
        for _ in 0..100 {
            assert_eq!(gate.failed(opening, now), None);
            assert_eq!(gate.failed(opening, now), None);
            gate.worked(opening);
        }
        assert!(gate.opening().is_some());
    }

    #[test]
    fn failures_far_apart_are_no_row() {
        let (mut gate, opening, now) = open();
        for second in 0..100 {
            let now = now + Duration::from_millis(1_100) * second;
            assert_eq!(gate.failed(opening, now), None, "{second}");
        }
    }

    #[test]
    fn probes_that_fail_shut_it_too() {
        let (mut gate, _, now) = open();
        assert_eq!(gate.probed(false, now + 250 * MS), None);
        assert_eq!(gate.probed(true, now + 500 * MS), None);
        assert_eq!(gate.probed(false, now + 750 * MS), None);
        assert_eq!(gate.probed(false, now + 1_000 * MS), None);
        assert_eq!(gate.probed(false, now + 1_250 * MS), Some(Change::Shut));
    }

    #[test]
    fn what_comes_late_from_before_says_nothing() {
        let (mut gate, old, now) = open();
        gate.shut(now + 10_000 * MS);
        let Some(Change::Opened(new)) = gate.probed(true, now + 10_250 * MS) else { panic!() };
        for _ in 0..10 {
            assert_eq!(gate.failed(old, now + 10_250 * MS), None);
        }
        assert_eq!(gate.failed(new, now + 10_250 * MS), None);
        assert_eq!(gate.failed(new, now + 10_250 * MS), None);
        gate.worked(old);
        assert_eq!(gate.failed(new, now + 10_250 * MS), Some(Change::Shut));
    }

    #[test]
    fn a_server_that_comes_and_goes_has_to_prove_itself_longer() {
        let (mut gate, _, mut now) = open();
        for needed in [2, 4, 4, 4] {
            now += 1_000 * MS;
            assert_eq!(gate.shut(now), Some(Change::Shut));
            for _ in 1..needed {
                assert_eq!(gate.probed(true, now), None);
            }
            assert!(matches!(gate.probed(true, now), Some(Change::Opened(_))), "{needed}");
        }
        now += 6_000 * MS;
        assert_eq!(gate.shut(now), Some(Change::Shut));
        assert!(matches!(gate.probed(true, now), Some(Change::Opened(_))));
    }

    #[test]
    fn a_probe_that_fails_begins_a_new_row_of_successes() {
        let (mut gate, _, now) = open();
        gate.shut(now);
        assert_eq!(gate.probed(true, now), None);
        assert_eq!(gate.probed(false, now), None);
        assert_eq!(gate.probed(true, now), None);
        assert!(gate.probed(true, now).is_some());
    }
}
