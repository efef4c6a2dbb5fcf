//! How many requests each client has in flight, for the caps that tiers set.
//!
//! The count is exact. `pingora-limits` has `Inflight` for this, a count-min sketch of four
//! rows of 8 192 counters. It never counts a client too low, but one that shares a counter in
//! every row with others it counts too high: with 5 000 clients in flight that is 4 in 100,
//! with 10 000 one in four, and each of them could be refused below its cap. A table that
//! forgets a client with its last request is no larger than the requests in flight, which are
//! bounded already.

use crate::store::key::{AsItIs, Digest};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Parts of the table, each with a lock of its own. Threads are few; so many parts make it
/// rare that two of them meet.
const SHARDS: usize = 64;

/// Clients that a shard keeps room for when they have gone.
const KEPT_ROOM: usize = 64;

/// The requests that every client has in flight. To enter and to leave cost a lock that is
/// rarely contended and one look into a hash map each.
pub struct ClientPlaces {
    shards: [Shard; SHARDS],
}

/// One request of a client in flight. Dropping it gives the client's place back.
#[must_use = "a place that is dropped is given back at once"]
pub struct ClientPlace {
    places: Arc<ClientPlaces>,
    client: Digest,
}

impl ClientPlaces {
    /// No client has a request in flight.
    pub fn new() -> Arc<ClientPlaces> {
        Arc::new(ClientPlaces { shards: std::array::from_fn(|_| Shard::default()) })
    }

    /// One more request of `client`, unless it has `max` in flight already. The cap is the
    /// caller's: when it shrinks, the client is refused until enough of its requests ended.
    pub fn enter(self: &Arc<Self>, client: Digest, max: u32) -> Option<ClientPlace> {
        let entered = self.shard(client).enter(client, max);
        entered.then(|| ClientPlace { places: self.clone(), client })
    }

    /// Requests that `client` has in flight under a cap.
    pub fn in_flight(&self, client: Digest) -> u32 {
        self.shard(client).clients.get(&client).copied().unwrap_or(0)
    }

    fn shard(&self, client: Digest) -> MutexGuard<'_, Clients> {
        let number = digest_shard(client, SHARDS);
        // Nothing panics under the lock that could leave a count half changed.
        self.shards[number].0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        self.places.shard(self.client).leave(self.client);
    }
}

/// On a cache line of its own, so that threads in neighbouring shards do not slow each other.
#[derive(Default)]
#[repr(align(64))]
struct Shard(Mutex<Clients>);

#[derive(Default)]
struct Clients {
    /// No count is zero.
    clients: HashMap<Digest, u32, AsItIs>,
    /// The most clients there were since there was room for fewer; bounds the room, which the
    /// map's own `capacity` tells too low when clients have gone.
    most: usize,
}

impl Clients {
    fn enter(&mut self, client: Digest, max: u32) -> bool {
        match self.clients.entry(client) {
            Entry::Occupied(count) if *count.get() >= max => return false,
            Entry::Occupied(mut count) => *count.get_mut() += 1,
            Entry::Vacant(_) if max == 0 => return false,
            Entry::Vacant(count) => _ = count.insert(1),
        }
        self.most = self.most.max(self.clients.len());
        true
    }

    fn leave(&mut self, client: Digest) {
        let Entry::Occupied(mut count) = self.clients.entry(client) else { return };
        if *count.get() > 1 {
            *count.get_mut() -= 1;
            return;
        }
        count.remove();
        self.shrink();
    }

    /// Gives room back after a flood. To halve it at a quarter keeps the work in proportion to
    /// the clients that left.
    fn shrink(&mut self) {
        let left = self.clients.len();
        if self.most > KEPT_ROOM && left <= self.most / 4 {
            self.most = (self.most / 2).max(KEPT_ROOM);
            self.clients.shrink_to(self.most);
        }
    }
}

