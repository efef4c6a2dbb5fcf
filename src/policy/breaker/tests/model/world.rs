//! A breaker, everybody who holds a pass of it, and a second account of what it must do.
//!
//! The account is written for plainness: it keeps every call of the window and every pass
//! that is out, counts them when it wants to know, and calculates with fractions.

use super::super::*;
use crate::policy::share::Share;

/// How long an operator forces.
const FORCED_NS: u64 = 500 * MS;

/// Passes that may be out at a time. More of them bring nothing new.
const MOST_HELD: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Ask {
        random: u64,
    },
    Tell {
        held: usize,
        outcome: Outcome,
        is_slow: bool,
        random: u64,
    },
    GiveBack {
        held: usize,
    },
    /// Nobody will ever hear of it again.
    Lose {
        held: usize,
    },
    WaitUntil(u64),
    Force(Want),
    Hint,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Open,
    Closed,
    Auto,
}

/// What the breaker must be in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Account {
    Closed { ramp_from: Option<u64>, proven_at: u64 },
    Open { until: u64 },
    HalfOpen { successes: u32 },
    ForcedOpen { until: u64 },
    ForcedClosed { until: u64 },
}

/// A pass that is out.
#[derive(Debug, Clone)]
struct Held {
    pass: Pass,
    /// How many changes of state there had been when it was given.
    era: u32,
    /// The end of its lease, if it is a probe.
    deadline: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Call {
    at: u64,
    is_failure: bool,
    is_slow: bool,
    retry_at: u64,
}

#[derive(Debug, Clone)]
pub(super) struct World {
    policy: BreakerPolicy,
    breaker: Breaker,
    now: u64,
    account: Account,
    era: u32,
    openings: u32,
    /// When the hint that it heeds is forgotten; 0: none.
    hinted_until: u64,
    /// Calls since the circuit closed, the oldest first.
    calls: Vec<Call>,
    held: Vec<Held>,
    /// Probes that were forgotten, by the end of their lease.
    lost: Vec<u64>,
    /// Calls on this ramp that were forgotten.
    lost_on_ramp: u32,
}

/// What tells states apart, wherever in time they are.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    account: Account,
    openings: u32,
    hinted_for: u64,
    calls: Vec<Call>,
    held: Vec<Option<u64>>,
    old: usize,
    lost: Vec<u64>,
    lost_on_ramp: u32,
    phase: u64,
}

impl World {
    pub(super) fn new(policy: &BreakerPolicy) -> World {
        World {
            policy: policy.clone(),
            breaker: Breaker::new(),
            now: START,
            account: Account::Closed { ramp_from: None, proven_at: 0 },
            era: 0,
            openings: 0,
            hinted_until: 0,
            calls: Vec::new(),
            held: Vec::new(),
            lost: Vec::new(),
            lost_on_ramp: 0,
        }
    }

