//! What the reloader is doing, for whoever tells the service manager.
//!
//! A [`Progress`] is the latest state and no queue: whoever looks late sees where things stand
//! now. `begun` tells that a reload began and ended in between; a service manager that was
//! told RELOADING and READY in pairs can then still be told both.

use std::sync::Arc;
use tokio::sync::watch;

/// How far the reloader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Reloads begun so far, rollbacks among them.
    pub begun: u64,
    /// What the last one is doing or came to.
    pub phase: Phase,
}

/// What a reload is doing or came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Nothing was reloaded yet; the first generation serves.
    Started,
    /// One is under way; the old configuration serves.
    Reloading,
    /// It was taken.
    Taken {
        /// The generation that serves now.
        generation: u64,
        /// How many things changed.
        changes: usize,
    },
    /// It was rejected.
    Rejected {
        /// The generation that serves on.
        generation: u64,
        /// Why, in one line.
        why: Arc<str>,
    },
    /// One that had been taken was taken back.
    RolledBack {
        /// The generation that serves now.
        generation: u64,
        /// The one that was taken back.
        from: u64,
        /// Why, in one line.
        why: Arc<str>,
    },
}

/// Tells all who look.
pub(super) struct Teller(watch::Sender<Progress>);

impl Teller {
    pub(super) fn new() -> Teller {
        Teller(watch::Sender::new(Progress { begun: 0, phase: Phase::Started }))
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }

    pub(super) fn begin(&self) {
        self.0.send_modify(|progress| {
            progress.begun += 1;
            progress.phase = Phase::Reloading;
        });
    }

    pub(super) fn end(&self, phase: Phase) {
        self.0.send_modify(|progress| progress.phase = phase);
    }
}
