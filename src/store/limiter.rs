//! All the limits of one request, decided together: every one admits, or nothing is
//! charged.

use super::key::{Digest, Key, KeyHasher, KeyKind};
use super::mapped::TableFile;
pub use super::standing::Standing;
use super::table::{Charge, Class, Payment, Place, Table};
use crate::policy::gcra::Answer;
use crate::policy::leaky_bucket;
use crate::policy::limit::{MAX_LIMITS, MAX_ROLES};
use crate::policy::meter::Meter;
use crate::policy::rate::TokenBucket;
use smallvec::SmallVec;
use std::net::IpAddr;
use std::time::Duration;

/// The most policies one request can meet: those of the configuration, those of the route's own
/// limit, and its client's tier.
pub const MAX_LIMITS_PER_REQUEST: usize = MAX_ROLES * (MAX_LIMITS + 1) + 1;

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
    pub meter: Meter<'a>,
    /// Tokens asked for; `0` passes without touching the bucket.
    pub cost: u32,
    /// A time at which the bucket had this limit, from which on it has had no other.
    pub since: u64,
}

/// How a demand would fare if it was charged now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prospect {
    /// How the bucket stands that would be charged.
    pub standing: Standing,
    /// Which bucket that is.
    pub place: Place,
    /// How long a leaky bucket would hold the request back, in nanoseconds.
    pub delay_ns: u64,
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

/// What a request was charged, so that it can be given back.
#[derive(Debug, Default)]
pub struct Receipt {
    charges: SmallVec<[Charged; 3]>,
    delay: Option<Delay>,
}

/// How long a leaky bucket holds a request back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delay {
    /// The policy's index, as in [`Demand::policy`].
    pub policy: usize,
    /// In nanoseconds from the `now` of the decision; at least 1.
    pub delay_ns: u64,
}

impl Delay {
    /// How long that is.
    pub fn time(self) -> Duration {
        Duration::from_nanos(self.delay_ns)
    }
}

impl Receipt {
    /// How long the request is to be held back: the longest that any leaky bucket says. None
    /// where it may go on at once.
    pub fn delay(&self) -> Option<Delay> {
        self.delay
    }

    /// Notes that the request is to be held back.
    pub fn hold_back(&mut self, delay: Delay) {
        if delay.delay_ns > self.delay.map_or(0, |delay| delay.delay_ns) {
            self.delay = Some(delay);
        }
    }

    /// Puts another's charges behind its own.
    pub fn append(&mut self, other: Receipt) {
        self.charges.extend(other.charges);
        if let Some(delay) = other.delay {
            self.hold_back(delay);
        }
    }

    fn add(&mut self, demand: &Demand<'_>, state: u64, place: Place, now: u64) {
        let Demand { policy, key, meter, cost, .. } = *demand;
        if let Meter::LeakyBucket(bucket) = meter
            && place == Place::Own
            && cost > 0
        {
            let delay_ns = leaky_bucket::delay_ns(bucket, state, cost, now);
            if delay_ns > self.delay.map_or(0, |delay| delay.delay_ns) {
                self.delay = Some(Delay { policy, delay_ns });
            }
        }
        let payment = Payment { place, state, cost, at: now };
        self.charges.push(Charged { policy, key, payment });
    }
}

/// One charge: which policy's, to whose bucket.
#[derive(Debug)]
struct Charged {
    policy: usize,
    key: Key,
    payment: Payment,
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

