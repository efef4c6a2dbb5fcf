//! How a policy stands towards a request: what an answer's headers and a refusal say of it.

use crate::policy::meter::Meter;

/// How one policy stands towards a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The policy's index, as in [`Demand::policy`](super::limiter::Demand::policy).
    pub policy: usize,
    /// Tokens the bucket holds when full.
    pub burst: u64,
    /// Seconds the bucket takes from empty to full, or its window's length, rounded up.
    pub window_seconds: u64,
    /// Whole tokens left.
    pub tokens: u64,
    /// Seconds until the bucket is full, rounded up.
    pub full_in_seconds: u64,
    /// Nanoseconds until the request would pass; `0` when it does now, `None` when its
    /// cost is above the burst and no wait helps.
    pub wait_ns: Option<u64>,
}

impl Standing {
    /// Of a policy's bucket of the limit `limit` in this state.
    pub(super) fn new(
        policy: usize,
        limit: Meter<'_>,
        state: u64,
        wait_ns: Option<u64>,
        now: u64,
    ) -> Standing {
        let level = limit.level(state, now);
        let (burst, window_seconds) = (limit.burst(), limit.window_seconds());
        // The rounded emission interval may put a bucket a hair beyond its window.
        let full_in_seconds = level.full_in_ns.div_ceil(1_000_000_000);
        let full_in_seconds = full_in_seconds.min(limit.max_reset_seconds());
        Standing { policy, burst, window_seconds, tokens: level.tokens, full_in_seconds, wait_ns }
    }

    /// Whether it refuses the request now.
    pub fn refuses(&self) -> bool {
        self.wait_ns != Some(0)
    }

    /// The same as one that refuses `cost` tokens for so long; none: for ever.
    pub fn refused_for(self, wait_ns: Option<u64>, cost: u32) -> Standing {
        let tokens = self.tokens.min(u64::from(cost.saturating_sub(1)));
        Standing { wait_ns, tokens, ..self }
    }

    /// Whichever has the longer wait, none at all being the longest; `self` among equals.
    pub fn longer(self, other: Standing) -> Standing {
        let length = |standing: &Standing| standing.wait_ns.unwrap_or(u64::MAX);
        if length(&other) > length(&self) { other } else { self }
    }

    /// Whichever has the smaller share of its burst left; `self` among equals.
    pub fn tighter(self, other: Standing) -> Standing {
        // a/b < c/d without division; bursts are far below 2^64, the product is not.
        let is_other = u128::from(other.tokens) * u128::from(self.burst)
            < u128::from(self.tokens) * u128::from(other.burst);
        if is_other { other } else { self }
    }
}
