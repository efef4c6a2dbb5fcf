//! How a client stands: its tier and its buckets, those that gateways share as the store says.

use super::AdminState;
use crate::clock;
use crate::decision::client::likely_kind;
use crate::decision::shared::name_of;
use crate::decision::toll::overflow_bucket;
use crate::fleet::limits::{SharedLimits, Wish};
use crate::gateway::{Generation, TIER_POLICY};
use crate::policy::limit::{LimitKey, NETWORK_PREFIX, OnStoreFailure, Store};
use crate::policy::meter::Algorithm;
use crate::policy::rate::TokenBucket;
use crate::registry::Standing;
use crate::registry::identity::client_ip;
use crate::store::key::{Digest, Key, KeyKind};
use crate::store::limiter::{Demand, Limiter, Prospect};
use crate::store::table::{Class, Place};
use serde::Serialize;
use std::cmp::Reverse;
use std::net::IpAddr;
use utoipa::ToSchema;

/// How a client stands.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Client {
    /// Its id, or its address (IPv6: the first of its prefix).
    client: String,
    tier: String,
    /// Whether the configuration or the admin API names it.
    registered: bool,
    /// What it meets on every route that counts by client: its tier or own limit first, then
    /// the limits of `limits`, then the routes' own.
    limits: Vec<ClientLimit>,
}

/// One of a client's buckets.
#[derive(Debug, Serialize, ToSchema)]
struct ClientLimit {
    /// `tier`, a limit's name, or `route:<name>`.
    #[schema(example = "tier")]
    policy: String,
    /// Whole tokens left.
    tokens_remaining: u64,
    /// Tokens in the full bucket.
    capacity: u64,
    /// Tokens per second.
    refill_rate: f64,
    /// Whole seconds until a token is there, rounded up; 0 when one is.
    retry_after_seconds: u64,
    /// There where the bucket is one that others share, because the table has no room for its own.
    /// Then the default tier's limit holds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    shared_bucket: bool,
}

/// How a client stands that a header or a key names.
pub(super) async fn client(app: &AdminState, id: &str) -> Client {
    let generation = app.gateway.generation();
    let tiers = &generation.config.tiers;
    let standing = app.gateway.registry.standing(id, &generation.known, tiers);
    let mut kinds = [KeyKind::Header, KeyKind::ApiKey];
    if likely_kind(id, false, &generation) == KeyKind::ApiKey {
        kinds.reverse();
    }
    let holders = kinds.map(|kind| {
        let digest = app.gateway.limiter.digest(kind, id.as_bytes());
        Holder { digest, name: name_of(kind, id.as_bytes()) }
    });
    let holders = Holders { client: &holders, ip: &[], network: &[] };
    view(app, &generation, id.to_owned(), &standing, &holders).await
}

/// How a client stands that only its address names.
pub(super) async fn address(app: &AdminState, ip: IpAddr) -> Client {
    let generation = app.gateway.generation();
    let standing = Standing::stranger(&generation.config.tiers);
    let holder = |ip: IpAddr| Holder {
        digest: app.gateway.limiter.ip_digest(ip),
        name: name_of(KeyKind::Ip, ip.to_string().as_bytes()),
    };
    let ip = client_ip(ip, generation.config.clients.ipv6_prefix);
    let own = [holder(ip)];
    let network = [holder(client_ip(ip, NETWORK_PREFIX))];
    let network = if ip.is_ipv6() { &network[..] } else { &[] };
    let holders = Holders { client: &own, ip: &own, network };
    view(app, &generation, ip.to_string(), &standing, &holders).await
}

/// One of the holders that a client may be.
struct Holder {
    digest: Digest,
    /// What it is called among gateways.
    name: String,
}

/// The holders under which a client's buckets may be, by what a limit counts by.
struct Holders<'a> {
    client: &'a [Holder],
    ip: &'a [Holder],
    network: &'a [Holder],
}

/// The buckets of a client under one policy.
struct Buckets<'a> {
    policy: &'a str,
    digest: Digest,
    algorithm: &'a Algorithm,
    /// Whether the store decides it and not this gateway.
    is_shared: bool,
    holders: &'a [Holder],
}

