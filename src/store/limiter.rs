//! All the limits of one request, decided together: every one admits, or nothing is
//! charged.

use super::key::{Digest, Key, KeyHasher, KeyKind};
use super::table::{Charge, Class, Place, Table};
use crate::policy::gcra::{self, Tat};
use crate::policy::limit::MAX_LIMITS;
use crate::policy::rate::TokenBucket;
use std::net::IpAddr;

/// The most limits one request can meet: those of the configuration, the client's tier and
/// the route's own.
pub const MAX_LIMITS_PER_REQUEST: usize = MAX_LIMITS + 2;

/// One limit that applies to a request.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// Index of the policy in the caller's list, handed back with the answer.
    pub policy: usize,
    /// Whose bucket.
    pub key: Key,
    /// Whether the bucket's holder is known to the configuration or the registry.
    pub class: Class,
    /// The bucket's limit.
    pub bucket: &'a TokenBucket,
    /// Tokens asked for; `0` passes without touching the bucket.
    pub cost: u32,
}

/// How one policy stands towards a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The policy's index, as in [`Demand::policy`].
    pub policy: usize,
    /// Tokens the bucket holds when full.
    pub burst: u64,
    /// Seconds the bucket takes from empty to full, rounded up.
    pub window_seconds: u64,
    /// Whole tokens left.
    pub tokens: u64,
    /// Seconds until the bucket is full, rounded up.
    pub full_in_seconds: u64,
    /// Nanoseconds until the request would pass; `0` when it does now, `None` when its
    /// cost is above the burst and no wait helps.
    pub wait_ns: Option<u64>,
}

impl Standing {
    fn new(
        demand: &Demand<'_>,
        limit: &TokenBucket,
        tat: Tat,
        wait_ns: Option<u64>,
        now: u64,
    ) -> Standing {
        let level = gcra::level(limit, tat, now);
        Standing {
            policy: demand.policy,
            burst: limit.burst(),
            window_seconds: limit.window_seconds(),
            tokens: level.tokens,
            full_in_seconds: level.full_in_ns.div_ceil(1_000_000_000),
            wait_ns,
        }
    }

    /// Whether this policy has a smaller share of its burst left than `other`.
    fn is_tighter_than(&self, other: &Standing) -> bool {
        // a/b < c/d without division; bursts are far below 2^64, the product is not.
        u128::from(self.tokens) * u128::from(other.burst)
            < u128::from(other.tokens) * u128::from(self.burst)
    }
}

/// The answer to all limits of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every limit admitted and was charged. The policy with the smallest share left;
    /// `None` when no limit applies.
    Admitted(Option<Standing>),
    /// At least one limit refused and none is charged. The refusing policy with the
    /// longest wait.
    Refused(Standing),
}

/// The table, the secret its keys are hashed with, and the limit of overflow buckets.
pub struct Limiter {
    table: Table,
    hasher: KeyHasher,
}

impl Limiter {
    /// A limiter over a table of `slots` slots.
    pub fn new(slots: usize, hasher: KeyHasher) -> Limiter {
        Limiter { table: Table::new(slots), hasher }
    }

    /// The table, for its figures.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Digests an identity, once a request.
    pub fn digest(&self, kind: KeyKind, value: &[u8]) -> Digest {
        self.hasher.digest(kind, value)
    }

    /// Digests an address that is an identity, already cut to the client's prefix.
    pub fn ip_digest(&self, ip: IpAddr) -> Digest {
        match ip {
            IpAddr::V4(ip) => self.digest(KeyKind::Ip, &ip.octets()),
            IpAddr::V6(ip) => self.digest(KeyKind::Ip, &ip.octets()),
        }
    }

