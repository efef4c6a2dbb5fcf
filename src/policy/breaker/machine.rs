//! The state machine.
//!
//! ```text
//!             too many calls failed or were slow
//!   CLOSED ─────────────────────────────────────▶ OPEN ◀─────────┐
//!     ▲                                             │            │ a probe failed
//!     │ enough probes succeeded       cooldown over │            │ within its lease
//!     └───────────── HALF_OPEN ◀────────────────────┘            │
//!     then the ramp      └───────────────────────────────────────┘
//! ```
//!
//! An operator can force the circuit open or closed from any state, for a time.
//!
//! **Which answers count.** Each change of state begins a new generation, and what was let
//! through in an earlier one counts nothing: a failure from before the circuit opened says
//! nothing about the upstream after its cooldown. Within one half-open episode a probe that
//! comes back after its deadline is treated by what it brings. A late failure is evidence
//! from when the probe was sent, and its place may have gone to a better probe since: it is
//! ignored. A late success says that the upstream answers *now*, and it counts: otherwise an
//! upstream slower than the lease could never close its circuit.
//!
//! **What opens it.** Only a call that failed or was slow does. A ratio can also rise
//! because old successes leave the window, but nobody is to be refused for the passing of
//! time; and since a fast success opens nothing, telling one needs no lock (see
//! [`Breaker::count_successes`]).
//!
//! **Hints.** Where other gateways guard the same upstream, one that has opened its circuit says
//! so. This one then opens on [fewer failures](BreakerPolicy::alerted) for the length of a
//! window, once: a further hint within that time changes nothing, and none opens anything.
//!
//! **Time.** Threads read the clock before they get here, so `now_ns` may be a little behind
//! what was seen before; the machine's own time never goes back.

use super::evidence::Evidence;
use super::half_open::HalfOpen;
use super::pass::PassKind;
use super::ramp::Ramp;
use super::{Admission, BreakerPolicy, ForceTo, Outcome, Pass, Reason, State, View, cooldown};

/// What a caller who is refused is told when it may well be let in any moment: 1 s.
const SOON_NS: u64 = 1_000_000_000;

/// The longest time a refusal by an operator tells: 1 h. The circuit may be forced open for
/// much longer, but a client that stays away for days does not learn that it was closed.
const LONGEST_FORCED_RETRY_NS: u64 = 3_600_000_000_000;

/// The circuit breaker of one upstream or route. Every call takes the policy, which is to be
/// the same each time; [`BreakerPolicy::NEVER`] is that of a circuit without conditions.
///
/// Holds about 350 bytes, and 16 for each probe while half-open. Each method takes constant
/// time, or time linear in the probes while half-open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
pub struct Breaker {
    /// Counts the changes of state. It wraps: a pass would have to be kept for 2^32 changes
    /// to be taken for a current one.
    generation: u32,
    phase: Phase,
    /// The latest time seen.
    now_ns: u64,
    evidence: Evidence,
    /// Openings in a row.
    openings: u32,
    /// Why and when it opened last; none while it is closed.
    opened: Option<(Reason, u64)>,
    /// Until when a hint is heeded; 0: there is none.
    hinted_until_ns: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(test, derive(Hash))]
enum Phase {
    Closed {
        ramp: Option<Ramp>,
        /// From here on the next opening is not one in a row.
        proven_at_ns: u64,
    },
    Open {
        until_ns: u64,
    },
    HalfOpen(HalfOpen),
    ForcedOpen {
        until_ns: u64,
    },
    ForcedClosed {
        until_ns: u64,
    },
}

impl Default for Phase {
    fn default() -> Self {
        Phase::Closed { ramp: None, proven_at_ns: 0 }
    }
}

impl Breaker {
    /// A closed circuit.
    pub fn new() -> Breaker {
        Breaker::default()
    }

