//! The registry on disk: one redb file with a table for clients, keys and blocks each.
//!
//! redb keeps a copy-on-write tree and names a new root only once everything below it is on
//! disk, so a process killed at any moment leaves the state of its last commit. Without a
//! folder the same tables are in memory.

use super::blocks::Target;
use super::entry::Name;
use super::record::{ApiKey, BlockEnd, Effect, KeyId, Record};
use super::shares::{self, Shares, Waiting, Write};
use crate::clock;
use crate::config::ApiKeyHash;
use crate::policy::rate::TokenBucket;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageError, Table, TableDefinition, WriteTransaction,
};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use thiserror::Error;

/// Its name in `state_dir`.
pub(super) const FILE_NAME: &str = "registry.redb";
/// A file's name until it is a registry.
const NEW: &str = "registry.redb.new";

/// Bytes of pages kept in memory. Requests never come here; this is for administrators.
const CACHE_BYTES: usize = 8 << 20;

/// Tier, then rate (the bits of tokens per second) and burst of an own limit.
pub(super) type ClientRow = (Option<&'static str>, Option<(u64, u64)>);
/// Hash, creation and end.
pub(super) type KeyRow = (&'static [u8; 32], u64, Option<u64>);
/// Creation and end.
pub(super) type BlockRow = (u64, Option<u64>);

pub(super) const CLIENTS: TableDefinition<'_, &str, ClientRow> = TableDefinition::new("clients");
/// By client and the key's id.
pub(super) const KEYS: TableDefinition<'_, (&str, u64), KeyRow> = TableDefinition::new("keys");
/// By kind and value.
pub(super) const BLOCKS: TableDefinition<'_, &str, BlockRow> = TableDefinition::new("blocks");
const LAYOUT: TableDefinition<'_, (), u64> = TableDefinition::new("layout");

/// The number of the tables' layout.
const THIS_LAYOUT: u64 = 1;

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub(super) enum OpenError {
    /// Another process has it.
    #[error("another process has it open")]
    Taken,
    /// It is no registry, or a broken one.
    #[error("{0}")]
    Damaged(String),
    /// It cannot be reached, which says nothing about what it holds.
    #[error("{0}")]
    OutOfReach(String),
}

impl From<redb::Error> for OpenError {
    fn from(error: redb::Error) -> OpenError {
        use io::ErrorKind::{InvalidData, UnexpectedEof};
        match error {
            redb::Error::DatabaseAlreadyOpen => OpenError::Taken,
            redb::Error::Io(error) if !matches!(error.kind(), InvalidData | UnexpectedEof) => {
                OpenError::OutOfReach(error.to_string())
            }
            error => OpenError::Damaged(error.to_string()),
        }
    }
}

/// The file, or what stands for it in memory.
pub(super) struct Store {
    database: Database,
    /// Who writes versions beside entries; none: nobody has ever shared this.
    writer: Option<u64>,
    /// What waited to be shared when it was opened.
    pub(super) waiting: Waiting,
}

impl Store {
    /// One that ends with the process.
    pub(super) fn in_memory(writer: Option<u64>) -> Result<Store, OpenError> {
        Store::prepared(builder().create_with_backend(InMemoryBackend::new()), writer)
    }

    /// The file in `folder`, made where it is missing, checked page by page where it is not.
    pub(super) fn open(folder: &Path, writer: Option<u64>) -> Result<Store, OpenError> {
        let is_there = prepare(folder).map_err(|error| OpenError::OutOfReach(error.to_string()))?;
        // A damaged file should be an error, and is a panic at worst.
        let opened = catch_unwind(AssertUnwindSafe(|| match is_there {
            true => Store::prepared(builder().open(folder.join(FILE_NAME)), writer),
            false => Store::made(folder, writer),
        }));
        opened.unwrap_or_else(|_| Err(OpenError::Damaged("its contents are inconsistent".into())))
    }

    /// Makes the file. It has its name only once it is a registry, so that what a process leaves
    /// behind that ends in the middle is never taken for one that was damaged.
    fn made(folder: &Path, writer: Option<u64>) -> Result<Store, OpenError> {
        let new = folder.join(NEW);
        let out_of_reach = |error: io::Error| OpenError::OutOfReach(error.to_string());
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(out_of_reach(error));
            }
            _ => {}
        }
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).to_owned();
        options.open(&new).map_err(out_of_reach)?;
        let store = Store::prepared(builder().create(&new), writer)?;
        fs::rename(&new, folder.join(FILE_NAME)).map_err(out_of_reach)?;
        // Its name should outlive a power cut as well as its contents.
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(out_of_reach)?;
        Ok(store)
    }

    fn prepared(
        opened: Result<Database, DatabaseError>,
        writer: Option<u64>,
    ) -> Result<Store, OpenError> {
        let database = opened.map_err(redb::Error::from)?;
        // What was shared once may be shared again, and then it counts who wrote last.
        let was_shared = shares::are_in(&database.begin_write().map_err(redb::Error::from)?)?;
        let writer = writer.or_else(|| was_shared.then(|| fastrand::u64(1..)));
        let mut store = Store { database, writer, waiting: Waiting::default() };
        let (layout, waiting) = store.write(|tables| {
            let found = tables.layout.get(())?.map(|layout| layout.value());
            if found.is_none() {
                tables.layout.insert((), THIS_LAYOUT)?;
            }
            Ok(found.unwrap_or(THIS_LAYOUT))
        })?;
        match layout {
            THIS_LAYOUT => {
                store.waiting = waiting;
                Ok(store)
            }
            other => Err(OpenError::Damaged(format!("it has layout {other}, of another version"))),
        }
    }

    /// Runs `work` in one transaction, which is on disk when this returns, and says what waits
    /// to be shared after it.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&mut Tables<'_>) -> Result<T, StorageError>,
    ) -> Result<(T, Waiting), redb::Error> {
        let transaction = self.database.begin_write()?;
        let done = {
            let mut tables = Tables::of(&transaction, self.writer)?;
            let done = work(&mut tables)?;
            (done, tables.shares.as_mut().map_or(Ok(Waiting::default()), Shares::finish)?)
        };
        transaction.commit()?;
        Ok(done)
    }

    /// What is there at this moment.
    pub(super) fn read(&self) -> Result<Reading, redb::Error> {
        Ok(Reading(self.database.begin_read()?))
    }
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder
}