    /// Decides a request: charges every demand, or none.
    ///
    /// The common case charges in order and is done. A refusal gives back what was charged
    /// before it, so for that instant another request may meet a fuller bucket than there
    /// should be; it can be refused for it, never admitted. Looking at all buckets first
    /// and charging afterwards would not close that gap and would cost every admitted
    /// request a second visit to each.
    pub fn decide(
        &self,
        demands: &[Demand<'_>],
        overflow: &TokenBucket,
        now: u64,
        clock: impl Fn() -> u64,
    ) -> Verdict {
        let mut tightest: Option<Standing> = None;
        let mut places = [Place::Own; MAX_LIMITS_PER_REQUEST];
        for (index, demand) in demands.iter().enumerate() {
            match self.charge(demand, overflow, now, &clock) {
                Charge::Taken { tat, place } => {
                    places[index] = place;
                    let limit = limit_at(place, demand.bucket, overflow);
                    let standing = Standing::new(demand, limit, tat, Some(0), now);
                    if tightest.is_none_or(|other| standing.is_tighter_than(&other)) {
                        tightest = Some(standing);
                    }
                }
                Charge::Refused { tat, wait_ns, place } => {
                    for (charged, place) in demands[..index].iter().zip(places) {
                        self.refund(charged, place, overflow);
                    }
                    let limit = limit_at(place, demand.bucket, overflow);
                    let first = Standing::new(demand, limit, tat, wait_ns, now);
                    return Verdict::Refused(self.longest_wait(first, demands, now));
                }
            }
        }
        Verdict::Admitted(tightest)
    }

    /// How each demand stands, charging nothing.
    pub fn peek(&self, demand: &Demand<'_>, now: u64) -> Standing {
        // A limit that became smaller leaves a time beyond its own until the next charge cuts it.
        let tat = self.table.peek(demand.key, demand.class, now);
        let tat = tat.min(now + demand.bucket.capacity_ns());
        let wait_ns = match gcra::ask(demand.bucket, tat, demand.cost, now) {
            gcra::Answer::Admit(_) => Some(0),
            gcra::Answer::Wait(ns) => Some(ns),
            gcra::Answer::Never => None,
        };
        Standing::new(demand, demand.bucket, tat, wait_ns, now)
    }

    fn charge(
        &self,
        demand: &Demand<'_>,
        overflow: &TokenBucket,
        now: u64,
        clock: &impl Fn() -> u64,
    ) -> Charge {
        let Demand { key, class, bucket, cost, .. } = *demand;
        if cost == 0 {
            let tat = self.table.peek(key, class, now);
            return Charge::Taken { tat, place: Place::Own };
        }
        let first = self.table.charge(key, class, bucket, overflow, cost, now);
        match first {
            // The limit became smaller since the state was written. Cut it and ask again.
            Charge::Refused { tat, place: Place::Own, .. } if gcra::is_beyond(bucket, tat, now) => {
                self.table.cut(key, bucket, clock);
                self.table.charge(key, class, bucket, overflow, cost, clock())
            }
            answer => answer,
        }
    }

    fn refund(&self, demand: &Demand<'_>, place: Place, overflow: &TokenBucket) {
        if demand.cost > 0 {
            let limit = limit_at(place, demand.bucket, overflow);
            self.table.refund(demand.key, place, limit, demand.cost);
        }
    }

    /// The refusing demand with the longest wait, `first` being one of them.
    fn longest_wait(&self, first: Standing, demands: &[Demand<'_>], now: u64) -> Standing {
        let others = demands.iter().filter(|demand| demand.policy != first.policy);
        others.map(|demand| self.peek(demand, now)).filter(|s| s.wait_ns != Some(0)).fold(
            first,
            |longest, other| match (longest.wait_ns, other.wait_ns) {
                (None, _) => longest,
                (_, None) => other,
                (Some(a), Some(b)) if b > a => other,
                _ => longest,
            },
        )
    }
}

fn limit_at<'a>(place: Place, own: &'a TokenBucket, overflow: &'a TokenBucket) -> &'a TokenBucket {
    match place {
        Place::Own => own,
        Place::Overflow => overflow,
    }
}
