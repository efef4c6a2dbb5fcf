//! The limiter table: fixed memory, any number of clients, no locks.
//!
//! A key is 16 bytes: a keyed 64-bit fingerprint and the 64-bit state of its bucket, changed
//! together by one 128-bit compare-and-swap. That single choice is what keeps this
//! file short: a slot can never be seen half-written, a charge can never land in a
//! bucket whose owner has just changed, and a process that dies between any two
//! instructions leaves every slot in a state the others understand.
//!
//! The alternative, fingerprint and state as two 64-bit words, saves a few cycles and
//! needs a tag in the state, a grace period before reuse and an argument for each
//! window in between.
//!
//! # Sets
//!
//! Slots come in sets of 16 (256 bytes, four cache lines). A key hashes to one set and
//! may live in any of its slots but the first:
//!
//! | slots | used by |
//! |-------|---------|
//! | 0 | the set's overflow bucket, and the time of its latest takeover |
//! | 1–13 | any key |
//! | 14–15 | registered clients and keys named by the configuration only |
//!
//! # Takeover
//!
//! A slot may be taken over only when it is empty or its bucket is full again, so
//! taking it over forgets nothing: a key that is absent is a key whose bucket is full.
//! Whatever the algorithm (see [`crate::policy::meter`]), the upper bits of a state are the
//! time from which on it is, so anybody can tell by comparing the whole state with now.
//! Where a set has no such slot, unregistered keys share the set's overflow bucket.
//! Flooding the table with invented keys therefore makes newcomers share; it neither
//! grows memory nor frees a limited client.
//!
//! # Claiming
//!
//! Two threads that see the same new key for the first time must not both create a
//! bucket for it. A claim takes three steps, each one compare-and-swap:
//!
//! 1. *Announce*: a free slot becomes `(fingerprint, pending mark)`, the mark unique. An
//!    announcement of the same key that is there already does as well, whoever made it.
//! 2. *Look again* at the whole set. A live slot of the same key: withdraw and use it.
//!    Another announcement of the same key: erase it.
//! 3. *Promote* the announcement to `(fingerprint, state)`. If somebody erased it, start
//!    over.
//!
//! Of two announcements of one key, whoever would promote the later one looks again
//! after both are visible, so it finds the earlier one: either live, and withdraws, or
//! pending, and erases it, so that its promotion fails. Two buckets for one key cannot
//! come to be. An announcement counts as free for other keys, so one left behind by a
//! dead process is simply taken over.
//!
//! All of it holds between processes that share a table in a file as it does between threads:
//! marks are unique among them, and a process that dies in the middle of a claim is like a
//! thread that never goes on.
//!
//! # Late threads
//!
//! A thread may hold a `now` that is a little old. Charging is safe by itself, since every
//! algorithm takes the later of state and now. Creating a bucket is not: the key's previous bucket
//! may have been taken over by a thread with a later clock. So a takeover first
//! publishes its time in slot 0, and a new bucket starts no earlier than that.

use super::key::Key;
use super::mapped::{FileClock, Memory, Reading, TableFile};
use super::set::{self, Room, SLOTS_PER_SET, Set, Slot};
pub use super::set::{Class, Place};
use crate::policy::gcra::{self, Answer};
use crate::policy::meter::Meter;
use crate::policy::rate::TokenBucket;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes a slot takes.
pub const BYTES_PER_SLOT: usize = size_of::<Set>() / SLOTS_PER_SET;
/// How many claims a charge may lose before it settles for the overflow bucket. Each means
/// that another thread took the same slot; only newcomers to a set that is all but full can
/// go on doing that to each other.
const MAX_ROUNDS: usize = 64;
/// Sets read for an estimate of the occupancy; the whole table up to a million slots.
const SAMPLED_SETS: usize = 65_536;

/// Announcements a process numbers before it begins anew; the bits above are the process's own.
const ANNOUNCEMENTS: u64 = 1 << 40;

/// What became of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// The tokens were taken; the bucket's state now.
    Taken {
        /// The state after the charge.
        state: u64,
        /// Which bucket paid.
        place: Place,
    },
    /// The tokens are not there; nothing changed.
    Refused {
        /// The state that refused.
        state: u64,
        /// Nanoseconds until the same charge would pass; `None` when no wait helps.
        wait_ns: Option<u64>,
        /// Which bucket refused.
        place: Place,
    },
}

/// What a charge took, and what giving it back needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// Which bucket paid.
    pub place: Place,
    /// Its state right after.
    pub state: u64,
    /// How many tokens.
    pub cost: u32,
    /// The `now` of the charge.
    pub at: u64,
}

/// The table. See the module's description.
pub struct Table {
    memory: Memory,
    /// Of a table in a file.
    clock: Option<FileClock>,
    overflowed: AtomicU64,
    announcements: AtomicU64,
    /// The part of every announcement's mark that no other process uses.
    process_mark: u64,
}

enum Claim {
    Taken(u64),
    StartOver,
    SetFull,
}

