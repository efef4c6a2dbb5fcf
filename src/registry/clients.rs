//! A million clients, each found at the price of one wait for memory.
//!
//! A table of open addressing: an entry is a client's fingerprint and a number that says how the
//! client stands, three of them to a cache line, and a client lies in the first line from its own
//! that had room. One thread writes; any number read, without locks and without waiting.
//!
//! # What a reader may see
//!
//! A place goes through three conditions and never back: *empty*, *held* by one client, *given
//! up*. The half of the fingerprint that says which is written last, so whoever sees it sees the
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
//! # No locked instruction
//!
//! What is left is the wait itself, and a processor can have many of them under way: it goes on
//! with what does not depend on the answer. A locked instruction forbids that, for nothing behind it
//! may begin before it is done; and every way to say "I am reading this table" has one. So nobody
//! says so: each thread keeps the table that it read last and compares two numbers to see whether
//! it is still the one. Of a table that was replaced, the memory goes with the last thread that
//! looks again; one that never does keeps one old table at most.

use crate::policy::rate::TokenBucket;
use crate::store::lines::{Line, Lines};
use arc_swap::ArcSwap;
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Entries in a cache line.
const ENTRIES: usize = 3;
/// Lines of the smallest table.
const MIN_LINES: usize = 64;
/// The condition of a place in which nobody has been.
const EMPTY: u64 = 0;
/// The condition of a place whose client is gone.
const GIVEN_UP: u64 = 1;
/// Marks a standing that is the number of an own limit; else it is that of a tier's name.
const OWN: u32 = 1 << 31;

/// What stands for a client's id: 128 bits of a keyed hash of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u64; 2]);

/// How a client stands, as a reader is shown it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held<'a> {
    /// The name of its tier, where it has one.
    pub(super) tier: Option<&'a str>,
    /// Its own limit. Few have one.
    pub(super) own_limit: Option<TokenBucket>,
}

/// A name of a tier, or that there is none; shared among all clients of the tier.
pub(super) type TierName = Option<Arc<str>>;

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
    tiers: Arc<[TierName]>,
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
    tiers: HashMap<TierName, u32>,
    own: u32,
}

/// A place in the table. Of the eight words of a line, the first three say in which conditions its
/// places are, by the half of the fingerprint where somebody holds one; the next three are the other
/// halves, and the last two the standings, 32 bits each.
#[derive(Clone, Copy)]
struct Place<'a> {
    line: &'a Line,
    entry: usize,
}

impl Fingerprint {
    /// Of a hash. No client's may look like a condition without one; that two become alike by
    /// it is no likelier than that any two are.
    pub(super) fn of([other, condition]: [u64; 2]) -> Fingerprint {
        Fingerprint([other, condition.max(GIVEN_UP + 1)])
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0[0]);
    }
}

/// Where a client is, or the empty place it would come to.
enum Found<'a> {
    At(Place<'a>),
    Room(Place<'a>),
}

impl Place<'_> {
    #[inline]
    fn condition(&self) -> &AtomicU64 {
        &self.line.0[self.entry]
    }

    #[inline]
    fn other(&self) -> &AtomicU64 {
        &self.line.0[ENTRIES + self.entry]
    }

    #[inline]
    fn standing(&self) -> u32 {
        let word = self.line.0[2 * ENTRIES + self.entry / 2].load(Ordering::Acquire);
        (word >> (32 * (self.entry % 2))) as u32
    }

    /// Says how its client stands; the standing beside it stays, for there is one writer.
    fn set_standing(&self, standing: u32) {
        let word = &self.line.0[2 * ENTRIES + self.entry / 2];
        let shift = 32 * (self.entry % 2);
        let others = word.load(Ordering::Relaxed) & !(u64::from(u32::MAX) << shift);
        word.store(others | u64::from(standing) << shift, Ordering::Release);
    }

    /// Puts a client into an empty place, its condition last.
    fn hold(&self, Fingerprint([other, condition]): Fingerprint, standing: u32) {
        self.set_standing(standing);
        self.other().store(other, Ordering::Relaxed);
        self.condition().store(condition, Ordering::Release);
    }
}

