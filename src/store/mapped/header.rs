//! The first page of the table's file: what it is, and where its time stands.
//!
//! | words | |
//! |-------|---|
//! | 0–7 | magic, layout, byte order, bytes of a slot, slots of a set, slots, the secret of the keys |
//! | 8 | checksum of those |
//! | 16 | how many processes have opened the file |
//! | 24–30, 32–38 | two marks of time, written in turn, each with its own checksum |
//!
//! The first part is written once, before the file has its name. The marks are rewritten every
//! second: a process that dies while it writes one leaves the other.

use super::super::set::SLOTS_PER_SET;
use super::super::table::BYTES_PER_SLOT;
use super::timeline::{Boot, Mark};
use siphasher::sip::SipHasher13;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Words of the header; one page, so that the table begins on one.
pub(super) const WORDS: usize = 512;
/// Bytes of the header.
pub(super) const BYTES: usize = WORDS * size_of::<u64>();

/// The header as it lies in memory. Every access is atomic: other processes write it too.
pub(super) type Words = [AtomicU64; WORDS];

const MAGIC: u64 = u64::from_ne_bytes(*b"TOLLGATE");
/// Which layout the file has. It changes with what lies where, with what a state means, and with
/// how keys become fingerprints.
const LAYOUT: u64 = 1;
/// Reads differently on a machine of the other byte order.
const BYTE_ORDER: u64 = 0x0102_0304_0506_0708;
const IDENTITY_WORDS: usize = 8;
const PROCESSES: usize = 16;
const MARKS: [usize; 2] = [24, 32];
const MARK_WORDS: usize = 7;

/// What a file says about itself once and for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// A power of two, at least one set.
    pub(super) slots: u64,
    /// What its keys are hashed with.
    pub(super) secret: [u8; 16],
}

/// Why a header is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum Damage {
    #[error("it is not a limiter table")]
    Foreign,
    #[error("it was written by a machine of another byte order")]
    ByteOrder,
    #[error("its layout is number {0}, and this gateway reads number {LAYOUT}")]
    Layout(u64),
    #[error(
        "its slots are {0} bytes wide in sets of {1}; here they are {BYTES_PER_SLOT} and {SLOTS_PER_SET}"
    )]
    Slot(u64, u64),
    #[error("its header is damaged")]
    Checksum,
    #[error("it claims {0} slots and is {1} bytes long")]
    Length(u64, u64),
    #[error("both marks of its time are damaged")]
    Marks,
}

/// Writes a header for a file that nobody else sees yet.
pub(super) fn write(words: &Words, identity: &Identity) {
    let identity = identity_words(identity);
    for (place, word) in words.iter().zip(identity) {
        place.store(word, Ordering::Relaxed);
    }
    words[IDENTITY_WORDS].store(checksum(&identity), Ordering::Relaxed);
}

/// Reads a header, and checks that a file of `length` bytes can be what it says.
pub(super) fn read(words: &[u64; WORDS], length: u64) -> Result<(Identity, Mark), Damage> {
    let identity = read_identity(words)?;
    let expected = identity.slots.checked_mul(BYTES_PER_SLOT as u64);
    let expected = expected.and_then(|table| table.checked_add(BYTES as u64));
    let sets = identity.slots / SLOTS_PER_SET as u64;
    if expected != Some(length) || !sets.is_power_of_two() {
        return Err(Damage::Length(identity.slots, length));
    }
    let marks = MARKS.iter().filter_map(|&at| read_mark(words, at));
    let latest = marks.max_by_key(|(sequence, _)| *sequence);
    latest.map(|(_, mark)| (identity, mark)).ok_or(Damage::Marks)
}

/// Writes a mark over the older of the two.
///
/// Two processes may do so at once; each writes words that make sense together, and what they
/// make of each other's is told by its checksum.
pub(super) fn mark(words: &Words, mark: &Mark) {
    let now: [u64; WORDS] = std::array::from_fn(|at| words[at].load(Ordering::Relaxed));
    let sequence = |at| read_mark(&now, at).map_or(0, |(sequence, _)| sequence);
    let [first, second] = MARKS;
    let (older, latest) = match sequence(first) <= sequence(second) {
        true => (first, sequence(second)),
        false => (second, sequence(first)),
    };
    let Mark { boot, shift_ns, time_ns, wall_ns } = *mark;
    let mark = [latest + 1, boot.0[0], boot.0[1], shift_ns, time_ns, wall_ns];
    for (place, word) in words[older..].iter().zip(mark) {
        place.store(word, Ordering::Relaxed);
    }
    words[older + mark.len()].store(checksum(&mark), Ordering::Release);
}

/// A number that no other process has got from this file.
pub(super) fn next_process(words: &Words) -> u64 {
    words[PROCESSES].fetch_add(1, Ordering::Relaxed)
}

fn identity_words(identity: &Identity) -> [u64; IDENTITY_WORDS] {
    let secret = u128::from_ne_bytes(identity.secret);
    let (bytes, slots) = (BYTES_PER_SLOT as u64, SLOTS_PER_SET as u64);
    let (high, low) = ((secret >> 64) as u64, secret as u64);
    [MAGIC, LAYOUT, BYTE_ORDER, bytes, slots, identity.slots, high, low]
}

