//! Who the clients are: what the configuration registers, and what the admin API changed
//! since.
//!
//! Reads are lock-free and happen on every request; writes are rare. Changes made at run
//! time stand over the configuration and name tiers by name, so that they outlive the
//! configuration they were made under.

pub mod identity;

use crate::config::{ApiKeyHash, Config};
use crate::policy::rate::TokenBucket;
use crate::policy::tier::{TierId, Tiers};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use subtle::ConstantTimeEq;
use thiserror::Error;

/// The most clients the admin API may register; about 200 bytes each.
pub const MAX_CHANGED_CLIENTS: usize = 1_000_000;
/// The longest client id in bytes.
pub const MAX_CLIENT_ID: usize = 256;

/// Whether `id` can name a client: 1 to 256 bytes of visible ASCII.
pub fn is_client_id(id: &[u8]) -> bool {
    (1..=MAX_CLIENT_ID).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic)
}

/// What the configuration says of clients; made anew with every configuration.
#[derive(Debug, Default)]
pub struct KnownClients {
    tiers: HashMap<Arc<str>, Option<TierId>>,
    api_keys: HashMap<[u8; 32], (ApiKeyHash, Arc<str>)>,
}

impl KnownClients {
    /// Indexes the clients of a configuration.
    pub fn new(config: &Config) -> KnownClients {
        let known = &config.clients.known;
        KnownClients {
            tiers: known.iter().map(|client| (client.id.clone(), client.tier)).collect(),
            api_keys: known
                .iter()
                .flat_map(|client| {
                    client.api_keys.iter().map(|hash| (hash.clone(), client.id.clone()))
                })
                .map(|(hash, id)| (hash.0, (hash, id)))
                .collect(),
        }
    }

    /// The client an API key belongs to.
    ///
    /// The key is looked up by its hash in a map whose own hash is seeded, and the hash
    /// found is compared in constant time, so that the time taken tells nothing about how
    /// near a guess came.
    pub fn client_of_key(&self, key: &[u8]) -> Option<&Arc<str>> {
        let presented: [u8; 32] = Sha256::digest(key).into();
        let (stored, id) = self.api_keys.get(&presented)?;
        bool::from(stored.0.ct_eq(&presented)).then_some(id)
    }
}

/// What the admin API set for one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// A tier by name; none: as configured.
    pub tier: Option<Arc<str>>,
    /// A limit of its own instead of its tier's.
    pub own_limit: Option<TokenBucket>,
}

/// How a client stands: what its requests are charged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Its tier.
    pub tier: TierId,
    /// Its own limit, where it has one.
    pub own_limit: Option<TokenBucket>,
    /// Whether configuration or registry name it.
    pub is_registered: bool,
}

impl Standing {
    /// A client nobody registered.
    pub fn stranger(tiers: &Tiers) -> Standing {
        Standing { tier: tiers.default_tier(), own_limit: None, is_registered: false }
    }

    /// The bucket its tier policy is: its own limit or its tier's.
    pub fn bucket<'a>(&'a self, tiers: &'a Tiers) -> &'a TokenBucket {
        self.own_limit.as_ref().unwrap_or(&tiers.get(self.tier).bucket)
    }
}

/// The registry holds as many clients as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the registry is full: at most {MAX_CHANGED_CLIENTS} clients can be registered at run time"
)]
pub struct RegistryFull;

/// Changes made at run time.
#[derive(Debug, Default)]
pub struct Registry {
    changes: papaya::HashMap<Arc<str>, Change>,
    /// Entries in `changes`; lets a gateway without any skip the lookup.
    count: AtomicUsize,
    /// Writers take turns; readers never wait.
    writing: Mutex<()>,
}

impl Registry {
    /// How the client with this id stands.
    pub fn standing(&self, id: &str, known: &KnownClients, tiers: &Tiers) -> Standing {
        let configured = known.tiers.get(id);
        let change = match self.count.load(Ordering::Acquire) {
            0 => None,
            _ => self.changes.pin().get(id).cloned(),
        };
        let is_registered = configured.is_some() || change.is_some();
        let changed_tier = change.as_ref().and_then(|change| tiers.find(change.tier.as_deref()?));
        Standing {
            tier: changed_tier
                .or_else(|| configured.copied().flatten())
                .unwrap_or_else(|| tiers.default_tier()),
            own_limit: change.and_then(|change| change.own_limit),
            is_registered,
        }
    }

    /// Puts a client in a tier.
    ///
    /// # Errors
    /// When [`MAX_CHANGED_CLIENTS`] are registered already and this is another one.
    pub fn set_tier(&self, id: &str, tier: &str) -> Result<(), RegistryFull> {
        self.update(id, |change| change.tier = Some(tier.into()))
    }

    /// Gives a client a limit of its own.
    ///
    /// # Errors
    /// As for [`set_tier`](Registry::set_tier).
    pub fn set_own_limit(&self, id: &str, bucket: TokenBucket) -> Result<(), RegistryFull> {
        self.update(id, |change| change.own_limit = Some(bucket))
    }

    /// Takes a client's own limit back; its tier's applies again. Nothing happens when it
    /// has none.
    pub fn remove_own_limit(&self, id: &str) {
        // Taking away needs no room, so the registry cannot be too full for it.
        let _ = self.update(id, |change| change.own_limit = None);
    }

    /// Changes run at most for an instant at a time and only for administrators, so a lock
    /// that a panic poisoned is used on: the map itself is never half-written.
    fn update(&self, id: &str, apply: impl FnOnce(&mut Change)) -> Result<(), RegistryFull> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = self.changes.pin();
        let mut change = changes.get(id).cloned().unwrap_or_default();
        apply(&mut change);
        if change == Change::default() {
            changes.remove(id);
        } else {
            if changes.get(id).is_none() && changes.len() >= MAX_CHANGED_CLIENTS {
                return Err(RegistryFull);
            }
            changes.insert(id.into(), change);
        }
        self.count.store(changes.len(), Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
