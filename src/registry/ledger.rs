//! What a change does to the tables, and what of that requests will see.

use super::blocks::Target;
use super::entry::Name;
use super::file::Tables;
use super::record::{ApiKey, BlockEnd, Change, Effect, KeyId, Record};
use super::shares::Write;
use super::{Bounds, RegistryError};
use crate::clock;
use redb::StorageError;
use std::borrow::Cow;
use std::collections::HashSet;

/// A change that was made, or why it was not; outside of that, the tables failed.
pub(super) type Made = Result<Result<(), RegistryError>, StorageError>;

/// Makes one change. One that is refused has touched nothing.
pub(super) fn make(
    change: &Change,
    tables: &mut Tables<'_>,
    bounds: &Bounds,
    effects: &mut Vec<Effect>,
) -> Made {
    if let Some(shares) = &mut tables.shares {
        shares.begin();
    }
    let mut entry = Ledger { tables, bounds, effects };
    match change {
        Change::Tier { client, tier } => {
            entry.edit(client, |record| record.tier = tier.as_deref().map(Into::into))
        }
        Change::OwnLimit { client, limit } => {
            entry.edit(client, |record| record.own_limit = *limit)
        }
        Change::Import(rows) => entry.import(rows),
        Change::Forget { client } => entry.forget(client),
        Change::AddKey { client, key } => entry.add_key(client, key, 0),
        Change::RotateKey { client, old, old_expires_ms, key } => {
            entry.rotate_key(client, *old, *old_expires_ms, key)
        }
        Change::RevokeKey { client, key } => entry.revoke_key(client, *key),
        Change::Block { target, created_ms, expires_ms } => {
            if let Err(full) = entry.block(target, *created_ms, *expires_ms)? {
                return Ok(Err(full));
            }
            entry.tables.stamp(&Name::Block(Cow::Borrowed(target)), Write::Set)?;
            Ok(Ok(()))
        }
        Change::Unblock { target } => {
            if !entry.unblock(target)? {
                return Ok(Err(RegistryError::NoSuchBlock));
            }
            entry.tables.stamp(&Name::Block(Cow::Borrowed(target)), Write::Removed)?;
            Ok(Ok(()))
        }
        Change::Purge { now_ms } => entry.purge(*now_ms),
    }
}

/// Where a change is entered.
pub(super) struct Ledger<'a, 't> {
    pub(super) tables: &'a mut Tables<'t>,
    pub(super) bounds: &'a Bounds,
    pub(super) effects: &'a mut Vec<Effect>,
}

