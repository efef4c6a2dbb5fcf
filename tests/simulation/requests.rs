//! What the proxy does with a request, without the bytes: circuit, place, attempts, retries.

use crate::agenda::Event;
use crate::expected::{Arrival, Leave, Waiting};
use crate::run::Run;
use crate::setup::{MS, SECOND, one_of};
use crate::tally::Happening;
use crate::weather::Answer;
use std::sync::Arc;
use std::time::Duration;
use tollgate::policy::retry::{Failure, Tried};
use tollgate::upstream::circuit::Outcome;
use tollgate::upstream::places::Place;
use tollgate::upstream::{Server, ServerLoad};

/// Ranks of clients.
const TIERS: u16 = 4;

/// A request under way.
pub(crate) struct Request {
    route: usize,
    rank: u16,
    affinity: Option<u64>,
    is_repeatable: bool,
    is_kept: bool,
    deadline_ns: Option<u64>,
    leave: Option<Leave>,
    place: Option<Place>,
    tried: Vec<Arc<Server>>,
    /// Attempts begun.
    begun: u32,
    stage: Stage,
}

enum Stage {
    New,
    InLine(Waiting),
    Attempt(Attempt),
    Backoff,
}

struct Attempt {
    number: u64,
    load: ServerLoad,
    started_ns: u64,
    answer: Answer,
}

impl Run {
    /// A request arrives, and the next one is on its way.
    pub(super) fn arrival(&mut self) {
        let gap_ns = self.next_gap_ns();
        self.put(gap_ns, Event::Arrival);
        self.arrived += 1;
        self.count(Happening::Request);
        let id = self.arrived;
        let route = id as usize % self.setup.routes.len();
        let said_ns = self.said_ns();
        let circuit = &mut self.circuits[self.circuit_of[route]];
        let Some(leave) = circuit.ask(said_ns, &mut self.tally) else { return };
        if one_of(&mut self.rng, 50) {
            self.tally.note(Happening::RefusedByLimit);
            circuit.give_back(leave, &mut self.tally);
            return;
        }
        let config = &self.setup.routes[route];
        if let Some(retry) = &config.retry {
            self.budget.earn(retry.budget, said_ns);
        }
        let rng = &mut self.rng;
        let request = Request {
            route,
            rank: rng.u16(..TIERS),
            affinity: rng.bool().then(|| rng.u64(..20)),
            is_repeatable: !one_of(rng, 4),
            is_kept: !one_of(rng, 20),
            deadline_ns: config.timeout_ns.map(|timeout_ns| self.now_ns + timeout_ns),
            leave: Some(leave),
            place: None,
            tried: Vec::new(),
            begun: 0,
            stage: Stage::New,
        };
        if one_of(rng, self.setup.one_gone_of) {
            let after_ns = if one_of(rng, 3) { 0 } else { rng.u64(..SECOND / 2) };
            self.put(after_ns, Event::Gone { request: id });
        }
        self.take_place(id, request);
    }

    fn take_place(&mut self, id: u64, mut request: Request) {
        let left_ns = request.left_ns(self.now_ns);
        let arrival = self.places.as_mut().map(|places| {
            let limit = Duration::from_nanos(left_ns);
            places.arrive(id, request.rank, limit, self.now_ns, &mut self.tally)
        });
        let must_wait = matches!(arrival, Some(Arrival::Waits(_)));
        let is_refused = matches!(arrival, Some(Arrival::Refused));
        match arrival {
            Some(Arrival::Place(place)) => request.place = Some(place),
            Some(Arrival::Waits(waiting)) => request.stage = Stage::InLine(waiting),
            Some(Arrival::Refused) | None => {}
        }
        self.requests.insert(id, request);
        if is_refused {
            self.end(id);
        } else if !must_wait {
            self.attempt(id);
        }
    }

    /// A request in line was woken.
    pub(super) fn turn(&mut self, id: u64) {
        let Some(places) = &mut self.places else { return };
        let Some(request) = self.requests.get_mut(&id) else { return };
        let Stage::InLine(waiting) = &mut request.stage else { return };
        match places.turn(id, waiting, self.now_ns, &mut self.tally) {
            None => {}
            Some(Err(_)) => {
                request.stage = Stage::New;
                self.end(id);
            }
            Some(Ok(place)) => {
                request.place = Some(place);
                request.stage = Stage::New;
                self.attempt(id);
            }
        }
    }

