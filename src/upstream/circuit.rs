//! A circuit at work: the breaker of one upstream or route, shared by all threads.
//!
//! The state machine sits behind a lock. Nearly always it is plainly closed, and then nobody
//! takes the lock: the gate says in one word that everything passes, and counts fast
//! successes in it. They reach the machine when somebody has the lock anyway, because a call
//! failed or somebody looks, when a new sub-window begins, or when the word is full.

mod gate;
#[cfg(test)]
mod tests;

use crate::metrics::CircuitMetrics;
use crate::policy::breaker::{Admission, Breaker, BreakerPolicy, Pass, Reason, State};
pub use crate::policy::breaker::{ForceTo, Outcome, View};
use gate::Gate;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// What a circuit without a policy goes by.
static NEVER: BreakerPolicy = BreakerPolicy::NEVER;

/// One circuit. Times are nanoseconds on one clock that only goes forward; threads may be a
/// little behind each other.
pub struct Circuit {
    name: Arc<str>,
    policy: Option<BreakerPolicy>,
    metrics: CircuitMetrics,
    gate: Gate,
    /// Held for less than a microsecond at a time; nothing waits, logs or panics under it.
    core: Mutex<Core>,
    /// Who is told when calls have opened it.
    trips: OnceLock<mpsc::Sender<Arc<str>>>,
}

struct Core {
    breaker: Breaker,
    /// When the sub-window began that the gate counts in, or a little later.
    counting_since_ns: u64,
}

/// The circuit is open, or all of its probes are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// When to try again, in nanoseconds from now; at least 1.
    pub retry_after_ns: u64,
}

/// The right to make one call, 40 bytes. Dropped untold, by whatever way, it gives back what
/// was reserved for the call, and the call counts nothing.
#[must_use = "dropping it says that nothing came of the call"]
pub struct Ticket {
    circuit: Arc<Circuit>,
    /// There until it is told.
    pass: Option<Pass>,
}

impl Ticket {
    /// Tells what came of the call, which took `took_ns`.
    pub fn tell(mut self, outcome: Outcome, took_ns: u64, now_ns: u64) {
        if let Some(pass) = self.pass.take() {
            self.circuit.tell(pass, outcome, took_ns, now_ns);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take()
            && pass.plain_generation().is_none()
        {
            self.circuit.locked(|breaker, _| breaker.give_back(pass));
        }
    }
}

impl Circuit {
    /// A closed circuit. Without a policy only an operator opens it.
    pub fn new(name: Arc<str>, policy: Option<BreakerPolicy>, metrics: CircuitMetrics) -> Circuit {
        let (breaker, gate) = (Breaker::new(), Gate::default());
        gate.set(breaker.plain_generation(), 0);
        metrics.begin();
        let core = Mutex::new(Core { breaker, counting_since_ns: 0 });
        Circuit { name, policy, metrics, gate, core, trips: OnceLock::new() }
    }

    /// Sends its name there each time that calls open it, as long as there is room; not when a
    /// probe or an operator does. The first to ask for this is the one.
    pub fn report_trips(&self, to: &mpsc::Sender<Arc<str>>) {
        let _ = self.trips.set(to.clone());
    }

    /// Its name: the upstream's, or `route:` and the route's.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it goes by.
    pub fn policy(&self) -> Option<&BreakerPolicy> {
        self.policy.as_ref()
    }

    /// Asks for a call to pass. While the circuit is closed this is one load.
    ///
    /// # Errors
    /// When it may not.
    pub fn ask(self: &Arc<Self>, now_ns: u64) -> Result<Ticket, Refused> {
        let pass = match self.gate.generation() {
            Some(generation) => Pass::plain(generation),
            None => self.ask_locked(now_ns)?,
        };
        Ok(Ticket { circuit: Arc::clone(self), pass: Some(pass) })
    }

    /// Whether a call would certainly be refused now; reserves nothing.
    pub fn would_refuse(&self, now_ns: u64) -> bool {
        self.gate.generation().is_none()
            && self.locked(|breaker, policy| breaker.would_refuse(policy, now_ns))
    }

    /// Does what an operator wants.
    pub fn force(&self, to: ForceTo, now_ns: u64) {
        self.locked(|breaker, policy| breaker.force(policy, to, now_ns));
    }

