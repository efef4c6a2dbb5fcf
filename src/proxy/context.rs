//! What a request carries from phase to phase.

use crate::clock;
use crate::decision::refusal::Refusal;
use crate::decision::shared::{Payments, Pending};
use crate::gateway::client_places::ClientPlace;
use crate::gateway::{Generation, Route};
use crate::metrics::{AttemptOutcome, InflightGuard};
use crate::policy::router::RouteId;
use crate::policy::tier::TierId;
use crate::proxy::attempts::Attempts;
use crate::registry::identity::Identity;
use crate::store::key::Digest;
use crate::store::limiter::{Receipt, Standing};
use crate::upstream::places::Place;
use crate::wire::alarm::Patience;
use http::HeaderValue;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One request's state. Its guards act when it is dropped, so they hold on every way out.
pub struct Context {
    /// When its head was complete.
    pub started: Instant,
    /// The same, in the limiter's time.
    pub started_ns: u64,
    /// The policy it is decided by, to its end.
    pub generation: Arc<Generation>,
    /// Its trace id.
    pub trace_id: HeaderValue,
    /// Whether it named a host.
    pub has_host: bool,
    /// The route that took it.
    pub route: Option<RouteId>,
    /// Its client, once known.
    pub identity: Option<Identity>,
    /// The address it comes from.
    pub source: Option<IpAddr>,
    /// Whether the connection's other end is a trusted proxy.
    pub is_from_trusted_proxy: bool,
    /// The target to forward, where it differs from the one that came.
    pub target: Option<String>,
    /// How the tightest policy stood when the request was decided.
    pub rate_limit: Option<RateLimit>,
    /// What it was refused with.
    pub refusal: Option<Refusal>,
    /// What it was charged.
    pub receipt: Receipt,
    /// What it paid to limits that gateways share.
    pub payments: Payments,
    /// What has to be asked before it is decided.
    pub pending: Option<Box<Pending>>,
    /// The shadow policies that would have refused it.
    pub shadowed: Vec<Arc<str>>,
    /// What has been tried for it.
    pub attempts: Attempts,
    /// What requests to the same server have in common, where the upstream asks for that.
    pub affinity: Option<u64>,
    /// Whether it may arrive twice without harm.
    pub is_repeatable: bool,
    /// Whether it announces a body.
    pub has_body: bool,
    /// What the attempt under way may take.
    pub patience: Patience,
    /// Whether it asks its upstream to go on in another protocol.
    pub is_upgrade: bool,
    /// Whether its client waits for `100 Continue`.
    pub awaits_continue: bool,
    /// Whose buckets and places it takes.
    pub holder: Option<Digest>,
    /// Whether it was held back, or waited for a place at its upstream.
    pub has_waited: bool,
    /// When its route's timeout ends.
    pub deadline: Option<Instant>,
    /// Bytes of its body in the current attempt.
    pub body_bytes: u64,
    /// A health probe: neither counted nor logged.
    pub is_probe: bool,
    pub(super) inflight: Option<InflightGuard>,
    /// Its place among its client's requests.
    pub(super) client_place: Option<ClientPlace>,
    /// Its place at its upstream.
    pub(super) place: Option<Place>,
}

/// What the answer's RateLimit headers say.
pub struct RateLimit {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The value of `RateLimit-Policy`.
    pub policy_header: HeaderValue,
    /// How it stands.
    pub standing: Standing,
}

impl Context {
    /// A request that begins now under `generation`.
    pub fn new(generation: Arc<Generation>) -> Context {
        let started = clock::now();
        Context {
            started,
            started_ns: clock::ns_at(started),
            generation,
            trace_id: HeaderValue::from_static(""),
            has_host: false,
            route: None,
            identity: None,
            source: None,
            is_from_trusted_proxy: false,
            target: None,
            rate_limit: None,
            refusal: None,
            receipt: Receipt::default(),
            payments: Payments::new(),
            pending: None,
            shadowed: Vec::new(),
            attempts: Attempts::default(),
            affinity: None,
            is_repeatable: false,
            has_body: false,
            patience: Patience::default(),
            is_upgrade: false,
            awaits_continue: false,
            holder: None,
            has_waited: false,
            deadline: None,
            body_bytes: 0,
            is_probe: false,
            inflight: None,
            client_place: None,
            place: None,
        }
    }

    /// Whether something has to be asked, or waited for, before it is decided.
    pub(super) fn has_to_wait(&self) -> bool {
        self.pending.is_some() || self.receipt.delay().is_some()
    }

    /// The state of the route that took it.
    pub fn route(&self) -> Option<&Route> {
        self.route.map(|id| self.generation.route(id))
    }

    /// Its client's tier, once known.
    pub fn tier(&self) -> Option<TierId> {
        self.identity.as_ref().map(|identity| identity.standing.tier)
    }

    /// The name of that.
    pub fn tier_name(&self) -> Option<Arc<str>> {
        self.tier().map(|tier| self.generation.config.tiers.get(tier).name.clone())
    }

    /// Records what came of the attempt under way, if one is.
    pub(super) fn end_attempt(&mut self, outcome: AttemptOutcome) {
        if let Some(route) = self.route {
            self.attempts.end(self.generation.upstream_of(route), outcome, None, None);
        }
    }

    /// Time left until the deadline; none without one.
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(clock::now()))
    }

    /// Whether the route's timeout has passed.
    pub fn is_overdue(&self) -> bool {
        self.time_left() == Some(Duration::ZERO)
    }
}
