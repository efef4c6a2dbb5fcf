//! A million clients, each found at the price of one wait for memory.
//!
//! A table of open addressing: an entry is a client's fingerprint and a number that says how the
//! client stands, four of them to a cache line, and a client lies in the first line from its own
//! that had room. One thread writes; any number read, without locks and without waiting.
//!
//! # What a reader may see
//!
//! A place goes through three conditions and never back: *empty*, *held* by one client, *given
//! up*. The part of the fingerprint that says which is written last, so whoever sees it sees the
//! rest of the entry; and since no other client ever comes to the same place, the standing read
//! beside it is that client's. A standing changes in one step.
//!
//! An entry does not move, and a line that was full never has an empty place again. So a reader
//! who looks on until a line has an empty place cannot miss a client that is there all the while.
//!
//! Places that were given up are got rid of by a new table, into which the clients are copied,
//! and which then takes the old one's place in one step; so is a table that is too full or too
//! empty. That takes some tens of milliseconds for a million clients, at the end of as many
//! changes as the copy is long, and no reader notices.
//!
//! papaya, which has the registry's smaller maps, keeps each entry in an allocation of its own:
//! three waits where there is one here.
//!
//! # Several waits at a time
//!
//! What is left is the wait itself, and a processor can have many of them under way: it goes on
//! with what does not depend on the answer, as far as it looks ahead, which is some three hundred
//! instructions. So there are few between one client's line and the next one's: hence the hash of
//! `fingerprint`, a line's places that are compared without a branch to guess wrong, and the name
//! of a tier as a number.
//!
//! Nor may there be a locked one, for nothing behind it may begin before it is done; and every way
//! to say "I am reading this table" has one. So nobody says so: each thread keeps the table that it
//! read last and compares two numbers to see whether it is still the one. Of a table that was
//! replaced, the memory goes with the last thread that looks again; one that never does keeps one
//! old table at most.

use super::fingerprint::Fingerprint;
use crate::policy::rate::TokenBucket;
use crate::policy::tier::TierName;
use crate::store::lines::{Line, Lines};
use arc_swap::ArcSwap;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Entries in a cache line.
const ENTRIES: usize = 4;
/// Lines of the smallest table.
const MIN_LINES: usize = 64;
/// The condition of a place in which nobody has been.
const EMPTY: u64 = 0;
/// The condition of a place whose client is gone.
const GIVEN_UP: u64 = 1;
const _: () = assert!(EMPTY < Fingerprint::LEAST && GIVEN_UP < Fingerprint::LEAST);
/// Marks a standing that is the number of an own limit; else it is that of a tier's name.
const OWN: u32 = 1 << 31;

/// How a client stands, as a reader is shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    /// Its tier, where it has one.
    pub(super) tier: Option<TierName>,
    /// Its own limit. Few have one.
    pub(super) own_limit: Option<TokenBucket>,
}

/// The standing of a client with a limit of its own.
#[derive(Clone, Copy)]
struct Own {
    tier: u32,
    limit: TokenBucket,
}

/// What a reader has in hand at one time.
struct Shelf {
    /// No other shelf of this process has or had this number.
    number: u64,
    lines: Arc<Lines>,
    /// By the numbers that standings are. Names are only ever added.
    tiers: Arc<[Option<TierName>]>,
}

thread_local! {
    /// The shelf that this thread read last.
    static LAST: Cell<Option<Arc<Shelf>>> = const { Cell::new(None) };
}

/// The clients.
pub(super) struct Clients {
    shelf: ArcSwap<Shelf>,
    /// The number of the shelf, stored after it.
    current: AtomicU64,
    /// By their numbers. One is there before a standing names it, and until none does.
    own: papaya::HashMap<u32, Own>,
    /// How many there are.
    count: AtomicUsize,
    /// Places that are not empty.
    used: AtomicUsize,
}

/// What only the one thread has that writes: the numbers given so far. Names of tiers that no
/// client has any more stay; there are only as many as configurations have named.
#[derive(Default)]
pub(super) struct Numbers {
    tiers: HashMap<Option<TierName>, u32>,
    own: u32,
}

/// A place in the table. Of the eight words of a line, the first four say in which conditions its
/// places are, by the upper part of the fingerprint where somebody holds one; the other four are the
/// lower parts, each above the standing beside it.
#[derive(Clone, Copy)]
struct Place<'a> {
    line: &'a Line,
    entry: usize,
}

