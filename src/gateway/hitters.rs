//! Heavy hitters: the clients that limits refused most often in the last minute.
//!
//! Space-saving (Metwally, Agrawal and El Abbadi, 2005): so many counters, each for one client
//! under one policy. Who has none when all are taken gets the smallest one and goes on from
//! its count, which is remembered as the counter's error. So a count is never too small, too
//! large by at most its error, and whoever has no counter was refused no more often than the
//! smallest count. Of `n` refusals that smallest one is at most `n` ÷ counters.
//!
//! `pingora-limits` has `Rate` for counts by key: a sketch, which can be asked about a key
//! but does not know which keys there were.
//!
//! Time is cut into windows, each with counters of its own; a list is made from all that lie
//! in the last minute. Counted are refusals only, so a request that is forwarded pays nothing.

use super::Policy;
use super::client_places::digest_shard;
use crate::registry::identity::Identity;
use crate::store::key::{Digest, Key, KeyKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts, each with a lock of its own; a client is always in the same one.
const SHARDS: usize = 8;
/// Counters of a part in one window.
pub const COUNTERS: usize = 64;
/// The length of a window.
const WINDOW_NS: u64 = 10_000_000_000;
/// Windows that a list is made from, the one that is open included: 50 to 60 seconds.
const WINDOWS: u64 = 6;

/// The counters. They take at most some 1.2 MB, when every one of them is taken by a client with
/// an id as long as ids can be; nothing before the first refusal.
#[derive(Default)]
pub struct Hitters {
    shards: [Shard; SHARDS],
}

/// On a cache line of its own, so that threads in neighbouring parts do not slow each other.
#[derive(Default)]
#[repr(align(64))]
struct Shard(Mutex<[Window; WINDOWS as usize]>);

/// The counters of one window.
#[derive(Default)]
struct Window {
    number: u64,
    refusals: u64,
    /// Beside the counters, so that looking for one reads little memory.
    keys: Vec<Key>,
    counters: Vec<Counter>,
}

struct Counter {
    client: Box<str>,
    kind: KeyKind,
    policy: Arc<str>,
    count: u64,
    error: u64,
}

/// A client that a policy refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hitter {
    /// The client's id or address.
    pub client: Box<str>,
    /// How it was named.
    pub kind: KeyKind,
    /// The policy.
    pub policy: Arc<str>,
    /// How often it refused the client, at the most.
    pub count: u64,
    /// By how much `count` may be too large.
    pub error: u64,
}

/// The clients that were refused most often.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Top {
    /// Those, the most refused first.
    pub hitters: Vec<Hitter>,
    /// All refusals of the time the list is about.
    pub refusals: u64,
    /// How long that time is, in nanoseconds.
    pub span_ns: u64,
    /// How often a client that is not counted may have been refused, at the most.
    pub missed: u64,
}

impl Hitters {
    /// Counts a refusal. Costs a lock that is held for some 50 ns, and an allocation where the
    /// client has no counter yet.
    pub fn note(&self, identity: &Identity, digest: Digest, policy: &Policy, now_ns: u64) {
        let key = Key::new(policy.digest, digest);
        let number = now_ns / WINDOW_NS;
        let mut windows = self.shard(digest_shard(digest, SHARDS));
        let window = &mut windows[(number % WINDOWS) as usize];
        if window.number < number {
            window.number = number;
            window.refusals = 0;
            window.keys.clear();
            window.counters.clear();
        }
        window.count(key, || (identity.name.clone(), identity.kind, policy.name.clone()));
    }