    /// Everything that can happen next.
    pub(super) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        if self.held.len() < MOST_HELD {
            events.push(Event::Ask { random: 0 });
            if matches!(self.account, Account::Closed { ramp_from: Some(_), .. }) {
                events.push(Event::Ask { random: u64::MAX });
            }
        }
        for held in 0..self.held.len() {
            let tell = |outcome, is_slow, random| Event::Tell { held, outcome, is_slow, random };
            events.push(tell(Outcome::Success, false, 0));
            events.push(tell(FAILURE, false, 0));
            events.push(tell(retry_after(250 * MS), true, u64::MAX));
            if self.policy.slow_calls.is_some() {
                events.push(tell(Outcome::Success, true, 0));
            }
            events.push(Event::GiveBack { held });
            events.push(Event::Lose { held });
        }
        for time in self.times() {
            let around = [time - 1, time, time + 1].into_iter().filter(|time| *time > self.now);
            events.extend(around.map(Event::WaitUntil));
        }
        // Where it changes little, most histories would be of hints.
        let most = self.policy.consecutive_failures.unwrap_or(self.policy.min_requests);
        if most > 3 {
            events.push(Event::Hint);
        }
        events.extend([Want::Open, Want::Closed, Want::Auto].map(Event::Force));
        events
    }

    /// The instants at which time alone may change something.
    fn times(&self) -> Vec<u64> {
        let mut times = match &self.account {
            Account::Closed { ramp_from, proven_at } => {
                let ramp_end = ramp_from.map(|from| from + self.policy.ramp_ns);
                let half_ramp = ramp_from.map(|from| from + self.policy.ramp_ns / 2);
                [Some(*proven_at), ramp_end, half_ramp].into_iter().flatten().collect()
            }
            Account::Open { until }
            | Account::ForcedOpen { until }
            | Account::ForcedClosed { until } => vec![*until],
            Account::HalfOpen { .. } => {
                self.leases().chain([self.now + self.policy.lease_ns() / 2]).collect()
            }
        };
        if self.counts_window() {
            // The sub-window after this one, and the one in which the oldest call is gone.
            let sub = self.policy.window_ns / 10;
            times.push((self.now / sub + 1) * sub);
            times.extend(self.calls.first().map(|call| (call.at / sub + 10) * sub));
        }
        times.push(self.hinted_until);
        times.retain(|time| *time >= self.now && *time > 0);
        times.sort_unstable();
        times.dedup();
        times
    }

    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Ask { random } => self.ask(random),
            Event::Tell { held, outcome, is_slow, random } => {
                let held = self.held.remove(held);
                self.tell(held, outcome, is_slow, random);
            }
            Event::GiveBack { held } => {
                let Held { pass, era, .. } = self.held.remove(held);
                let before = self.breaker.clone();
                self.breaker.give_back(pass);
                assert!(era == self.era || self.breaker == before, "an old pass: {self:?}");
            }
            Event::Lose { held } => {
                let held = self.held.remove(held);
                if held.era == self.era {
                    let is_ramping = matches!(self.account, Account::Closed { ramp_from, .. }
                        if ramp_from.is_some());
                    self.lost_on_ramp += u32::from(is_ramping);
                    self.lost.extend(held.deadline);
                }
            }
            Event::WaitUntil(time) => self.now = time,
            Event::Force(want) => self.force(want),
            Event::Hint => self.hint(),
        }
        self.pass_time();
        self.check();
    }

    fn ask(&mut self, random: u64) {
        let is_due = match &self.account {
            Account::Closed { ramp_from: None, .. } | Account::ForcedClosed { .. } => true,
            Account::Closed { ramp_from: Some(from), .. } => {
                let in_flight = self.current().count() as u32 + self.lost_on_ramp;
                in_flight < self.policy.probes || (random == 0 && self.now > *from)
            }
            Account::HalfOpen { .. } => self.leases().count() < self.policy.probes as usize,
            Account::Open { .. } | Account::ForcedOpen { .. } => false,
        };
        match self.breaker.ask(&self.policy, self.now, random) {
            Admission::Pass(pass) => {
                assert!(is_due, "it let a call through: {self:?}");
                let is_probe = matches!(self.account, Account::HalfOpen { .. });
                let deadline = is_probe.then(|| self.now + self.policy.lease_ns());
                self.held.push(Held { pass, era: self.era, deadline });
            }
            Admission::Refuse { retry_after_ns } => {
                assert!(!is_due, "it refused a call: {self:?}");
                assert!(retry_after_ns > 0, "{self:?}");
            }
        }
    }

    fn tell(&mut self, held: Held, outcome: Outcome, is_slow: bool, random: u64) {
        let took_ns = if is_slow { SECOND } else { 1 };
        let mut before = self.breaker.clone();
        before.refresh(&self.policy, self.now);
        self.breaker.tell(&self.policy, held.pass, outcome, took_ns, self.now, random);
        if held.era != self.era || matches!(self.account, Account::ForcedClosed { .. }) {
            assert!(self.breaker == before, "it counted: {self:?}");
            return;
        }
        let left_ns = match outcome {
            Outcome::Success => 0,
            Outcome::Failure { retry_after_ns } => retry_after_ns.unwrap_or(0),
        };
        match (&mut self.account, outcome) {
            (Account::Closed { .. }, _) => {
                let is_failure = outcome != Outcome::Success;
                let retry_at = if left_ns > 0 { self.now + left_ns } else { 0 };
                self.calls.push(Call { at: self.now, is_failure, is_slow, retry_at });
                self.forget_calls();
                let is_slow = is_slow && self.policy.slow_calls.is_some();
                if let Some(retry_at) =
                    Some(()).filter(|()| is_failure || is_slow).and_then(|()| self.trip())
                {
                    self.open(retry_at.saturating_sub(self.now), random);
                }
            }
            (Account::HalfOpen { successes }, Outcome::Success) => {
                *successes += 1;
                if *successes >= self.policy.probes {
                    let ramp_from = (self.policy.ramp_ns > 0).then_some(self.now);
                    let proof = self.policy.ramp_ns.max(self.policy.window_ns);
                    self.change(Account::Closed { ramp_from, proven_at: self.now + proof });
                }
            }
            (Account::HalfOpen { .. }, Outcome::Failure { .. }) => {
                let is_late = held.deadline.is_none_or(|deadline| self.now >= deadline);
                // Late or not, its place is free.
                if !is_late {
                    self.open(left_ns, random);
                }
            }
            (
                Account::Open { .. } | Account::ForcedOpen { .. } | Account::ForcedClosed { .. },
                _,
            ) => panic!("nobody has a pass of this era: {self:?}"),
        }
    }

    fn hint(&mut self) {
        let is_closed = matches!(self.account, Account::Closed { .. });
        let is_due = is_closed && self.policy.has_condition() && self.hinted_until == 0;
        assert_eq!(self.breaker.hint(&self.policy, self.now), is_due, "{self:?}");
        if is_due {
            self.hinted_until = self.now + self.policy.window_ns;
        }
    }

    /// Whether a bad call trips the breaker, and until when its causes ask for peace.
    fn trip(&self) -> Option<u64> {
        let mut policy = self.policy.clone();
        if self.hinted_until > 0 {
            policy.min_requests = policy.min_requests.div_ceil(2);
            policy.consecutive_failures = match policy.consecutive_failures {
                Some(0..=4) => policy.consecutive_failures.map(|most| most.min(2)),
                most => most.map(|most| most.div_ceil(2)),
            };
        }
        let row: Vec<&Call> = self.calls.iter().rev().take_while(|call| call.is_failure).collect();
        let latest = |calls: &[&Call]| calls.iter().map(|call| call.retry_at).max().unwrap_or(0);
        if policy.consecutive_failures.is_some_and(|most| row.len() >= most as usize) {
            return Some(latest(&row));
        }
        let window: Vec<&Call> = self.calls.iter().filter(|call| self.is_held(call)).collect();
        if window.len() < policy.min_requests as usize {
            return None;
        }
        let is_proven = |bad: usize, ratio: Share| {
            let (n, bad) = (window.len() as f64, bad as f64);
            let (share, z) = (bad / n, 1.645);
            let margin = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
            let bound = (share + z * z / (2.0 * n) - margin) / (1.0 + z * z / n);
            bad > 0.0 && (bad == n || bound >= ratio.fraction())
        };
        let failures = window.iter().filter(|call| call.is_failure).count();
        if policy.failure_ratio.is_some_and(|ratio| is_proven(failures, ratio)) {
            return Some(latest(&window));
        }
        let slow = window.iter().filter(|call| call.is_slow).count();
        policy.slow_calls.is_some_and(|calls| is_proven(slow, calls.ratio)).then_some(0)
    }

    fn open(&mut self, retry_after: u64, random: u64) {
        self.openings += 1;
        let doubled = self.policy.cooldown_ns << (self.openings - 1).min(10);
        let (max, first) = (self.policy.max_cooldown_ns, self.policy.cooldown_ns);
        let (grown, asked) = (doubled.min(max), retry_after.min(max));
        let (least, most) = ((grown - grown / 10).max(first).max(asked), grown.max(asked));
        let view = self.breaker.view(&self.policy, self.now);
        assert_eq!(view.state, State::Open, "it did not open: {self:?}");
        let length = view.retry_after_ns.unwrap();
        assert!((least..=most).contains(&length), "{length} ns: {self:?}");
        assert!(random > 0 || length == most, "jitter from nowhere: {self:?}");
        self.change(Account::Open { until: self.now + length });
    }

    fn force(&mut self, want: Want) {
        let until_ns = self.now + FORCED_NS;
        let to = match want {
            Want::Open => ForceTo::Open { until_ns },
            Want::Closed => ForceTo::Closed { until_ns },
            Want::Auto => ForceTo::Auto,
        };
        self.breaker.force(&self.policy, to, self.now);
        match (want, &self.account) {
            (Want::Open, _) => {
                self.openings = 0;
                self.change(Account::ForcedOpen { until: until_ns });
            }
            (Want::Closed, _) => {
                self.openings = 0;
                self.change(Account::ForcedClosed { until: until_ns });
            }
            (Want::Auto, Account::ForcedOpen { .. } | Account::ForcedClosed { .. }) => {
                self.end_force();
            }
            (Want::Auto, _) => {}
        }
    }

    fn end_force(&mut self) {
        let is_probed =
            matches!(self.account, Account::ForcedOpen { .. }) && self.policy.has_condition();
        self.change(if is_probed {
            Account::HalfOpen { successes: 0 }
        } else {
            Account::Closed { ramp_from: None, proven_at: 0 }
        });
    }

    /// What time alone brings about.
    fn pass_time(&mut self) {
        let now = self.now;
        if now >= self.hinted_until {
            self.hinted_until = 0;
        }
        match &mut self.account {
            Account::Closed { ramp_from, proven_at } => {
                if ramp_from.is_some_and(|from| now >= from + self.policy.ramp_ns) {
                    *ramp_from = None;
                }
                if now >= *proven_at {
                    self.openings = 0;
                }
            }
            Account::Open { until } if now >= *until => {
                self.change(Account::HalfOpen { successes: 0 });
            }
            Account::ForcedOpen { until } | Account::ForcedClosed { until } if now >= *until => {
                self.end_force();
            }
            _ => {}
        }
        self.lost.retain(|deadline| *deadline > now);
        self.forget_calls();
    }

    fn change(&mut self, account: Account) {
        self.account = account;
        self.era += 1;
        self.hinted_until = 0;
        self.calls.clear();
        self.lost.clear();
        self.lost_on_ramp = 0;
    }

    /// What must be true of every state.
    fn check(&mut self) {
        let mut breaker = self.breaker.clone();
        let view = breaker.view(&self.policy, self.now);
        let (state, forced, successes) = match self.account {
            Account::Closed { .. } => (State::Closed, None, 0),
            Account::Open { .. } => (State::Open, None, 0),
            Account::HalfOpen { successes } => (State::HalfOpen, None, successes),
            Account::ForcedOpen { until } => (State::Open, Some(until), 0),
            Account::ForcedClosed { until } => (State::Closed, Some(until), 0),
        };
        assert_eq!((view.state, view.forced_until_ns), (state, forced), "{self:?}");
        assert_eq!(view.probes_succeeded, successes, "{self:?}");
        assert_eq!(view.probes_out as usize, self.leases().count(), "{self:?}");
        assert!(view.probes_out <= self.policy.probes, "{self:?}");
        assert_eq!(view.openings, self.openings, "{self:?}");
        assert_eq!(view.hinted_until_ns.unwrap_or(0), self.hinted_until, "{self:?}");
        assert_eq!(view.reason.is_some(), view.opened_at_ns.is_some(), "{self:?}");
        assert_eq!(view.reason.is_some(), state != State::Closed, "{self:?}");
        assert_eq!(view.retry_after_ns.is_some(), breaker.would_refuse(&self.policy, self.now));
        if matches!(self.account, Account::Closed { .. }) && self.counts_window() {
            let window: Vec<&Call> = self.calls.iter().filter(|call| self.is_held(call)).collect();
            assert_eq!(view.window.calls as usize, window.len(), "{self:?}");
        }
        if matches!(self.account, Account::Open { .. }) {
            let retry_after_ns = view.retry_after_ns.unwrap();
            assert!((1..=self.policy.max_cooldown_ns).contains(&retry_after_ns), "{self:?}");
        }
    }

    /// That the circuit closes within what is left of its cooldown and one lease, once calls
    /// succeed again, though no pass that is out is ever heard of; and that after the ramp
    /// everything passes.
    pub(super) fn check_return(&self) {
        let (mut breaker, policy, mut now) = (self.breaker.clone(), &self.policy, self.now);
        let left = match self.account {
            Account::Open { until } | Account::ForcedOpen { until } => until - now,
            Account::Closed { .. } | Account::HalfOpen { .. } | Account::ForcedClosed { .. } => 0,
        };
        let latest = now + left + policy.lease_ns();
        // Each probe may be preceded by one wait; more steps are running in place.
        let mut steps = 0;
        loop {
            let view = breaker.view(policy, now);
            if view.state == State::Closed {
                break;
            }
            steps += 1;
            assert!(steps <= 2 * policy.probes + 2, "stuck: {self:?}");
            match breaker.ask(policy, now, u64::MAX) {
                Admission::Pass(pass) => {
                    breaker.tell(policy, pass, Outcome::Success, 1, now, 0);
                }
                Admission::Refuse { .. } => {
                    let forced_ns = view.forced_until_ns.map(|until| until - now);
                    now += forced_ns.or(view.next_probe_in_ns).unwrap();
                }
            }
            assert!(now <= latest, "stuck: {self:?}");
        }
        now += FORCED_NS.max(policy.ramp_ns);
        for _ in 0..10 {
            let admission = breaker.ask(policy, now, u64::MAX);
            assert!(matches!(admission, Admission::Pass(_)), "stuck on the ramp: {self:?}");
        }
        assert!(breaker.plain_generation().is_some(), "{self:?}");
    }

    /// What the state is, but for when.
    pub(super) fn key(&self) -> Key {
        let left = |time: u64| time.saturating_sub(self.now);
        let mut account = self.account.clone();
        match &mut account {
            Account::Closed { ramp_from, proven_at } => {
                *ramp_from = ramp_from.map(|from| self.now - from);
                *proven_at = left(*proven_at);
            }
            Account::Open { until }
            | Account::ForcedOpen { until }
            | Account::ForcedClosed { until } => *until = left(*until),
            Account::HalfOpen { .. } => {}
        }
        let mut held: Vec<Option<u64>> =
            self.current().map(|held| held.deadline.map(left)).collect();
        held.sort_unstable();
        let mut lost: Vec<u64> = self.lost.iter().map(|deadline| left(*deadline)).collect();
        lost.sort_unstable();
        let relative = |call: &Call| Call {
            at: if self.counts_window() { self.now - call.at } else { 0 },
            retry_at: left(call.retry_at),
            ..*call
        };
        let phase = if self.counts_window() { self.now % (self.policy.window_ns / 10) } else { 0 };
        Key {
            account,
            openings: self.openings.min(5),
            hinted_for: left(self.hinted_until),
            calls: self.calls.iter().map(relative).collect(),
            old: self.held.len() - held.len(),
            held,
            lost,
            lost_on_ramp: self.lost_on_ramp.min(self.policy.probes),
            phase,
        }
    }

    /// Passes that still count for something.
    fn current(&self) -> impl Iterator<Item = &Held> {
        self.held.iter().filter(|held| held.era == self.era)
    }

    /// When the leases end that are out and not over.
    fn leases(&self) -> impl Iterator<Item = u64> {
        let held = self.current().filter_map(|held| held.deadline);
        held.chain(self.lost.iter().copied()).filter(|deadline| *deadline > self.now)
    }

    fn counts_window(&self) -> bool {
        self.policy.failure_ratio.is_some() || self.policy.slow_calls.is_some()
    }

    fn is_held(&self, call: &Call) -> bool {
        let sub = (self.policy.window_ns / 10).max(1);
        self.now / sub - call.at / sub < 10
    }

    /// Drops what no condition looks at any more.
    fn forget_calls(&mut self) {
        if self.counts_window() {
            let calls = std::mem::take(&mut self.calls);
            self.calls = calls.into_iter().filter(|call| self.is_held(call)).collect();
        } else if self.policy.consecutive_failures.is_none() {
            self.calls.clear();
        } else if let Some(last) = self.calls.iter().rposition(|call| !call.is_failure) {
            self.calls.drain(..=last);
        }
    }
}
