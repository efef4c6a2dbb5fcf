//! What has been tried for one request.

use crate::clock;
use crate::metrics::AttemptOutcome;
use crate::policy::retry::MAX_RETRIES;
use crate::upstream::circuit::{Outcome, Ticket};
use crate::upstream::{Server, ServerLoad, Upstream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Attempts that may find a pooled connection closed by its upstream. Hardly anything arrived then,
/// so they count as neither a failure nor a retry.
pub const MAX_STALE: u32 = 2;
/// How soon an upstream's machine says that it had closed a connection: within one round trip. What
/// ends later was read by somebody.
const STALE_WITHIN: Duration = Duration::from_millis(250);

/// Attempts that Pingora may make for one request.
pub const MAX_ATTEMPTS: usize = 1 + MAX_RETRIES as usize + MAX_STALE as usize;

/// How long an answer goes on before its attempt counts as one that succeeded. What ends
/// sooner counts when it ends.
const SETTLED: Duration = Duration::from_secs(1);

/// Attempts at the upstream. Dropped in the middle of one, it gives back what that held.
#[derive(Default)]
pub struct Attempts {
    /// How many were begun.
    pub begun: u32,
    /// How many of them found their pooled connection closed.
    pub stale: u32,
    /// Whether the attempt under way goes over a connection that was used before.
    pub is_reused: bool,
    /// The server last asked.
    pub server: Option<Arc<Server>>,
    /// The servers that failed.
    pub tried: Vec<Arc<Server>>,
    /// What came of each attempt; empty where the first succeeded.
    pub records: Vec<Record>,
    /// Leave from the circuit for the next attempt or the one under way.
    pub ticket: Option<Ticket>,
    /// Another attempt is to be made after this long.
    pub planned: Option<Duration>,
    open: Option<Open>,
}

/// The attempt under way.
struct Open {
    started: Instant,
    answered: Option<Answered>,
    /// Its server was ejected already and asked because no other could be.
    is_last_resort: bool,
    _load: ServerLoad,
}

/// The beginning of an attempt's answer.
#[derive(Clone, Copy)]
struct Answered {
    at: Instant,
    took: Duration,
    status: u16,
}

/// What came of one attempt, for the access log.
pub struct Record {
    /// The server's address.
    pub server: Arc<str>,
    /// What came of it.
    pub outcome: AttemptOutcome,
    /// The status it answered with.
    pub status: Option<u16>,
    /// How long it took until its answer began, or until it failed.
    pub took: Duration,
}

impl Attempts {
    /// An attempt at `server` begins, at `now_ns` of the limiter's time.
    pub fn begin(&mut self, server: Arc<Server>, started: Instant, now_ns: u64) {
        self.begun += 1;
        self.is_reused = false;
        self.open = Some(Open {
            started,
            answered: None,
            is_last_resort: server.is_ejected(now_ns),
            _load: server.enter(),
        });
        self.server = Some(server);
    }

    /// The attempt's answer has begun, with this status.
    pub fn answer_began(&mut self, status: u16) {
        if let Some(open) = &mut self.open {
            let at = clock::now();
            let took = at.saturating_duration_since(open.started);
            open.answered = Some(Answered { at, took, status });
        }
    }

    /// Whether an answer has begun long enough ago for its attempt to count.
    pub fn is_settled(&self) -> bool {
        let answered = self.open.as_ref().and_then(|open| open.answered);
        answered
            .is_some_and(|answered| clock::now().saturating_duration_since(answered.at) > SETTLED)
    }

    /// When the attempt under way began.
    pub fn started(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.started)
    }

    /// Whether an attempt has neither succeeded nor failed yet.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether the attempt under way is one of the first on kept connections, and has ended so soon
    /// that its connection was most likely closed before.
    pub fn may_be_stale(&self) -> bool {
        let is_soon = self.open.as_ref().is_some_and(|open| open.started.elapsed() < STALE_WITHIN);
        self.is_reused && self.stale < MAX_STALE && is_soon
    }

    /// The attempt found its connection closed before anything came of it: it keeps its
    /// ticket for the next one.
    pub fn was_stale(&mut self, upstream: &Upstream) {
        if let Some(open) = self.open.take() {
            self.stale += 1;
            upstream.attempts.count(AttemptOutcome::Reset);
            self.record(AttemptOutcome::Reset, None, open.started.elapsed());
        }
    }

    /// Records what came of the attempt under way, once: in the metrics, with its circuit and
    /// with its server. `status` is there where the answer's status is judged, and
    /// `retry_after` is what a failing answer asked for.
    pub fn end(
        &mut self,
        upstream: &Upstream,
        outcome: AttemptOutcome,
        status: Option<u16>,
        retry_after: Option<Duration>,
    ) {
        let Some(open) = self.open.take() else { return };
        let (now, took) = match open.answered {
            Some(answered) => (answered.at, answered.took),
            None => {
                let now = clock::now();
                (now, now.saturating_duration_since(open.started))
            }
        };
        let (took_ns, now_ns) = (took.as_nanos() as u64, clock::ns_at(now));
        upstream.attempts.count(outcome);
        let ticket = self.ticket.take();
        let verdict = match outcome {
            AttemptOutcome::Ok => Some(Outcome::Success),
            AttemptOutcome::Cancelled => None,
            _ => Some(Outcome::Failure {
                retry_after_ns: retry_after.map(|wait| wait.as_nanos() as u64),
            }),
        };
        let (Some(server), Some(verdict)) = (&self.server, verdict) else {
            self.record(outcome, open.answered.map(|answered| answered.status), took);
            return;
        };
        let is_ok = verdict == Outcome::Success;
        server.tell(is_ok, took_ns, now_ns);
        // What was still on its way to a server when that was ejected fails in one go, and says
        // of the upstream no more than is known already: that this server fails.
        let is_news = is_ok || open.is_last_resort || !server.is_ejected(now_ns);
        if let Some(ticket) = ticket.filter(|_| is_news) {
            ticket.tell(verdict, took_ns, now_ns);
        }
        if !is_ok {
            self.tried.push(server.clone());
        }
        if !self.records.is_empty() || status.is_some() || outcome != AttemptOutcome::Ok {
            self.record(outcome, open.answered.map(|answered| answered.status), took);
        }
    }

    fn record(&mut self, outcome: AttemptOutcome, status: Option<u16>, took: Duration) {
        let Some(server) = &self.server else { return };
        self.records.push(Record { server: server.name.clone(), outcome, status, took });
    }
}
