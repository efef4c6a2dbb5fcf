//! The parts of an explanation, as JSON.

use crate::decision::client::Caller;
use crate::decision::outlook::{self, Answer, Asked, HolderKind, LimitOutlook, Outlook, WhyNot};
use crate::decision::refusal::Refusal;
use crate::gateway::{Generation, TIER_POLICY};
use crate::policy::limit::Role;
use crate::policy::precedence::{Decider, Mismatch};
use crate::policy::rate::TokenBucket;
use crate::policy::router::RouteId;
use crate::store::key::KeyKind;
use serde::Serialize;
use utoipa::ToSchema;

/// Routes besides the chosen one that are shown.
const MAX_OTHERS: usize = 20;

/// How routes are ordered, for people.
const ORDER: &str = "host (named, longer *.domain, any), then path (exact, pattern, longer prefix), \
                     then method (named, any), then place in the file";

/// What a request would get.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Answered {
    /// In one line.
    #[schema(example = "forwarded to upstream users")]
    summary: String,
    /// What the gateway answers by itself; null: the upstream answers.
    #[schema(example = 429)]
    status: Option<u16>,
    /// The end of the problem's type; null: the request is not refused.
    #[schema(example = "rate-limited")]
    refusal: Option<&'static str>,
    /// What in the configuration refuses it.
    #[schema(example = "tier")]
    refused_by: Option<String>,
    /// Whole seconds after which to try again; null where it is not refused or waiting does not
    /// help.
    retry_after_seconds: Option<u64>,
    /// How long a leaky bucket would hold it back; also where it is refused for that.
    delay_seconds: f64,
    /// Whether it would have to wait for a place at the upstream.
    waits_for_place: bool,
}

impl Answered {
    pub(super) fn of(outlook: &Outlook<'_>, generation: &Generation) -> Answered {
        let blank = Answered {
            summary: String::new(),
            status: None,
            refusal: None,
            refused_by: None,
            retry_after_seconds: None,
            delay_seconds: 0.0,
            waits_for_place: false,
        };
        match &outlook.answer {
            Answer::Probe => {
                let summary = "answered by the gateway: the path of health probes".to_owned();
                Answered { summary, ..blank }
            }
            Answer::Refused(refusal) => {
                let by = refusal.policy();
                let retry_after_seconds = refusal.retry_after_seconds();
                let mut summary = format!("{} {}", refusal.status().as_u16(), refusal.name());
                if let Some((member, name)) = by {
                    summary += &format!(" by {member} {name}");
                }
                if let Some(seconds) = retry_after_seconds {
                    summary += &format!(", again after {seconds} s");
                }
                let mut delay_seconds = 0.0;
                if let Refusal::HeldTooLong { delay_ns, .. } = refusal {
                    delay_seconds = seconds(*delay_ns);
                    summary += &format!(
                        ": {delay_seconds:.3} s in its queue are longer than the route's timeout"
                    );
                }
                Answered {
                    summary,
                    delay_seconds,
                    status: Some(refusal.status().as_u16()),
                    refusal: Some(refusal.name()),
                    refused_by: by.map(|(_, name)| name.to_owned()),
                    retry_after_seconds,
                    ..blank
                }
            }
            Answer::Forwarded { delay_ns, waits_for_place } => {
                let upstream = outlook.route.map(|route| &*generation.upstream_of(route).name);
                let mut summary = format!("forwarded to upstream {}", upstream.unwrap_or_default());
                let delay_seconds = seconds(*delay_ns);
                if *delay_ns > 0 {
                    summary += &format!(", held back for {delay_seconds:.3} s");
                }
                if *waits_for_place {
                    summary += ", if a place comes free in time";
                }
                Answered { summary, delay_seconds, waits_for_place: *waits_for_place, ..blank }
            }
        }
    }
}

/// To the microsecond.
fn seconds(ns: u64) -> f64 {
    (ns / 1_000) as f64 / 1e6
}

/// The route that takes a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TakingRoute {
    #[schema(example = "users")]
    name: String,
    #[schema(example = "users")]
    upstream: String,
    /// The name of the circuit that the request passes.
    circuit: String,
}

impl TakingRoute {
    pub(super) fn of(route: RouteId, generation: &Generation) -> TakingRoute {
        TakingRoute {
            name: generation.route_config(route).name.to_string(),
            upstream: generation.upstream_of(route).name.to_string(),
            circuit: generation.route(route).circuit.name().to_string(),
        }
    }
}

/// Why other routes do not take a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OtherRoutes {
    /// What decides between routes that fit.
    order: &'static str,
    /// How many other routes there are.
    total: usize,
    /// Those that fit but for one thing or begin with the same segment, nearest first; at most
    /// 20.
    nearest: Vec<OtherRoute>,
}

/// A route that does not take a request.
#[derive(Debug, Serialize, ToSchema)]
struct OtherRoute {
    name: String,
    #[schema(example = "a route with a more specific path goes first")]
    why_not: &'static str,
}

impl OtherRoutes {
    pub(super) fn of(
        asked: &Asked<'_>,
        outlook: &Outlook<'_>,
        generation: &Generation,
    ) -> OtherRoutes {
        let total = generation.routes.len() - usize::from(outlook.route.is_some());
        let others = outlook.target.as_ref().map(|target| {
            outlook::others(asked, &target.path, outlook.route, generation, MAX_OTHERS)
        });
        let nearest = others.unwrap_or_default().into_iter().map(|other| OtherRoute {
            name: generation.route_config(other.route).name.to_string(),
            why_not: why_not(other.why),
        });
        OtherRoutes { order: ORDER, total, nearest: nearest.collect() }
    }
}

