//! What a gateway keeps of its entries' versions, beside them in the same file: what it wrote
//! itself and has not shared yet, and for a while what was removed.
//!
//! A gateway that has never shared anything has none of these tables.

use super::entry::Name;
use crate::policy::version::{Held, Version, next_counter};
use redb::{
    ReadableTable, ReadableTableMetadata, StorageError, Table, TableDefinition, TableHandle,
    WriteTransaction,
};
use std::time::Duration;

/// How long it is remembered that something was removed, and when: a gateway that was away for
/// less does not bring it back.
pub const KEEP_REMOVED: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The most removed entries that are remembered, the latest; about 150 bytes on disk each.
pub const MAX_REMOVED: u64 = 1_000_000;
/// The most entries that may wait to be shared. Beyond it, what is removed while nothing can be
/// shared is removed here alone.
const MAX_UNSHARED: u64 = 4_000_000;
/// Removed entries that are forgotten in one transaction.
const FORGET_AT_ONCE: usize = 1_000;

/// Whether it ends something for good, counter, writer.
type VersionRow = (bool, u64, u64);
/// The version, and since when it is removed in milliseconds since 1970.
pub(super) type EntryRow = (VersionRow, Option<u64>);

/// By the entry's name.
pub(super) const VERSIONS: TableDefinition<'_, &str, EntryRow> = TableDefinition::new("versions");
/// By counter and name, with the version it was written over.
pub(super) const UNSHARED: TableDefinition<'_, (u64, &str), VersionRow> =
    TableDefinition::new("unshared");
/// By the time of the removal and name. What is not shared yet is not here.
const REMOVED: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("removed");
/// The highest counter seen, whether every entry has a version, where the shared copy is read
/// from and up to where.
pub(super) const SHARING: TableDefinition<'_, (), (u64, bool, &str, u64)> =
    TableDefinition::new("sharing");

pub(super) fn version((is_final, counter, writer): VersionRow) -> Version {
    Version { is_final, counter, writer }
}

fn row(version: Version) -> VersionRow {
    (version.is_final, version.counter, version.writer)
}

/// Where the shared copy is read from, and up to where it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// Which copy: another one, or one that may have lost something, has another name. Empty:
    /// none was ever read.
    pub origin: Box<str>,
    /// Everything up to this number was read.
    pub sequence: u64,
}

/// Whether the file has been shared before.
pub(super) fn are_in(transaction: &WriteTransaction) -> Result<bool, redb::Error> {
    Ok(transaction.list_tables()?.any(|table| table.name() == SHARING.name()))
}

/// The tables of versions in a transaction that writes.
pub(super) struct Shares<'t> {
    versions: Table<'t, &'static str, EntryRow>,
    unshared: Table<'t, (u64, &'static str), VersionRow>,
    removed: Table<'t, (u64, &'static str), ()>,
    sharing: Table<'t, (), (u64, bool, &'static str, u64)>,
    /// The highest counter seen.
    counter: u64,
    /// Whether every entry has a version.
    is_adopted: bool,
    mark: Mark,
    is_changed: bool,
    /// The counter of the change that is being made, once it has written something.
    change: Option<u64>,
    writer: u64,
    now_ms: u64,
}

