//! One set of the table: its words, and what a single look or swap can do with them.

use super::key::Key;
use portable_atomic::AtomicU128;
use std::sync::atomic::Ordering;

/// Slots in a set, the shared first one included. A power of two.
pub(super) const SLOTS_PER_SET: usize = 16;
/// The last slots of a set, kept free of unregistered keys.
pub(super) const RESERVED_SLOTS: usize = 2;
/// The state's highest bit marks an announcement; the others make it unique.
pub(super) const PENDING: u64 = 1 << 63;
/// No time is later. What is found beyond it is damage, and must not overflow a sum.
const MAX_TIME_NS: u64 = 1 << 61;

/// Who may use the slots kept in reserve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A client in the registry, or a key the configuration names.
    Registered,
    /// Anything a client can invent: unknown ids, addresses, header values.
    Unregistered,
}

/// Which bucket a charge meets; a refund goes back there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The key's own bucket.
    Own,
    /// The bucket its set shares.
    Overflow,
}

/// Sixteen slots on four cache lines; see the table for what is where.
#[repr(align(256))]
pub(super) struct Set([AtomicU128; SLOTS_PER_SET]);

/// One key: whose it is and its state, changed together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) fingerprint: u64,
    pub(super) state: u64,
}

impl Slot {
    pub(super) const EMPTY: Slot = Slot { fingerprint: 0, state: 0 };

    fn of(word: u128) -> Slot {
        Slot { fingerprint: (word >> 64) as u64, state: word as u64 }
    }

    fn word(self) -> u128 {
        (u128::from(self.fingerprint) << 64) | u128::from(self.state)
    }

    pub(super) fn is_pending(self) -> bool {
        self.state & PENDING != 0
    }

    pub(super) fn is_live_for(self, key: Key) -> bool {
        self.fingerprint == key.fingerprint() && !self.is_pending()
    }

    /// Empty, or a bucket that is full again.
    pub(super) fn is_free(self, now: u64) -> bool {
        self.state <= now
    }
}

impl Set {
    #[cfg(test)]
    pub(super) fn empty() -> Set {
        Set(std::array::from_fn(|_| AtomicU128::new(0)))
    }

    pub(super) fn load(&self, index: usize) -> Slot {
        Slot::of(self.0[index].load(Ordering::SeqCst))
    }

    pub(super) fn swap(&self, index: usize, old: Slot, new: Slot) -> bool {
        self.0[index]
            .compare_exchange(old.word(), new.word(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok()
    }

    /// Slot indices in the order this key looks at them: from its own starting point, so
    /// that a key that is there is mostly found at the first look; and by exclusive or, so that
    /// the first looks are at one cache line. Where a key is may follow from another order all
    /// the same: whoever looks for it looks everywhere.
    pub(super) fn indices(key: Key) -> impl Iterator<Item = usize> {
        let start = key.start() % SLOTS_PER_SET;
        (0..SLOTS_PER_SET).map(move |step| start ^ step).filter(|&index| index != 0)
    }

    /// The slot this key looks at first.
    #[inline]
    pub(super) fn first(&self, key: Key) -> (usize, Slot) {
        let index = (key.start() % SLOTS_PER_SET).max(1);
        (index, self.load(index))
    }

    /// The live slot of `key`.
    pub(super) fn find(&self, key: Key) -> Option<(usize, Slot)> {
        Self::indices(key)
            .map(|index| (index, self.load(index)))
            .find(|(_, slot)| slot.is_live_for(key))
    }

    /// Changes nothing, and yet writes to the set's page.
    pub(super) fn touch(&self) {
        self.swap(0, Slot::EMPTY, Slot::EMPTY);
    }

    pub(super) fn bucket(&self, key: Key, place: Place) -> Option<(usize, Slot)> {
        match place {
            Place::Own => self.find(key),
            Place::Overflow => Some((0, self.load(0))),
        }
    }

    /// The latest time at which a bucket of this set was taken over.
    pub(super) fn latest_takeover(&self) -> u64 {
        self.load(0).fingerprint.min(MAX_TIME_NS)
    }

    /// Forgets a takeover that lies in the future, which only damage leaves behind: every new
    /// bucket of the set would begin that far from full.
    pub(super) fn mend(&self, now: u64) {
        let shared = self.load(0);
        if shared.fingerprint > now {
            self.swap(0, shared, Slot { fingerprint: now, ..shared });
        }
    }

    /// Whether its buckets can be what they say when none is full later than `latest_ns`. What
    /// the keys share is never announced.
    pub(super) fn is_plausible(&self, latest_ns: u64) -> bool {
        (0..SLOTS_PER_SET).all(|index| {
            let slot = self.load(index);
            slot.state <= latest_ns || (slot.is_pending() && index > 0)
        })
    }

    pub(super) fn publish_takeover(&self, now: u64) {
        loop {
            let shared = self.load(0);
            if shared.fingerprint >= now
                || self.swap(0, shared, Slot { fingerprint: now, ..shared })
            {
                return;
            }
        }
    }

    /// Where `key` could announce itself: where it is announced already, else in a free slot,
    /// else in somebody else's announcement.
    pub(super) fn room_for(&self, key: Key, class: Class, now: u64) -> Room {
        let mut free = None;
        let mut pending = None;
        for index in Self::indices(key) {
            let slot = self.load(index);
            if slot.fingerprint == key.fingerprint() {
                return if slot.is_pending() { Room::In(index, slot) } else { Room::NotNeeded };
            }
            if !may_use(index, class) {
                continue;
            }
            if slot.is_pending() {
                pending.get_or_insert((index, slot));
            } else if slot.is_free(now) {
                free.get_or_insert((index, slot));
            }
        }
        free.or(pending).map_or(Room::None, |(index, slot)| Room::In(index, slot))
    }

    /// Step two of a claim: no slot but `own` speaks for this key any more.
    pub(super) fn is_alone(&self, key: Key, own: usize) -> bool {
        (1..SLOTS_PER_SET).filter(|&index| index != own).all(|index| {
            let slot = self.load(index);
            if slot.fingerprint != key.fingerprint() {
                return true;
            }
            slot.is_pending() && self.swap(index, slot, Slot::EMPTY)
        })
    }
}

/// What a set has for a key without a bucket.
pub(super) enum Room {
    /// This slot, which holds that.
    In(usize, Slot),
    /// The key has come alive since it was looked for. In a full set, to overlook that would
    /// be to charge the wrong bucket.
    NotNeeded,
    /// Nothing.
    None,
}

fn may_use(index: usize, class: Class) -> bool {
    class == Class::Registered || index < SLOTS_PER_SET - RESERVED_SLOTS
}
