//! The registry as all gateways of a fleet have it.
//!
//! Each gateway keeps all of it in its own file and asks Redis for nothing on a request's path.
//! Redis has a copy with a log of what changed. A gateway puts its own changes there at once and
//! reads what others put; of two writes to one entry the later stands (`policy/version.rs`), so
//! the order in which they come does not matter, and putting or reading again does no harm. That
//! is what every fault comes down to: after a partition, what waits is put; where the copy is
//! another one than before, or its server is, all is put again and read from the beginning.
//!
//! A message on the channel `registry` says that there is something to read. Messages can be
//! lost, so the copy is asked twice a second anyway.

mod copy;

use super::Link;
use crate::registry::{Condition, Mark, Page, Progress, Registry, RegistryError};
use copy::{Changes, CopyError, SharedCopy, Unknown};
use std::time::Duration;
use thiserror::Error;
use tokio::time::sleep;

/// How often the copy is asked whether it has changed.
const POLL: Duration = Duration::from_millis(500);
/// Entries that are put at once, and read at once. Redis does nothing else meanwhile, for half a
/// millisecond or so, and requests of all gateways wait for it.
const PUT_AT_ONCE: usize = 100;
const READ_AT_ONCE: usize = 250;
/// Pages before the others are looked after again: connection, messages, a successor.
const MAX_PAGES: usize = 1_000;
/// The channel on which gateways say that they changed something.
const CHANNEL: &str = "registry";

/// Why a round ended early.
#[derive(Debug, Clone, Error)]
enum RoundError {
    #[error("{0}")]
    Copy(#[from] CopyError),
    #[error("{0}")]
    Registry(#[from] RegistryError),
}

/// Shares `registry` with all who use the same Redis, for as long as this runs. While a successor
/// has the registry's file, that one does it.
pub async fn attend(link: &Link, registry: &Registry) {
    let mut sharer =
        Sharer { copy: SharedCopy::new(link.clone()), link, registry, place: None, is_well: true };
    let mut hints = link.subscribe(CHANNEL);
    let mut changes = link.changes();
    let mut unshared = registry.unshared_changes();
    let mut told = None;
    loop {
        let failed = sharer.visit().await;
        let why = failed.as_ref().map(ToString::to_string);
        if told != why {
            match &why {
                Some(why) => log::warn!("the registry cannot be shared at the moment: {why}"),
                None => log::info!("the registry is shared"),
            }
            told = why;
        }
        if failed.is_some() {
            sleep(POLL).await;
            continue;
        }
        tokio::select! {
            () = sleep(POLL) => {}
            () = unshared.next() => {}
            Some(_) = hints.recv() => while hints.try_recv().is_ok() {},
            _ = changes.changed() => {}
        }
    }
}

/// Where a gateway is with a copy.
#[derive(Debug)]
struct Place {
    mark: Mark,
    /// Entries from before the first sharing are let in, from behind this one on.
    adopting: Option<String>,
    /// Everything is being put there again.
    again: Option<Again>,
    /// Whether all of it was read once.
    is_current: bool,
}

/// How far that has come.
#[derive(Debug)]
struct Again {
    /// The last entry's name.
    after: Option<String>,
    unknown: Unknown,
}

struct Sharer<'a> {
    copy: SharedCopy,
    link: &'a Link,
    registry: &'a Registry,
    /// None until the registry has told it.
    place: Option<Place>,
    /// Whether the last round came to its end.
    is_well: bool,
}

impl Sharer<'_> {
    /// Does what there is to do; why not, where that is worth to be said.
    async fn visit(&mut self) -> Option<RoundError> {
        let is_away = self.registry.condition() == Condition::HandedOver;
        if is_away || !self.link.is_up() {
            self.registry.set_prompt(false);
            self.place = self.place.take().filter(|_| !is_away);
            return None;
        }
        self.registry.set_prompt(self.is_well);
        let done = self.round().await;
        self.is_well = done.is_ok();
        self.registry.set_prompt(self.is_well);
        match done {
            Ok(()) => None,
            Err(error) => {
                let is_expected = matches!(
                    error,
                    RoundError::Registry(RegistryError::HandedOver | RegistryError::Busy)
                );
                (!is_expected).then_some(error)
            }
        }
    }

    async fn round(&mut self) -> Result<(), RoundError> {
        let mut place = match self.place.take() {
            Some(place) => place,
            None => self.first_place().await?,
        };
        let done = self.work(&mut place).await;
        self.place = Some(place);
        done
    }

    /// Where the registry was when it was last shared, by whatever process.
    async fn first_place(&self) -> Result<Place, RoundError> {
        let Progress { mark, is_adopted } = self.registry.progress().await?;
        let adopting = (!is_adopted).then(String::new);
        let is_current = !mark.origin.is_empty();
        Ok(Place { mark, adopting, again: None, is_current })
    }