impl Table {
    /// A table of at least `slots` slots, [`BYTES_PER_SLOT`] bytes each, rounded up to a
    /// power of two of at least one set. Memory is taken once, here.
    pub fn new(slots: usize) -> Table {
        let sets = slots.max(SLOTS_PER_SET).next_power_of_two() / SLOTS_PER_SET;
        Table::of(Memory::anonymous(sets), None, 0)
    }

    /// The table that a file holds.
    pub fn in_file(file: TableFile) -> Table {
        let process = file.process();
        let (memory, clock) = file.into_parts();
        Table::of(memory, Some(clock), process)
    }

    fn of(memory: Memory, clock: Option<FileClock>, process: u64) -> Table {
        Table {
            memory,
            clock,
            overflowed: AtomicU64::new(0),
            announcements: AtomicU64::new(0),
            process_mark: set::PENDING | (process.wrapping_mul(ANNOUNCEMENTS)) & (set::PENDING - 1),
        }
    }

    /// Notes what time it is where that must outlive the machine's boot.
    pub fn mark(&self, now: Reading) {
        if let Some(clock) = &self.clock {
            clock.mark(&self.memory, now);
        }
    }

    #[inline]
    pub(super) fn sets(&self) -> &[Set] {
        self.memory.sets()
    }

    /// Slots in the table.
    pub fn slots(&self) -> usize {
        self.sets().len() * SLOTS_PER_SET
    }

