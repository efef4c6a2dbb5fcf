//! What stands for a client's id in memory, and the hash that makes it.
//!
//! Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): each
//! eight bytes times a random number of 128 bits, all added up, and of the sum the upper half. Two
//! ids that were chosen without knowing the numbers meet with a probability of 2⁻⁶⁴ for each sum,
//! which is proven and not only believed; the numbers are this process's own and shown to nobody.
//!
//! SipHash, which the limiter's keys have, promises more: who has seen some of its outputs cannot
//! foretell another. Nobody sees an output here, and only administrators put clients in, so what
//! it would cost buys nothing: of a SipHash of 128 bits alone, a processor is as busy as it looks
//! ahead, and could not begin to wait for one client's line while it waits for another's.

use super::MAX_CLIENT_ID;
use siphasher::sip128::SipHasher13;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};

/// Words of the longest id.
const WORDS: usize = MAX_CLIENT_ID.div_ceil(8);

/// What stands for a client's id. Of a million clients two share theirs with a probability of
/// 2⁻⁵⁷; a stranger has that of one of them with 2⁻⁷⁶.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint {
    upper: u64,
    lower: u32,
}

impl Fingerprint {
    /// The least upper part; what is below is free to mark a place where nobody is.
    pub(super) const LEAST: u64 = 2;

    /// Of these parts, the upper one raised to the least where it is below: that two become alike
    /// by it is no likelier than that any two are.
    #[inline]
    pub(super) fn new(upper: u64, lower: u32) -> Fingerprint {
        Fingerprint { upper: upper.max(Fingerprint::LEAST), lower }
    }

    /// The upper part.
    #[inline]
    pub(super) fn upper(self) -> u64 {
        self.upper
    }

    /// The lower part.
    #[inline]
    pub(super) fn lower(self) -> u32 {
        self.lower
    }
}

impl Hash for Fingerprint {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.upper);
    }
}

/// The numbers that ids are multiplied by.
pub(super) struct Fingerprints {
    /// For each word of an id, one for each sum.
    factors: Box<[[u128; 2]; WORDS]>,
    /// What the sums begin with.
    first: [u128; 2],
}

impl Fingerprints {
    /// With numbers drawn at random.
    pub(super) fn new() -> Fingerprints {
        let random = || RandomState::new().build_hasher().finish();
        let secret = SipHasher13::new_with_keys(random(), random());
        let mut count = 0_u64;
        let mut draw = || {
            count += 1;
            secret.hash(&count.to_le_bytes()).as_u128()
        };
        let mut pair = || [draw(), draw()];
        Fingerprints { factors: Box::new(std::array::from_fn(|_| pair())), first: pair() }
    }

    /// Of an id of visible ASCII; none of one that is longer than any client's.
    #[inline]
    pub(super) fn of(&self, id: &str) -> Option<Fingerprint> {
        let (words, rest) = id.as_bytes().as_chunks::<8>();
        let [mut one, mut other] = self.first;
        let mut add = |word: u64, factors: &[u128; 2]| {
            one = one.wrapping_add(factors[0].wrapping_mul(u128::from(word)));
            other = other.wrapping_add(factors[1].wrapping_mul(u128::from(word)));
        };
        let factors = self.factors.get(..words.len())?;
        for (word, factors) in words.iter().zip(factors) {
            add(u64::from_le_bytes(*word), factors);
        }
        if !rest.is_empty() {
            add(last_word(id.as_bytes(), rest), self.factors.get(words.len())?);
        }
        Some(Fingerprint::new((one >> 64) as u64, (other >> 96) as u32))
    }
}

/// The rest of an id behind its whole words, with zeros behind it, which no id has.
#[inline]
fn last_word(id: &[u8], rest: &[u8]) -> u64 {
    match id.last_chunk() {
        Some(last) => u64::from_le_bytes(*last) >> (64 - 8 * rest.len()),
        None => rest.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_of_any_length_that_differ_in_one_byte_are_kept_apart() {
        let fingerprints = Fingerprints::new();
        let mut all = HashSet::new();
        let mut count = 0;
        for length in 1..=MAX_CLIENT_ID {
            let id = vec![b'x'; length];
            for at in 0..length {
                let mut id = id.clone();
                id[at] = b'y';
                let fingerprint = fingerprints.of(str::from_utf8(&id).unwrap()).unwrap();
                all.insert(fingerprint);
                count += 1;
            }
        }
        assert_eq!(all.len(), count);
    }

    #[test]
    fn an_id_has_one_fingerprint_and_in_another_process_another() {
        let [one, two] = [Fingerprints::new(), Fingerprints::new()];
        for id in ["a", "client-7", "client-1234567", &"z".repeat(MAX_CLIENT_ID)] {
            assert_eq!(one.of(id), one.of(id));
            assert_ne!(one.of(id), two.of(id));
        }
    }

    #[test]
    fn what_is_too_long_for_an_id_has_none() {
        let fingerprints = Fingerprints::new();
        for length in [1, 8, 9, 200] {
            let id = "x".repeat(MAX_CLIENT_ID + length);
            assert_eq!(fingerprints.of(&id), None, "{length}");
        }
    }

    /// The sums as the paper writes them, one byte at a time.
    #[test]
    fn it_is_the_upper_part_of_a_sum_of_products() {
        let fingerprints = Fingerprints::new();
        for id in ["a", "seven77", "eight888", "nine99999", &"0123456789".repeat(25)] {
            let sum = |which: usize| {
                id.bytes().enumerate().fold(fingerprints.first[which], |sum, (at, byte)| {
                    let part = u128::from(byte) << (8 * (at % 8));
                    sum.wrapping_add(fingerprints.factors[at / 8][which].wrapping_mul(part))
                })
            };
            let expected = Fingerprint::new((sum(0) >> 64) as u64, (sum(1) >> 96) as u32);
            assert_eq!(fingerprints.of(id), Some(expected), "{id}");
        }
    }
}
