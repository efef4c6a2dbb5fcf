//! How what other gateways wrote comes into the tables.

use super::entry::{Entry, Name, Value};
use super::ledger::{Ledger, Made};
use super::shares::Mark;
use super::{ApiKey, Record, RegistryError};
use crate::policy::version::{Held, Verdict, Version, judge};
use redb::StorageError;
use std::fmt;

/// What a gateway learnt from the shared copy, to be taken over in one transaction.
#[derive(Debug, Default)]
pub struct Page {
    /// Own entries that the copy took.
    pub pushed: Vec<Pushed>,
    /// Entries as they are there.
    pub found: Vec<Entry>,
    /// Names of entries that were removed so long ago that nobody remembers.
    pub gone: Vec<Box<str>>,
    /// Up to where the copy is known with this.
    pub mark: Option<Mark>,
}

/// An entry that the shared copy took, or had already.
#[derive(Debug)]
pub struct Pushed {
    /// Its name.
    pub name: Box<str>,
    /// The version that is there now.
    pub version: Version,
    /// The one that was there before; the same where it was there already.
    pub replaced: Version,
}

/// Two gateways wrote an entry and neither knew of the other.
#[derive(Debug)]
pub(super) struct Conflict {
    name: Box<str>,
    ours: Version,
    theirs: Version,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conflict { name, ours, theirs } = self;
        write!(
            f,
            "{name} was written here (version {ours}) and by another gateway (version {theirs}) \
             at the same time; {} stands because it is later",
            if ours > theirs { "what was written here" } else { "what the other wrote" }
        )
    }
}

/// What there is to say about a page.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) conflicts: Vec<Conflict>,
    /// Entries there is no room for.
    pub(super) refused: Vec<(Box<str>, RegistryError)>,
}

/// Takes over a page.
pub(super) fn merge(
    page: &Page,
    mut ledger: Ledger<'_, '_>,
    now_ms: u64,
) -> Result<Outcome, StorageError> {
    let mut outcome = Outcome::default();
    for pushed in &page.pushed {
        outcome.conflicts.extend(settle(pushed, &mut ledger)?);
    }
    for entry in &page.found {
        ledger.meet(entry, now_ms, &mut outcome)?;
    }
    for name in &page.gone {
        ledger.lose(name)?;
    }
    if let (Some(shares), Some(mark)) = (&mut ledger.tables.shares, &page.mark) {
        shares.set_mark(mark.clone());
    }
    Ok(outcome)
}

fn settle(pushed: &Pushed, ledger: &mut Ledger<'_, '_>) -> Result<Option<Conflict>, StorageError> {
    let Some(shares) = &mut ledger.tables.shares else { return Ok(None) };
    let Pushed { name, version, replaced } = pushed;
    shares.see(*replaced);
    let held = shares.held(name)?;
    let is_conflict = held.version == *version
        && replaced != version
        && held.unshared_over.is_some_and(|over| *replaced > over);
    shares.settle(name, *version)?;
    let conflict = || Conflict { name: name.clone(), ours: *version, theirs: *replaced };
    Ok(is_conflict.then(conflict))
}

/// Whether it is a loss that `ours` gives way: it says something else, or was removed here.
fn is_other(ours: Option<&Value>, entry: &Entry, was_written: bool) -> bool {
    (ours.is_some() || was_written) && ours != entry.value.as_ref()
}