impl Buckets<'_> {
    /// What the store has to be asked to know how they stand.
    fn wishes(&self, limits: &SharedLimits, class: Class) -> impl Iterator<Item = Wish> {
        let family = self.algorithm.family();
        self.holders.iter().filter(|_| self.is_shared).map(move |holder| Wish {
            policy: 0,
            key: Key::new(self.digest, holder.digest),
            class,
            name: limits.name(self.policy, family, &holder.name),
            algorithm: self.algorithm.clone(),
            cost: 0,
            on_failure: OnStoreFailure::FairShare,
        })
    }

    /// How the client stands towards them; none for no holder. That is the emptiest of its own
    /// that is in use. Where none is, it is the one that the next request would meet if it named
    /// the client in the first way: a client whose name finds no room in the table shares a
    /// bucket, whatever room there is for its other names.
    fn read(
        &self,
        limiter: &Limiter,
        class: Class,
        overflow: &TokenBucket,
        since: u64,
        now: u64,
    ) -> Option<ClientLimit> {
        let prospects = self.holders.iter().map(|holder| {
            let key = Key::new(self.digest, holder.digest);
            let meter = self.algorithm.meter(now, clock::utc_ns_at);
            let demand = Demand { policy: 0, key, class, meter, cost: 1, since };
            match self.is_shared {
                true => limiter.foresee_elsewhere(&demand, now),
                false => limiter.foresee(&demand, overflow, now),
            }
        });
        let in_use = prospects.clone().filter(|prospect| {
            prospect.place == Place::Own && prospect.standing.full_in_seconds > 0
        });
        let emptiest = in_use
            .min_by_key(|prospect| (prospect.standing.tokens, Reverse(prospect.standing.wait_ns)));
        let Prospect { standing, place, .. } = emptiest.or_else(|| prospects.clone().next())?;
        let shared_bucket = place == Place::Overflow;
        Some(ClientLimit {
            policy: self.policy.to_owned(),
            tokens_remaining: standing.tokens,
            capacity: standing.burst,
            refill_rate: match shared_bucket {
                true => overflow.rate_per_second(),
                false => self.algorithm.rate_per_second(),
            },
            retry_after_seconds: standing.wait_ns.unwrap_or(0).div_ceil(1_000_000_000),
            shared_bucket,
        })
    }
}

async fn view(
    app: &AdminState,
    generation: &Generation,
    client: String,
    standing: &Standing,
    holders: &Holders<'_>,
) -> Client {
    let config = &generation.config;
    let class = match standing.is_registered {
        true => Class::Registered,
        false => Class::Unregistered,
    };
    let bucket = Algorithm::TokenBucket(*standing.bucket(&config.tiers));
    let has_store = app.gateway.fleet.is_some();
    let tier = Buckets {
        policy: TIER_POLICY,
        digest: generation.tier_digest,
        algorithm: &bucket,
        is_shared: has_store,
        holders: holders.client,
    };
    let global = config.limits.iter().zip(&generation.limits);
    let routes = config.routes.iter().zip(&generation.routes);
    let own = routes.flat_map(|(config, route)| config.limits.iter().zip(&route.limits));
    let further = global.chain(own).map(|(limit, policy)| Buckets {
        policy: &limit.name,
        digest: policy.digest,
        algorithm: &limit.algorithm,
        // What only watches is counted here.
        is_shared: has_store && limit.store != Store::Local && !limit.is_shadow,
        holders: match limit.key {
            LimitKey::Client => holders.client,
            LimitKey::Ip => holders.ip,
            LimitKey::Network => holders.network,
            LimitKey::Route | LimitKey::Global | LimitKey::Header(_) => &[],
        },
    });
    let buckets: Vec<Buckets<'_>> = std::iter::once(tier).chain(further).collect();
    if let Some(fleet) = &app.gateway.fleet {
        let wishes = buckets.iter().flat_map(|buckets| buckets.wishes(&fleet.limits, class));
        fleet.limits.look(&wishes.collect::<Vec<_>>(), &app.gateway.limiter).await;
    }
    let (limiter, now) = (&app.gateway.limiter, clock::now_ns());
    let overflow = overflow_bucket(generation);
    let since = app.gateway.limits_changed_ns();
    let limits =
        buckets.iter().filter_map(|buckets| buckets.read(limiter, class, overflow, since, now));
    Client {
        client,
        tier: config.tiers.get(standing.tier).name.to_string(),
        registered: standing.is_registered,
        limits: limits.collect(),
    }
}
