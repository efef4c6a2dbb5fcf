//! The way back to full load.
//!
//! An upstream that answers three probes may still fall over when everybody who waited
//! comes at once: its caches are cold and its pools empty. So after closing, the share of
//! the load that passes grows from nothing to all of it.

use super::BreakerPolicy;
use crate::policy::share::Share;

/// A ramp that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Ramp {
    from_ns: u64,
    /// Calls that were let through on the ramp and are not back yet.
    in_flight: u32,
}

impl Ramp {
    pub(super) fn new(now_ns: u64) -> Ramp {
        Ramp { from_ns: now_ns, in_flight: 0 }
    }

    pub(super) fn is_over(&self, policy: &BreakerPolicy, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.from_ns) >= policy.ramp_ns
    }

    /// Lets one more call through, or not.
    ///
    /// As many at a time as there were probes always pass, so that traffic of one call after
    /// the other is never refused. Each one beyond is drawn by `random`, with the elapsed part
    /// of the ramp as its chance.
    pub(super) fn admit(&mut self, policy: &BreakerPolicy, now_ns: u64, random: u64) -> bool {
        let elapsed_ns = u128::from(now_ns.saturating_sub(self.from_ns));
        let drawn_ns = (u128::from(policy.ramp_ns) * u128::from(random)) >> 64;
        let is_admitted = self.in_flight < policy.probes || drawn_ns < elapsed_ns;
        self.in_flight = self.in_flight.saturating_add(u32::from(is_admitted));
        is_admitted
    }

    /// A call that was let through is back.
    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The share of the load that passes.
    pub(super) fn share(&self, policy: &BreakerPolicy, now_ns: u64) -> Share {
        let elapsed_ns = u128::from(now_ns.saturating_sub(self.from_ns));
        let millionths = elapsed_ns * 1_000_000 / u128::from(policy.ramp_ns.max(1));
        Share::from_millionths(u32::try_from(millionths).unwrap_or(u32::MAX))
    }
}
