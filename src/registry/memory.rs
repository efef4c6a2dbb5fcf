//! The registry as requests see it: maps that are read without waiting, and changed by one
//! thread once a change is on disk.
//!
//! A client is found by a fingerprint of its id under a secret of this process, so that its id need
//! not be here.

use super::blocks::{Networks, Target};
use super::clients::{Clients, Held, Numbers};
use super::fingerprint::{Fingerprint, Fingerprints};
use super::record::{BlockEnd, Effect, Record};
use crate::clock;
use crate::config::ApiKeyHash;
use crate::policy::tier::TierName;
use crate::store::key::AsItIs;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use subtle::ConstantTimeEq;

/// Whose a key is and until when, in milliseconds since 1970; `u64::MAX` for ever.
#[derive(Debug, Clone)]
struct HeldKey {
    client: Arc<str>,
    end_ms: u64,
}

/// A fingerprint is the output of a keyed hash already.
type ByFingerprint<T> = papaya::HashMap<Fingerprint, T, AsItIs>;

/// All of it.
pub(super) struct Memory {
    fingerprints: Fingerprints,
    clients: Clients,
    /// When something was last set for a client, in nanoseconds of the clock.
    changed_ns: AtomicU64,
    keys: papaya::HashMap<[u8; 32], HeldKey>,
    key_count: AtomicUsize,
    networks: Networks,
    /// Ends of the blocks of clients.
    blocked_clients: ByFingerprint<u64>,
    blocked_client_count: AtomicUsize,
}

impl Memory {
    pub(super) fn new() -> Memory {
        Memory {
            fingerprints: Fingerprints::new(),
            clients: Clients::new(),
            changed_ns: AtomicU64::new(0),
            keys: papaya::HashMap::new(),
            key_count: AtomicUsize::new(0),
            networks: Networks::default(),
            blocked_clients: papaya::HashMap::default(),
            blocked_client_count: AtomicUsize::new(0),
        }
    }

    /// What is held of a client.
    #[inline]
    pub(super) fn client(&self, id: &str) -> Option<Held> {
        match self.clients.len() {
            0 => None,
            _ => self.clients.get(self.fingerprints.of(id)?),
        }
    }

    /// The client whose valid key has this hash. The hash found is compared in constant time,
    /// so that the time taken tells nothing about how near a guess came.
    #[inline]
    pub(super) fn client_of_key(
        &self,
        hash: &[u8; 32],
        now_ms: impl Fn() -> u64,
    ) -> Option<Arc<str>> {
        if self.key_count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let keys = self.keys.pin();
        let (stored, key) = keys.get_key_value(hash)?;
        let is_valid = key.end_ms == u64::MAX || now_ms() < key.end_ms;
        (bool::from(stored.ct_eq(hash)) && is_valid).then(|| key.client.clone())
    }

    /// Whether an address, in canonical form, is blocked.
    #[inline]
    pub(super) fn blocks_ip(&self, ip: IpAddr, now_ms: impl Fn() -> u64) -> bool {
        self.networks.hold(ip, now_ms)
    }

    /// Whether a client is blocked.
    #[inline]
    pub(super) fn blocks_client(&self, id: &str, now_ms: impl Fn() -> u64) -> bool {
        if self.blocked_client_count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let blocked = self.blocked_clients.pin();
        let end = self.fingerprints.of(id).and_then(|fingerprint| blocked.get(&fingerprint));
        end.is_some_and(|&end| end == u64::MAX || now_ms() < end)
    }

    /// When something was last set for a client, in nanoseconds of the clock.
    #[inline]
    pub(super) fn changed_ns(&self) -> u64 {
        self.changed_ns.load(Ordering::Acquire)
    }

    /// Clients, keys and blocks.
    pub(super) fn counts(&self) -> [usize; 3] {
        let blocked = self.blocked_client_count.load(Ordering::Acquire) + self.networks.len();
        [self.clients.len(), self.key_count.load(Ordering::Acquire), blocked]
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.counts() == [0; 3]
    }

