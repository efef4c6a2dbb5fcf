//! The limiter under test: time is a number here, and most tables are so small that
//! takeovers, claims and overflow happen all the time.

mod carry;
mod flood;
mod keys;
mod protocol;
mod reference;
mod set;
mod several;
mod threads;
mod windows;

use super::key::{Digest, Key, KeyHasher, KeyKind};
use super::table::{Charge, Class, Place, Table};
use crate::policy::meter::Meter;
use crate::policy::rate::{Period, Rate, TokenBucket};

/// Far enough from zero that a late caller has somewhere to be late.
const START: u64 = 1_000_000_000;
/// The emission interval of [`bucket`].
const TICK: u64 = 1_000;
/// Slots of a set that a stranger may use.
const OPEN_SLOTS: usize = 13;
/// Slots of a set that hold buckets of their own.
const OWN_SLOTS: usize = 15;

/// A bucket of `burst` tokens that earns one in a [`TICK`].
fn bucket(burst: u64) -> TokenBucket {
    TokenBucket::new(Rate { count: 1_000_000, period: Period::Second }, burst).unwrap()
}

fn hasher() -> KeyHasher {
    KeyHasher::with_secret(b"not much secret.")
}

fn digest(kind: KeyKind, name: &str) -> Digest {
    hasher().digest(kind, name.as_bytes())
}

/// The key of client number `client`.
fn key(client: u64) -> Key {
    let holder = hasher().digest(KeyKind::Header, &client.to_le_bytes());
    Key::new(digest(KeyKind::Policy, "tier"), holder)
}

/// A table of one set, and how strangers are charged in it.
struct OneSet {
    table: Table,
    bucket: TokenBucket,
    overflow: TokenBucket,
}

impl OneSet {
    fn new(burst: u64, overflow_burst: u64) -> OneSet {
        OneSet { table: Table::new(16), bucket: bucket(burst), overflow: bucket(overflow_burst) }
    }

    fn charge_as(&self, class: Class, client: u64, cost: u32, now: u64) -> Charge {
        let meter = Meter::TokenBucket(&self.bucket);
        self.table.charge(key(client), class, meter, &self.overflow, cost, now)
    }

    fn charge(&self, client: u64, cost: u32, now: u64) -> Charge {
        self.charge_as(Class::Unregistered, client, cost, now)
    }

    fn used(&self, now: u64) -> usize {
        self.table.used_slots(now)
    }
}

fn place_of(charge: Charge) -> Place {
    match charge {
        Charge::Taken { place, .. } | Charge::Refused { place, .. } => place,
    }
}

fn is_taken(charge: Charge) -> bool {
    matches!(charge, Charge::Taken { .. })
}