/// Where a client is, or the empty place it would come to.
enum Found<'a> {
    /// With its standing.
    At(Place<'a>, u32),
    Room(Place<'a>),
}

impl Place<'_> {
    #[inline]
    fn condition(&self) -> &AtomicU64 {
        &self.line.0[self.entry]
    }

    /// The lower part of the fingerprint and the standing.
    #[inline]
    fn rest(&self) -> &AtomicU64 {
        &self.line.0[ENTRIES + self.entry]
    }

    /// Puts a client into an empty place, its condition last; or says how it stands now.
    fn hold(&self, fingerprint: Fingerprint, standing: u32) {
        let rest = u64::from(fingerprint.lower()) << 32 | u64::from(standing);
        self.rest().store(rest, Ordering::Release);
        self.condition().store(fingerprint.upper(), Ordering::Release);
    }
}

impl Shelf {
    fn of(lines: Arc<Lines>, tiers: Arc<[Option<TierName>]>) -> Shelf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Shelf { number: NEXT.fetch_add(1, Ordering::Relaxed), lines, tiers }
    }

    /// The entry of a client. There is always a line with an empty place to end the search.
    #[inline]
    fn find(&self, fingerprint: Fingerprint) -> Found<'_> {
        let condition = fingerprint.upper();
        let lines: &[Line] = &self.lines;
        // The hash gives ids in a row places in a row, or few of them; mixed, they lie anywhere.
        let mixed = (condition ^ condition >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The upper half of the product of a number below one and the count.
        let mut number = ((u128::from(mixed) * lines.len() as u128) >> 64) as usize;
        loop {
            let line = &lines[number];
            let conditions: [u64; ENTRIES] =
                std::array::from_fn(|entry| line.0[entry].load(Ordering::Acquire));
            let mut matching = mask(conditions, condition);
            while matching != 0 {
                let place = Place { line, entry: matching.trailing_zeros() as usize % ENTRIES };
                let rest = place.rest().load(Ordering::Acquire);
                if (rest >> 32) as u32 == fingerprint.lower() {
                    return Found::At(place, rest as u32);
                }
                matching &= matching - 1;
            }
            let empty = mask(conditions, EMPTY);
            if empty != 0 {
                return Found::Room(Place { line, entry: empty.trailing_zeros() as usize });
            }
            number = if number + 1 == lines.len() { 0 } else { number + 1 };
        }
    }

    /// All places that somebody holds, who, and how they stand.
    fn held(&self) -> impl Iterator<Item = (Place<'_>, Fingerprint, u32)> {
        let places =
            self.lines.iter().flat_map(|line| (0..ENTRIES).map(move |entry| Place { line, entry }));
        places.filter_map(|place| {
            let condition = place.condition().load(Ordering::Acquire);
            let rest = place.rest().load(Ordering::Acquire);
            let fingerprint = Fingerprint::new(condition, (rest >> 32) as u32);
            (condition > GIVEN_UP).then_some((place, fingerprint, rest as u32))
        })
    }

    /// Whether so many used places are more than two thirds, or so few clients less than an
    /// eighth of all there are.
    fn is_unfit(&self, used: usize, count: usize) -> bool {
        let places = self.lines.len() * ENTRIES;
        3 * used > 2 * places || (8 * count < places && self.lines.len() > MIN_LINES)
    }
}

/// Which of a line's places are in this condition, the first one the lowest bit. No branch: which
/// place is the right one cannot be guessed.
#[inline]
fn mask(conditions: [u64; ENTRIES], condition: u64) -> u32 {
    let bits = conditions.iter().enumerate();
    bits.fold(0, |mask, (entry, found)| mask | u32::from(*found == condition) << entry)
}