    /// The `most` entries of the list that were refused most often, as of `now_ns`.
    pub fn top(&self, most: usize, now_ns: u64) -> Top {
        let current = now_ns / WINDOW_NS;
        let first = (current + 1).saturating_sub(WINDOWS);
        // The clock begins at a second, not at nought.
        let begins_ns = (first * WINDOW_NS).max(1_000_000_000);
        let mut top = Top { span_ns: now_ns.saturating_sub(begins_ns), ..Top::default() };
        for shard in 0..SHARDS {
            let mut found: Vec<(Key, Hitter)> = Vec::new();
            let mut missed = 0;
            for window in self.shard(shard).iter().filter(|window| window.number >= first) {
                top.refusals += window.refusals;
                missed += window.missed();
                window.add_to(&mut found);
            }
            top.missed = top.missed.max(missed);
            top.hitters.extend(found.into_iter().map(|(_, hitter)| hitter));
        }
        top.hitters.sort_by(|a, b| (b.count, &a.client).cmp(&(a.count, &b.client)));
        top.hitters.truncate(most);
        top
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, [Window; WINDOWS as usize]> {
        // Nothing panics under the lock that could leave a count half changed.
        self.shards[shard].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    fn count(&mut self, key: Key, who: impl FnOnce() -> (Box<str>, KeyKind, Arc<str>)) {
        self.refusals += 1;
        if let Some(place) = self.keys.iter().position(|known| *known == key) {
            if let Some(counter) = self.counters.get_mut(place) {
                counter.count += 1;
            }
            return;
        }
        let (client, kind, policy) = who();
        if self.counters.len() < COUNTERS {
            self.keys.push(key);
            self.counters.push(Counter { client, kind, policy, count: 1, error: 0 });
            return;
        }
        let smallest = self.counters.iter_mut().zip(&mut self.keys);
        if let Some((counter, known)) = smallest.min_by_key(|(counter, _)| counter.count) {
            let error = counter.count;
            *known = key;
            *counter = Counter { client, kind, policy, count: error + 1, error };
        }
    }

    /// How often somebody without a counter may have been refused.
    fn missed(&self) -> u64 {
        match self.counters.len() < COUNTERS {
            true => 0,
            false => self.counters.iter().map(|counter| counter.count).min().unwrap_or(0),
        }
    }

    fn add_to(&self, found: &mut Vec<(Key, Hitter)>) {
        for (key, counter) in self.keys.iter().zip(&self.counters) {
            match found.iter_mut().find(|(known, _)| known == key) {
                Some((_, hitter)) => {
                    hitter.count += counter.count;
                    hitter.error += counter.error;
                }
                None => found.push((
                    *key,
                    Hitter {
                        client: counter.client.clone(),
                        kind: counter.kind,
                        policy: counter.policy.clone(),
                        count: counter.count,
                        error: counter.error,
                    },
                )),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tier::TierId;
    use crate::registry::Standing;
    use crate::store::key::KeyHasher;

    const S: u64 = 1_000_000_000;

    struct Rig {
        hitters: Hitters,
        hasher: KeyHasher,
        policy: Policy,
    }

    impl Rig {
        fn new() -> Rig {
            let hasher = KeyHasher::with_secret(&[7; 16]);
            let digest = hasher.digest(KeyKind::Policy, b"per-ip");
            let policy = Policy::new("per-ip".into(), digest, (1, 1), None);
            Rig { hitters: Hitters::default(), hasher, policy }
        }

        fn note(&self, client: &str, now_ns: u64) {
            let standing = Standing { tier: TierId(0), own_limit: None, is_registered: false };
            let identity = Identity { kind: KeyKind::Header, name: client.into(), standing };
            let digest = self.hasher.digest(KeyKind::Header, client.as_bytes());
            self.hitters.note(&identity, digest, &self.policy, now_ns);
        }

        fn counts(&self, now_ns: u64) -> Vec<(String, u64)> {
            let top = self.hitters.top(3, now_ns);
            top.hitters.iter().map(|hitter| (hitter.client.to_string(), hitter.count)).collect()
        }
    }

    #[test]
    fn the_most_refused_come_first_and_a_minute_later_nobody_does() {
        let rig = Rig::new();
        for (client, times) in [("a", 3), ("b", 9), ("c", 5), ("d", 1)] {
            (0..times).for_each(|n| rig.note(client, (1 + 10 * n) * S / 2));
        }
        let expected = [("b", 9), ("c", 5), ("a", 3)].map(|(name, n)| (name.to_owned(), n));
        assert_eq!(rig.counts(50 * S), expected);
        assert_eq!(rig.hitters.top(3, 50 * S).refusals, 18);
        assert_eq!(rig.counts(200 * S), []);
        rig.note("e", 201 * S);
        assert_eq!(rig.counts(202 * S), [("e".to_owned(), 1)]);
    }

    #[test]
    fn counts_are_off_by_no_more_than_they_say_under_a_flood_of_clients() {
        let rig = Rig::new();
        for round in 0..2_000 {
            rig.note("heavy", 5 * S);
            (0..20).for_each(|n| rig.note(&format!("{round}-{n}"), 5 * S));
        }
        let top = rig.hitters.top(1_000, 6 * S);
        assert_eq!(top.refusals, 42_000);
        let heavy = &top.hitters[0];
        assert_eq!(&*heavy.client, "heavy");
        assert!(heavy.count - heavy.error <= 2_000 && 2_000 <= heavy.count, "{heavy:?}");
        for other in &top.hitters[1..] {
            assert!(other.count - other.error <= 1, "{other:?}");
        }
        assert!(top.missed >= 1 && top.missed <= 42_000 / COUNTERS as u64, "{}", top.missed);
        assert!(top.hitters.len() <= SHARDS * COUNTERS);
    }
}