impl Ledger<'_, '_> {
    /// Decides about one entry.
    fn meet(
        &mut self,
        entry: &Entry,
        now_ms: u64,
        outcome: &mut Outcome,
    ) -> Result<(), StorageError> {
        let Some(name) = Name::parse(&entry.name) else { return Ok(()) };
        let Some(shares) = &mut self.tables.shares else { return Ok(()) };
        let theirs = entry.version;
        shares.see(theirs);
        let Held { version: ours, unshared_over } = shares.held(&entry.name)?;
        let conflict = || Conflict { name: entry.name.clone(), ours, theirs };
        match judge(Held { version: ours, unshared_over }, theirs) {
            Verdict::Same => shares.settle(&entry.name, theirs)?,
            Verdict::Keep { is_conflict } => {
                outcome.conflicts.extend(is_conflict.then(conflict));
                if is_conflict {
                    // So that it is said once.
                    shares.wait(&entry.name, theirs)?;
                }
            }
            Verdict::Repeat => shares.wait(&entry.name, theirs)?,
            Verdict::Take { is_conflict } => {
                // What has no version yet is from before the first sharing.
                let is_conflict = (is_conflict || ours == Version::NONE)
                    && is_other(self.tables.value(&name)?.as_ref(), entry, is_conflict);
                let has_ended = entry.end_ms().is_some_and(|end| end <= now_ms);
                let value = entry.value.as_ref().filter(|_| !has_ended);
                let put = self.put(&name, value)?;
                let Some(shares) = &mut self.tables.shares else { return Ok(()) };
                match put {
                    Ok(()) => shares.take(&entry.name, theirs, value.is_none())?,
                    Err(full) => {
                        // What is here is known to be older, and is not shared again.
                        shares.settle(&entry.name, ours)?;
                        outcome.refused.push((entry.name.clone(), full));
                        return Ok(());
                    }
                }
                outcome.conflicts.extend(is_conflict.then(conflict));
            }
        }
        Ok(())
    }

    /// Makes an entry what another gateway made it. That a client has more keys than it may is
    /// let pass: they were made on different gateways, and none of them is the one too many.
    fn put(&mut self, name: &Name<'_>, value: Option<&Value>) -> Made {
        match (name, value) {
            (Name::Client(id), Some(Value::Client(record))) => {
                if self.tables.client(id)?.is_none()
                    && let Err(full) = self.room_for(1)?
                {
                    return Ok(Err(full));
                }
                self.keep(id, record.clone())?;
            }
            (Name::Client(id), _) => {
                if self.tables.client(id)?.is_some() {
                    self.keep(id, Record::default())?;
                }
            }
            (Name::Key(client, id), value) => {
                let old = self.tables.key(client, *id)?;
                match value {
                    Some(Value::Key(key)) => return self.put_foreign_key(client, key, old),
                    _ => {
                        if let Some(old) = old {
                            self.drop_key(client, old)?;
                            self.settle(client)?;
                        }
                    }
                }
            }
            (Name::Block(target), Some(Value::Block(created_ms, expires_ms))) => {
                return self.block(target, *created_ms, *expires_ms);
            }
            (Name::Block(target), _) => {
                self.unblock(target)?;
            }
        }
        Ok(Ok(()))
    }

    fn put_foreign_key(&mut self, client: &str, key: &ApiKey, old: Option<ApiKey>) -> Made {
        let record = self.tables.client(client)?;
        if record.is_none()
            && let Err(full) = self.room_for(1)?
        {
            return Ok(Err(full));
        }
        match old {
            Some(old) if old.hash != key.hash => self.drop_key(client, old)?,
            Some(_) => {}
            None if self.tables.key_count()? >= self.bounds.keys as u64 => {
                return Ok(Err(RegistryError::TooManyKeys(self.bounds.keys)));
            }
            None => {}
        }
        self.put_key(client, key)?;
        if record.is_none() {
            self.keep(client, Record::default())?;
        }
        Ok(Ok(()))
    }

    /// Removes what all others had removed before this gateway came back.
    fn lose(&mut self, name: &str) -> Result<(), StorageError> {
        let Some(shares) = &mut self.tables.shares else { return Ok(()) };
        if shares.held(name)?.unshared_over.is_some() {
            return Ok(());
        }
        shares.forget(name)?;
        match Name::parse(name) {
            // What removes needs no room.
            Some(name) => self.put(&name, None).map(drop),
            None => Ok(()),
        }
    }

    /// Gives entries from before the first sharing a version: at most `most` of those behind
    /// `after`; the last one's name where there may be more.
    pub(super) fn adopt(
        &mut self,
        after: &str,
        most: usize,
    ) -> Result<Option<String>, StorageError> {
        let names = self.tables.names(after, most)?;
        let last = names.last().filter(|_| names.len() >= most).cloned();
        let Some(shares) = &mut self.tables.shares else { return Ok(None) };
        for name in &names {
            shares.adopt(name)?;
        }
        if last.is_none() {
            shares.all_adopted();
        }
        Ok(last)
    }
}
