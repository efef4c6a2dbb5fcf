//! What state a circuit has to be in.

use super::window::{Evidence, Told};
use tollgate::policy::breaker::{BreakerPolicy, State};
use tollgate::upstream::circuit::{ForceTo, Outcome};

const SECOND: u64 = 1_000_000_000;
/// Successes that are counted without the lock before somebody has to take it.
const MOST_UNLOCKED: u32 = 1_023;

/// The state of one circuit.
pub(super) struct Breaker {
    pub(super) policy: BreakerPolicy,
    /// Its own time: the latest that was said to it under its lock.
    pub(super) now_ns: u64,
    pub(super) phase: Phase,
    /// Counts the changes of state.
    pub(super) generation: u64,
    pub(super) evidence: Evidence,
    /// In a row.
    pub(super) openings: u32,
    /// Until when it heeds a hint.
    pub(super) hinted_until_ns: Option<u64>,
    /// Successes counted since its lock was taken last.
    unlocked: u32,
    leases: u64,
}

pub(super) enum Phase {
    Closed { ramp: Option<Ramp>, proven_at_ns: u64 },
    Open { until_ns: u64 },
    HalfOpen { leases: Vec<Lease>, successes: u32 },
    ForcedOpen { until_ns: u64 },
    ForcedClosed { until_ns: u64 },
}

pub(super) struct Ramp {
    from_ns: u64,
    in_flight: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Lease {
    number: u64,
    pub(super) deadline_ns: u64,
}

/// What lets a call through.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Plain,
    Ramp,
    Probe(Lease),
}

impl Breaker {
    pub(super) fn new(policy: BreakerPolicy) -> Breaker {
        Breaker {
            policy,
            now_ns: 0,
            phase: Phase::Closed { ramp: None, proven_at_ns: 0 },
            generation: 0,
            evidence: Evidence::default(),
            openings: 0,
            hinted_until_ns: None,
            unlocked: 0,
            leases: 0,
        }
    }

