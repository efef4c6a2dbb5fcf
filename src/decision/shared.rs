//! Charging limits that gateways share.
//!
//! What can be decided here is decided at once: a lease that has the tokens pays, a refusal that
//! is remembered stands, and local limits are charged as ever. What is left has to be asked of the
//! store, all of it together; until the answer is there, nothing the request has paid is final.

use super::toll::{Holder, Moment, Paid, Toll, enforced, overflow_bucket};
use crate::clock;
use crate::fleet::limits::script::{Answer, Verdict as Said};
use crate::fleet::limits::{Payment, SharedLimits, Wish, share_of};
use crate::gateway::{Gateway, Generation, TIER_POLICY};
use crate::policy::limit::{OnStoreFailure, Store};
use crate::policy::meter::Algorithm;
use crate::policy::router::RouteId;
use crate::store::key::KeyKind;
use crate::store::limiter::{Demand, Receipt, Standing, Verdict};
use sha2::{Digest as _, Sha256};
use smallvec::SmallVec;
use std::fmt::Write;
use std::sync::Arc;

/// What a limit that denies without its store asks clients to wait.
const DENIED_FOR_NS: u64 = 1_000_000_000;

/// What a request paid to limits that gateways share: mostly its tier's and its route's.
pub type Payments = SmallVec<[Payment; 2]>;

/// What is decided of a request so far.
pub enum Decided {
    /// All of it.
    Now(Verdict),
    /// The rest has to be asked.
    Pending(Box<Pending>),
}

/// What has to be asked of the store before a request is decided.
pub struct Pending {
    /// For which buckets.
    pub wishes: SmallVec<[Wish; 2]>,
    /// How the tightest of its other limits stands.
    pub tightest: Option<Standing>,
    /// Every policy it meets, by index.
    pub met: SmallVec<[usize; 8]>,
}

/// Where the buckets of a policy of a request are. Tiers are shared as soon as anything is.
pub fn store_of(generation: &Generation, route: RouteId, policy: usize) -> Store {
    let limit = generation.limit_of(route, policy);
    limit.map_or(Store::Shared(OnStoreFailure::FairShare), |limit| limit.store)
}

/// A gateway that shares limits.
#[derive(Clone, Copy)]
pub struct Sharing<'a> {
    /// The gateway.
    pub gateway: &'a Gateway,
    /// What it decides by.
    pub generation: &'a Generation,
    /// What it shares.
    pub limits: &'a Arc<SharedLimits>,
}