fn read_identity(words: &[u64; WORDS]) -> Result<Identity, Damage> {
    let [magic, layout, byte_order, bytes, slots_per_set, slots, high, low, sum, ..] = *words;
    if magic != MAGIC {
        return Err(Damage::Foreign);
    }
    if byte_order != BYTE_ORDER {
        return Err(if byte_order == BYTE_ORDER.swap_bytes() {
            Damage::ByteOrder
        } else {
            Damage::Checksum
        });
    }
    // Of another layout even the checksum may lie elsewhere.
    if layout != LAYOUT {
        return Err(Damage::Layout(layout));
    }
    if sum != checksum(&words[..IDENTITY_WORDS]) {
        return Err(Damage::Checksum);
    }
    if (bytes, slots_per_set) != (BYTES_PER_SLOT as u64, SLOTS_PER_SET as u64) {
        return Err(Damage::Slot(bytes, slots_per_set));
    }
    let secret = (u128::from(high) << 64 | u128::from(low)).to_ne_bytes();
    Ok(Identity { slots, secret })
}

fn read_mark(words: &[u64; WORDS], at: usize) -> Option<(u64, Mark)> {
    let words = words.get(at..at + MARK_WORDS)?;
    let &[sequence, high, low, shift_ns, time_ns, wall_ns, sum] = words else { return None };
    let mark = Mark { boot: Boot([high, low]), shift_ns, time_ns, wall_ns };
    let is_whole = sum == checksum(&words[..MARK_WORDS - 1]);
    (is_whole && mark.is_sane()).then_some((sequence, mark))
}

/// Tells chance damage; whoever may write the file needs no forgery.
fn checksum(words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    SipHasher13::new_with_key(b"Tollgate's table").hash(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: u64 = BYTES as u64 + 1_024 * 16;
    const IDENTITY: Identity = Identity { slots: 1_024, secret: *b"sixteen bytes..." };

    fn a_mark(time_ns: u64) -> Mark {
        Mark { boot: Boot([7, 8]), shift_ns: 9, time_ns, wall_ns: 10 }
    }

    /// A header with marks at times 1 and 2.
    fn header() -> Words {
        let words = std::array::from_fn(|_| AtomicU64::new(0));
        write(&words, &IDENTITY);
        mark(&words, &a_mark(1));
        mark(&words, &a_mark(2));
        words
    }

    fn values(words: &Words) -> [u64; WORDS] {
        std::array::from_fn(|at| words[at].load(Ordering::Relaxed))
    }

    #[test]
    fn what_is_written_is_read() {
        let words = header();
        assert_eq!(read(&values(&words), LENGTH), Ok((IDENTITY, a_mark(2))));
        for time in 3..20 {
            mark(&words, &a_mark(time));
            assert_eq!(read(&values(&words), LENGTH), Ok((IDENTITY, a_mark(time))));
        }
        assert_eq!([(); 3].map(|()| next_process(&words)), [0, 1, 2]);
    }

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let good = values(&header());
        for at in 0..WORDS {
            for bit in 0..64 {
                let mut words = good;
                words[at] ^= 1 << bit;
                let found = read(&words, LENGTH);
                let [first, second] = MARKS.map(|mark| (mark..mark + MARK_WORDS).contains(&at));
                if at <= IDENTITY_WORDS {
                    assert!(found.is_err(), "word {at} bit {bit}");
                } else if second {
                    assert_eq!(found, Ok((IDENTITY, a_mark(1))), "word {at} bit {bit}");
                } else {
                    assert_eq!(found, Ok((IDENTITY, a_mark(2))), "word {at} bit {bit} {first}");
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = values(&header());
        let with = |changes: &[(usize, u64)]| {
            let mut words = good;
            changes.iter().for_each(|&(at, word)| words[at] = word);
            words[IDENTITY_WORDS] = checksum(&words[..IDENTITY_WORDS]);
            read(&words, LENGTH)
        };
        assert_eq!(with(&[(0, 1)]), Err(Damage::Foreign));
        assert_eq!(with(&[(1, 2)]), Err(Damage::Layout(2)));
        assert_eq!(with(&[(2, BYTE_ORDER.swap_bytes())]), Err(Damage::ByteOrder));
        assert_eq!(with(&[(3, 8)]), Err(Damage::Slot(8, 16)));
        assert_eq!(with(&[(4, 8)]), Err(Damage::Slot(16, 8)));
        for slots in [0, 1, 1_023, 2_048, u64::MAX, 1 << 60] {
            assert_eq!(with(&[(5, slots)]), Err(Damage::Length(slots, LENGTH)));
        }
        assert_eq!(read(&good, LENGTH - 1), Err(Damage::Length(1_024, LENGTH - 1)));
        assert_eq!(with(&[(30, 1), (38, 1)]), Err(Damage::Marks));
        assert_eq!(read(&[0; WORDS], LENGTH), Err(Damage::Foreign));
    }

    /// Whoever writes a mark may die after any word of it.
    #[test]
    fn a_mark_that_was_begun_leaves_the_one_before() {
        let before = values(&header());
        let words = header();
        mark(&words, &a_mark(3));
        let after = values(&words);
        let changed: Vec<usize> = (0..WORDS).filter(|&at| before[at] != after[at]).collect();
        assert!(changed.iter().all(|at| (MARKS[0]..MARKS[0] + MARK_WORDS).contains(at)));
        let mut torn = before;
        for at in &changed[..changed.len() - 1] {
            torn[*at] = after[*at];
            assert_eq!(read(&torn, LENGTH), Ok((IDENTITY, a_mark(2))));
        }
    }
}