/// Which of `shards` parts a client is in. Neither the low bits nor the highest choose it: maps
/// use those.
pub(super) fn digest_shard(client: Digest, shards: usize) -> usize {
    (AsItIs::default().hash_one(client) >> 32) as usize % shards
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::key::{KeyHasher, KeyKind};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    fn client(number: u32) -> Digest {
        KeyHasher::with_secret(&[7; 16]).digest(KeyKind::Header, &number.to_le_bytes())
    }

    fn known(places: &ClientPlaces) -> usize {
        places.shards.iter().map(|shard| shard.0.lock().unwrap().clients.len()).sum()
    }

    /// Clients there is room for, asked of empty maps: others do not count the room that
    /// clients left behind.
    fn room(places: &ClientPlaces) -> usize {
        let room = |shard: &Shard| {
            let mut shard = shard.0.lock().unwrap();
            shard.clients.clear();
            shard.clients.capacity()
        };
        places.shards.iter().map(room).sum()
    }

    #[test]
    fn a_client_has_as_many_requests_as_its_cap_and_one_more_when_one_ends() {
        let places = ClientPlaces::new();
        let mut held: Vec<_> = (0..3).map_while(|_| places.enter(client(1), 3)).collect();
        assert_eq!((held.len(), places.in_flight(client(1))), (3, 3));
        assert!(places.enter(client(1), 3).is_none());
        assert!(places.enter(client(2), 3).is_some(), "another client has a cap of its own");
        held.pop();
        assert_eq!(places.in_flight(client(1)), 2);
        assert!(places.enter(client(1), 3).is_some());
    }

    #[test]
    fn a_cap_that_shrank_holds_as_soon_as_enough_requests_ended() {
        let places = ClientPlaces::new();
        let mut held: Vec<_> = (0..5).map_while(|_| places.enter(client(1), 5)).collect();
        assert!(places.enter(client(1), 2).is_none());
        held.truncate(2);
        assert!(places.enter(client(1), 2).is_none());
        held.truncate(1);
        assert!(places.enter(client(1), 2).is_some());
    }

    #[test]
    fn a_cap_of_zero_admits_nothing_and_remembers_nobody() {
        let places = ClientPlaces::new();
        assert!(places.enter(client(1), 0).is_none());
        assert_eq!(known(&places), 0);
    }

    #[test]
    fn no_client_is_refused_for_what_thousands_of_others_do() {
        let places = ClientPlaces::new();
        let held: Vec<_> = (0..20_000).map_while(|n| places.enter(client(n), 1)).collect();
        assert_eq!(held.len(), 20_000);
    }

    #[test]
    fn clients_are_forgotten_with_their_last_request_and_a_flood_leaves_no_room_behind() {
        let places = ClientPlaces::new();
        let held: Vec<_> = (0..200_000).map_while(|n| places.enter(client(n), 1)).collect();
        assert_eq!(known(&places), 200_000);
        drop(held);
        assert_eq!(known(&places), 0);
        assert!(room(&places) <= SHARDS * KEPT_ROOM * 2, "{}", room(&places));
    }

    #[test]
    fn a_flood_of_passers_by_beside_lasting_clients_takes_no_lasting_room() {
        let places = ClientPlaces::new();
        let lasting: Vec<_> = (0..1_000).map_while(|n| places.enter(client(n), 1)).collect();
        for n in 1_000..100_000 {
            assert!(places.enter(client(n), 1).is_some());
        }
        assert_eq!(known(&places), lasting.len());
        assert!(room(&places) <= SHARDS * KEPT_ROOM * 2, "{}", room(&places));
    }

    #[test]
    fn a_panic_gives_the_place_back() {
        let places = ClientPlaces::new();
        let place = places.enter(client(1), 1);
        let request = thread::spawn(move || {
            let _held = place;
            std::panic::resume_unwind(Box::new(()));
        });
        assert!(request.join().is_err());
        assert_eq!(places.in_flight(client(1)), 0);
    }

    #[test]
    fn threads_together_never_exceed_a_cap_and_leave_nothing() {
        const MAX: u32 = 3;
        let places = ClientPlaces::new();
        let inside: [AtomicU32; 4] = Default::default();
        let highest = AtomicU32::new(0);
        let start = Barrier::new(4);
        let enter = |number: u32| {
            let place = places.enter(client(number), MAX)?;
            let now = inside[number as usize].fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(now, Ordering::SeqCst);
            Some((place, number))
        };
        let leave = |(place, number): (ClientPlace, u32)| {
            inside[number as usize].fetch_sub(1, Ordering::SeqCst);
            drop(place);
        };
        let requests = |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut held = Vec::new();
            start.wait();
            for _ in 0..20_000 {
                held.extend(enter(random.u32(..4)));
                if held.len() > random.usize(..5) {
                    leave(held.swap_remove(random.usize(..held.len())));
                }
            }
            held.into_iter().for_each(leave);
        };
        thread::scope(|scope| {
            for seed in 0..4 {
                let requests = &requests;
                scope.spawn(move || requests(seed));
            }
        });
        assert_eq!(highest.into_inner(), MAX);
        assert_eq!(known(&places), 0);
    }
}
