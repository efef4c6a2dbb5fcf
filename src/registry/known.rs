//! The clients that the configuration registers.

use crate::config::{ApiKeyHash, Config};
use crate::policy::tier::TierId;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// What the configuration says of clients; made anew with every configuration.
#[derive(Debug, Default)]
pub struct KnownClients {
    /// Only the configuration puts something in, so no id that a request brings makes a lookup
    /// long, and a fast hash will do.
    tiers: foldhash::HashMap<Arc<str>, Option<TierId>>,
    /// Their ids in order, to list them.
    ids: Box<[Arc<str>]>,
    api_keys: HashMap<[u8; 32], (ApiKeyHash, Arc<str>)>,
    /// The keys of each client that has some.
    keys_of: BTreeMap<Arc<str>, Vec<ApiKeyHash>>,
}

impl KnownClients {
    /// Indexes the clients of a configuration.
    pub fn new(config: &Config) -> KnownClients {
        let known = &config.clients.known;
        let mut ids: Box<[Arc<str>]> = known.iter().map(|client| client.id.clone()).collect();
        ids.sort_unstable();
        let with_keys = known.iter().filter(|client| !client.api_keys.is_empty());
        KnownClients {
            tiers: known.iter().map(|client| (client.id.clone(), client.tier)).collect(),
            ids,
            api_keys: known
                .iter()
                .flat_map(|client| {
                    client.api_keys.iter().map(|hash| (hash.clone(), client.id.clone()))
                })
                .map(|(hash, id)| (hash.0, (hash, id)))
                .collect(),
            keys_of: with_keys.map(|client| (client.id.clone(), client.api_keys.clone())).collect(),
        }
    }

    /// The client a key of the file belongs to. The key is looked up by its hash in a map whose
    /// own hash is seeded, and the hash found is compared in constant time, so that the time
    /// taken tells nothing about how near a guess came.
    pub(super) fn client_of_hash(&self, presented: &[u8; 32]) -> Option<&Arc<str>> {
        let (stored, id) = self.api_keys.get(presented)?;
        bool::from(stored.0.ct_eq(presented)).then_some(id)
    }

    /// The hashes of a client's keys.
    pub fn keys_of(&self, client: &str) -> &[ApiKeyHash] {
        self.keys_of.get(client).map_or(&[], Vec::as_slice)
    }

    /// Ids that begin with `prefix` and come behind `after`, in the order of their bytes.
    pub fn ids<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        let is_before = |id: &Arc<str>| &**id < prefix || after.is_some_and(|after| &**id <= after);
        let first = self.ids.partition_point(is_before);
        let rest = self.ids.get(first..).unwrap_or_default();
        rest.iter().take_while(move |id| id.starts_with(prefix))
    }

    /// Whether the file names a client, and the tier it is put in.
    pub fn find(&self, id: &str) -> Option<Option<TierId>> {
        self.tiers.get(id).copied()
    }
}
