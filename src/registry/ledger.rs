//! What a change does to the tables, and what of that requests will see.

use super::file::Tables;
use super::record::{ApiKey, BlockEnd, Change, Effect, KeyId, Record};
use super::{Bounds, RegistryError};
use redb::StorageError;
use std::collections::HashSet;

/// A change that was made, or why it was not; outside of that, the tables failed.
type Made = Result<Result<(), RegistryError>, StorageError>;

/// Makes one change. One that is refused has touched nothing.
pub(super) fn make(
    change: &Change,
    tables: &mut Tables<'_>,
    bounds: &Bounds,
    effects: &mut Vec<Effect>,
) -> Made {
    let mut entry = Entry { tables, bounds, effects };
    match change {
        Change::Tier { client, tier } => {
            entry.edit(client, |record| record.tier = tier.as_deref().map(Into::into))
        }
        Change::OwnLimit { client, limit } => {
            entry.edit(client, |record| record.own_limit = *limit)
        }
        Change::Import(rows) => entry.import(rows),
        Change::Forget { client } => entry.forget(client),
        Change::AddKey { client, key } => entry.add_key(client, key),
        Change::RotateKey { client, old, old_expires_ms, key } => {
            entry.rotate_key(client, *old, *old_expires_ms, key)
        }
        Change::RevokeKey { client, key } => entry.revoke_key(client, *key),
        Change::Block { target, created_ms, expires_ms } => {
            let is_new = !entry.tables.has_block(target)?;
            if is_new && entry.tables.block_count()? >= bounds.blocks as u64 {
                return Ok(Err(RegistryError::TooManyBlocks(bounds.blocks)));
            }
            entry.tables.put_block(target, *created_ms, *expires_ms)?;
            entry.effects.push(Effect::Block(target.clone(), Some(BlockEnd(*expires_ms))));
            Ok(Ok(()))
        }
        Change::Unblock { target } => {
            if !entry.tables.remove_block(target)? {
                return Ok(Err(RegistryError::NoSuchBlock));
            }
            entry.effects.push(Effect::Block(target.clone(), None));
            Ok(Ok(()))
        }
        Change::Purge { now_ms } => entry.purge(*now_ms),
    }
}

/// Where a change is entered.
struct Entry<'a, 't> {
    tables: &'a mut Tables<'t>,
    bounds: &'a Bounds,
    effects: &'a mut Vec<Effect>,
}

impl Entry<'_, '_> {
    fn edit(&mut self, client: &str, apply: impl FnOnce(&mut Record)) -> Made {
        let old = self.tables.client(client)?;
        let is_new = old.is_none();
        let mut record = old.unwrap_or_default();
        apply(&mut record);
        if is_new && record.is_empty() {
            return Ok(Ok(()));
        }
        if is_new && let Err(full) = self.room_for(1)? {
            return Ok(Err(full));
        }
        self.keep(client, record)?;
        Ok(Ok(()))
    }

    /// Writes a client's record. Who has neither a setting nor a key is registered no more.
    fn keep(&mut self, client: &str, record: Record) -> Result<(), StorageError> {
        let record = match record.is_empty() && self.tables.keys_of(client)?.is_empty() {
            true => {
                self.tables.remove_client(client)?;
                None
            }
            false => {
                self.tables.put_client(client, &record)?;
                Some(record)
            }
        };
        self.effects.push(Effect::Client(client.into(), record));
        Ok(())
    }

    fn room_for(&self, clients: u64) -> Made {
        let most = self.bounds.clients;
        let is_room = self.tables.client_count()? + clients <= most as u64;
        Ok(if is_room { Ok(()) } else { Err(RegistryError::TooManyClients(most)) })
    }

    fn import(&mut self, rows: &[(Box<str>, Record)]) -> Made {
        let mut new = HashSet::new();
        for (client, _) in rows {
            if self.tables.client(client)?.is_none() {
                new.insert(client);
            }
        }
        if let Err(full) = self.room_for(new.len() as u64)? {
            return Ok(Err(full));
        }
        for (client, record) in rows {
            self.keep(client, record.clone())?;
        }
        Ok(Ok(()))
    }

