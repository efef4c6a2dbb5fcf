//! The evidence of a closed circuit: a row of failures and a window of calls.

use std::collections::BTreeMap;
use tollgate::policy::breaker::{BreakerPolicy, Totals};
use tollgate::policy::share::Share;

/// Sub-windows of a window.
const SUB_WINDOWS: u64 = 10;
/// The 95 % quantile of the normal distribution, one-sided, as the breaker has it.
const Z: f64 = 1.645;

/// One call, or several that were alike.
#[derive(Default, Clone, Copy)]
pub(super) struct Told {
    pub(super) is_failure: bool,
    pub(super) is_slow: bool,
    /// When a failure asked to be left alone until; 0: it did not.
    pub(super) retry_at_ns: u64,
}

/// What calls came to, by sub-window.
#[derive(Default)]
pub(super) struct Evidence {
    subs: BTreeMap<u64, (Totals, u64)>,
    /// Failures since the last success, and when they asked to be left alone until.
    pub(super) row: u32,
    row_retry_at_ns: u64,
}

/// Why a circuit is to open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    No,
    /// With until when the failures asked to be left alone.
    Row(u64),
    Failures(u64),
    Slow,
    /// A share is so near its ratio that either would be right.
    Either,
}

impl Evidence {
    pub(super) fn move_to(&mut self, policy: &BreakerPolicy, now_ns: u64) {
        let oldest = (policy.tick(now_ns) + 1).saturating_sub(SUB_WINDOWS);
        if self.subs.first_key_value().is_some_and(|(&tick, _)| tick < oldest) {
            self.subs = self.subs.split_off(&oldest);
        }
    }

    pub(super) fn count(&mut self, policy: &BreakerPolicy, told: Told, now_ns: u64) {
        let (totals, retry_at_ns) = self.subs.entry(policy.tick(now_ns)).or_default();
        totals.calls += 1;
        totals.failures += u32::from(told.is_failure);
        totals.slow += u32::from(told.is_slow);
        *retry_at_ns = told.retry_at_ns.max(*retry_at_ns);
        if told.is_failure {
            self.row += 1;
            self.row_retry_at_ns = self.row_retry_at_ns.max(told.retry_at_ns);
        } else {
            (self.row, self.row_retry_at_ns) = (0, 0);
        }
    }

    pub(super) fn totals(&self) -> Totals {
        self.subs.values().fold(Totals::default(), |sum, (totals, _)| Totals {
            calls: sum.calls + totals.calls,
            failures: sum.failures + totals.failures,
            slow: sum.slow + totals.slow,
        })
    }

    /// Whether a call that was bad opens the circuit.
    pub(super) fn due(&self, policy: &BreakerPolicy) -> Due {
        if policy.consecutive_failures.is_some_and(|most| self.row >= most) {
            return Due::Row(self.row_retry_at_ns);
        }
        let Totals { calls, failures, slow } = self.totals();
        if calls < policy.min_requests {
            return Due::No;
        }
        let asked_ns = self.subs.values().map(|(_, at_ns)| *at_ns).max().unwrap_or(0);
        let by_failures = policy.failure_ratio.map(|ratio| is_reached(failures, calls, ratio));
        let by_slow = policy.slow_calls.map(|rule| is_reached(slow, calls, rule.ratio));
        match (by_failures, by_slow) {
            (Some(Some(true)), _) => Due::Failures(asked_ns),
            (Some(None), _) | (_, Some(None)) => Due::Either,
            (_, Some(Some(true))) => Due::Slow,
            _ => Due::No,
        }
    }
}

/// Whether the lower bound of Wilson's interval of `bad` of `calls` reaches the ratio; `None`
/// where rounding decides.
fn is_reached(bad: u32, calls: u32, ratio: Share) -> Option<bool> {
    if bad == 0 || bad == calls {
        return Some(bad > 0);
    }
    let (n, share) = (f64::from(calls), f64::from(bad) / f64::from(calls));
    let middle = share + Z * Z / (2.0 * n);
    let margin = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    let bound = (middle - margin) / (1.0 + Z * Z / n);
    let above = bound - ratio.fraction();
    (above.abs() > 1e-9).then_some(above > 0.0)
}