impl Ledger<'_, '_> {
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
        self.set(client, record)?;
        Ok(Ok(()))
    }

    /// Writes a client's record because somebody set it.
    fn set(&mut self, client: &str, record: Record) -> Result<(), StorageError> {
        let write = if record.is_empty() { Write::Removed } else { Write::Set };
        self.tables.stamp(&Name::Client(client), write)?;
        self.keep(client, record)
    }

    /// Writes a client's record. Who has neither a setting nor a key is registered no more. That
    /// somebody is registered for a key alone follows from the key, and other gateways are told
    /// of the key only.
    pub(super) fn keep(&mut self, client: &str, record: Record) -> Result<(), StorageError> {
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

    pub(super) fn room_for(&self, clients: u64) -> Made {
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
            self.set(client, record.clone())?;
        }
        Ok(Ok(()))
    }

    fn forget(&mut self, client: &str) -> Made {
        for key in self.tables.keys_of(client)? {
            self.end_key(client, key)?;
        }
        if let Some(record) = self.tables.client(client)? {
            if !record.is_empty() {
                self.tables.stamp(&Name::Client(client), Write::Removed)?;
            }
            self.tables.remove_client(client)?;
            self.effects.push(Effect::Client(client.into(), None));
        }
        Ok(Ok(()))
    }

    pub(super) fn drop_key(&mut self, client: &str, key: ApiKey) -> Result<(), StorageError> {
        self.tables.remove_key(client, KeyId::of(&key.hash))?;
        self.effects.push(Effect::Key(key.hash, None));
        Ok(())
    }

    /// Ends a key for good.
    fn end_key(&mut self, client: &str, key: ApiKey) -> Result<(), StorageError> {
        self.tables.stamp(&Name::Key(client, KeyId::of(&key.hash)), Write::Ended)?;
        self.drop_key(client, key)
    }

    /// Throws a key away that has ended by itself.
    fn lapse_key(&mut self, client: &str, key: ApiKey) -> Result<(), StorageError> {
        self.tables.lapse(&Name::Key(client, KeyId::of(&key.hash)))?;
        self.drop_key(client, key)
    }

    /// Writes a key because somebody set it.
    fn set_key(&mut self, client: &str, key: &ApiKey) -> Result<(), StorageError> {
        self.tables.stamp(&Name::Key(client, KeyId::of(&key.hash)), Write::Set)?;
        self.put_key(client, key)
    }

    pub(super) fn put_key(&mut self, client: &str, key: &ApiKey) -> Result<(), StorageError> {
        self.tables.put_key(client, key)?;
        let held = (client.into(), key.expires_ms);
        self.effects.push(Effect::Key(key.hash.clone(), Some(held)));
        Ok(())
    }

    /// Keys that have ended make room for the new one, as do so many others of the client that
    /// it is to replace at once.
    fn add_key(&mut self, client: &str, key: &ApiKey, replaced: usize) -> Made {
        let record = self.tables.client(client)?;
        if record.is_none()
            && let Err(full) = self.room_for(1)?
        {
            return Ok(Err(full));
        }
        if self.tables.key_count()? >= (self.bounds.keys + replaced) as u64 {
            return Ok(Err(RegistryError::TooManyKeys(self.bounds.keys)));
        }
        let keys = self.tables.keys_of(client)?;
        let has_ended = |old: &ApiKey| old.has_ended(key.created_ms);
        let (ended, valid): (Vec<_>, Vec<_>) = keys.into_iter().partition(has_ended);
        if valid.len() >= self.bounds.keys_of_client + replaced {
            return Ok(Err(RegistryError::TooManyKeysOfClient(self.bounds.keys_of_client)));
        }
        for old in ended {
            self.lapse_key(client, old)?;
        }
        self.set_key(client, key)?;
        self.keep(client, record.unwrap_or_default())?;
        Ok(Ok(()))
    }

    fn rotate_key(&mut self, client: &str, old: KeyId, ends_ms: u64, key: &ApiKey) -> Made {
        let found = self.tables.key(client, old)?;
        let Some(mut replaced) = found.filter(|old| !old.has_ended(key.created_ms)) else {
            return Ok(Err(RegistryError::NoSuchKey));
        };
        let end = replaced.expires_ms.map_or(ends_ms, |end| end.min(ends_ms));
        let ends_now = end <= key.created_ms;
        if let Err(refused) = self.add_key(client, key, usize::from(ends_now))? {
            return Ok(Err(refused));
        }
        if ends_now {
            self.end_key(client, replaced)?;
        } else {
            replaced.expires_ms = Some(end);
            self.set_key(client, &replaced)?;
        }
        Ok(Ok(()))
    }

    fn revoke_key(&mut self, client: &str, id: KeyId) -> Made {
        let found = self.tables.key(client, id)?;
        let Some(key) = found.filter(|key| !key.has_ended(clock::unix_ms())) else {
            return Ok(Err(RegistryError::NoSuchKey));
        };
        self.end_key(client, key)?;
        self.settle(client)?;
        Ok(Ok(()))
    }

    /// Forgets a client that a key alone had kept here.
    pub(super) fn settle(&mut self, client: &str) -> Result<(), StorageError> {
        match self.tables.client(client)? {
            Some(record) if record.is_empty() => self.keep(client, record),
            _ => Ok(()),
        }
    }

    fn purge(&mut self, now_ms: u64) -> Made {
        for (client, key) in self.tables.ended_keys(now_ms)? {
            self.lapse_key(&client, key)?;
            self.settle(&client)?;
        }
        for target in self.tables.ended_blocks(now_ms)? {
            self.tables.lapse(&Name::Block(Cow::Borrowed(&target)))?;
            self.unblock(&target)?;
        }
        match &mut self.tables.shares {
            Some(shares) => shares.forget_removed(now_ms).map(Ok),
            None => Ok(Ok(())),
        }
    }

    pub(super) fn block(
        &mut self,
        target: &Target,
        created_ms: u64,
        expires_ms: Option<u64>,
    ) -> Made {
        let is_new = !self.tables.has_block(target)?;
        if is_new && self.tables.block_count()? >= self.bounds.blocks as u64 {
            return Ok(Err(RegistryError::TooManyBlocks(self.bounds.blocks)));
        }
        self.tables.put_block(target, created_ms, expires_ms)?;
        self.effects.push(Effect::Block(target.clone(), Some(BlockEnd(expires_ms))));
        Ok(Ok(()))
    }

    /// Whether there was such a block.
    pub(super) fn unblock(&mut self, target: &Target) -> Result<bool, StorageError> {
        let was_there = self.tables.remove_block(target)?;
        if was_there {
            self.effects.push(Effect::Block(target.clone(), None));
        }
        Ok(was_there)
    }
}
