//! The copy of the registry in Redis: two scripts and what they answer.

use crate::fleet::{Link, LinkError, Script};
use crate::registry::{Entry, KEEP_REMOVED, Lasting, MAX_REMOVED, Page, Pushed, read_version};
use redis::Value;
use std::time::Duration;
use thiserror::Error;

/// How long an answer is waited for. No request does.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why the copy could not be used.
#[derive(Debug, Clone, Error)]
pub(super) enum CopyError {
    /// There is no answer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// There is one, and it is not what the script gives.
    #[error("what Redis answered cannot be understood")]
    Answer,
}

/// The copy.
pub(super) struct SharedCopy {
    link: Link,
    keys: [String; 4],
    put: Script,
    changes: Script,
}

/// Whether entries that the copy does not have are put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    Put,
    Left,
}

/// What changed.
pub(super) struct Changes {
    /// The copy's name.
    pub(super) epoch: String,
    /// The server's process.
    pub(super) run: String,
    /// The last number there is.
    pub(super) sequence: u64,
    /// The highest number of what was dropped.
    pub(super) floor: u64,
    pub(super) entries: Vec<Entry>,
    /// Up to where this tells.
    pub(super) told: u64,
    /// Whether there may be more.
    pub(super) has_more: bool,
}

impl SharedCopy {
    pub(super) fn new(link: Link) -> SharedCopy {
        // One slot of a cluster for all of them.
        let keys = ["entries", "log", "ends", "state"]
            .map(|name| format!("{}{{registry}}:{name}", link.prefix()));
        SharedCopy {
            link,
            keys,
            put: Script::new(include_str!("put.lua")),
            changes: Script::new(include_str!("changes.lua")),
        }
    }

    /// Puts entries there; what that came to, for the registry to take over.
    pub(super) async fn put(&self, entries: &[Entry], unknown: Unknown) -> Result<Page, CopyError> {
        let mut args = vec![
            KEEP_REMOVED.as_millis().to_string(),
            MAX_REMOVED.to_string(),
            u8::from(unknown == Unknown::Left).to_string(),
        ];
        for entry in entries {
            args.extend([
                entry.name().to_owned(),
                entry.text(),
                match entry.lasting() {
                    Lasting::Always => "always".to_owned(),
                    Lasting::Removed => "removed".to_owned(),
                    Lasting::Until(end_ms) => end_ms.to_string(),
                },
            ]);
        }
        let answer = self.link.beat(&self.put, &self.keys, &args, PATIENCE).await?;
        let answers = texts(answer)?;
        if answers.len() != entries.len() {
            return Err(CopyError::Answer);
        }
        let mut page = Page::default();
        for (entry, answer) in entries.iter().zip(&answers) {
            note(entry, answer, &mut page)?;
        }
        Ok(page)
    }

    /// What changed behind a number, at most `most` changes.
    pub(super) async fn changes(&self, behind: u64, most: usize) -> Result<Changes, CopyError> {
        // Another one each time: a copy that is lost again must not get its old name.
        let name = format!("{:016x}", fastrand::u64(..));
        let args = [behind.to_string(), most.to_string(), name];
        let answer = self.link.beat(&self.changes, &self.keys, &args, PATIENCE).await?;
        read(&texts(answer)?, behind, most).ok_or(CopyError::Answer)
    }
}

/// What became of one entry.
fn note(entry: &Entry, answer: &[u8], page: &mut Page) -> Result<(), CopyError> {
    let answer = str::from_utf8(answer).unwrap_or("-");
    let (name, version) = (Box::from(entry.name()), entry.version());
    let pushed = |replaced| Pushed { name: Box::from(entry.name()), version, replaced };
    if let Some(old) = answer.strip_prefix('+') {
        page.pushed.push(pushed(read_version(old).unwrap_or_default()));
    } else if answer == "=" {
        page.pushed.push(pushed(version));
    } else if answer == "?" {
        page.gone.push(name);
    } else if let Some(text) = answer.strip_prefix('-') {
        match Entry::read(&name, text) {
            Ok(found) => page.found.push(found),
            Err(why) => {
                log::warn!("{name} of the shared registry is left alone: {why}");
                page.pushed.push(pushed(version));
            }
        }
    } else {
        return Err(CopyError::Answer);
    }
    Ok(())
}

fn read(texts: &[Vec<u8>], behind: u64, most: usize) -> Option<Changes> {
    let text = |bytes: &[u8]| str::from_utf8(bytes).ok().map(str::to_owned);
    let number = |bytes: &[u8]| str::from_utf8(bytes).ok()?.parse::<u64>().ok();
    let [epoch, run, sequence, floor, rest @ ..] = texts else { return None };
    let (mut entries, mut unread, mut told) = (Vec::new(), Vec::new(), behind);
    for change in rest.chunks(3) {
        let [at, name, value] = change else { return None };
        told = told.max(number(at)?);
        let (name, value) = (String::from_utf8_lossy(name), String::from_utf8_lossy(value));
        match Entry::read(&name, &value) {
            Ok(entry) => entries.push(entry),
            Err(why) => unread.push((name.into_owned(), why)),
        }
    }
    if let Some((name, why)) = unread.first() {
        let count = unread.len();
        log::warn!("{count} entries of the shared registry are left alone, first {name:?}: {why}");
    }
    let (sequence, has_more) = (number(sequence)?, rest.len() / 3 >= most);
    Some(Changes {
        epoch: text(epoch)?,
        run: text(run)?,
        sequence,
        floor: number(floor)?,
        entries,
        told: if has_more { told } else { told.max(sequence) },
        has_more,
    })
}

fn texts(answer: Value) -> Result<Vec<Vec<u8>>, CopyError> {
    redis::from_redis_value(answer).map_err(|_| CopyError::Answer)
}