    fn forget(&mut self, client: &str) -> Made {
        for key in self.tables.keys_of(client)? {
            self.drop_key(client, key)?;
        }
        if self.tables.remove_client(client)? {
            self.effects.push(Effect::Client(client.into(), None));
        }
        Ok(Ok(()))
    }

    fn drop_key(&mut self, client: &str, key: ApiKey) -> Result<(), StorageError> {
        self.tables.remove_key(client, KeyId::of(&key.hash))?;
        self.effects.push(Effect::Key(key.hash, None));
        Ok(())
    }

    fn put_key(&mut self, client: &str, key: &ApiKey) -> Result<(), StorageError> {
        self.tables.put_key(client, key)?;
        let held = (client.into(), key.expires_ms);
        self.effects.push(Effect::Key(key.hash.clone(), Some(held)));
        Ok(())
    }

    /// Keys that have ended make room for the new one.
    fn add_key(&mut self, client: &str, key: &ApiKey) -> Made {
        let record = self.tables.client(client)?;
        if record.is_none()
            && let Err(full) = self.room_for(1)?
        {
            return Ok(Err(full));
        }
        if self.tables.key_count()? >= self.bounds.keys as u64 {
            return Ok(Err(RegistryError::TooManyKeys(self.bounds.keys)));
        }
        let keys = self.tables.keys_of(client)?;
        let has_ended = |old: &ApiKey| old.expires_ms.is_some_and(|end| end <= key.created_ms);
        let (ended, valid): (Vec<_>, Vec<_>) = keys.into_iter().partition(has_ended);
        if valid.len() >= self.bounds.keys_of_client {
            return Ok(Err(RegistryError::TooManyKeysOfClient(self.bounds.keys_of_client)));
        }
        for old in ended {
            self.drop_key(client, old)?;
        }
        self.put_key(client, key)?;
        self.keep(client, record.unwrap_or_default())?;
        Ok(Ok(()))
    }

    fn rotate_key(&mut self, client: &str, old: KeyId, ends_ms: u64, key: &ApiKey) -> Made {
        let Some(mut replaced) = self.key(client, old)? else {
            return Ok(Err(RegistryError::NoSuchKey));
        };
        if let Err(refused) = self.add_key(client, key)? {
            return Ok(Err(refused));
        }
        let end = replaced.expires_ms.map_or(ends_ms, |end| end.min(ends_ms));
        if end <= key.created_ms {
            self.drop_key(client, replaced)?;
        } else {
            replaced.expires_ms = Some(end);
            self.put_key(client, &replaced)?;
        }
        Ok(Ok(()))
    }

    fn revoke_key(&mut self, client: &str, id: KeyId) -> Made {
        let Some(key) = self.key(client, id)? else {
            return Ok(Err(RegistryError::NoSuchKey));
        };
        self.drop_key(client, key)?;
        self.settle(client)?;
        Ok(Ok(()))
    }

    fn key(&self, client: &str, id: KeyId) -> Result<Option<ApiKey>, StorageError> {
        Ok(self.tables.keys_of(client)?.into_iter().find(|key| KeyId::of(&key.hash) == id))
    }

    /// Forgets a client that a key alone had kept here.
    fn settle(&mut self, client: &str) -> Result<(), StorageError> {
        match self.tables.client(client)? {
            Some(record) if record.is_empty() => self.keep(client, record),
            _ => Ok(()),
        }
    }

    fn purge(&mut self, now_ms: u64) -> Made {
        for (client, key) in self.tables.ended_keys(now_ms)? {
            self.drop_key(&client, key)?;
            self.settle(&client)?;
        }
        for target in self.tables.ended_blocks(now_ms)? {
            self.tables.remove_block(&target)?;
            self.effects.push(Effect::Block(target, None));
        }
        Ok(Ok(()))
    }
}
