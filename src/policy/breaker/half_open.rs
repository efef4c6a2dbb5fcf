//! Probing: a few calls at a time show whether the upstream is back.
//!
//! A probe is a lease. It ends with an answer, when it is given back, or at its deadline at
//! the latest: a probe that is lost, however that came about, blocks its place for one lease
//! and no longer.

use super::BreakerPolicy;

/// The right to send one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    /// Unique among the leases of one half-open episode.
    pub(super) id: u32,
    /// The first instant at which the lease is over.
    pub(super) deadline_ns: u64,
}

/// One half-open episode.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct HalfOpen {
    /// Leases that are out, at most [`BreakerPolicy::probes`].
    leases: Vec<Lease>,
    next_id: u32,
    successes: u32,
}

impl HalfOpen {
    /// Frees the places of leases that are over.
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.leases.retain(|lease| lease.deadline_ns > now_ns);
    }

    /// A lease, if a place is free. Call [`HalfOpen::expire`] before.
    pub(super) fn lease(&mut self, policy: &BreakerPolicy, now_ns: u64) -> Option<Lease> {
        if !self.has_place(policy) {
            return None;
        }
        let deadline_ns = now_ns.saturating_add(policy.lease_ns());
        let lease = Lease { id: self.next_id, deadline_ns };
        self.next_id = self.next_id.wrapping_add(1);
        self.leases.push(lease);
        Some(lease)
    }

    /// Whether another probe may be sent. Call [`HalfOpen::expire`] before.
    pub(super) fn has_place(&self, policy: &BreakerPolicy) -> bool {
        self.leases.len() < policy.probes as usize
    }

    /// The lease is back; one that was over already changes nothing.
    pub(super) fn release(&mut self, id: u32) {
        self.leases.retain(|lease| lease.id != id);
    }

    /// A probe succeeded. Returns whether there were enough.
    pub(super) fn succeed(&mut self, policy: &BreakerPolicy) -> bool {
        self.successes = self.successes.saturating_add(1);
        self.successes >= policy.probes
    }

    /// When the next place becomes free at the latest, if probes are out.
    pub(super) fn next_deadline_ns(&self) -> Option<u64> {
        self.leases.iter().map(|lease| lease.deadline_ns).min()
    }

    /// Leases that are out.
    pub(super) fn out(&self) -> u32 {
        u32::try_from(self.leases.len()).unwrap_or(u32::MAX)
    }

    /// Probes that succeeded.
    pub(super) fn successes(&self) -> u32 {
        self.successes
    }
}
