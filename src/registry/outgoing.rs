//! Entries on their way to other gateways, read in pages.

use super::entry::{Entry, Name, Value};
use super::file::{BLOCKS, BlockRow, CLIENTS, ClientRow, KEYS, KeyRow, Reading, Tables, api_key};
use super::file::{beginning, record};
use super::merge::Page;
use super::record::KeyId;
use super::shares::{Mark, SHARING, UNSHARED, VERSIONS, version};
use redb::{ReadableTable, StorageError};
use std::ops::Bound;

/// The most entries of one change that are sent together whatever the size of a page, so that
/// others see all of the change at once.
const MAX_TOGETHER: usize = 500;

/// By how much the place in the shared copy that is on disk may be behind, in changes. To read
/// some again costs less than to write it down at each.
const MARK_EVERY: u64 = 10_000;

/// How far a gateway has come with sharing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Up to where the shared copy is known.
    pub mark: Mark,
    /// Whether every entry has a version.
    pub is_adopted: bool,
}

/// The tables of entries, in whatever kind of transaction.
struct Values<C, K, B> {
    clients: C,
    keys: K,
    blocks: B,
}

impl<C, K, B> Values<&C, &K, &B>
where
    C: ReadableTable<&'static str, ClientRow>,
    K: ReadableTable<(&'static str, u64), KeyRow>,
    B: ReadableTable<&'static str, BlockRow>,
{
    fn get(&self, name: &Name<'_>) -> Result<Option<Value>, StorageError> {
        Ok(match name {
            Name::Client(id) => {
                let record = self.clients.get(*id)?.map(|row| record(row.value()));
                record.filter(|record| !record.is_empty()).map(Value::Client)
            }
            Name::Key(client, id) => {
                self.keys.get((*client, id.0))?.map(|row| Value::Key(api_key(row.value())))
            }
            Name::Block(target) => self.blocks.get(&*target.to_string())?.map(|row| {
                let (created_ms, expires_ms) = row.value();
                Value::Block(created_ms, expires_ms)
            }),
        })
    }
}

impl Reading {
    /// The latest entries that wait to be shared: about `most`, and all of a change or none.
    pub(super) fn unshared(&self, most: usize) -> Result<Vec<Entry>, redb::Error> {
        let table = self.0.open_table(UNSHARED)?;
        let mut names: Vec<(u64, String)> = Vec::new();
        for row in table.iter()?.rev() {
            let (row, _) = row?;
            let (counter, name) = row.value();
            let is_new = names.last().is_none_or(|(last, _)| *last != counter);
            if names.len() >= MAX_TOGETHER || names.len() >= most && (is_new || counter == 0) {
                break;
            }
            names.push((counter, name.to_owned()));
        }
        self.entries_of(names.into_iter().map(|(_, name)| name))
    }

    /// At most `most` of all entries behind `after`, removed ones too.
    pub(super) fn entries(
        &self,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Entry>, redb::Error> {
        let table = self.0.open_table(VERSIONS)?;
        let range = (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let rows = table.range::<&str>(range)?.take(most);
        let names = rows.map(|row| row.map(|(name, _)| name.value().to_owned()));
        self.entries_of(names.collect::<Result<Vec<_>, _>>()?.into_iter())
    }

    fn entries_of(&self, names: impl Iterator<Item = String>) -> Result<Vec<Entry>, redb::Error> {
        let versions = self.0.open_table(VERSIONS)?;
        let (clients, keys) = (self.0.open_table(CLIENTS)?, self.0.open_table(KEYS)?);
        let blocks = self.0.open_table(BLOCKS)?;
        let values = Values { clients: &clients, keys: &keys, blocks: &blocks };
        let mut entries = Vec::new();
        for name in names {
            let Some((row, removed)) = versions.get(&*name)?.map(|row| row.value()) else {
                continue;
            };
            let value = match Name::parse(&name) {
                Some(name) if removed.is_none() => values.get(&name)?,
                _ => None,
            };
            entries.push(Entry { name: name.into(), version: version(row), value });
        }
        Ok(entries)
    }

    /// How far the sharing has come.
    pub(super) fn progress(&self) -> Result<Progress, redb::Error> {
        let found = self.0.open_table(SHARING)?.get(())?.map(|row| {
            let (_, is_adopted, origin, sequence) = row.value();
            Progress { mark: Mark { origin: origin.into(), sequence }, is_adopted }
        });
        Ok(found.unwrap_or_default())
    }
}

impl Reading {
    /// Leaves out of a page what is known; whether nothing is left that must be written.
    pub(super) fn sift(&self, page: &mut Page) -> Result<bool, redb::Error> {
        let versions = self.0.open_table(VERSIONS)?;
        let unshared = self.0.open_table(UNSHARED)?;
        let mut found = Vec::new();
        for entry in page.found.drain(..) {
            let held = versions.get(&*entry.name)?.map(|row| version(row.value().0));
            let is_known = held == Some(entry.version)
                && unshared.get((entry.version.counter, &*entry.name))?.is_none();
            if !is_known {
                found.push(entry);
            }
        }
        page.found = found;
        let mark_waits = match &page.mark {
            None => true,
            Some(mark) => {
                let kept = self.progress()?.mark;
                mark.origin == kept.origin && mark.sequence < kept.sequence + MARK_EVERY
            }
        };
        let is_empty = page.pushed.is_empty() && page.found.is_empty() && page.gone.is_empty();
        Ok(is_empty && mark_waits)
    }
}

impl Tables<'_> {
    /// What an entry says.
    pub(super) fn value(&self, name: &Name<'_>) -> Result<Option<Value>, StorageError> {
        Values { clients: &self.clients, keys: &self.keys, blocks: &self.blocks }.get(name)
    }

    /// At most `most` names of entries behind the one named `after`: blocks, then clients, then
    /// keys. All of them where that names none.
    pub(super) fn names(&self, after: &str, most: usize) -> Result<Vec<String>, StorageError> {
        let after = Name::parse(after);
        let mut names = Vec::new();
        if matches!(after, None | Some(Name::Block(_))) {
            let after = after.as_ref().map(ToString::to_string);
            let after = after.as_deref().and_then(|name| name.strip_prefix("block/"));
            let rows = self.blocks.range::<&str>((beginning("", after), Bound::Unbounded))?;
            for row in rows.take(most) {
                names.push(format!("block/{}", row?.0.value()));
            }
        }
        if !matches!(after, Some(Name::Key(..))) {
            let after = if let Some(Name::Client(id)) = after { Some(id) } else { None };
            for row in self.clients.range::<&str>((beginning("", after), Bound::Unbounded))? {
                if names.len() >= most {
                    break;
                }
                let (id, row) = row?;
                if !record(row.value()).is_empty() {
                    names.push(Name::Client(id.value()).to_string());
                }
            }
        }
        let after = match after {
            Some(Name::Key(client, KeyId(id))) => Bound::Excluded((client, id)),
            _ => Bound::Unbounded,
        };
        for row in self.keys.range::<(&str, u64)>((after, Bound::Unbounded))? {
            if names.len() >= most {
                break;
            }
            let (row, _) = row?;
            let (client, id) = row.value();
            names.push(Name::Key(client, KeyId(id)).to_string());
        }
        Ok(names)
    }
}
