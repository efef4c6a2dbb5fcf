//! From a table of one size to one of another: who is limited stays limited.

use super::key::Key;
use super::set::{RESERVED_SLOTS, SLOTS_PER_SET, Set, Slot};

/// Copies into `to`, which is empty, every bucket of `from` that is not full at `now`. Both are
/// powers of two. Gives how many had no room.
///
/// A larger table has room for all: the keys of one set part. In a smaller one several sets
/// become one, and where they hold more than 15 buckets the *latest* to be full again are kept.
/// Those that are left out are full before any slot of the set is free for them, so the full
/// bucket they begin with then gives them nothing that they would not have had. Until then they
/// share the set's overflow bucket, which is charged what the emptiest of them was.
///
/// A larger table later would have room for those as well, and a full bucket. So its sets stay as
/// full as they were until that overflow bucket is full, by when theirs would be.
///
/// Nobody else may use `to` meanwhile; a charge to `from` after its set was read is lost.
pub(super) fn carry_over(from: &[Set], to: &[Set], now: u64) -> usize {
    let sources = from.len().div_ceil(to.len());
    let mut left_out = 0;
    let mut live = Vec::with_capacity(sources * SLOTS_PER_SET);
    for (number, target) in to.iter().enumerate() {
        let mut shared = Slot::EMPTY;
        for source in 0..sources {
            let set = &from[(number + source * to.len()) & (from.len() - 1)];
            let overflow = set.load(0);
            shared.state = shared.state.max(overflow.state);
            // Beyond now it would be damage, and hold up all who come.
            shared.fingerprint = shared.fingerprint.max(overflow.fingerprint.min(now));
            let owned = (1..SLOTS_PER_SET).map(|index| (index, set.load(index)));
            live.extend(owned.filter(|(_, slot)| is_of(*slot, number, to.len(), now)));
        }
        live.sort_unstable_by_key(|(_, slot)| std::cmp::Reverse(slot.state));
        for (index, slot) in live.drain(..) {
            if !place(target, index, slot) {
                left_out += 1;
                shared.state = shared.state.max(slot.state);
            }
        }
        target.swap(0, Slot::EMPTY, shared);
        if to.len() > from.len() && shared.state > now {
            fill(target, number, shared.state);
        }
    }
    left_out
}

/// Leaves no room in a set before this time for keys that it does not know. The reserve stays.
fn fill(target: &Set, number: usize, until: u64) {
    for index in 1..SLOTS_PER_SET - RESERVED_SLOTS {
        // A fingerprint of this set, which a key's hash is as likely as any other.
        let fingerprint = (index as u64) << 56 | number as u64;
        target.swap(index, Slot::EMPTY, Slot { fingerprint, state: until });
    }
}

/// Whether a slot is a bucket that belongs into this set and is not full.
fn is_of(slot: Slot, number: usize, sets: usize, now: u64) -> bool {
    let key = Key::of_fingerprint(slot.fingerprint);
    slot.fingerprint != 0
        && !slot.is_pending()
        && !slot.is_free(now)
        && key.set() & (sets - 1) == number
}

/// Puts a bucket where its key looks first, out of the reserve if it was; whether there was room.
fn place(target: &Set, index: usize, slot: Slot) -> bool {
    let reserve = SLOTS_PER_SET - RESERVED_SLOTS;
    let key = Key::of_fingerprint(slot.fingerprint);
    let preferred = Set::indices(key).filter(|&at| index >= reserve || at < reserve);
    preferred.chain(Set::indices(key)).any(|at| target.swap(at, Slot::EMPTY, slot))
}
