//! The circuit breaker: when it opens, and how it closes again.
//!
//! [`BreakerPolicy`] is what the configuration says, [`Breaker`] the state machine that acts
//! on it. The machine is pure: the time, random numbers and the policy are arguments, and
//! whoever shares it between threads puts a lock around it.

mod cooldown;
mod evidence;
mod half_open;
mod machine;
mod pass;
mod ramp;
mod score;
#[cfg(test)]
mod tests;
mod view;
mod window;

pub use machine::Breaker;
pub use pass::{Admission, ForceTo, Outcome, Pass};
pub use view::{Reason, State, View};
pub use window::Totals;

use super::share::Share;
use window::SUB_WINDOWS;

/// When a circuit opens and how it closes again.
///
/// A condition that is `None` never opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Opens after so many failures in a row; at least 1.
    pub consecutive_failures: Option<u32>,
    /// Opens when at least this share of the window's calls failed.
    pub failure_ratio: Option<Share>,
    /// Opens when too many of the window's calls were slow.
    pub slow_calls: Option<SlowCalls>,
    /// Calls the window must hold before a ratio can open the circuit; at least 1.
    pub min_requests: u32,
    /// Length of the sliding window in nanoseconds.
    pub window_ns: u64,
    /// How long the circuit stays open at first, in nanoseconds.
    pub cooldown_ns: u64,
    /// The most a cooldown grows to, in nanoseconds; not below `cooldown_ns`.
    pub max_cooldown_ns: u64,
    /// Probes at a time while half-open, and successes that close the circuit; at least 1.
    /// A half-open circuit keeps a lease of 16 bytes for each.
    pub probes: u32,
    /// How long after closing the load is let back step by step, in nanoseconds; 0: at once.
    pub ramp_ns: u64,
}

/// Which calls are slow and how many of them are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowCalls {
    /// A call that takes longer than this, in nanoseconds, is slow.
    pub longer_than_ns: u64,
    /// Opens when at least this share of the window's calls was slow.
    pub ratio: Share,
}

impl BreakerPolicy {
    /// The policy of a circuit that only an operator opens.
    pub const NEVER: BreakerPolicy = BreakerPolicy {
        consecutive_failures: None,
        failure_ratio: None,
        slow_calls: None,
        min_requests: 1,
        window_ns: 0,
        cooldown_ns: 0,
        max_cooldown_ns: 0,
        probes: 1,
        ramp_ns: 0,
    };

    /// Whether anything but an operator can open the circuit.
    pub fn has_condition(&self) -> bool {
        self.consecutive_failures.is_some()
            || self.failure_ratio.is_some()
            || self.slow_calls.is_some()
    }

    /// Whether a call that took so long was slow.
    pub fn is_slow(&self, took_ns: u64) -> bool {
        self.slow_calls.is_some_and(|slow| took_ns > slow.longer_than_ns)
    }

    /// The policy of a circuit whose like another gateway has just opened: half as many failures
    /// in a row and half as many calls are enough. Two failures stay the least that it takes,
    /// where one was not enough before, and ratios stay what they are: a hint is no evidence.
    pub fn alerted(&self) -> BreakerPolicy {
        let half = |count: u32| count.div_ceil(2);
        BreakerPolicy {
            consecutive_failures: self.consecutive_failures.map(|most| half(most).max(2).min(most)),
            min_requests: half(self.min_requests),
            ..self.clone()
        }
    }

    /// The number of the sub-window that `now_ns` falls in. The window moves on by one
    /// sub-window at a time.
    pub fn tick(&self, now_ns: u64) -> u64 {
        now_ns / (self.window_ns / SUB_WINDOWS as u64).max(1)
    }

    /// How long a probe has before its lease ends, in nanoseconds: as long as the first
    /// cooldown, within 100 ms and 30 s. By then it has used up as much patience as the
    /// upstream was given to recover, and the next probe gets its turn.
    fn lease_ns(&self) -> u64 {
        self.cooldown_ns.clamp(100_000_000, 30_000_000_000)
    }
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            consecutive_failures: Some(5),
            failure_ratio: None,
            slow_calls: None,
            min_requests: 20,
            window_ns: 10 * SECOND,
            cooldown_ns: 30 * SECOND,
            max_cooldown_ns: 300 * SECOND,
            probes: 3,
            ramp_ns: 5 * SECOND,
        }
    }
}