    fn attempt(&mut self, id: u64) {
        let said_ns = self.said_ns();
        let Some(request) = self.requests.get_mut(&id) else { return };
        let chosen =
            self.servers.choose(request.affinity, &request.tried, said_ns, &mut self.tally);
        let Some((number, server)) = chosen else { return self.end(id) };
        request.begun += 1;
        let retry = self.setup.routes[request.route].retry.as_ref();
        let most = 1 + retry.map_or(0, |retry| retry.attempts);
        assert!(request.begun <= most, "attempt {} of {most}", request.begun);
        let timeouts = &self.setup.upstream.timeouts;
        let address = server.address.expect("a server that is asked has an address");
        let (mut answer, mut after_ns) = self.weather.meet(address, self.now_ns, &mut self.rng);
        let per_try_ns = retry.and_then(|retry| retry.per_try_timeout_ns).unwrap_or(u64::MAX);
        let patience_ns = (timeouts.read.as_nanos() as u64).min(per_try_ns);
        let patience_ns = patience_ns.min(request.left_ns(self.now_ns));
        let is_stuck = self.calm.is_none() && one_of(&mut self.rng, 100);
        if is_stuck {
            // Something holds it up, so that its end comes long after anybody expects it.
            after_ns = self.rng.u64(..10 * SECOND);
        } else if after_ns > patience_ns {
            (answer, after_ns) = (Answer::Failure(Failure::Timeout), patience_ns);
        }
        self.servers.enter(number);
        let load = server.enter();
        let attempt = request.begun;
        request.stage = Stage::Attempt(Attempt { number, load, started_ns: self.now_ns, answer });
        self.note(number);
        self.put(after_ns, Event::AttemptEnd { request: id, attempt });
    }

    /// An attempt ends, and perhaps another follows.
    pub(super) fn attempt_end(&mut self, id: u64, attempt: u32) {
        let Some(request) = self.requests.get(&id) else { return };
        let Stage::Attempt(Attempt { answer, .. }) = request.stage else { return };
        if request.begun != attempt {
            return;
        }
        let retry = self.setup.routes[request.route].retry.as_ref();
        let (failure, is_ok, asked_ns) = match answer {
            Answer::Status(status, asked_ns) => {
                let is_listed = retry.is_some_and(|retry| retry.when.statuses.contains(&status));
                let failure = is_listed.then_some(Failure::Status(status));
                (failure, status < 500 || status == 501, asked_ns)
            }
            Answer::Failure(failure) => (Some(failure), false, None),
            Answer::Silence => (Some(Failure::Timeout), false, None),
        };
        self.conclude(id, is_ok, asked_ns);
        if failure.is_some_and(|failure| self.plan_retry(id, failure)) {
            return;
        }
        self.count(if is_ok { Happening::Answered } else { Happening::Failed });
        self.end(id);
    }

    /// Tells the circuit and the server what came of the attempt.
    fn conclude(&mut self, id: u64, is_ok: bool, retry_after_ns: Option<u64>) {
        let said_ns = self.said_ns();
        let Some(request) = self.requests.get_mut(&id) else { return };
        let stage = std::mem::replace(&mut request.stage, Stage::New);
        let Stage::Attempt(Attempt { number, load, started_ns, .. }) = stage else { return };
        let took_ns = self.now_ns - started_ns;
        let outcome = if is_ok { Outcome::Success } else { Outcome::Failure { retry_after_ns } };
        let leave = request.leave.take().expect("an attempt has leave");
        let circuit = &mut self.circuits[self.circuit_of[request.route]];
        circuit.tell(leave, outcome, took_ns, said_ns, &mut self.tally);
        let server = load.server().clone();
        drop(load);
        self.servers.leave(number, &server);
        self.servers.tell(number, &server, is_ok, took_ns, said_ns, &mut self.tally);
        if !is_ok {
            request.tried.push(server);
        }
    }

