//! An upstream's places: how many requests it may have at a time, and the line of those that
//! wait for one.
//!
//! How many places are used and how many requests wait is one atomic word. While nobody waits,
//! to take a place and to give it back is one swap of that word. A request joins the line by a
//! swap of the same word, which fails if a place came free meanwhile, as giving back fails if
//! somebody joined meanwhile; so nobody is left waiting beside a free place.
//!
//! While somebody waits, no place comes free at all: whoever has done with one hands it to the
//! first in line, and exactly that one is woken. Since a place is a guard that gives itself
//! back when dropped, also out of a channel nobody reads any more, it is never lost with a
//! client that goes away in that moment.

use crate::config;
use crate::metrics::ConcurrencyMetrics;
use crate::policy::line::{Joining, Line, Ticket};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::sync::oneshot;

/// The places of one upstream and the line in front of them, both bounded by its
/// configuration.
pub struct Places {
    max: u32,
    queue: u32,
    queue_timeout: Duration,
    count: Count,
    /// Who waits, each with the channel its place comes through. A channel that closes without
    /// one tells the waiter that it was displaced. Channels are used only after unlocking: what
    /// happens then may come back here.
    line: Mutex<Line<oneshot::Sender<Place>>>,
    metrics: ConcurrencyMetrics,
}

/// Why there was no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoPlace {
    /// All places are used, and the line is full of requests of this rank and above.
    #[error("the waiting line is full")]
    Full,
    /// A request of a higher rank took the place in the line.
    #[error("a request of a higher tier took the place in the waiting line")]
    Displaced,
    /// The wait was too long.
    #[error("no place came free in time")]
    TimedOut,
}

/// One request's place. Dropping it hands it to the first in line.
#[must_use = "a place that is dropped is given back at once"]
pub struct Place {
    /// `None` only while it is being handed on.
    places: Option<Arc<Places>>,
}

impl Places {
    /// Places as configured, all of them free.
    pub fn new(config: &config::Concurrency, metrics: ConcurrencyMetrics) -> Arc<Places> {
        Arc::new(Places {
            max: config.max,
            queue: config.queue,
            queue_timeout: config.queue_timeout,
            count: Count::default(),
            line: Mutex::new(Line::new(config.queue as usize)),
            metrics,
        })
    }

    /// Takes a place if one is free, by one swap of one word. It never overtakes a request that
    /// waits: then none is free.
    pub fn try_take(self: &Arc<Self>) -> Option<Place> {
        self.count.take(self.max).then(|| self.taken())
    }

    /// Takes a place, if need be after a wait of at most `limit` and of the configured
    /// `queue_timeout`; higher ranks are served first. A future that is dropped leaves the
    /// line, and what it was given in that moment goes to the next.
    ///
    /// # Errors
    /// When the line has no room for this rank, a higher rank took the room, or the wait was
    /// too long. A `limit` of zero waits for nothing and displaces nobody.
    pub async fn take(self: &Arc<Self>, rank: u16, limit: Duration) -> Result<Place, NoPlace> {
        if let Some(place) = self.try_take() {
            return Ok(place);
        }
        if self.queue == 0 {
            return Err(NoPlace::Full);
        }
        let limit = limit.min(self.queue_timeout);
        if limit.is_zero() {
            return Err(NoPlace::TimedOut);
        }
        match self.arrive(rank)? {
            Arrival::Taken(place) => Ok(place),
            Arrival::Waits(wait) => {
                tokio::time::timeout(limit, wait).await.unwrap_or(Err(NoPlace::TimedOut))
            }
        }
    }

    /// Requests that have a place.
    pub fn used(&self) -> u32 {
        self.count.load().used
    }

    /// Requests that wait for one.
    pub fn waiting(&self) -> u32 {
        self.count.load().waiting
    }

    /// The most requests that have a place at a time.
    pub fn max(&self) -> u32 {
        self.max
    }