    /// Whether there is something that can end by itself.
    pub(super) fn has_ends(&self) -> bool {
        let [_, keys, blocks] = self.counts();
        keys + blocks > 0
    }
}

/// What has been put into the memory since a moment, to find what has not.
#[derive(Default)]
pub(super) struct Seen {
    clients: HashSet<Fingerprint>,
    keys: HashSet<[u8; 32]>,
    targets: HashSet<Target>,
}

/// What the one thread does that changes it.
impl Memory {
    pub(super) fn apply(&self, effect: Effect, numbers: &mut Numbers) {
        match effect {
            Effect::Client(id, record) => self.set_client(&id, record, numbers),
            Effect::Key(hash, key) => self.set_key(&hash, key),
            Effect::Block(target, end) => {
                let end_ms = end.map(|BlockEnd(end)| end.unwrap_or(u64::MAX));
                self.set_block(&target, end_ms);
            }
        }
    }

    fn set_client(&self, id: &str, record: Option<Record>, numbers: &mut Numbers) {
        let Some(fingerprint) = self.fingerprints.of(id) else { return };
        // Before anybody reads it: a bucket is not to begin to fill by a limit too early.
        self.changed_ns.store(clock::now_ns(), Ordering::Release);
        match record {
            None => self.clients.remove(fingerprint),
            Some(Record { tier, own_limit }) => {
                let tier = tier.as_deref().map(TierName::of);
                self.clients.set(fingerprint, tier, own_limit, numbers);
            }
        }
    }

    fn set_key(&self, hash: &ApiKeyHash, key: Option<(Box<str>, Option<u64>)>) {
        let keys = self.keys.pin();
        match key {
            None => {
                keys.remove(&hash.0);
            }
            Some((client, end_ms)) => {
                let end_ms = end_ms.unwrap_or(u64::MAX);
                keys.insert(hash.0, HeldKey { client: client.into(), end_ms });
            }
        }
        self.key_count.store(keys.len(), Ordering::Release);
    }

    fn set_block(&self, target: &Target, end_ms: Option<u64>) {
        let Target::Client(id) = target else { return self.networks.set(target, end_ms) };
        let Some(fingerprint) = self.fingerprints.of(id) else { return };
        let blocked = self.blocked_clients.pin();
        match end_ms {
            None => blocked.remove(&fingerprint).is_some(),
            Some(end_ms) => blocked.insert(fingerprint, end_ms).is_some(),
        };
        self.blocked_client_count.store(blocked.len(), Ordering::Release);
    }

    /// Notes that an entry is there.
    pub(super) fn see(&self, effect: &Effect, seen: &mut Seen) {
        match effect {
            Effect::Client(id, _) => {
                seen.clients.extend(self.fingerprints.of(id));
            }
            Effect::Key(hash, _) => {
                seen.keys.insert(hash.0);
            }
            Effect::Block(target, _) => {
                seen.targets.insert(target.clone());
            }
        }
    }

    /// Takes out everything that was not seen.
    pub(super) fn keep_only(&self, seen: &Seen) {
        self.changed_ns.store(clock::now_ns(), Ordering::Release);
        self.clients.retain(|fingerprint| seen.clients.contains(&fingerprint));
        let keys = self.keys.pin();
        keys.retain(|hash, _| seen.keys.contains(hash));
        self.key_count.store(keys.len(), Ordering::Release);
        let blocked = seen.targets.iter().filter_map(|target| match target {
            Target::Client(id) => self.fingerprints.of(id),
            Target::Ip(_) | Target::Cidr(_) => None,
        });
        let blocked: HashSet<Fingerprint> = blocked.collect();
        let clients = self.blocked_clients.pin();
        clients.retain(|fingerprint, _| blocked.contains(fingerprint));
        self.blocked_client_count.store(clients.len(), Ordering::Release);
        self.networks.keep_only(&seen.targets);
    }
}