    /// Hears that another gateway has opened its circuit of this name: for one window of the
    /// policy fewer failures open this one. Returns whether it heeds that.
    pub fn hint(&self, now_ns: u64) -> bool {
        let is_heeded = self.locked(|breaker, policy| breaker.hint(policy, now_ns));
        if is_heeded {
            let (name, window) = (&self.name, Duration::from_nanos(self.rules().window_ns));
            log::info!(
                "circuit {name}: another gateway has opened its own, so fewer failures open this \
                 one for {window:.1?}"
            );
        }
        is_heeded
    }

    /// Everything there is to show.
    pub fn view(&self, now_ns: u64) -> View {
        self.locked(|breaker, policy| breaker.view(policy, now_ns))
    }

    /// Makes the changes that time alone brings about, for the metrics: without it an open
    /// circuit that nobody asks stays open in them. Costs one load while it is closed.
    pub fn refresh(&self, now_ns: u64) {
        if self.gate.generation().is_none() {
            self.locked(|breaker, policy| breaker.refresh(policy, now_ns));
        }
    }

    fn ask_locked(&self, now_ns: u64) -> Result<Pass, Refused> {
        let random = fastrand::u64(..);
        match self.locked(|breaker, policy| breaker.ask(policy, now_ns, random)) {
            Admission::Pass(pass) => Ok(pass),
            Admission::Refuse { retry_after_ns } => Err(Refused { retry_after_ns }),
        }
    }

    fn tell(&self, pass: Pass, outcome: Outcome, took_ns: u64, now_ns: u64) {
        let policy = self.rules();
        if !policy.has_condition() {
            return;
        }
        let is_counted = outcome == Outcome::Success
            && !policy.is_slow(took_ns)
            && pass
                .plain_generation()
                .is_some_and(|generation| self.gate.count(generation, policy.tick(now_ns)));
        if !is_counted {
            let random = fastrand::u64(..);
            self.locked(|breaker, policy| {
                breaker.tell(policy, pass, outcome, took_ns, now_ns, random);
            });
        }
    }

    fn rules(&self) -> &BreakerPolicy {
        self.policy.as_ref().unwrap_or(&NEVER)
    }

    /// Takes the lock, brings the machine up to date, lets `decide` work with it, and brings
    /// the gate, the metrics and the log up to date.
    ///
    /// The gate stays as it is meanwhile. If `decide` closes it, calls that others let
    /// through and told until then came before; what they told belongs to a generation that
    /// is over.
    fn locked<R>(&self, decide: impl FnOnce(&mut Breaker, &BreakerPolicy) -> R) -> R {
        let policy = self.rules();
        let (answer, change) = {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            let Core { breaker, counting_since_ns } = &mut *core;
            breaker.count_successes(policy, *counting_since_ns, self.gate.take());
            let (generation, state) = (breaker.generation(), breaker.state());
            let answer = decide(breaker, policy);
            let now_ns = breaker.now_ns();
            let told = self.gate.set(breaker.plain_generation(), policy.tick(now_ns));
            if breaker.generation() == generation {
                breaker.count_successes(policy, *counting_since_ns, told);
            }
            *counting_since_ns = now_ns;
            if breaker.state() != state {
                self.metrics.change(breaker.state());
            }
            let is_changed = breaker.generation() != generation;
            (answer, is_changed.then(|| (state, breaker.view(policy, now_ns))))
        };
        if let Some((before, view)) = change {
            self.log(&view);
            if before == State::Closed && view.state == State::Open {
                self.report(view.reason);
            }
        }
        answer
    }

    fn report(&self, reason: Option<Reason>) {
        if let Some(trips) = self.trips.get()
            && reason != Some(Reason::Forced)
        {
            // Others find out by themselves what finds no room.
            let _ = trips.try_send(self.name.clone());
        }
    }

    /// One line for each change of state; cooldown, ramp and operators bound their number.
    fn log(&self, view: &View) {
        let name = &self.name;
        match (view.state, view.reason) {
            (State::Open, Some(Reason::Forced)) => log::warn!("circuit {name}: forced open"),
            (State::Open, reason) => {
                let reason = reason.map(|reason| reason.to_string()).unwrap_or_default();
                let cooldown = Duration::from_nanos(view.retry_after_ns.unwrap_or(0));
                log::warn!("circuit {name}: open for {cooldown:.1?}: {reason}");
            }
            (State::HalfOpen, _) => log::info!("circuit {name}: half-open, probing"),
            (State::Closed, _) if view.forced_until_ns.is_some() => {
                log::warn!("circuit {name}: forced closed");
            }
            (State::Closed, _) => log::info!("circuit {name}: closed"),
        }
    }
}