    /// Asks for a call to pass. `random` is drawn on the ramp.
    pub fn ask(&mut self, policy: &BreakerPolicy, now_ns: u64, random: u64) -> Admission {
        self.refresh(policy, now_ns);
        let kind = match &mut self.phase {
            Phase::Closed { ramp: None, .. } | Phase::ForcedClosed { .. } => Some(PassKind::Plain),
            Phase::Closed { ramp: Some(ramp), .. } => {
                ramp.admit(policy, self.now_ns, random).then_some(PassKind::Ramp)
            }
            Phase::HalfOpen(half) => half.lease(policy, self.now_ns).map(PassKind::Probe),
            Phase::Open { .. } | Phase::ForcedOpen { .. } => None,
        };
        match kind {
            Some(kind) => Admission::Pass(Pass { generation: self.generation, kind }),
            None => Admission::Refuse {
                retry_after_ns: self.refusal_ns(policy).unwrap_or(SOON_NS).max(1),
            },
        }
    }

    /// Tells what came of a call that took `took_ns`. `random` is drawn for the cooldown, if
    /// the circuit opens.
    pub fn tell(
        &mut self,
        policy: &BreakerPolicy,
        pass: Pass,
        outcome: Outcome,
        took_ns: u64,
        now_ns: u64,
        random: u64,
    ) {
        self.refresh(policy, now_ns);
        if pass.generation != self.generation {
            return;
        }
        let kind = pass.kind;
        self.give_back(pass);
        match &mut self.phase {
            Phase::Closed { .. } => {
                let is_slow = policy.is_slow(took_ns);
                self.evidence.count(policy, outcome, is_slow, self.now_ns);
                let is_bad = is_slow || outcome != Outcome::Success;
                let due = is_bad.then(|| self.due(policy)).flatten();
                if let Some((reason, at_ns)) = due {
                    let retry_after_ns = at_ns.saturating_sub(self.now_ns);
                    self.open(policy, reason, retry_after_ns, random);
                }
            }
            Phase::HalfOpen(half) => match (outcome, kind) {
                (Outcome::Success, _) => {
                    if half.succeed(policy) {
                        self.close(policy);
                    }
                }
                (Outcome::Failure { retry_after_ns }, PassKind::Probe(lease))
                    if self.now_ns < lease.deadline_ns =>
                {
                    let retry_after_ns = retry_after_ns.unwrap_or(0);
                    self.open(policy, Reason::ProbeFailed, retry_after_ns, random);
                }
                (Outcome::Failure { .. }, _) => {}
            },
            Phase::Open { .. } | Phase::ForcedOpen { .. } | Phase::ForcedClosed { .. } => {}
        }
    }

    /// Counts calls of the current generation that succeeded, none of them slow, at about
    /// `at_ns`. They are those that passed while [`Breaker::plain_generation`] was theirs.
    pub fn count_successes(&mut self, policy: &BreakerPolicy, at_ns: u64, calls: u32) {
        if matches!(self.phase, Phase::Closed { .. }) {
            self.evidence.count_successes(policy, at_ns, calls);
        }
    }

    /// Takes back a pass that nothing came of, because the client went away for example.
    #[expect(clippy::needless_pass_by_value, reason = "it is used up")]
    pub fn give_back(&mut self, pass: Pass) {
        if pass.generation != self.generation {
            return;
        }
        match (&mut self.phase, pass.kind) {
            (Phase::Closed { ramp: Some(ramp), .. }, PassKind::Ramp) => ramp.leave(),
            (Phase::HalfOpen(half), PassKind::Probe(lease)) => half.release(lease.id),
            (_, PassKind::Plain | PassKind::Ramp | PassKind::Probe(_)) => {}
        }
    }