/// Makes the folder where there is none, and says whether a file is in it, which then belongs to
/// its user alone.
fn prepare(folder: &Path) -> io::Result<bool> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    match fs::set_permissions(folder.join(FILE_NAME), Permissions::from_mode(0o600)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The tables in a transaction that writes.
pub(super) struct Tables<'t> {
    pub(super) clients: Table<'t, &'static str, ClientRow>,
    pub(super) keys: Table<'t, (&'static str, u64), KeyRow>,
    pub(super) blocks: Table<'t, &'static str, BlockRow>,
    layout: Table<'t, (), u64>,
    /// The versions of all that, where it is shared.
    pub(super) shares: Option<Shares<'t>>,
}

impl<'t> Tables<'t> {
    fn of(
        transaction: &'t WriteTransaction,
        writer: Option<u64>,
    ) -> Result<Tables<'t>, redb::Error> {
        let shares = writer.map(|writer| Shares::of(transaction, writer, clock::unix_ms()));
        Ok(Tables {
            shares: shares.transpose()?,
            clients: transaction.open_table(CLIENTS)?,
            keys: transaction.open_table(KEYS)?,
            blocks: transaction.open_table(BLOCKS)?,
            layout: transaction.open_table(LAYOUT)?,
        })
    }

    /// Notes a write, where it is of interest to other gateways.
    pub(super) fn stamp(&mut self, name: &Name<'_>, write: Write) -> Result<(), StorageError> {
        self.shares.as_mut().map_or(Ok(()), |shares| shares.stamp(name, write))
    }

    /// Notes that an entry ended by itself.
    pub(super) fn lapse(&mut self, name: &Name<'_>) -> Result<(), StorageError> {
        self.shares.as_mut().map_or(Ok(()), |shares| shares.lapse(name))
    }

    pub(super) fn client(&self, id: &str) -> Result<Option<Record>, StorageError> {
        Ok(self.clients.get(id)?.map(|row| record(row.value())))
    }

    pub(super) fn client_count(&self) -> Result<u64, StorageError> {
        self.clients.len()
    }

    pub(super) fn put_client(&mut self, id: &str, record: &Record) -> Result<(), StorageError> {
        let limit =
            record.own_limit.map(|limit| (limit.rate_per_second().to_bits(), limit.burst()));
        self.clients.insert(id, (record.tier.as_deref(), limit)).map(drop)
    }

    pub(super) fn remove_client(&mut self, id: &str) -> Result<bool, StorageError> {
        Ok(self.clients.remove(id)?.is_some())
    }

    pub(super) fn keys_of(&self, client: &str) -> Result<Vec<ApiKey>, StorageError> {
        let rows = self.keys.range((client, 0)..=(client, u64::MAX))?;
        rows.map(|row| row.map(|(_, row)| api_key(row.value()))).collect()
    }

    pub(super) fn key_count(&self) -> Result<u64, StorageError> {
        self.keys.len()
    }

    pub(super) fn put_key(&mut self, client: &str, key: &ApiKey) -> Result<(), StorageError> {
        let row = (&key.hash.0, key.created_ms, key.expires_ms);
        self.keys.insert((client, KeyId::of(&key.hash).0), row).map(drop)
    }

    pub(super) fn key(&self, client: &str, id: KeyId) -> Result<Option<ApiKey>, StorageError> {
        Ok(self.keys.get((client, id.0))?.map(|row| api_key(row.value())))
    }

    pub(super) fn remove_key(&mut self, client: &str, id: KeyId) -> Result<(), StorageError> {
        self.keys.remove((client, id.0)).map(drop)
    }

    /// Those that had ended by then, with their clients.
    pub(super) fn ended_keys(&self, now: u64) -> Result<Vec<(Box<str>, ApiKey)>, StorageError> {
        let mut ended = Vec::new();
        for row in self.keys.iter()? {
            let (of, row) = row?;
            let key = api_key(row.value());
            if key.expires_ms.is_some_and(|end| end <= now) {
                ended.push((of.value().0.into(), key));
            }
        }
        Ok(ended)
    }

    pub(super) fn block_count(&self) -> Result<u64, StorageError> {
        self.blocks.len()
    }

    pub(super) fn has_block(&self, target: &Target) -> Result<bool, StorageError> {
        Ok(self.blocks.get(&*target.to_string())?.is_some())
    }

    pub(super) fn put_block(
        &mut self,
        target: &Target,
        created_ms: u64,
        expires_ms: Option<u64>,
    ) -> Result<(), StorageError> {
        self.blocks.insert(&*target.to_string(), (created_ms, expires_ms)).map(drop)
    }

    pub(super) fn remove_block(&mut self, target: &Target) -> Result<bool, StorageError> {
        Ok(self.blocks.remove(&*target.to_string())?.is_some())
    }

    /// Those that had ended by then.
    pub(super) fn ended_blocks(&self, now: u64) -> Result<Vec<Target>, StorageError> {
        let mut ended = Vec::new();
        for row in self.blocks.iter()? {
            let (target, row) = row?;
            if row.value().1.is_some_and(|end| end <= now) {
                ended.extend(Target::of_text(target.value()));
            }
        }
        Ok(ended)
    }
}

