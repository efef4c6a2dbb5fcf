//! One run: a gateway in miniature, from its seed to its end.

use crate::agenda::{Agenda, Event};
use crate::disturbances::Calm;
use crate::expected::{Budget, WatchedCircuit, WatchedPlaces, WatchedServers};
use crate::requests::Request;
use crate::setup::{MS, SECOND, Setup, one_of};
use crate::tally::{Happening, Tally};
use crate::weather::Weather;
use fastrand::Rng;
use prometheus::Registry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tollgate::config::ServerAddress;
use tollgate::metrics::Metrics;
use tollgate::policy::breaker::Outcome;
use tollgate::upstream::Upstream;
use tollgate::upstream::circuit::Circuit;

/// When every run begins, so that times before it can be told.
const START: u64 = 1_000 * SECOND;
/// A circuit that is plainly closed is looked at after one of so many steps.
const LOOK: u64 = 32;
/// Events that are kept to be told when an invariant is broken.
const RECENT: usize = 12;

/// A run under way.
pub(crate) struct Run {
    pub(crate) step: u64,
    pub(crate) now_ns: u64,
    pub(crate) tally: Tally,
    /// What has happened, as a number: two runs of one seed come to the same.
    pub(crate) digest: u64,
    /// The events that came last, with their times.
    pub(crate) recent: VecDeque<(u64, Event)>,
    pub(super) rng: Rng,
    pub(super) setup: Setup,
    pub(super) agenda: Agenda,
    pub(super) weather: Weather,
    pub(super) circuits: Vec<WatchedCircuit>,
    /// The circuit of each route.
    pub(super) circuit_of: Vec<usize>,
    pub(super) servers: WatchedServers,
    pub(super) places: Option<WatchedPlaces>,
    pub(super) budget: Budget,
    pub(super) requests: BTreeMap<u64, Request>,
    pub(super) arrived: u64,
    /// The longest time between two arrivals, as traffic stands.
    pub(super) gap_ns: u64,
    pub(super) calm: Option<Calm>,
    pub(super) calm_at_step: u64,
    /// Servers whose checks are on the agenda.
    pub(super) checked: BTreeSet<u64>,
}

impl Run {
    /// Sets up the run of a seed. It has to stay on this thread: the program draws its random
    /// numbers from a generator of the thread, which is seeded here.
    pub(crate) fn new(seed: u64) -> Run {
        fastrand::seed(!seed);
        let mut rng = Rng::with_seed(seed);
        let setup = Setup::draw(&mut rng);
        let config = &setup.upstream;
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let upstream = Upstream::new(config, &metrics);
        let mut circuits = vec![upstream.circuit.clone()];
        let mut circuit_of = Vec::new();
        for (number, route) in setup.routes.iter().enumerate() {
            circuit_of.push(if route.breaker.is_some() { circuits.len() } else { 0 });
            if let Some(policy) = &route.breaker {
                let name: Arc<str> = format!("route:{number}").into();
                let metrics = metrics.circuit(&name);
                circuits.push(Circuit::new(name, Some(policy.clone()), metrics).into());
            }
        }
        let places = upstream.places.clone().zip(config.concurrency).map(|(places, config)| {
            WatchedPlaces::new(places, config, metrics.concurrency("simulated"), START)
        });
        let mut run = Run {
            step: 0,
            now_ns: START,
            tally: Tally::default(),
            digest: seed,
            recent: VecDeque::new(),
            agenda: Agenda::default(),
            weather: Weather::fine(),
            circuits: circuits.into_iter().map(WatchedCircuit::new).collect(),
            circuit_of,
            servers: WatchedServers::new(upstream.clone(), config, metrics.servers("simulated")),
            places,
            budget: Budget::new(upstream),
            requests: BTreeMap::new(),
            arrived: 0,
            gap_ns: SECOND / 10,
            calm: None,
            calm_at_step: setup.calm_after,
            checked: BTreeSet::new(),
            rng,
            setup,
        };
        run.begin();
        run
    }