    /// Whether it lets everything through and needs no lock to do so.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.phase, Phase::Closed { ramp: None, .. })
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } | Phase::ForcedClosed { .. } => State::Closed,
            Phase::Open { .. } | Phase::ForcedOpen { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    pub(super) fn forced_until_ns(&self) -> Option<u64> {
        match self.phase {
            Phase::ForcedOpen { until_ns } | Phase::ForcedClosed { until_ns } => Some(until_ns),
            _ => None,
        }
    }

    /// Probes out and probes that succeeded.
    pub(super) fn probes(&self) -> (u32, u32) {
        match &self.phase {
            Phase::HalfOpen { leases, successes } => (leases.len() as u32, *successes),
            _ => (0, 0),
        }
    }

    pub(super) fn lease_ns(&self) -> u64 {
        self.policy.cooldown_ns.clamp(SECOND / 10, 30 * SECOND)
    }

    /// What time alone brings about.
    pub(super) fn elapse(&mut self, now_ns: u64) {
        self.unlocked = 0;
        self.now_ns = self.now_ns.max(now_ns);
        let now_ns = self.now_ns;
        self.hinted_until_ns.take_if(|until_ns| now_ns >= *until_ns);
        match &mut self.phase {
            Phase::Closed { ramp, proven_at_ns } => {
                self.evidence.move_to(&self.policy, now_ns);
                if now_ns >= *proven_at_ns {
                    self.openings = 0;
                }
                ramp.take_if(|ramp| now_ns - ramp.from_ns >= self.policy.ramp_ns);
            }
            Phase::Open { until_ns } if now_ns >= *until_ns => self.probe(),
            Phase::HalfOpen { leases, .. } => leases.retain(|lease| lease.deadline_ns > now_ns),
            Phase::ForcedOpen { until_ns } | Phase::ForcedClosed { until_ns }
                if now_ns >= *until_ns =>
            {
                self.end_force();
            }
            _ => {}
        }
    }

    /// What a call that is refused for certain is told.
    pub(super) fn refusal_ns(&self) -> Option<u64> {
        let left_ns = |until_ns: u64| until_ns.saturating_sub(self.now_ns);
        match &self.phase {
            Phase::Closed { .. } | Phase::ForcedClosed { .. } => None,
            Phase::Open { until_ns } => Some(left_ns(*until_ns)),
            Phase::HalfOpen { leases, .. } if leases.len() < self.policy.probes as usize => None,
            Phase::HalfOpen { leases, .. } => {
                leases.iter().map(|lease| left_ns(lease.deadline_ns).min(SECOND)).min()
            }
            Phase::ForcedOpen { until_ns } => {
                Some(left_ns(*until_ns).clamp(SECOND, 3_600 * SECOND))
            }
        }
    }

    /// Whether a call may be refused by chance: on the ramp, beyond as many as there are probes.
    pub(super) fn may_refuse(&self) -> bool {
        matches!(&self.phase, Phase::Closed { ramp: Some(ramp), .. }
            if ramp.in_flight >= self.policy.probes)
    }

    /// A call has passed.
    pub(super) fn pass(&mut self) -> Kind {
        let deadline_ns = self.now_ns + self.lease_ns();
        match &mut self.phase {
            Phase::HalfOpen { leases, .. } => {
                self.leases += 1;
                let lease = Lease { number: self.leases, deadline_ns };
                leases.push(lease);
                Kind::Probe(lease)
            }
            Phase::Closed { ramp: Some(ramp), .. } => {
                ramp.in_flight += 1;
                Kind::Ramp
            }
            _ => Kind::Plain,
        }
    }

    /// A call of this generation is back.
    pub(super) fn release(&mut self, kind: Kind) {
        match (&mut self.phase, kind) {
            (Phase::HalfOpen { leases, .. }, Kind::Probe(over)) => {
                leases.retain(|lease| lease.number != over.number);
            }
            (Phase::Closed { ramp: Some(ramp), .. }, Kind::Ramp) => ramp.in_flight -= 1,
            _ => {}
        }
    }

    /// The lock was taken, and no time told.
    pub(super) fn was_locked(&mut self) {
        self.unlocked = 0;
    }

    /// Counts a call of the current generation without the lock, if it is a fast success in
    /// the sub-window that was seen last; returns whether it is.
    pub(super) fn count_unlocked(
        &mut self,
        kind: Kind,
        outcome: Outcome,
        took_ns: u64,
        said_ns: u64,
    ) -> bool {
        let is_unlocked = self.is_plain()
            && matches!(kind, Kind::Plain)
            && outcome == Outcome::Success
            && !self.policy.is_slow(took_ns)
            && self.policy.tick(said_ns) == self.policy.tick(self.now_ns)
            && self.unlocked < MOST_UNLOCKED;
        if is_unlocked {
            self.unlocked += 1;
            self.evidence.count(&self.policy, Told::default(), self.now_ns);
        }
        is_unlocked
    }

    pub(super) fn force(&mut self, to: ForceTo) {
        match to {
            ForceTo::Open { until_ns } => {
                self.openings = 0;
                self.change(Phase::ForcedOpen { until_ns });
            }
            ForceTo::Closed { until_ns } => {
                self.forget();
                self.change(Phase::ForcedClosed { until_ns });
            }
            ForceTo::Auto => self.end_force(),
        }
    }

    /// Another gateway has opened its own; returns whether that is heeded.
    pub(super) fn hint(&mut self) -> bool {
        let is_heeded = matches!(self.phase, Phase::Closed { .. })
            && self.policy.has_condition()
            && self.hinted_until_ns.is_none();
        if is_heeded {
            self.hinted_until_ns = Some(self.now_ns + self.policy.window_ns);
        }
        is_heeded
    }

    /// The policy with the thresholds as they are now.
    pub(super) fn thresholds(&self) -> BreakerPolicy {
        let mut policy = self.policy.clone();
        if self.hinted_until_ns.is_some() {
            let halved = |count: u32| count / 2 + count % 2;
            policy.min_requests = halved(policy.min_requests);
            if let Some(most) = &mut policy.consecutive_failures
                && *most > 2
            {
                *most = halved(*most).max(2);
            }
        }
        policy
    }

    /// How long it is to stay open from now on, at least and at most, after failures that
    /// asked to be left alone for `asked_ns`.
    pub(super) fn cooldown_ns(&self, asked_ns: u64) -> (u64, u64) {
        let BreakerPolicy { cooldown_ns, max_cooldown_ns, .. } = self.policy;
        let doubled_ns = cooldown_ns.saturating_mul(2_u64.saturating_pow(self.openings - 1));
        let (grown_ns, asked_ns) = (doubled_ns.min(max_cooldown_ns), asked_ns.min(max_cooldown_ns));
        let least_ns = (grown_ns - grown_ns / 10).max(cooldown_ns);
        (least_ns.max(asked_ns), grown_ns.max(asked_ns))
    }

    /// Enough probes have succeeded.
    pub(super) fn close(&mut self) {
        let proof_ns = self.policy.ramp_ns.max(self.policy.window_ns);
        let ramp = Ramp { from_ns: self.now_ns, in_flight: 0 };
        self.evidence = Evidence::default();
        self.change(Phase::Closed {
            ramp: (self.policy.ramp_ns > 0).then_some(ramp),
            proven_at_ns: self.now_ns + proof_ns,
        });
    }

    pub(super) fn change(&mut self, phase: Phase) {
        self.generation += 1;
        self.hinted_until_ns = None;
        self.phase = phase;
    }

    fn probe(&mut self) {
        self.change(Phase::HalfOpen { leases: Vec::new(), successes: 0 });
    }

    fn end_force(&mut self) {
        match self.phase {
            Phase::ForcedOpen { .. } if self.policy.has_condition() => self.probe(),
            Phase::ForcedOpen { .. } | Phase::ForcedClosed { .. } => {
                self.forget();
                self.change(Phase::Closed { ramp: None, proven_at_ns: 0 });
            }
            _ => {}
        }
    }

    fn forget(&mut self) {
        self.evidence = Evidence::default();
        self.openings = 0;
    }
}