/// A block as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Whom it keeps out.
    pub target: Target,
    /// Since when, in milliseconds since 1970.
    pub created_ms: u64,
    /// Until when; none: until it is taken back.
    pub expires_ms: Option<u64>,
}

/// The tables as they are at one moment.
pub(super) struct Reading(pub(super) ReadTransaction);

impl Reading {
    /// Hands every entry to `take`.
    pub(super) fn all(&self, mut take: impl FnMut(Effect)) -> Result<(), redb::Error> {
        for row in self.0.open_table(CLIENTS)?.iter()? {
            let (id, row) = row?;
            take(Effect::Client(id.value().into(), Some(record(row.value()))));
        }
        for row in self.0.open_table(KEYS)?.iter()? {
            let (of, row) = row?;
            let key = api_key(row.value());
            take(Effect::Key(key.hash, Some((of.value().0.into(), key.expires_ms))));
        }
        for row in self.0.open_table(BLOCKS)?.iter()? {
            let (text, row) = row?;
            if let Some(target) = Target::of_text(text.value()) {
                take(Effect::Block(target, Some(BlockEnd(row.value().1))));
            }
        }
        Ok(())
    }

    /// Clients whose ids begin with `prefix` and come behind `after`, in the order of their
    /// bytes.
    pub(super) fn clients(
        &self,
        prefix: &str,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<(Box<str>, Record)>, redb::Error> {
        let table = self.0.open_table(CLIENTS)?;
        let mut found = Vec::new();
        for row in table.range::<&str>((beginning(prefix, after), Bound::Unbounded))? {
            let (id, row) = row?;
            if found.len() >= most || !id.value().starts_with(prefix) {
                break;
            }
            found.push((id.value().into(), record(row.value())));
        }
        Ok(found)
    }

    pub(super) fn keys_of(&self, client: &str) -> Result<Vec<ApiKey>, redb::Error> {
        let table = self.0.open_table(KEYS)?;
        let rows = table.range((client, 0)..=(client, u64::MAX))?;
        let keys = rows.map(|row| row.map(|(_, row)| api_key(row.value())));
        Ok(keys.collect::<Result<_, StorageError>>()?)
    }

    /// Blocks behind `after`, in the order of kinds and values.
    pub(super) fn blocks(
        &self,
        after: Option<&str>,
        most: usize,
        now: u64,
    ) -> Result<Vec<Block>, redb::Error> {
        let table = self.0.open_table(BLOCKS)?;
        let mut found = Vec::new();
        for row in table.range::<&str>((beginning("", after), Bound::Unbounded))? {
            let (text, row) = row?;
            if found.len() >= most {
                break;
            }
            let (created_ms, expires_ms) = row.value();
            let Some(target) = Target::of_text(text.value()) else { continue };
            if expires_ms.is_none_or(|end| now < end) {
                found.push(Block { target, created_ms, expires_ms });
            }
        }
        Ok(found)
    }
}

/// Where a page begins.
pub(super) fn beginning<'a>(prefix: &'a str, after: Option<&'a str>) -> Bound<&'a str> {
    match after {
        Some(after) if after >= prefix => Bound::Excluded(after),
        _ => Bound::Included(prefix),
    }
}

/// A limit that cannot be is left out; none is ever written.
pub(super) fn record((tier, limit): (Option<&str>, Option<(u64, u64)>)) -> Record {
    let limit = limit.and_then(|(rate, burst)| {
        TokenBucket::from_rate_per_second(f64::from_bits(rate), burst).ok()
    });
    Record { tier: tier.map(Into::into), own_limit: limit }
}

pub(super) fn api_key((hash, created_ms, expires_ms): (&[u8; 32], u64, Option<u64>)) -> ApiKey {
    ApiKey { hash: ApiKeyHash(*hash), created_ms, expires_ms }
}