    /// The most requests that wait at a time.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// A place after all, or one in the line.
    fn arrive(self: &Arc<Self>, rank: u16) -> Result<Arrival<'_>, NoPlace> {
        let (sender, turn) = oneshot::channel();
        let mut line = self.line();
        if self.count.take_or_wait(self.max) {
            return Ok(Arrival::Taken(self.taken()));
        }
        let joining = line.join(rank, sender);
        match &joining {
            Joining::Waits(_) => self.metrics.waiting.inc(),
            // As many wait as before.
            Joining::Displaces(..) | Joining::Refused(_) => self.count.stop_waiting(),
        }
        drop(line);
        match joining {
            Joining::Waits(ticket) | Joining::Displaces(ticket, _) => {
                Ok(Arrival::Waits(Wait { places: self, ticket, turn }))
            }
            Joining::Refused(_) => Err(NoPlace::Full),
        }
    }

    /// The first in line, which waits no more.
    fn serve_next(&self) -> Option<oneshot::Sender<Place>> {
        let mut line = self.line();
        let next = line.serve_next()?;
        self.stop_waiting();
        Some(next)
    }

    fn leave(&self, ticket: Ticket) {
        let mut line = self.line();
        if line.leave(ticket).is_some() {
            self.stop_waiting();
        }
    }

    /// Only under the lock, so that the count and the line's length agree for whoever has it.
    fn stop_waiting(&self) {
        self.count.stop_waiting();
        self.metrics.waiting.dec();
    }

    /// Gives a place back or to the first in line. If that one has gone the place is still to
    /// be passed on, which the caller does in a loop: as many may have gone as the line holds.
    fn pass_on(self: Arc<Self>) -> Option<Arc<Self>> {
        if self.count.give_back() {
            self.metrics.used.dec();
            return None;
        }
        let Some(next) = self.serve_next() else { return Some(self) };
        let mut unread = next.send(Place { places: Some(self) }).err()?;
        unread.places.take()
    }

    fn taken(self: &Arc<Self>) -> Place {
        self.metrics.used.inc();
        Place { places: Some(self.clone()) }
    }

    /// Nothing panics under the lock that could leave the line half changed.
    fn line(&self) -> MutexGuard<'_, Line<oneshot::Sender<Place>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.take();
        while let Some(places) = held {
            held = places.pass_on();
        }
    }
}

/// What a request found that saw no free place at first.
enum Arrival<'a> {
    Taken(Place),
    Waits(Wait<'a>),
}

/// A request in the line.
struct Wait<'a> {
    places: &'a Places,
    ticket: Ticket,
    turn: oneshot::Receiver<Place>,
}

impl Future for Wait<'_> {
    type Output = Result<Place, NoPlace>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let turn = Pin::new(&mut self.turn).poll(context);
        turn.map(|place| place.map_err(|_closed| NoPlace::Displaced))
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        // Who was served or displaced has left the line already.
        if !self.turn.is_terminated() {
            self.places.leave(self.ticket);
        }
    }
}

/// How many requests have a place and how many wait, in one word: the former in its upper
/// half. Neither half runs over: the configuration bounds both far below 2³².
///
/// Whenever somebody waits, all places are used; so a free place is nobody's yet.
#[derive(Default)]
struct Count(AtomicU64);

const ONE_USED: u64 = 1 << 32;
const ONE_WAITING: u64 = 1;

#[derive(Clone, Copy)]
struct Counted {
    used: u32,
    waiting: u32,
}

impl Counted {
    fn of(word: u64) -> Counted {
        Counted { used: (word >> 32) as u32, waiting: word as u32 }
    }

    fn is_free(self, max: u32) -> bool {
        self.used < max
    }
}

impl Count {
    fn load(&self) -> Counted {
        Counted::of(self.0.load(Ordering::Acquire))
    }

    /// One more has a place, unless none is free.
    fn take(&self, max: u32) -> bool {
        self.change(|word| Counted::of(word).is_free(max).then(|| word + ONE_USED)).is_ok()
    }

    /// One more has a place, or waits if none is free; whether it has one. To wait, the line
    /// must be locked.
    fn take_or_wait(&self, max: u32) -> bool {
        let one_more = |word| {
            let is_free = Counted::of(word).is_free(max);
            Some(word + if is_free { ONE_USED } else { ONE_WAITING })
        };
        let (Ok(before) | Err(before)) = self.change(one_more);
        Counted::of(before).is_free(max)
    }

    /// One fewer has a place, unless somebody waits for it.
    fn give_back(&self) -> bool {
        self.change(|word| (Counted::of(word).waiting == 0).then(|| word - ONE_USED)).is_ok()
    }

    /// One fewer waits. The line must be locked.
    fn stop_waiting(&self) {
        self.0.fetch_sub(ONE_WAITING, Ordering::AcqRel);
    }

    /// The word before the change, also when there is none.
    fn change(&self, change: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, change)
    }
}

#[cfg(test)]
mod tests;