impl Shelf {
    fn of(lines: Arc<Lines>, tiers: Arc<[TierName]>) -> Shelf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Shelf { number: NEXT.fetch_add(1, Ordering::Relaxed), lines, tiers }
    }

    /// The entry of a client. There is always a line with an empty place to end the search.
    #[inline]
    fn find(&self, fingerprint: Fingerprint) -> Found<'_> {
        let Fingerprint([other, condition]) = fingerprint;
        let lines: &[Line] = &self.lines;
        // The upper half of the product of a number below one and the count.
        let mut number = ((u128::from(other) * lines.len() as u128) >> 64) as usize;
        loop {
            for entry in 0..ENTRIES {
                let place = Place { line: &lines[number], entry };
                match place.condition().load(Ordering::Acquire) {
                    EMPTY => return Found::Room(place),
                    found
                        if found == condition && place.other().load(Ordering::Relaxed) == other =>
                    {
                        return Found::At(place);
                    }
                    _ => {}
                }
            }
            number = if number + 1 == lines.len() { 0 } else { number + 1 };
        }
    }

    /// All places that somebody holds, and who.
    fn held(&self) -> impl Iterator<Item = (Place<'_>, Fingerprint)> {
        let places =
            self.lines.iter().flat_map(|line| (0..ENTRIES).map(move |entry| Place { line, entry }));
        places.filter_map(|place| {
            let condition = place.condition().load(Ordering::Acquire);
            let other = place.other().load(Ordering::Relaxed);
            (condition > GIVEN_UP).then_some((place, Fingerprint([other, condition])))
        })
    }

    /// Whether so many used places are more than two thirds, or so few clients less than an
    /// eighth of all there are.
    fn is_unfit(&self, used: usize, count: usize) -> bool {
        let places = self.lines.len() * ENTRIES;
        3 * used > 2 * places || (8 * count < places && self.lines.len() > MIN_LINES)
    }
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

    /// Reads how a client stands.
    #[inline]
    pub(super) fn read<T>(
        &self,
        fingerprint: Fingerprint,
        read: impl FnOnce(Held<'_>) -> T,
    ) -> Option<T> {
        let mut shelf = self.take_shelf();
        let found = loop {
            let Found::At(place) = shelf.find(fingerprint) else { break None };
            if let Some(found) = self.look(&shelf, place.standing()) {
                break Some(found);
            }
            // What the standing names came after this shelf was taken, or is gone since: the
            // writer has moved on, and there is another standing or another shelf to be seen.
            shelf = self.take_shelf();
        };
        let found = found.map(|(tier, own_limit)| read(Held { tier, own_limit }));
        // A thread that is about to end keeps nothing.
        let _ = LAST.try_with(|last| last.set(Some(shelf)));
        found
    }

    /// The shelf as it is, which this thread mostly has.
    #[inline]
    fn take_shelf(&self) -> Arc<Shelf> {
        let number = self.current.load(Ordering::Acquire);
        match LAST.try_with(Cell::take) {
            Ok(Some(shelf)) if shelf.number == number => shelf,
            _ => self.shelf.load_full(),
        }
    }

    /// What a standing says, as far as this shelf knows.
    #[inline]
    fn look<'a>(
        &self,
        shelf: &'a Shelf,
        standing: u32,
    ) -> Option<(Option<&'a str>, Option<TokenBucket>)> {
        let (tier, own_limit) = match standing & OWN {
            0 => (standing, None),
            _ => self.own_of(standing).map(|own| (own.tier, Some(own.limit)))?,
        };
        Some((shelf.tiers.get(tier as usize)?.as_deref(), own_limit))
    }
}

/// What the one thread does that writes.
impl Clients {
    /// Registers a client, or changes how it stands.
    pub(super) fn set(
        &self,
        fingerprint: Fingerprint,
        tier: TierName,
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
            Found::At(place) => {
                let old = place.standing();
                place.set_standing(standing);
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
        if let Found::At(place) = shelf.find(fingerprint) {
            self.take_out(place);
        }
        self.fit(&shelf);
    }

    /// Takes out all that `is_kept` does not want.
    pub(super) fn retain(&self, is_kept: impl Fn(Fingerprint) -> bool) {
        let shelf = self.shelf.load_full();
        for (place, _) in shelf.held().filter(|(_, fingerprint)| !is_kept(*fingerprint)) {
            self.take_out(place);
        }
        self.fit(&shelf);
    }

    fn take_out(&self, place: Place<'_>) {
        place.condition().store(GIVEN_UP, Ordering::Release);
        self.forget_own(place.standing());
        self.count.fetch_sub(1, Ordering::Release);
    }

    /// The number of a tier's name; a new one is on the shelf before anything names it.
    fn number_of(&self, name: TierName, numbers: &mut Numbers) -> u32 {
        if let Some(number) = numbers.tiers.get(&name) {
            return *number;
        }
        let shelf = self.shelf.load_full();
        let number = shelf.tiers.len() as u32;
        let tiers = shelf.tiers.iter().chain([&name]).cloned().collect();
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
        for (place, fingerprint) in shelf.held() {
            if let Found::Room(room) = new.find(fingerprint) {
                room.hold(fingerprint, place.standing());
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
