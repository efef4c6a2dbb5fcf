//! The machine on virtual time: what it does, one behaviour at a time.

mod forcing;
mod hints;
mod loss;
mod model;
mod returning;
mod tripping;

use super::*;

/// Milliseconds and seconds in nanoseconds.
const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// An hour into the clock's life, so that no test depends on a young clock.
const START: u64 = 3_600 * SECOND;

/// Opens after three failures in a row, for a second at first.
const THREE_IN_A_ROW: BreakerPolicy = BreakerPolicy {
    consecutive_failures: Some(3),
    failure_ratio: None,
    slow_calls: None,
    min_requests: 10,
    window_ns: 10 * SECOND,
    cooldown_ns: SECOND,
    max_cooldown_ns: 8 * SECOND,
    probes: 2,
    ramp_ns: 4 * SECOND,
};

const FAILURE: Outcome = Outcome::Failure { retry_after_ns: None };

/// A failure that asks to be left alone for a while.
const fn retry_after(retry_after_ns: u64) -> Outcome {
    Outcome::Failure { retry_after_ns: Some(retry_after_ns) }
}

/// A breaker, its policy and the time. Random numbers are 0: no jitter, and on the ramp
/// everything passes that may; see [`Rig::random`].
struct Rig {
    breaker: Breaker,
    policy: BreakerPolicy,
    now: u64,
    random: u64,
}

impl Rig {
    fn new(policy: BreakerPolicy) -> Rig {
        Rig { breaker: Breaker::new(), policy, now: START, random: 0 }
    }

    fn after(&mut self, ns: u64) -> &mut Rig {
        self.now += ns;
        self
    }

    fn ask(&mut self) -> Result<Pass, u64> {
        match self.breaker.ask(&self.policy, self.now, self.random) {
            Admission::Pass(pass) => Ok(pass),
            Admission::Refuse { retry_after_ns } => Err(retry_after_ns),
        }
    }

    fn pass(&mut self) -> Pass {
        self.ask().expect("a pass")
    }

    fn tell(&mut self, pass: Pass, outcome: Outcome) {
        self.tell_after(pass, outcome, MS);
    }

    fn tell_after(&mut self, pass: Pass, outcome: Outcome, took_ns: u64) {
        self.breaker.tell(&self.policy, pass, outcome, took_ns, self.now, self.random);
    }

    fn call(&mut self, outcome: Outcome) {
        self.call_for(outcome, MS);
    }

    fn call_for(&mut self, outcome: Outcome, took_ns: u64) {
        let pass = self.pass();
        self.tell_after(pass, outcome, took_ns);
    }

    fn calls(&mut self, count: usize, outcome: Outcome) {
        (0..count).for_each(|_| self.call(outcome));
    }

    fn force(&mut self, to: ForceTo) {
        self.breaker.force(&self.policy, to, self.now);
    }

    fn view(&mut self) -> View {
        self.breaker.view(&self.policy, self.now)
    }

    fn state(&mut self) -> State {
        self.view().state
    }

    /// Fails until it opens.
    fn open(&mut self) {
        while self.state() == State::Closed {
            self.call(FAILURE);
        }
    }

    /// Opens it and waits until it is half-open.
    fn half_open(&mut self) {
        self.open();
        self.now += self.view().retry_after_ns.unwrap();
        assert_eq!(self.state(), State::HalfOpen);
    }

    /// Opens it and lets enough probes succeed.
    fn close_again(&mut self) {
        self.half_open();
        self.calls(self.policy.probes as usize, Outcome::Success);
        assert_eq!(self.state(), State::Closed);
    }
}