    /// A limiter over the table that a file holds, with the secret that its keys were hashed
    /// with.
    pub fn in_file(file: TableFile) -> Limiter {
        let hasher = KeyHasher::with_secret(file.secret());
        Limiter { table: Table::in_file(file), hasher }
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

    /// Decides a request, and says how it stands towards what it met; see
    /// [`admit`](Limiter::admit).
    pub fn decide(
        &self,
        demands: &[Demand<'_>],
        overflow: &TokenBucket,
        receipt: &mut Receipt,
        now: u64,
        clock: impl Fn() -> u64,
    ) -> Verdict {
        match self.admit(demands, overflow, receipt, now, clock) {
            Ok(()) => {
                let standings = receipt.charges.iter().zip(demands).map(|(charged, demand)| {
                    let limit = limit_at(charged.payment.place, demand.meter, overflow);
                    Standing::new(demand.policy, limit, charged.payment.state, Some(0), now)
                });
                Verdict::Admitted(standings.reduce(Standing::tighter))
            }
            Err(standing) => Verdict::Refused(standing),
        }
    }

    /// Charges every demand of a request, or none. What was charged is written on `receipt`, in
    /// the order of the demands.
    ///
    /// The common case charges in order and is done. A refusal gives back what was charged
    /// before it, so for that instant another request may meet an emptier bucket than there
    /// should be; it can be refused for it, never admitted. Looking at all buckets first
    /// and charging afterwards would not close that gap and would cost every admitted
    /// request a second visit to each.
    ///
    /// `clock` is read where `now` would be too old: for refunds, and for limits that have
    /// become smaller.
    ///
    /// # Errors
    /// How the refusing policy with the longest wait stands.
    // Small enough to become part of its caller: a processor that waits for a bucket's memory
    // looks so many instructions ahead, and with few of them it begins what comes next meanwhile.
    #[inline]
    pub fn admit(
        &self,
        demands: &[Demand<'_>],
        overflow: &TokenBucket,
        receipt: &mut Receipt,
        now: u64,
        clock: impl Fn() -> u64,
    ) -> Result<(), Standing> {
        receipt.charges.clear();
        receipt.delay = None;
        for demand in demands {
            let Demand { policy, key, meter, cost, .. } = *demand;
            match self.table.charge_at_once(key, meter, cost, now) {
                Some(state) => {
                    let payment = Payment { place: Place::Own, state, cost, at: now };
                    receipt.charges.push(Charged { policy, key, payment });
                }
                None => self.admit_one(demand, demands, overflow, receipt, now, &clock)?,
            }
        }
        Ok(())
    }

    /// Charges one demand, whatever it takes. Where it refuses, the others get back what is on
    /// the receipt.
    #[inline(never)]
    fn admit_one(
        &self,
        demand: &Demand<'_>,
        demands: &[Demand<'_>],
        overflow: &TokenBucket,
        receipt: &mut Receipt,
        now: u64,
        clock: &impl Fn() -> u64,
    ) -> Result<(), Standing> {
        match self.charge(demand, overflow, now, clock) {
            Charge::Taken { state, place } => {
                receipt.add(demand, state, place, now);
                Ok(())
            }
            Charge::Refused { state, wait_ns, place } => {
                for (charged, demand) in receipt.charges.drain(..).zip(demands) {
                    self.refund(&charged, demand.meter, overflow, clock);
                }
                let limit = limit_at(place, demand.meter, overflow);
                let first = Standing::new(demand.policy, limit, state, wait_ns, now);
                Err(self.longest_wait(first, demands, overflow, now))
            }
        }
    }

    /// Charges limits that are only watched, each by itself and whatever the others say, and
    /// tells `refused` which of them would have refused. What was charged comes on `receipt` too,
    /// behind what is there.
    pub fn watch(
        &self,
        demands: &[Demand<'_>],
        overflow: &TokenBucket,
        receipt: &mut Receipt,
        now: u64,
        clock: impl Fn() -> u64,
        mut refused: impl FnMut(usize),
    ) {
        let delay = receipt.delay;
        for demand in demands {
            match self.charge(demand, overflow, now, &clock) {
                Charge::Taken { state, place } => receipt.add(demand, state, place, now),
                Charge::Refused { .. } => refused(demand.policy),
            }
        }
        receipt.delay = delay;
    }

    /// Gives back all that is on the receipt, and leaves it empty. `meter_of` names the limit
    /// of a policy, by [`Demand::policy`].
    pub fn give_back<'a>(
        &self,
        receipt: &mut Receipt,
        meter_of: impl Fn(usize) -> Meter<'a>,
        overflow: &TokenBucket,
        clock: impl Fn() -> u64,
    ) {
        for charged in receipt.charges.drain(..) {
            self.refund(&charged, meter_of(charged.policy), overflow, &clock);
        }
    }

    /// Notes the state of a bucket whose limit somebody else decides.
    pub fn learn(&self, key: Key, class: Class, state: u64, now: u64) {
        self.table.put(key, class, state, now);
    }

    /// Notes that a bucket has refused so many tokens and will until then.
    pub fn remember_refusal(&self, key: Key, cost: u32, until_ns: u64, now: u64) {
        self.table.put(self.refused(key, cost), Class::Unregistered, until_ns, now);
    }

    /// How long a bucket still refuses so many tokens, as far as that was noted.
    pub fn remembered_wait_ns(&self, key: Key, cost: u32, now: u64) -> Option<u64> {
        let until_ns = self.table.state(self.refused(key, cost))?;
        until_ns.checked_sub(now).filter(|wait_ns| *wait_ns > 0)
    }

    fn refused(&self, key: Key, cost: u32) -> Key {
        key.beside(self.hasher.digest(KeyKind::Refused, &cost.to_le_bytes()))
    }

    /// How a demand stands towards the bucket of its own key, charging nothing. A key without
    /// one stands as one whose bucket is full.
    pub fn peek(&self, demand: &Demand<'_>, now: u64) -> Standing {
        match self.table.peek(demand.key, demand.class, now) {
            (state, Place::Own) => Self::stand(demand, demand.meter, state, now),
            (_, Place::Overflow) => Self::stand(demand, demand.meter, 0, now),
        }
    }

    /// How a demand would fare if it was charged now, changing nothing. Unlike
    /// [`peek`](Limiter::peek) this looks at the bucket that the charge would meet, which is a
    /// shared one where the key's set has no room.
    pub fn foresee(&self, demand: &Demand<'_>, overflow: &TokenBucket, now: u64) -> Prospect {
        let (state, place) = self.table.peek(demand.key, demand.class, now);
        Self::prospect(demand, limit_at(place, demand.meter, overflow), state, place, now)
    }

    /// The same where somebody else decides the bucket's limit: by what was noted of it, and with
    /// nothing noted it is full. It is never one that keys without room share.
    pub fn foresee_elsewhere(&self, demand: &Demand<'_>, now: u64) -> Prospect {
        let state = self.table.state(demand.key).unwrap_or(0);
        Self::prospect(demand, demand.meter, state, Place::Own, now)
    }

    fn prospect(
        demand: &Demand<'_>,
        limit: Meter<'_>,
        state: u64,
        place: Place,
        now: u64,
    ) -> Prospect {
        let mut standing = Self::stand(demand, limit, state, now);
        if demand.cost == 0 {
            standing.wait_ns = Some(0);
        }
        let state = limit.cut(state, demand.since, now).unwrap_or(state);
        let delay_ns = match (limit, limit.ask(state, demand.cost, now)) {
            (Meter::LeakyBucket(bucket), Answer::Admit(charged)) if demand.cost > 0 => {
                leaky_bucket::delay_ns(bucket, charged, demand.cost, now)
            }
            _ => 0,
        };
        Prospect { standing, place, delay_ns }
    }

    /// How a demand stands towards a bucket of the limit `limit` in this state.
    fn stand(demand: &Demand<'_>, limit: Meter<'_>, state: u64, now: u64) -> Standing {
        // Beyond that lies what a larger limit left behind; the next charge cuts it.
        let state = limit.cut(state, demand.since, now).unwrap_or(state);
        let wait_ns = match limit.ask(state, demand.cost, now) {
            Answer::Admit(_) => Some(0),
            Answer::Wait(ns) => Some(ns),
            Answer::Never => None,
        };
        Standing::new(demand.policy, limit, state, wait_ns, now)
    }

    fn charge(
        &self,
        demand: &Demand<'_>,
        overflow: &TokenBucket,
        now: u64,
        clock: &impl Fn() -> u64,
    ) -> Charge {
        let Demand { key, class, meter, cost, since, .. } = *demand;
        if cost == 0 {
            let (state, place) = self.table.peek(key, class, now);
            return Charge::Taken { state, place };
        }
        match self.table.charge(key, class, meter, overflow, cost, now) {
            Charge::Refused { state, place, .. }
                if limit_at(place, meter, overflow).cut(state, since, now).is_some() =>
            {
                self.charge_after_cut(demand, place, overflow, clock)
            }
            charge => charge,
        }
    }

    /// Charges a bucket whose limit became smaller since its state was written, which is first
    /// cut to the new one.
    #[cold]
    fn charge_after_cut(
        &self,
        demand: &Demand<'_>,
        place: Place,
        overflow: &TokenBucket,
        clock: &impl Fn() -> u64,
    ) -> Charge {
        let Demand { key, class, meter, cost, since, .. } = *demand;
        self.table.cut(key, place, limit_at(place, meter, overflow), since, clock);
        self.table.charge(key, class, meter, overflow, cost, clock())
    }

    fn refund(
        &self,
        charged: &Charged,
        own: Meter<'_>,
        overflow: &TokenBucket,
        clock: &impl Fn() -> u64,
    ) {
        if charged.payment.cost > 0 {
            let limit = limit_at(charged.payment.place, own, overflow);
            self.table.refund(charged.key, limit, &charged.payment, clock);
        }
    }

    /// The refusing demand with the longest wait, `first` being one of them.
    fn longest_wait(
        &self,
        first: Standing,
        demands: &[Demand<'_>],
        overflow: &TokenBucket,
        now: u64,
    ) -> Standing {
        let others = demands.iter().filter(|demand| demand.policy != first.policy);
        let others = others.map(|demand| self.foresee(demand, overflow, now).standing);
        others.fold(first, Standing::longer)
    }
}

fn limit_at<'a>(place: Place, own: Meter<'a>, overflow: &'a TokenBucket) -> Meter<'a> {
    match place {
        Place::Own => own,
        Place::Overflow => Meter::TokenBucket(overflow),
    }
}