/// What requests ask.
impl Clients {
    pub(super) fn new() -> Clients {
        let shelf = Shelf::of(Arc::new(Lines::new(MIN_LINES)), Arc::new([]));
        Clients {
            current: AtomicU64::new(shelf.number),
            shelf: ArcSwap::from_pointee(shelf),
            own: papaya::HashMap::new(),
            count: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// How a client stands.
    #[inline]
    pub(super) fn get(&self, fingerprint: Fingerprint) -> Option<Held> {
        let shelf = self.take_shelf();
        let held = match shelf.find(fingerprint) {
            Found::At(_, tier) if tier & OWN == 0 => match shelf.tiers.get(tier as usize) {
                Some(&tier) => Some(Held { tier, own_limit: None }),
                None => self.look_again(fingerprint),
            },
            Found::At(..) => self.look_again(fingerprint),
            Found::Room(_) => None,
        };
        // A thread that is about to end keeps nothing.
        let _ = LAST.try_with(|last| last.set(Some(shelf)));
        held
    }

    /// The same for the few with a limit of their own, and for whoever was changed since the shelf
    /// at hand was taken: what a standing names may have come after it, or be gone. Then the writer
    /// has moved on, and there is another standing or another shelf to be seen.
    #[cold]
    fn look_again(&self, fingerprint: Fingerprint) -> Option<Held> {
        loop {
            let shelf = self.shelf.load();
            let Found::At(_, standing) = shelf.find(fingerprint) else { return None };
            let (tier, own_limit) = match standing & OWN {
                0 => (standing, None),
                _ => match self.own_of(standing) {
                    Some(own) => (own.tier, Some(own.limit)),
                    None => continue,
                },
            };
            if let Some(&tier) = shelf.tiers.get(tier as usize) {
                return Some(Held { tier, own_limit });
            }
        }
    }

    #[cold]
    fn load_shelf(&self) -> Arc<Shelf> {
        self.shelf.load_full()
    }

    /// The shelf as it is, which this thread mostly has.
    #[inline]
    fn take_shelf(&self) -> Arc<Shelf> {
        let number = self.current.load(Ordering::Acquire);
        match LAST.try_with(Cell::take) {
            Ok(Some(shelf)) if shelf.number == number => shelf,
            _ => self.load_shelf(),
        }
    }
}

/// What the one thread does that writes.
impl Clients {
    /// Registers a client, or changes how it stands.
    pub(super) fn set(
        &self,
        fingerprint: Fingerprint,
        tier: Option<TierName>,
        own_limit: Option<TokenBucket>,
        numbers: &mut Numbers,
    ) {
        let tier = self.number_of(tier, numbers);
        let standing = match own_limit {
            None => tier,
            Some(limit) => self.keep_own(Own { tier, limit }, numbers),
        };
        let shelf = self.shelf.load_full();
        match shelf.find(fingerprint) {
            Found::At(place, old) => {
                place.hold(fingerprint, standing);
                self.forget_own(old);
            }
            Found::Room(place) => {
                place.hold(fingerprint, standing);
                self.used.fetch_add(1, Ordering::Relaxed);
                self.count.fetch_add(1, Ordering::Release);
            }
        }
        self.fit(&shelf);
    }

    /// Takes a client out.
    pub(super) fn remove(&self, fingerprint: Fingerprint) {
        let shelf = self.shelf.load_full();
        if let Found::At(place, standing) = shelf.find(fingerprint) {
            self.take_out(place, standing);
        }
        self.fit(&shelf);
    }

    /// Takes out all that `is_kept` does not want.
    pub(super) fn retain(&self, is_kept: impl Fn(Fingerprint) -> bool) {
        let shelf = self.shelf.load_full();
        for (place, fingerprint, standing) in shelf.held() {
            if !is_kept(fingerprint) {
                self.take_out(place, standing);
            }
        }
        self.fit(&shelf);
    }

    fn take_out(&self, place: Place<'_>, standing: u32) {
        place.condition().store(GIVEN_UP, Ordering::Release);
        self.forget_own(standing);
        self.count.fetch_sub(1, Ordering::Release);
    }

    /// The number of a tier's name; a new one is on the shelf before anything names it.
    fn number_of(&self, name: Option<TierName>, numbers: &mut Numbers) -> u32 {
        if let Some(number) = numbers.tiers.get(&name) {
            return *number;
        }
        let shelf = self.shelf.load_full();
        let number = shelf.tiers.len() as u32;
        let tiers = shelf.tiers.iter().copied().chain([name]).collect();
        self.replace(Shelf::of(shelf.lines.clone(), tiers));
        numbers.tiers.insert(name, number);
        number
    }

    fn own_of(&self, standing: u32) -> Option<Own> {
        self.own.pin().get(&standing).copied()
    }

    fn keep_own(&self, own: Own, numbers: &mut Numbers) -> u32 {
        let kept = self.own.pin();
        // Years of changes later they begin anew, among those that are still kept.
        loop {
            numbers.own = numbers.own.wrapping_add(1) | OWN;
            if !kept.contains_key(&numbers.own) {
                kept.insert(numbers.own, own);
                return numbers.own;
            }
        }
    }

    fn forget_own(&self, standing: u32) {
        if standing & OWN != 0 {
            self.own.pin().remove(&standing);
        }
    }

    /// Copies the clients into a table of the right size where `shelf` has another.
    fn fit(&self, shelf: &Arc<Shelf>) {
        let count = self.len();
        if !shelf.is_unfit(self.used.load(Ordering::Relaxed), count) {
            return;
        }
        // Four ninths of the places, so that half as many may come again.
        let lines = (count * 9).div_ceil(4 * ENTRIES).max(MIN_LINES);
        let new = Shelf::of(Arc::new(Lines::new(lines)), shelf.tiers.clone());
        for (_, fingerprint, standing) in shelf.held() {
            if let Found::Room(room) = new.find(fingerprint) {
                room.hold(fingerprint, standing);
            }
        }
        self.used.store(count, Ordering::Relaxed);
        self.replace(new);
    }

    /// Puts a shelf in the place of the one before.
    fn replace(&self, new: Shelf) {
        let number = new.number;
        self.shelf.store(Arc::new(new));
        self.current.store(number, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