    /// Whether another attempt is made; it is on the agenda then.
    fn plan_retry(&mut self, id: u64, failure: Failure) -> bool {
        let Some(request) = self.requests.get_mut(&id) else { return false };
        let Some(policy) = &self.setup.routes[request.route].retry else { return false };
        let tried = Tried {
            failure,
            attempts: request.begun,
            is_repeatable: request.is_repeatable,
            is_kept: request.is_kept,
            is_answer_begun: false,
        };
        if !policy.allows(&tried) {
            return false;
        }
        let wait_ns = policy.backoff.wait_ns(tried.attempts, self.rng.f64());
        assert!(wait_ns <= policy.backoff.max_ns);
        if wait_ns >= request.left_ns(self.now_ns) {
            return false;
        }
        let circuit = &mut self.circuits[self.circuit_of[request.route]];
        if circuit.would_refuse(self.now_ns) {
            self.tally.note(Happening::RetryIntoOpenCircuit);
            return false;
        }
        if !self.budget.spend(self.now_ns, &mut self.tally) {
            return false;
        }
        request.stage = Stage::Backoff;
        let attempt = request.begun;
        self.put(wait_ns, Event::RetryDue { request: id, attempt });
        if one_of(&mut self.rng, 30) {
            let after_ns = self.rng.u64(..=wait_ns);
            self.put(after_ns, Event::Gone { request: id });
        }
        true
    }

    /// The wait before another attempt is over.
    pub(super) fn retry_due(&mut self, id: u64, attempt: u32) {
        let said_ns = self.said_ns();
        let Some(request) = self.requests.get_mut(&id) else { return };
        if !matches!(request.stage, Stage::Backoff) || request.begun != attempt {
            return;
        }
        let circuit = &mut self.circuits[self.circuit_of[request.route]];
        request.leave = circuit.ask(said_ns, &mut self.tally);
        if request.leave.is_none() {
            self.count(Happening::RetryIntoOpenCircuit);
            return self.end(id);
        }
        self.count(Happening::Retry);
        self.attempt(id);
    }

    /// The client goes away, or the task is lost: nothing is told to anybody.
    pub(super) fn gone(&mut self, id: u64) {
        match self.requests.get(&id).map(|request| &request.stage) {
            Some(Stage::Attempt(_)) => self.count(Happening::GoneInAttempt),
            Some(Stage::Backoff) => self.count(Happening::GoneInBackoff),
            _ => {}
        }
        self.end(id);
    }

    /// Gives back all that a request holds.
    fn end(&mut self, id: u64) {
        let Some(mut request) = self.requests.remove(&id) else { return };
        if let Some(leave) = request.leave.take() {
            let circuit = &mut self.circuits[self.circuit_of[request.route]];
            circuit.give_back(leave, &mut self.tally);
        }
        match request.stage {
            Stage::Attempt(Attempt { number, load, .. }) => {
                let server = load.server().clone();
                drop(load);
                self.servers.leave(number, &server);
            }
            Stage::InLine(waiting) => {
                let places = self.places.as_mut().expect("there is a line");
                places.abandon(id, waiting, &mut self.tally);
            }
            Stage::New | Stage::Backoff => {}
        }
        if let Some((places, place)) = self.places.as_mut().zip(request.place) {
            places.give_back(place);
        }
    }

    fn next_gap_ns(&mut self) -> u64 {
        if self.calm.is_some() {
            return self.rng.u64(10 * MS..60 * MS);
        }
        if one_of(&mut self.rng, if self.gap_ns > SECOND / 10 { 10 } else { 150 }) {
            // A flood, busy, steady, sparse.
            self.gap_ns = [MS / 4, 10 * MS, 100 * MS, 3 * SECOND][self.rng.usize(..4)];
        }
        self.rng.u64(..self.gap_ns)
    }
}

impl Request {
    fn left_ns(&self, now_ns: u64) -> u64 {
        self.deadline_ns.map_or(u64::MAX, |deadline_ns| deadline_ns.saturating_sub(now_ns))
    }
}