fn why_not(why: WhyNot) -> &'static str {
    match why {
        WhyNot::Mismatch(Mismatch::Host) => "it takes other hosts",
        WhyNot::Mismatch(Mismatch::Path) => "it takes other paths",
        WhyNot::Mismatch(Mismatch::Method) => "it takes other methods",
        WhyNot::Behind(Decider::Host) => "a route with a more specific host goes first",
        WhyNot::Behind(Decider::Path) => "a route with a more specific path goes first",
        WhyNot::Behind(Decider::Method) => "a route that names the method goes first",
        WhyNot::Behind(Decider::Place) => "a route that is as specific is before it in the file",
    }
}

/// The client of a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sender {
    /// Its id, or its address (IPv6: the first of its prefix).
    client: String,
    /// `api_key`, `header` or `ip`.
    #[schema(example = "header")]
    identified_by: &'static str,
    tier: String,
    /// Whether the configuration or the admin API names it.
    registered: bool,
}

impl Sender {
    pub(super) fn of(caller: &Caller, generation: &Generation) -> Sender {
        let standing = &caller.identity.standing;
        Sender {
            client: caller.identity.name.to_string(),
            identified_by: identified_by(caller.identity.kind),
            tier: generation.config.tiers.get(standing.tier).name.to_string(),
            registered: standing.is_registered,
        }
    }
}

/// How clients of this kind are named.
pub(super) fn identified_by(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::ApiKey => "api_key",
        KeyKind::Ip => "ip",
        _ => "header",
    }
}

/// How a limit stands towards a request.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct LimitStands {
    #[schema(example = "route:users")]
    policy: String,
    key: BucketKey,
    #[schema(example = "token_bucket")]
    algorithm: &'static str,
    #[schema(example = "100/m")]
    rate: String,
    /// Tokens in the full bucket.
    burst: u64,
    /// Tokens that the request costs.
    cost: u32,
    /// Whole tokens left.
    tokens_remaining: u64,
    /// Whole seconds until the bucket is full, rounded up.
    full_in_seconds: u64,
    /// Whole seconds until the request would pass, rounded up; 0: it does now, null: it never
    /// will, for it costs more than the burst.
    retry_after_seconds: Option<u64>,
    /// Whether it would refuse the request; a shadow refuses nothing all the same.
    refuses: bool,
    /// Whether it only counts what it would refuse.
    shadow: bool,
    /// Whether it is the quota beside another limit.
    quota: bool,
    /// Whether the bucket is one that others share, because the table has no room for its own.
    /// Then the default tier's limit holds.
    shared_bucket: bool,
}

/// Whose bucket it is.
#[derive(Debug, Serialize, ToSchema)]
struct BucketKey {
    /// `client`, `ip`, `network` (IPv6), `route`, `global` or `header`.
    #[schema(example = "client")]
    kind: &'static str,
    /// The client's id, the address, the route, the header's value; null: everybody's.
    #[schema(example = "client-123")]
    value: Option<String>,
}

impl LimitStands {
    pub(super) fn all(outlook: &Outlook<'_>, generation: &Generation) -> Vec<LimitStands> {
        outlook.limits.iter().map(|limit| Self::of(limit, outlook, generation)).collect()
    }

    fn of(limit: &LimitOutlook, outlook: &Outlook<'_>, generation: &Generation) -> LimitStands {
        let config = outlook.route.and_then(|route| generation.limit_of(route, limit.policy));
        let tiers = &generation.config.tiers;
        let standing = &limit.prospect.standing;
        let bucket = outlook.caller.as_ref().map(|caller| caller.identity.standing.bucket(tiers));
        LimitStands {
            policy: config.map_or(TIER_POLICY, |config| &*config.name).to_owned(),
            key: BucketKey { kind: kind(limit.holder.0), value: limit.holder.1.clone() },
            algorithm: config.map_or("token_bucket", |config| config.algorithm.name()),
            rate: match config {
                Some(config) => config.algorithm.rate_text(),
                None => bucket.map(TokenBucket::rate_text).unwrap_or_default(),
            },
            burst: standing.burst,
            cost: limit.cost,
            tokens_remaining: standing.tokens,
            full_in_seconds: standing.full_in_seconds,
            retry_after_seconds: standing.wait_ns.map(|ns| ns.div_ceil(1_000_000_000)),
            refuses: standing.refuses(),
            shadow: config.is_some_and(|config| config.is_shadow),
            quota: config.is_some_and(|config| config.role == Role::Quota),
            shared_bucket: limit.is_overflow(),
        }
    }
}

fn kind(holder: HolderKind) -> &'static str {
    match holder {
        HolderKind::Client(_) => "client",
        HolderKind::Ip => "ip",
        HolderKind::Network => "network",
        HolderKind::Route => "route",
        HolderKind::Global => "global",
        HolderKind::Header => "header",
    }
}

/// What a client has in flight.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientPlaces {
    used: u32,
    /// How many it may have.
    max: u32,
}

impl ClientPlaces {
    pub(super) fn of((used, max): (u32, u32)) -> ClientPlaces {
        ClientPlaces { used, max }
    }
}