    /// Does what an operator wants. Openings before it do not make the next cooldown longer.
    pub fn force(&mut self, policy: &BreakerPolicy, to: ForceTo, now_ns: u64) {
        self.refresh(policy, now_ns);
        match to {
            ForceTo::Open { until_ns } => {
                self.openings = 0;
                self.opened = Some((Reason::Forced, self.now_ns));
                self.change(Phase::ForcedOpen { until_ns });
            }
            ForceTo::Closed { until_ns } => {
                self.close_afresh();
                self.change(Phase::ForcedClosed { until_ns });
            }
            ForceTo::Auto => self.end_force(policy),
        }
        self.refresh(policy, now_ns);
    }

    /// Hears that another gateway has opened the circuit of this name. Returns whether that
    /// changes anything: not while it is not closed or heeds an earlier hint, nor where nothing
    /// but an operator opens it.
    pub fn hint(&mut self, policy: &BreakerPolicy, now_ns: u64) -> bool {
        self.refresh(policy, now_ns);
        let is_closed = matches!(self.phase, Phase::Closed { .. });
        let is_heeded = is_closed && policy.has_condition() && self.hinted_until_ns == 0;
        if is_heeded {
            self.hinted_until_ns = self.now_ns.saturating_add(policy.window_ns);
        }
        is_heeded
    }

    /// Makes the changes that time alone brings about.
    pub fn refresh(&mut self, policy: &BreakerPolicy, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
        let now_ns = self.now_ns;
        if now_ns >= self.hinted_until_ns {
            self.hinted_until_ns = 0;
        }
        match &mut self.phase {
            Phase::Closed { ramp, proven_at_ns } => {
                self.evidence.move_to(policy, now_ns);
                if now_ns >= *proven_at_ns {
                    self.openings = 0;
                }
                if ramp.as_ref().is_some_and(|ramp| ramp.is_over(policy, now_ns)) {
                    *ramp = None;
                }
            }
            Phase::Open { until_ns } if now_ns >= *until_ns => {
                self.change(Phase::HalfOpen(HalfOpen::default()));
            }
            Phase::HalfOpen(half) => half.expire(now_ns),
            Phase::ForcedOpen { until_ns } | Phase::ForcedClosed { until_ns }
                if now_ns >= *until_ns =>
            {
                self.end_force(policy);
            }
            Phase::Open { .. } | Phase::ForcedOpen { .. } | Phase::ForcedClosed { .. } => {}
        }
    }

    /// Whether a call would certainly be refused now. Reserves nothing.
    pub fn would_refuse(&mut self, policy: &BreakerPolicy, now_ns: u64) -> bool {
        self.refresh(policy, now_ns);
        self.refusal_ns(policy).is_some()
    }