impl<'t> Shares<'t> {
    pub(super) fn of(
        transaction: &'t WriteTransaction,
        writer: u64,
        now_ms: u64,
    ) -> Result<Shares<'t>, redb::Error> {
        let sharing = transaction.open_table(SHARING)?;
        let found = sharing.get(())?.map(|row| {
            let (counter, is_adopted, origin, sequence) = row.value();
            (counter, is_adopted, Mark { origin: origin.into(), sequence })
        });
        let (counter, is_adopted, mark) = found.unwrap_or_default();
        Ok(Shares {
            versions: transaction.open_table(VERSIONS)?,
            unshared: transaction.open_table(UNSHARED)?,
            removed: transaction.open_table(REMOVED)?,
            sharing,
            counter,
            is_adopted,
            mark,
            is_changed: false,
            change: None,
            writer,
            now_ms,
        })
    }

    /// Writes what is to be kept of this transaction besides entries; what waits to be shared.
    pub(super) fn finish(&mut self) -> Result<Waiting, StorageError> {
        if self.is_changed {
            let row = (self.counter, self.is_adopted, &*self.mark.origin, self.mark.sequence);
            self.sharing.insert((), row)?;
        }
        Ok(Waiting {
            entries: self.unshared.len()?,
            latest: self.unshared.last()?.map_or(0, |(row, _)| row.value().0),
        })
    }

    /// What is here of an entry.
    pub(super) fn held(&self, name: &str) -> Result<Held, StorageError> {
        let found = self.versions.get(name)?.map(|row| version(row.value().0));
        let Some(version) = found else {
            return Ok(Held { version: Version::NONE, unshared_over: None });
        };
        let over = self.unshared.get((version.counter, name))?;
        Ok(Held { version, unshared_over: over.map(|over| self::version(over.value())) })
    }

    /// A new change begins: what it writes has one counter, by which it is shared as one.
    pub(super) fn begin(&mut self) {
        self.change = None;
    }

    /// The counter of what the change wrote; 0: there is nothing to share.
    pub(super) fn written(&self) -> u64 {
        self.change.unwrap_or(0)
    }

    /// Gives an entry that was written here its new version.
    pub(super) fn stamp(&mut self, name: &Name<'_>, write: Write) -> Result<(), StorageError> {
        let name = name.to_string();
        let old = self.held(&name)?;
        let counter = match self.change {
            Some(counter) => counter,
            None => {
                self.counter = next_counter(self.counter, self.now_ms);
                self.is_changed = true;
                *self.change.insert(self.counter)
            }
        };
        let is_final = old.version.is_final || write == Write::Ended;
        let version = Version { is_final, counter, writer: self.writer };
        if write != Write::Set && self.unshared.len()? >= MAX_UNSHARED {
            return self.forget(&name);
        }
        self.put(&name, version, write != Write::Set)?;
        let over = old.unshared_over.unwrap_or(old.version);
        self.unshared.insert((counter, &*name), row(over)).map(drop)
    }

    /// Notes that an entry ended by itself: every gateway finds that out for itself.
    pub(super) fn lapse(&mut self, name: &Name<'_>) -> Result<(), StorageError> {
        let name = name.to_string();
        let old = self.held(&name)?;
        if old.version == Version::NONE {
            return Ok(());
        }
        self.put(&name, old.version, true)?;
        match old.unshared_over {
            Some(over) => self.unshared.insert((old.version.counter, &*name), row(over)).map(drop),
            None => self.remember(&name),
        }
    }

    /// Takes the version another gateway gave an entry.
    pub(super) fn take(
        &mut self,
        name: &str,
        version: Version,
        is_removed: bool,
    ) -> Result<(), StorageError> {
        self.see(version);
        self.put(name, version, is_removed)?;
        if is_removed { self.remember(name) } else { Ok(()) }
    }

    /// Counts on behind a version.
    pub(super) fn see(&mut self, version: Version) {
        if version.counter > self.counter {
            self.counter = version.counter;
            self.is_changed = true;
        }
    }

    /// Notes that the others can have a version. A later one of this gateway still waits.
    pub(super) fn settle(&mut self, name: &str, version: Version) -> Result<(), StorageError> {
        let was_waiting = self.unshared.remove((version.counter, name))?.is_some();
        let since = self.versions.get(name)?.and_then(|row| row.value().1);
        if was_waiting && since.is_some() { self.remember(name) } else { Ok(()) }
    }

    /// Notes that a version is to be shared, though the others may have known `over`.
    pub(super) fn wait(&mut self, name: &str, over: Version) -> Result<(), StorageError> {
        let Held { version, .. } = self.held(name)?;
        self.unshared.insert((version.counter, name), row(over)).map(drop)
    }

    /// Gives an entry from before the first sharing a version below all that were written since.
    pub(super) fn adopt(&mut self, name: &str) -> Result<(), StorageError> {
        if self.versions.get(name)?.is_some() {
            return Ok(());
        }
        let version = Version { writer: self.writer, ..Version::NONE };
        self.put(name, version, false)?;
        self.unshared.insert((version.counter, name), row(Version::NONE)).map(drop)
    }

    /// Forgets everything of an entry.
    pub(super) fn forget(&mut self, name: &str) -> Result<(), StorageError> {
        self.put(name, Version::NONE, false)?;
        self.versions.remove(name).map(drop)
    }

    /// Notes that every entry has a version.
    pub(super) fn all_adopted(&mut self) {
        self.is_adopted = true;
        self.is_changed = true;
    }

    /// Notes up to where the shared copy was read.
    pub(super) fn set_mark(&mut self, mark: Mark) {
        self.is_changed |= self.mark != mark;
        self.mark = mark;
    }

    /// Writes a version and takes back what was noted of the one before.
    fn put(&mut self, name: &str, version: Version, is_removed: bool) -> Result<(), StorageError> {
        let since = is_removed.then_some(self.now_ms);
        let old = self.versions.insert(name, (row(version), since))?;
        if let Some(((_, counter, _), since)) = old.map(|old| old.value()) {
            self.unshared.remove((counter, name))?;
            if let Some(since) = since {
                self.removed.remove((since, name))?;
            }
        }
        Ok(())
    }

    /// Remembers for a while that an entry is removed.
    fn remember(&mut self, name: &str) -> Result<(), StorageError> {
        let Some((version, _)) = self.versions.get(name)?.map(|row| row.value()) else {
            return Ok(());
        };
        self.versions.insert(name, (version, Some(self.now_ms)))?;
        self.removed.insert((self.now_ms, name), ())?;
        if self.removed.len()? > MAX_REMOVED {
            self.forget_first(u64::MAX)?;
        }
        Ok(())
    }

    /// Forgets what was removed too long ago to matter; a bounded part of it.
    pub(super) fn forget_removed(&mut self, now_ms: u64) -> Result<(), StorageError> {
        let keep_ms = u64::try_from(KEEP_REMOVED.as_millis()).unwrap_or(u64::MAX);
        let before = now_ms.saturating_sub(keep_ms);
        for _ in 0..FORGET_AT_ONCE {
            if !self.forget_first(before)? {
                break;
            }
        }
        Ok(())
    }

    fn forget_first(&mut self, before: u64) -> Result<bool, StorageError> {
        let first = self.removed.first()?.map(|(row, _)| {
            let (since, name) = row.value();
            (since, name.to_owned())
        });
        let Some((since, name)) = first.filter(|(since, _)| *since < before) else {
            return Ok(false);
        };
        self.removed.remove((since, &*name))?;
        self.versions.remove(&*name)?;
        Ok(true)
    }
}

/// What was done to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    /// It was set.
    Set,
    /// It was removed.
    Removed,
    /// It was removed for good.
    Ended,
}

/// What waits to be shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// Entries.
    pub(super) entries: u64,
    /// The counter of the latest of them; 0 also where there is none.
    pub(super) latest: u64,
}