    async fn work(&self, place: &mut Place) -> Result<(), RoundError> {
        for _ in 0..MAX_PAGES {
            let mut is_done = !self.push().await?;
            is_done &= !self.adopt(place).await?;
            is_done &= !self.put_again(place).await?;
            is_done &= !self.read(place).await?;
            if is_done {
                break;
            }
        }
        Ok(())
    }

    /// Puts what was written here last; whether there is more.
    async fn push(&self) -> Result<bool, RoundError> {
        if self.registry.unshared_count() == 0 {
            return Ok(false);
        }
        let entries = self.registry.unshared(PUT_AT_ONCE).await?;
        if entries.is_empty() {
            return Ok(false);
        }
        let page = self.copy.put(&entries, Unknown::Put).await?;
        let has_news = page.pushed.iter().any(|pushed| pushed.replaced != pushed.version);
        self.registry.merge(page).await?;
        if has_news {
            self.hint().await;
        }
        Ok(entries.len() >= PUT_AT_ONCE)
    }

    /// Lets entries from before the first sharing wait to be shared; whether there are more.
    async fn adopt(&self, place: &mut Place) -> Result<bool, RoundError> {
        let Some(after) = place.adopting.clone() else { return Ok(false) };
        place.adopting = self.registry.adopt(after).await?;
        Ok(true)
    }

    /// Puts the next of all entries where that is needed; whether there is more.
    async fn put_again(&self, place: &mut Place) -> Result<bool, RoundError> {
        let Some(again) = &mut place.again else { return Ok(false) };
        let entries = self.registry.entries(again.after.as_deref(), PUT_AT_ONCE).await?;
        if !entries.is_empty() {
            let mut page = self.copy.put(&entries, again.unknown).await?;
            let has_news = page.pushed.iter().any(|pushed| pushed.replaced != pushed.version);
            // What was shared before and still stands is nothing to write down.
            page.pushed.retain(|pushed| {
                pushed.replaced != pushed.version && pushed.replaced != Default::default()
            });
            if !(page.pushed.is_empty() && page.found.is_empty() && page.gone.is_empty()) {
                self.registry.merge(page).await?;
            }
            if has_news {
                self.hint().await;
            }
        }
        again.after = entries.last().map(|entry| entry.name().to_owned());
        if entries.len() < PUT_AT_ONCE {
            place.again = None;
        }
        Ok(true)
    }

    /// Reads what others put; whether there is more.
    async fn read(&self, place: &mut Place) -> Result<bool, RoundError> {
        let changes = self.copy.changes(place.mark.sequence, READ_AT_ONCE).await?;
        if place.must_begin_anew(&changes) {
            return Ok(true);
        }
        let Changes { entries, told, has_more, .. } = changes;
        let mark = Mark { origin: place.mark.origin.clone(), sequence: told };
        // A process that ends before all is put and read begins anew with that.
        let is_complete = place.again.is_none() && !has_more;
        let kept = is_complete.then(|| mark.clone());
        self.registry.merge(Page { found: entries, mark: kept, ..Page::default() }).await?;
        place.mark = mark;
        place.is_current |= is_complete;
        Ok(has_more)
    }

    async fn hint(&self) {
        // Who misses it reads half a second later.
        if let Err(error) = self.link.publish(CHANNEL, b"").await {
            log::debug!("others are not told of a change: {error}");
        }
    }
}

impl Place {
    /// Whether this is another copy than before, or one that may have lost something, or this
    /// gateway was away for so long that what was removed meanwhile is not told any more. Then
    /// all is put and read again.
    fn must_begin_anew(&mut self, changes: &Changes) -> bool {
        let Changes { epoch, run, sequence, floor, .. } = changes;
        let origin = format!("{epoch} {run}");
        let is_other = *origin != *self.mark.origin || *sequence < self.mark.sequence;
        let was_away = self.is_current && self.mark.sequence < *floor;
        if !is_other && !was_away {
            return false;
        }
        let is_same_copy = self.mark.origin.split(' ').next() == Some(epoch);
        let unknown = match was_away && is_same_copy {
            true => Unknown::Left,
            false => Unknown::Put,
        };
        if !self.mark.origin.is_empty() {
            log::info!(
                "the shared registry is {}; all of it is compared",
                if unknown == Unknown::Left { "long unseen" } else { "another one than before" }
            );
        }
        self.mark = Mark { origin: origin.into(), sequence: 0 };
        self.again = Some(Again { after: None, unknown });
        self.is_current = false;
        true
    }
}