    fn begin(&mut self) {
        self.put(0, Event::Arrival);
        self.put(0, Event::Mood);
        self.put(SECOND, Event::Operator);
        self.put(5 * SECOND, Event::Stall);
        let servers = &self.setup.upstream.servers;
        if servers.iter().any(|server| matches!(server.address, ServerAddress::Name { .. })) {
            self.put(SECOND / 10, Event::Lookup);
        }
        self.begin_checks();
    }

    /// One event, and every invariant after it.
    pub(crate) fn step(&mut self) {
        let Some((at_ns, event)) = self.agenda.next() else { return };
        self.step += 1;
        self.now_ns = self.now_ns.max(at_ns);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((self.now_ns, event));
        self.note(self.now_ns);
        if let Some(places) = &mut self.places {
            places.turn_clock(self.now_ns);
        }
        match event {
            Event::Arrival => self.arrival(),
            Event::Turn { request } => self.turn(request),
            Event::AttemptEnd { request, attempt } => self.attempt_end(request, attempt),
            Event::RetryDue { request, attempt } => self.retry_due(request, attempt),
            Event::Gone { request } => self.gone(request),
            Event::Mood => self.mood(),
            Event::Check { server } => self.health_check(server),
            Event::Operator => self.operator(),
            Event::Lookup => self.lookup(),
            Event::Stall => self.stall(),
            Event::CalmEnd => self.calm_end(),
        }
        if self.step >= self.calm_at_step && self.calm.is_none() {
            self.begin_calm();
        }
        self.check();
    }

    fn check(&mut self) {
        for circuit in &mut self.circuits {
            let is_looked_at = one_of(&mut self.rng, LOOK);
            circuit.check(is_looked_at, self.now_ns, &mut self.tally);
        }
        self.servers.check(self.now_ns);
        let woken = self.places.as_mut().map(|places| places.check(self.now_ns));
        for request in woken.unwrap_or_default() {
            // A task that was woken runs when a thread has time for it.
            let delay_ns = if one_of(&mut self.rng, 4) { self.rng.u64(..5 * MS) } else { 0 };
            self.put(delay_ns, Event::Turn { request });
            if one_of(&mut self.rng, 30) {
                self.put(0, Event::Gone { request });
            }
        }
    }

    /// Lets everything that is under way come to its end; then nothing is held any more, and
    /// no circuit is stuck.
    pub(crate) fn finish(&mut self) {
        while !self.requests.is_empty() {
            let (at_ns, event) = self.agenda.next().expect("a request has something before it");
            self.now_ns = self.now_ns.max(at_ns);
            if let Some(places) = &mut self.places {
                places.turn_clock(self.now_ns);
            }
            match event {
                Event::Turn { request } => self.turn(request),
                Event::AttemptEnd { request, attempt } => self.attempt_end(request, attempt),
                Event::RetryDue { request, attempt } => self.retry_due(request, attempt),
                Event::Gone { request } => self.gone(request),
                _ => {}
            }
            self.check();
        }
        self.servers.check_idle();
        if let Some(places) = &mut self.places {
            places.check_idle();
        }
        for circuit in &mut self.circuits {
            let end_ns = self.now_ns + circuit.longest_ns() + 100 * SECOND;
            let mut now_ns = self.now_ns;
            while now_ns < end_ns {
                if let Some(leave) = circuit.ask(now_ns, &mut self.tally) {
                    circuit.tell(leave, Outcome::Success, MS, now_ns, &mut self.tally);
                }
                now_ns += SECOND / 4;
                circuit.check(true, now_ns, &mut self.tally);
            }
            circuit.assert_closed();
        }
    }

    /// Puts an event on the agenda, so much later than now.
    pub(super) fn put(&mut self, after_ns: u64, event: Event) {
        self.agenda.put(self.now_ns + after_ns, event, &mut self.rng);
    }

    /// The time as the thread that acts has read it, which may be a moment ago.
    pub(super) fn said_ns(&mut self) -> u64 {
        let late_ns = if one_of(&mut self.rng, 8) { self.rng.u64(..2 * MS) } else { 0 };
        self.now_ns - late_ns
    }

    pub(super) fn note(&mut self, what: u64) {
        self.digest = (self.digest ^ what).wrapping_mul(0x0100_0000_01b3).rotate_left(17);
    }

    pub(super) fn count(&mut self, happening: Happening) {
        self.tally.note(happening);
    }
}
