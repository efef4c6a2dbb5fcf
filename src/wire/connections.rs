//! How many client connections are open, and whose they are.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts of the table of peers, each with a lock of its own. It is taken twice a connection.
const PARTS: usize = 16;
/// A part that was larger than this gives memory back when it is mostly empty.
const KEPT_CAPACITY: usize = 64;

/// The open connections: exact counts, in all and by peer. Its size is bounded by the number
/// of connections.
#[derive(Debug, Default)]
pub struct Connections {
    open: AtomicUsize,
    by_peer: [Mutex<HashMap<IpAddr, u32>>; PARTS],
    /// Keyed at random, so that nobody can choose addresses for one part.
    hasher: RandomState,
}

/// Who opens a connection, and how many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Connections in all.
    pub max: u32,
    /// The address, or the part of it, that the connection counts for.
    pub holder: Option<IpAddr>,
    /// Connections of that one.
    pub max_of_holder: Option<u32>,
}

/// Why there is no room for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crowd {
    /// There are `server.max_connections`.
    All,
    /// The peer has `server.max_connections_per_ip`.
    Peer,
}

impl Connections {
    /// How many connections are open; those that are being turned away do not count.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Counts a connection until what this returns is dropped.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn enter(self: &Arc<Connections>, quota: &Quota) -> Result<Seat, Crowd> {
        let max = quota.max as usize;
        let take = |open| (open < max).then_some(open + 1);
        if self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            return Err(Crowd::All);
        }
        let mut seat = Seat { connections: self.clone(), holder: None };
        let Some(holder) = quota.holder else { return Ok(seat) };
        let mut part = self.part(holder);
        let count = part.entry(holder).or_insert(0);
        if quota.max_of_holder.is_some_and(|max| *count >= max) {
            // A count of zero is above every bound, so the entry was there before.
            return Err(Crowd::Peer);
        }
        *count += 1;
        seat.holder = Some(holder);
        Ok(seat)
    }

    fn part(&self, holder: IpAddr) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        let index = self.hasher.hash_one(holder) as usize % PARTS;
        self.by_peer[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leave(&self, holder: IpAddr) {
        let mut part = self.part(holder);
        if let Some(count) = part.get_mut(&holder) {
            *count -= 1;
            if *count == 0 {
                part.remove(&holder);
            }
        }
        if part.capacity() > KEPT_CAPACITY && part.len() < part.capacity() / 8 {
            part.shrink_to(KEPT_CAPACITY);
        }
    }
}

/// An open connection's place in the counts.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    holder: Option<IpAddr>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(holder) = self.holder {
            self.connections.leave(holder);
        }
        self.connections.open.fetch_sub(1, Ordering::AcqRel);
    }
}
