//! The circuit breaker: when it opens, and how it closes again.

use super::share::Share;

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
