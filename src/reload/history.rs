//! The configurations that served: what they changed, why they came, and what is needed to go
//! back to them.

use crate::config::Config;
use crate::metrics::ReloadResult;
use jiff::Timestamp;
use std::collections::VecDeque;
use std::sync::Arc;

/// Generations that are kept.
pub const KEPT: usize = 10;
/// Bytes of text that are kept of them, the latest excepted. A file may have 16 MiB.
const MAX_TEXT_BYTES: usize = 32 << 20;

/// What a configuration is made from again.
///
/// The file's text and not what was made of it: checked, 10 000 routes take some 6 MB, as text
/// less than 1 MB. Variables are expanded anew, and the environment of a process stays.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// The file's text.
    Text(Arc<str>),
    /// The configuration of the start, whose text is not known.
    Checked(Arc<Config>),
}

impl Source {
    fn text_bytes(&self) -> usize {
        match self {
            Source::Text(text) => text.len(),
            Source::Checked(_) => 0,
        }
    }
}

/// A configuration that can be gone back to.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) generation: u64,
    pub(super) source: Source,
}

/// Why a generation came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The process started.
    Start,
    /// HUP, `POST /reload` or `tollgate reload`.
    Reload,
    /// The file changed.
    WatchFile,
    /// A route failed too much after the reload before.
    Rollback {
        /// The generation whose configuration serves again.
        to: u64,
    },
    /// An operator went back.
    Restored {
        /// The generation whose configuration serves again.
        to: u64,
    },
}

impl Cause {
    /// Its name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::Reload => "reload",
            Cause::WatchFile => "watch_file",
            Cause::Rollback { .. } => "rollback",
            Cause::Restored { .. } => "restored",
        }
    }

    /// The generation whose configuration serves again; none where a file was read.
    pub const fn goes_back_to(self) -> Option<u64> {
        match self {
            Cause::Start | Cause::Reload | Cause::WatchFile => None,
            Cause::Rollback { to } | Cause::Restored { to } => Some(to),
        }
    }
}

/// A generation that serves or served.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its number.
    pub generation: u64,
    /// When it began to serve.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// What it changed, by key; at most 1 001 lines.
    pub changed: Arc<[String]>,
    /// Why it was taken back; none: it was not.
    pub rolled_back: Option<Arc<str>>,
    pub(super) source: Option<Source>,
}

impl Entry {
    /// Whether it can be gone back to: its text is still kept.
    pub fn is_kept(&self) -> bool {
        self.source.is_some()
    }
}

/// A reload that was rejected.
#[derive(Debug, Clone)]
pub struct Rejection {
    /// When.
    pub at: Timestamp,
    /// What asked for it.
    pub cause: Cause,
    /// Why, in one line.
    pub why: Arc<str>,
}

/// The last [`KEPT`] generations, and the last rejection.
#[derive(Debug)]
pub(super) struct History {
    /// The oldest first; never empty.
    entries: VecDeque<Entry>,
    rejection: Option<Rejection>,
    last: Option<(Timestamp, ReloadResult)>,
}

impl History {
    pub(super) fn starting(first: Entry) -> History {
        History { entries: [first].into(), rejection: None, last: None }
    }

    /// Takes up a generation that serves now.
    pub(super) fn push(&mut self, entry: Entry) {
        let result = match entry.cause {
            Cause::Rollback { .. } => ReloadResult::RolledBack,
            _ => ReloadResult::Ok,
        };
        self.last = Some((entry.at, result));
        self.entries.push_back(entry);
        if self.entries.len() > KEPT {
            self.entries.pop_front();
        }
        let mut bytes = 0;
        for (age, entry) in self.entries.iter_mut().rev().enumerate() {
            bytes += entry.source.as_ref().map_or(0, Source::text_bytes);
            if age > 0 && bytes > MAX_TEXT_BYTES {
                entry.source = None;
            }
        }
    }

    pub(super) fn reject(&mut self, rejection: Rejection) {
        self.last = Some((rejection.at, ReloadResult::Rejected));
        self.rejection = Some(rejection);
    }

    /// Notes why a generation was taken back.
    pub(super) fn mark_rolled_back(&mut self, generation: u64, why: &Arc<str>) {
        let mut entries = self.entries.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.generation == generation) {
            entry.rolled_back = Some(why.clone());
        }
    }

    /// What a generation is made from again, if that is still kept.
    pub(super) fn find(&self, generation: u64) -> Option<Kept> {
        let entry = self.entries.iter().find(|entry| entry.generation == generation)?;
        let source = entry.source.clone()?;
        Some(Kept { generation, source })
    }

    /// The numbers of those that can be gone back to.
    pub(super) fn kept(&self) -> Vec<u64> {
        self.entries.iter().filter(|e| e.is_kept()).map(|e| e.generation).collect()
    }

    /// All of them, the newest first.
    pub(super) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().rev().cloned().collect()
    }

    pub(super) fn last_rejection(&self) -> Option<Rejection> {
        self.rejection.clone()
    }

    pub(super) fn last(&self) -> Option<(Timestamp, ReloadResult)> {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(generation: u64, bytes: usize) -> Entry {
        Entry {
            generation,
            at: Timestamp::UNIX_EPOCH,
            cause: Cause::Reload,
            changed: [].into(),
            rolled_back: None,
            source: Some(Source::Text("x".repeat(bytes).into())),
        }
    }

    #[test]
    fn the_last_ten_are_kept() {
        let mut history = History::starting(entry(1, 1));
        for generation in 2..=15 {
            history.push(entry(generation, 1));
        }
        assert_eq!(history.kept(), (6..=15).collect::<Vec<_>>());
        let listed: Vec<u64> = history.entries().iter().map(|entry| entry.generation).collect();
        assert_eq!(listed, (6..=15).rev().collect::<Vec<_>>(), "the newest first");
        assert!(history.find(5).is_none() && history.find(6).is_some());
    }

    #[test]
    fn large_files_are_kept_for_as_long_as_there_is_room() {
        let mut history = History::starting(entry(1, 0));
        for generation in 2..=5 {
            history.push(entry(generation, 15 << 20));
        }
        assert_eq!(history.kept(), [4, 5]);
        assert_eq!(history.entries().len(), 5, "they are listed all the same");
    }

    #[test]
    fn the_last_outcome_is_the_last_of_any_kind() {
        let mut history = History::starting(entry(1, 0));
        assert!(history.last().is_none());
        history.push(entry(2, 0));
        assert_eq!(history.last().map(|last| last.1), Some(ReloadResult::Ok));
        let at = Timestamp::UNIX_EPOCH;
        history.reject(Rejection { at, cause: Cause::Reload, why: "no".into() });
        assert_eq!(history.last().map(|last| last.1), Some(ReloadResult::Rejected));
        history.mark_rolled_back(2, &"it failed".into());
        history.push(Entry { cause: Cause::Rollback { to: 1 }, ..entry(3, 0) });
        assert_eq!(history.last().map(|last| last.1), Some(ReloadResult::RolledBack));
        assert_eq!(history.entries()[1].rolled_back.as_deref(), Some("it failed"));
        assert_eq!(history.last_rejection().map(|r| r.why.to_string()), Some("no".into()));
    }
}