    /// The state as users know it, as of the latest time seen.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed { .. } | Phase::ForcedClosed { .. } => State::Closed,
            Phase::Open { .. } | Phase::ForcedOpen { .. } => State::Open,
            Phase::HalfOpen(_) => State::HalfOpen,
        }
    }

    /// The current generation, while every call passes and is given a [`Pass::plain`] and
    /// time alone does not change that.
    pub fn plain_generation(&self) -> Option<u32> {
        matches!(self.phase, Phase::Closed { ramp: None, .. }).then_some(self.generation)
    }

    /// The current generation; another one each time the state has changed.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The latest time seen.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Everything there is to show.
    pub fn view(&mut self, policy: &BreakerPolicy, now_ns: u64) -> View {
        self.refresh(policy, now_ns);
        let now_ns = self.now_ns;
        let (mut forced_until_ns, mut next_probe_in_ns, mut share) = (None, None, None);
        let (mut out, mut successes) = (0, 0);
        match &self.phase {
            Phase::Closed { ramp, .. } => {
                share = ramp.as_ref().map(|ramp| ramp.share(policy, now_ns));
            }
            Phase::Open { until_ns } => next_probe_in_ns = Some(until_ns - now_ns),
            Phase::HalfOpen(half) => {
                let deadline_ns = half.next_deadline_ns().filter(|_| !half.has_place(policy));
                next_probe_in_ns = Some(deadline_ns.map_or(0, |deadline_ns| deadline_ns - now_ns));
                (out, successes) = (half.out(), half.successes());
            }
            Phase::ForcedOpen { until_ns } | Phase::ForcedClosed { until_ns } => {
                forced_until_ns = Some(*until_ns);
            }
        }
        View {
            state: self.state(),
            forced_until_ns,
            reason: self.opened.map(|(reason, _)| reason),
            opened_at_ns: self.opened.map(|(_, at_ns)| at_ns),
            retry_after_ns: self.refusal_ns(policy),
            next_probe_in_ns,
            probes_out: out,
            probes_succeeded: successes,
            failures: self.evidence.failures(),
            window: self.evidence.totals(),
            openings: self.openings,
            ramp: share,
            hinted_until_ns: (self.hinted_until_ns > 0).then_some(self.hinted_until_ns),
        }
    }

    /// Why the circuit is to open, if it is; see [`Evidence::reason`].
    fn due(&self, policy: &BreakerPolicy) -> Option<(Reason, u64)> {
        match self.hinted_until_ns {
            0 => self.evidence.reason(policy),
            _ => self.evidence.reason(&policy.alerted()),
        }
    }

    /// When to ask again, if a call is refused now for certain.
    ///
    /// A half-open circuit without a place has one at the next deadline at the latest, but
    /// usually a probe is back much sooner: nobody is sent away for longer than [`SOON_NS`].
    fn refusal_ns(&self, policy: &BreakerPolicy) -> Option<u64> {
        let left_ns = |until_ns: u64| until_ns.saturating_sub(self.now_ns);
        match &self.phase {
            Phase::Closed { .. } | Phase::ForcedClosed { .. } => None,
            Phase::Open { until_ns } => Some(left_ns(*until_ns)),
            Phase::HalfOpen(half) if half.has_place(policy) => None,
            Phase::HalfOpen(half) => {
                Some(half.next_deadline_ns().map_or(SOON_NS, left_ns).min(SOON_NS))
            }
            Phase::ForcedOpen { until_ns } => {
                Some(left_ns(*until_ns).clamp(SOON_NS, LONGEST_FORCED_RETRY_NS))
            }
        }
    }

    fn open(&mut self, policy: &BreakerPolicy, reason: Reason, retry_after_ns: u64, random: u64) {
        self.openings = self.openings.saturating_add(1);
        self.opened = Some((reason, self.now_ns));
        let length_ns = cooldown::length_ns(policy, self.openings, retry_after_ns, random);
        self.change(Phase::Open { until_ns: self.now_ns.saturating_add(length_ns) });
    }

    /// Closes after probing. The openings go on counting as ones in a row until the circuit
    /// has stayed closed for as long as the ramp and the window.
    fn close(&mut self, policy: &BreakerPolicy) {
        let openings = self.openings;
        self.close_afresh();
        self.openings = openings;
        let ramp = (policy.ramp_ns > 0).then(|| Ramp::new(self.now_ns));
        let proof_ns = policy.ramp_ns.max(policy.window_ns);
        self.change(Phase::Closed { ramp, proven_at_ns: self.now_ns.saturating_add(proof_ns) });
    }

    fn end_force(&mut self, policy: &BreakerPolicy) {
        match self.phase {
            Phase::ForcedOpen { .. } if policy.has_condition() => {
                self.change(Phase::HalfOpen(HalfOpen::default()));
            }
            Phase::ForcedOpen { .. } | Phase::ForcedClosed { .. } => {
                self.close_afresh();
                self.change(Phase::default());
            }
            Phase::Closed { .. } | Phase::Open { .. } | Phase::HalfOpen(_) => {}
        }
    }

    /// Forgets why the circuit was not closed, and what its calls came to.
    fn close_afresh(&mut self) {
        self.evidence = Evidence::default();
        self.openings = 0;
        self.opened = None;
    }

    fn change(&mut self, phase: Phase) {
        self.generation = self.generation.wrapping_add(1);
        self.hinted_until_ns = 0;
        self.phase = phase;
    }
}
