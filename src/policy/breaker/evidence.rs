//! What the calls through a closed circuit came to, and whether that is reason to open it.

use super::window::Window;
use super::{BreakerPolicy, Outcome, Reason, Totals, score};

/// The sliding window and the row of failures at its end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub(super) struct Evidence {
    window: Window,
    /// Failures since the last success.
    failures: u32,
    /// The latest time that one of them asked to be left alone until.
    retry_at_ns: u64,
}

impl Evidence {
    /// Drops what is too old for the window.
    pub(super) fn move_to(&mut self, policy: &BreakerPolicy, now_ns: u64) {
        self.window.move_to(policy.tick(now_ns));
    }

    /// Counts one call.
    pub(super) fn count(
        &mut self,
        policy: &BreakerPolicy,
        outcome: Outcome,
        is_slow: bool,
        now_ns: u64,
    ) {
        let mut totals = Totals { calls: 1, failures: 0, slow: u32::from(is_slow) };
        let mut retry_at_ns = 0;
        match outcome {
            Outcome::Success => self.end_row(),
            Outcome::Failure { retry_after_ns } => {
                totals.failures = 1;
                retry_at_ns = retry_after_ns.map_or(0, |ns| now_ns.saturating_add(ns));
                self.failures = self.failures.saturating_add(1);
                self.retry_at_ns = self.retry_at_ns.max(retry_at_ns);
            }
        }
        self.window.count(policy.tick(now_ns), totals, retry_at_ns);
    }

    /// Counts calls that succeeded, none of them slow.
    pub(super) fn count_successes(&mut self, policy: &BreakerPolicy, at_ns: u64, calls: u32) {
        if calls > 0 {
            self.end_row();
            let totals = Totals { calls, ..Totals::default() };
            self.window.count(policy.tick(at_ns), totals, 0);
        }
    }

    /// The first of the policy's conditions that is met, and until when the failures that met
    /// it asked to be left alone. Calls that were slow asked for nothing.
    pub(super) fn reason(&self, policy: &BreakerPolicy) -> Option<(Reason, u64)> {
        if policy.consecutive_failures.is_some_and(|most| self.failures >= most) {
            return Some((Reason::ConsecutiveFailures(self.failures), self.retry_at_ns));
        }
        let totals @ Totals { calls, failures, slow } = self.window.totals();
        if calls < policy.min_requests {
            return None;
        }
        if policy.failure_ratio.is_some_and(|ratio| score::is_reached(failures, calls, ratio)) {
            return Some((Reason::FailureRatio(totals), self.window.retry_at_ns()));
        }
        let is_slow = |ratio| score::is_reached(slow, calls, ratio);
        let slow_calls = policy.slow_calls.filter(|slow_calls| is_slow(slow_calls.ratio));
        slow_calls.map(|_| (Reason::SlowCalls(totals), 0))
    }

    /// Failures in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// What the window holds.
    pub(super) fn totals(&self) -> Totals {
        self.window.totals()
    }

    fn end_row(&mut self) {
        self.failures = 0;
        self.retry_at_ns = 0;
    }
}