impl Sharing<'_> {
    /// Charges a request to its local limits and to what is on lease of its shared ones.
    pub fn charge(
        self,
        toll: &Toll<'_>,
        demands: &[Demand<'_>],
        paid: Paid<'_>,
        at: Moment,
        clock: impl Fn() -> u64,
    ) -> Decided {
        let Paid { receipt, payments } = paid;
        let is_shared = |demand: &&Demand<'_>| {
            store_of(self.generation, toll.route, demand.policy) != Store::Local
        };
        let limiter = &self.gateway.limiter;
        let (mut tightest, mut refused, mut wishes) = (None, None, SmallVec::new());
        for demand in demands.iter().filter(is_shared) {
            let standing = limiter.peek(demand, at.ns);
            let Demand { key, cost, .. } = *demand;
            if cost == 0 || self.limits.spend(key, demand.meter.burst(), cost, at.ns) {
                if cost > 0 {
                    payments.push(Payment::Leased { key, cost });
                }
                tightest = tighter(tightest, Standing { wait_ns: Some(0), ..standing });
            } else if let Some(wait_ns) = limiter.remembered_wait_ns(key, cost, at.ns) {
                refused = longer(refused, standing.refused_for(Some(wait_ns), cost));
            } else {
                wishes.push(self.wish(toll, demand));
            }
        }
        let overflow = overflow_bucket(self.generation);
        let local: SmallVec<[Demand<'_>; 8]> =
            demands.iter().filter(|demand| !is_shared(demand)).copied().collect();
        if let Some(standing) = refused {
            let others =
                local.iter().map(|demand| limiter.foresee(demand, overflow, at.ns).standing);
            return Decided::Now(Verdict::Refused(others.fold(standing, Standing::longer)));
        }
        match limiter.decide(&local, overflow, receipt, at.ns, clock) {
            Verdict::Admitted(standing) if !wishes.is_empty() => {
                let tightest = standing.map_or(tightest, |standing| tighter(tightest, standing));
                let met = demands.iter().map(|demand| demand.policy).collect();
                Decided::Pending(Box::new(Pending { wishes, tightest, met }))
            }
            Verdict::Admitted(standing) => {
                let tightest = standing.map_or(tightest, |standing| tighter(tightest, standing));
                Decided::Now(Verdict::Admitted(tightest))
            }
            refused @ Verdict::Refused(_) => Decided::Now(refused),
        }
    }

    fn wish(self, toll: &Toll<'_>, demand: &Demand<'_>) -> Wish {
        let limit = self.generation.limit_of(toll.route, demand.policy);
        let (holder, algorithm) = match limit {
            None => (Holder::Client(toll.caller), self.tier_of(toll)),
            Some(limit) => (Holder::of(toll, limit, self.generation), limit.algorithm.clone()),
        };
        let policy = limit.map_or(TIER_POLICY, |limit| &limit.name);
        let on_failure = match store_of(self.generation, toll.route, demand.policy) {
            Store::Shared(on_failure) => on_failure,
            Store::Local => OnStoreFailure::FairShare,
        };
        let holder = holder_name(holder, self.generation);
        Wish {
            policy: demand.policy,
            key: demand.key,
            class: demand.class,
            name: self.limits.name(policy, algorithm.family(), &holder),
            algorithm,
            cost: demand.cost,
            on_failure,
        }
    }

    fn tier_of(self, toll: &Toll<'_>) -> Algorithm {
        let tiers = &self.generation.config.tiers;
        Algorithm::TokenBucket(*toll.caller.identity.standing.bucket(tiers))
    }

    /// The tighter of a limit and the one of a wish that was paid.
    pub fn tightest(self, one: Option<Standing>, wish: &Wish) -> Option<Standing> {
        let at = Moment::at(clock::now_ns());
        let standing = self.gateway.limiter.peek(&demand(wish, &wish.algorithm, at), at.ns);
        tighter(one, Standing { wait_ns: Some(0), ..standing })
    }

    /// What the store's answers to these wishes come to.
    pub fn settle(self, wishes: &[Wish], answers: &[Answer], at: Moment) -> Verdict {
        let (mut tightest, mut refused) = (None, None);
        for (wish, answer) in wishes.iter().zip(answers) {
            let standing = self.gateway.limiter.peek(&demand(wish, &wish.algorithm, at), at.ns);
            let wait_ns = match answer.verdict {
                Said::Taken => {
                    tightest = tighter(tightest, Standing { wait_ns: Some(0), ..standing });
                    continue;
                }
                Said::Refused => Some(answer.wait_ns.max(1)),
                Said::Never | Said::Late => None,
            };
            refused = longer(refused, standing.refused_for(wait_ns, wish.cost));
        }
        refused.map_or(Verdict::Admitted(tightest), Verdict::Refused)
    }

    /// Decides without the store: by this gateway's share of each limit, or as the limit says.
    /// What passes is owed to the store.
    pub fn decide_alone(
        self,
        wishes: &[Wish],
        paid: Paid<'_>,
        at: Moment,
        clock: impl Fn() -> u64,
    ) -> Verdict {
        let Paid { receipt, payments } = paid;
        let limiter = &self.gateway.limiter;
        if let Some(wish) = wishes.iter().find(|wish| wish.on_failure == OnStoreFailure::Deny) {
            let standing = limiter.peek(&demand(wish, &wish.algorithm, at), at.ns);
            return Verdict::Refused(standing.refused_for(Some(DENIED_FOR_NS), wish.cost));
        }
        let live = self.limits.live();
        let asked = wishes.iter().filter(|wish| wish.on_failure == OnStoreFailure::FairShare);
        let shares: SmallVec<[(&Wish, Algorithm); 2]> =
            asked.map(|wish| (wish, share_of(&wish.algorithm, live))).collect();
        let demands: SmallVec<[Demand<'_>; 4]> =
            shares.iter().map(|(wish, share)| demand(wish, share, at)).collect();
        let mut own = Receipt::default();
        let overflow = overflow_bucket(self.generation);
        let verdict = limiter.decide(&demands, overflow, &mut own, at.ns, clock);
        receipt.append(own);
        if let Verdict::Admitted(_) = verdict {
            for wish in wishes {
                self.limits.owe(wish, at.ns);
                payments.push(Payment::Owed { key: wish.key, cost: wish.cost });
            }
        }
        verdict
    }
}

/// Asks the store how the buckets stand that a request would charge, so that what is foreseen of it
/// is not what was last heard.
pub async fn refresh(toll: &Toll<'_>, gateway: &Gateway, generation: &Generation, at: Moment) {
    let Some(fleet) = &gateway.fleet else { return };
    let sharing = Sharing { gateway, generation, limits: &fleet.limits };
    let wishes: Vec<Wish> = enforced(toll, gateway, generation, at)
        .iter()
        .filter(|demand| store_of(generation, toll.route, demand.policy) != Store::Local)
        .map(|demand| sharing.wish(toll, demand))
        .collect();
    fleet.limits.look(&wishes, &gateway.limiter).await;
}

fn tighter(one: Option<Standing>, other: Standing) -> Option<Standing> {
    Some(one.map_or(other, |one| one.tighter(other)))
}

fn longer(one: Option<Standing>, other: Standing) -> Option<Standing> {
    Some(one.map_or(other, |one| one.longer(other)))
}

fn demand<'a>(wish: &Wish, algorithm: &'a Algorithm, at: Moment) -> Demand<'a> {
    Demand {
        policy: wish.policy,
        key: wish.key,
        class: wish.class,
        meter: algorithm.meter(at.ns, at.utc_ns_at),
        cost: wish.cost,
        // A share changes with every gateway that comes or goes, and a limit that the store
        // decides was cut there.
        since: at.ns,
    }
}

fn holder_name(holder: Holder<'_>, generation: &Generation) -> String {
    match holder {
        Holder::Client(caller) => name_of(caller.identity.kind, caller.identity.name.as_bytes()),
        Holder::Ip(ip) | Holder::Network(ip) => name_of(KeyKind::Ip, ip.to_string().as_bytes()),
        Holder::Route(route) => {
            name_of(KeyKind::Route, generation.route_config(route).name.as_bytes())
        }
        Holder::Global => name_of(KeyKind::Global, b""),
        Holder::Header(_, value) => name_of(KeyKind::HeaderValue, value),
    }
}

/// What a holder is called among gateways: the kind of identity and the value, hashed, so that a
/// name is short whatever a client sends, and tells nobody who reads the store who it was.
pub fn name_of(kind: KeyKind, value: &[u8]) -> String {
    let hash = Sha256::new().chain_update([kind as u8]).chain_update(value).finalize();
    hash.iter().take(16).fold(String::with_capacity(32), |mut name, byte| {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
        name
    })
}