    /// Charges made against an overflow bucket so far.
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Ordering::Relaxed)
    }

    /// Slots that hold a bucket which is not full at `now`. Exact up to a million slots,
    /// beyond that an estimate from evenly spaced sets. Reads at most 16 MiB.
    pub fn used_slots(&self, now: u64) -> usize {
        let stride = self.sets().len().div_ceil(SAMPLED_SETS);
        let used: usize = self
            .sets()
            .iter()
            .step_by(stride)
            .map(|set| (1..SLOTS_PER_SET).filter(|&i| !set.load(i).is_free(now)).count())
            .sum();
        used * stride
    }

    #[inline]
    fn set(&self, key: Key) -> &Set {
        let sets = self.sets();
        // The count of sets is a power of two.
        &sets[key.set() & (sets.len() - 1)]
    }

    /// Reads the state of `key`, if it is there.
    pub fn state(&self, key: Key) -> Option<u64> {
        self.set(key).find(key).map(|(_, slot)| slot.state)
    }

    /// Reads the state a charge for `key` would meet, and where, changing nothing.
    pub fn peek(&self, key: Key, class: Class, now: u64) -> (u64, Place) {
        let set = self.set(key);
        if let Some((_, slot)) = set.find(key) {
            return (slot.state, Place::Own);
        }
        match set.room_for(key, class, now) {
            Room::None => (set.load(0).state, Place::Overflow),
            Room::In(..) | Room::NotNeeded => (0, Place::Own),
        }
    }

    /// Takes `cost` tokens from the bucket of `key` as nearly every charge does: from a token
    /// bucket that is found at the first look, has them, and is not charged by anybody else in
    /// between. The state after it; `None`, and nothing is changed, when any of this is not so,
    /// and [`charge`](Table::charge) knows more.
    #[inline]
    pub fn charge_at_once(&self, key: Key, meter: Meter<'_>, cost: u32, now: u64) -> Option<u64> {
        if let Meter::TokenBucket(bucket) = meter
            && cost > 0
        {
            let set = self.set(key);
            let (index, slot) = set.first(key);
            if slot.is_live_for(key)
                && let Answer::Admit(state) = gcra::ask(bucket, slot.state, cost, now)
                && set.swap(index, slot, Slot { state, ..slot })
            {
                return Some(state);
            }
        }
        None
    }

    /// Takes `cost` tokens from the bucket of `key`, or from the overflow bucket, whose
    /// limit is `overflow`, when the set has no room for the key.
    pub fn charge(
        &self,
        key: Key,
        class: Class,
        meter: Meter<'_>,
        overflow: &TokenBucket,
        cost: u32,
        now: u64,
    ) -> Charge {
        let set = self.set(key);
        for _ in 0..MAX_ROUNDS {
            // However often this loses, somebody else was charged each time: that alone must
            // not send a key that has a bucket to the overflow bucket.
            while let Some((index, slot)) = set.find(key) {
                match meter.ask(slot.state, cost, now) {
                    Answer::Admit(state) => {
                        if set.swap(index, slot, Slot { state, ..slot }) {
                            return Charge::Taken { state, place: Place::Own };
                        }
                    }
                    refusal => return refused(refusal, slot.state, Place::Own),
                }
            }
            if u64::from(cost) > meter.burst() {
                return refused(Answer::Never, 0, Place::Own);
            }
            let begin = |start| match meter.ask(0, cost, start) {
                Answer::Admit(state) => Some(state),
                Answer::Wait(_) | Answer::Never => None,
            };
            match self.claim(set, key, class, now, begin) {
                Claim::Taken(state) => return Charge::Taken { state, place: Place::Own },
                Claim::StartOver => {}
                Claim::SetFull => break,
            }
        }
        self.charge_overflow(set, overflow, cost, now)
    }

    /// Gives back what [`charge`](Table::charge) took from a bucket of the limit `meter`,
    /// as far as that is certain to admit nobody too many (see [`Meter::refund`]). A bucket
    /// that has filled up since, or is gone for that, needs nothing back.
    pub fn refund(&self, key: Key, meter: Meter<'_>, payment: &Payment, clock: impl Fn() -> u64) {
        let set = self.set(key);
        while let Some((index, slot)) = set.bucket(key, payment.place) {
            let elapsed_ns = match slot.state == payment.state {
                true => 0,
                // Read after the state, so that it is later than any charge in there.
                false => clock().saturating_sub(payment.at),
            };
            let state = meter.refund(slot.state, payment.state, payment.cost, elapsed_ns);
            if set.swap(index, slot, Slot { state, ..slot }) {
                return;
            }
        }
    }

    /// Cuts the bucket that `key` meets at `place` to one of the limit `meter` that was empty at
    /// `since`, where a larger limit left it beyond that (see [`Meter::cut`]). The clock is read
    /// after the state.
    pub fn cut(
        &self,
        key: Key,
        place: Place,
        meter: Meter<'_>,
        since: u64,
        clock: impl Fn() -> u64,
    ) {
        let set = self.set(key);
        while let Some((index, slot)) = set.bucket(key, place) {
            let Some(state) = meter.cut(slot.state, since, clock()) else { return };
            if set.swap(index, slot, Slot { state, ..slot }) {
                return;
            }
        }
    }

    /// Makes `state` the state of `key`, whatever it was. A set that has no room for a key it does
    /// not know forgets it at once.
    pub fn put(&self, key: Key, class: Class, state: u64, now: u64) {
        let set = self.set(key);
        for _ in 0..MAX_ROUNDS {
            let done = match set.find(key) {
                Some((index, slot)) => set.swap(index, slot, Slot { state, ..slot }),
                None if state <= now => true,
                None => {
                    !matches!(self.claim(set, key, class, now, |_| Some(state)), Claim::StartOver)
                }
            };
            if done {
                return;
            }
        }
    }

    /// Claims a slot for `key` with the state that `begin` says for a bucket that begins at a time.
    #[inline(never)]
    fn claim(
        &self,
        set: &Set,
        key: Key,
        class: Class,
        now: u64,
        begin: impl FnOnce(u64) -> Option<u64>,
    ) -> Claim {
        let (index, old) = match set.room_for(key, class, now) {
            Room::In(index, old) => (index, old),
            Room::NotNeeded => return Claim::StartOver,
            Room::None => return Claim::SetFull,
        };
        let Some(announced) = self.announce(set, key, index, old, now) else {
            return Claim::StartOver;
        };
        if !set.is_alone(key, index) {
            set.swap(index, announced, Slot::EMPTY);
            return Claim::StartOver;
        }
        let start = now.max(set.latest_takeover());
        let Some(state) = begin(start) else {
            // The caller checked that the burst covers the cost; kept total all the same.
            set.swap(index, announced, Slot::EMPTY);
            return Claim::SetFull;
        };
        if set.swap(index, announced, Slot { state, ..announced }) {
            Claim::Taken(state)
        } else {
            Claim::StartOver
        }
    }

    /// Step one of a claim: announces `key` in a slot that holds `old`. `None` when somebody
    /// else changed the slot first.
    fn announce(&self, set: &Set, key: Key, index: usize, old: Slot, now: u64) -> Option<Slot> {
        if old.is_pending() && old.fingerprint == key.fingerprint() {
            return Some(old);
        }
        if old != Slot::EMPTY && !old.is_pending() {
            set.publish_takeover(now);
        }
        let number = self.announcements.fetch_add(1, Ordering::Relaxed) % ANNOUNCEMENTS;
        let mark = self.process_mark | number;
        let announced = Slot { fingerprint: key.fingerprint(), state: mark };
        set.swap(index, old, announced).then_some(announced)
    }

    fn charge_overflow(&self, set: &Set, overflow: &TokenBucket, cost: u32, now: u64) -> Charge {
        self.overflowed.fetch_add(1, Ordering::Relaxed);
        loop {
            let shared = set.load(0);
            match gcra::ask(overflow, shared.state, cost, now) {
                Answer::Admit(state) => {
                    if set.swap(0, shared, Slot { state, ..shared }) {
                        return Charge::Taken { state, place: Place::Overflow };
                    }
                }
                refusal => return refused(refusal, shared.state, Place::Overflow),
            }
        }
    }
}

fn refused(answer: Answer, state: u64, place: Place) -> Charge {
    let wait_ns = match answer {
        Answer::Wait(ns) => Some(ns),
        Answer::Never | Answer::Admit(_) => None,
    };
    Charge::Refused { state, wait_ns, place }
}
