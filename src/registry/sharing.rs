//! The registry's side of sharing it with other gateways: what waits, and what came.

use super::condition::RegistryError;
use super::entry::Entry;
use super::file::Reading;
use super::keeper::{Keeper, Letter};
use super::ledger::Ledger;
use super::merge::{self, Outcome, Page};
use super::outgoing::Progress;
use super::shares::Waiting;
use super::{Registry, stopped};
use crate::clock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

/// How long the answer to a change waits until the change is shared.
const PATIENCE: Duration = Duration::from_millis(250);
/// Conflicts of one page that are logged one by one.
const MAX_LOGGED: usize = 20;
/// Entries that get their first version in one transaction.
const ADOPT_AT_ONCE: usize = 500;

/// What all sides see of the sharing.
#[derive(Debug)]
pub(super) struct Sharing {
    waiting: watch::Sender<Waiting>,
    /// Whether what is written now will be shared at once.
    is_prompt: AtomicBool,
}

impl Default for Sharing {
    fn default() -> Sharing {
        Sharing {
            waiting: watch::Sender::new(Waiting::default()),
            is_prompt: AtomicBool::new(false),
        }
    }
}

impl Sharing {
    /// Tells what waits now.
    pub(super) fn set(&self, waiting: Waiting) {
        self.waiting.send_if_modified(|old| {
            let is_new = *old != waiting;
            *old = waiting;
            is_new
        });
    }

    /// Waits a short while until a change with this counter is shared.
    pub(super) async fn shared(&self, counter: u64) {
        if counter > 0 && self.is_prompt.load(Ordering::Acquire) {
            let mut waiting = self.waiting.subscribe();
            // A change that is shared later is none the worse.
            let _ = timeout(PATIENCE, waiting.wait_for(|waiting| waiting.latest < counter)).await;
        }
    }
}

/// What shares the registry asks of it.
impl Registry {
    /// Entries that wait to be shared.
    pub fn unshared_count(&self) -> u64 {
        self.sharing.waiting.borrow().entries
    }

    /// Follows how many wait.
    pub fn unshared_changes(&self) -> UnsharedChanges {
        UnsharedChanges(self.sharing.waiting.subscribe())
    }

    /// Says whether changes are shared at once, so that it is worth to wait for that before
    /// they are answered.
    pub fn set_prompt(&self, is_prompt: bool) {
        self.sharing.is_prompt.store(is_prompt, Ordering::Release);
    }

    /// The latest entries that wait to be shared: about `most`, those of one change together.
    ///
    /// # Errors
    /// Why they cannot be read now.
    pub async fn unshared(&self, most: usize) -> Result<Vec<Entry>, RegistryError> {
        self.read(move |reading| reading.unshared(most)).await
    }

    /// At most `most` of all entries behind `after`, in the order of their names, those that
    /// were removed too.
    ///
    /// # Errors
    /// Why they cannot be read now.
    pub async fn entries(
        &self,
        after: Option<&str>,
        most: usize,
    ) -> Result<Vec<Entry>, RegistryError> {
        let after = after.map(str::to_owned);
        self.read(move |reading| reading.entries(after.as_deref(), most)).await
    }

    /// How far the sharing has come.
    ///
    /// # Errors
    /// Why that cannot be read now.
    pub async fn progress(&self) -> Result<Progress, RegistryError> {
        self.read(Reading::progress).await
    }

    /// Takes over what was learnt from the shared copy. It is on disk, and every request from
    /// now on meets it, when this returns.
    ///
    /// # Errors
    /// Why it was not taken over; none of it was.
    pub async fn merge(&self, page: Page) -> Result<(), RegistryError> {
        let (answer, made) = oneshot::channel();
        self.post(Letter::Merge(page, answer))?;
        made.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Gives some entries from before the first sharing a version, those behind `after`; where
    /// to go on.
    ///
    /// # Errors
    /// Why that was not done.
    pub async fn adopt(&self, after: String) -> Result<Option<String>, RegistryError> {
        let (answer, made) = oneshot::channel();
        self.post(Letter::Adopt(after, answer))?;
        made.await.unwrap_or_else(|_| Err(stopped()))
    }
}

/// Tells when something new waits to be shared.
pub struct UnsharedChanges(watch::Receiver<Waiting>);

impl UnsharedChanges {
    /// Waits until what waits has changed and is not nothing; for ever once the registry ends.
    pub async fn next(&mut self) {
        loop {
            if self.0.changed().await.is_err() {
                return std::future::pending().await;
            }
            if self.0.borrow_and_update().entries > 0 {
                return;
            }
        }
    }
}

/// What the thread does of it.
impl Keeper {
    pub(super) fn merge(&mut self, mut page: Page) -> Result<(), RegistryError> {
        let sifted = self.read()?.sift(&mut page);
        if sifted.map_err(|error| RegistryError::Failing(error.to_string()))? {
            return Ok(());
        }
        let now_ms = clock::unix_ms();
        let outcome = self.transact(|tables, bounds, effects| {
            merge::merge(&page, Ledger { tables, bounds, effects }, now_ms)
        })?;
        tell(&outcome);
        Ok(())
    }

    pub(super) fn adopt(&mut self, after: &str) -> Result<Option<String>, RegistryError> {
        self.transact(|tables, bounds, effects| {
            Ledger { tables, bounds, effects }.adopt(after, ADOPT_AT_ONCE)
        })
    }
}

fn tell(outcome: &Outcome) {
    for conflict in outcome.conflicts.iter().take(MAX_LOGGED) {
        log::warn!("registry conflict: {conflict}");
    }
    let more = outcome.conflicts.len().saturating_sub(MAX_LOGGED);
    if more > 0 {
        log::warn!("{more} more registry conflicts of the same moment; the later one stands each");
    }
    if let Some((name, why)) = outcome.refused.first() {
        log::error!(
            "{} entries of other gateways do not fit and are unknown here until there is room \
             and this gateway starts anew, the first of them {name}: {why}",
            outcome.refused.len()
        );
    }
}
