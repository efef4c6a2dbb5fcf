//! What a bucket is found by: policy, kind of identity and value, hashed with a secret.
//!
//! SipHash-1-3 (Aumasson and Bernstein, 2012): a keyed pseudo-random function, so that
//! nobody outside can choose ids that share a slot or a set. Faster hashes exist whose seed
//! does not protect against chosen input.
//!
//! An identity is hashed once a request. The keys of the several limits that count by it
//! are that digest combined with each policy's own digest by exclusive or: both are
//! outputs of the same secret function, so two different pairs meet with probability
//! 2⁻⁶⁴, as if each had been hashed by itself. The place in the table follows from the
//! fingerprint; 128 bits of output would keep them apart and cost half a hash more, for a
//! chance of meeting that is one in 2⁶⁴ already.

use siphasher::sip::SipHasher13;
use std::hash::{BuildHasherDefault, Hasher};

/// What kind of thing identifies the holder of a bucket. Part of the key, so that a header
/// value never meets an address or an API-key client of the same spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KeyKind {
    /// A client named by one of its API keys.
    ApiKey = 1,
    /// A client named by a header.
    Header = 2,
    /// An address, IPv6 cut to the configured prefix.
    Ip = 3,
    /// One bucket for a whole route.
    Route = 4,
    /// One bucket for everybody.
    Global = 5,
    /// A value of the header a limit counts by.
    HeaderValue = 6,
    /// A policy's name; never a bucket by itself.
    Policy = 7,
    /// A cost that was refused; never a bucket by itself.
    Refused = 8,
}

/// A digest of an identity or of a policy's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(u64);

/// The place of one bucket in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    fingerprint: u64,
}

impl Key {
    /// The bucket that `holder` has under `policy`.
    pub fn new(policy: Digest, holder: Digest) -> Key {
        // Zero marks an empty slot.
        Key { fingerprint: (policy.0 ^ holder.0).max(1) }
    }

    /// What is kept beside the bucket under this digest.
    pub fn beside(self, what: Digest) -> Key {
        Key { fingerprint: (self.fingerprint ^ what.0).max(1) }
    }

    /// The key of a bucket that is there.
    pub(super) fn of_fingerprint(fingerprint: u64) -> Key {
        Key { fingerprint }
    }

    /// The 64 bits that stand for it.
    pub fn fingerprint(self) -> u64 {
        self.fingerprint
    }

    pub(super) fn set(self) -> usize {
        self.fingerprint as usize
    }

    /// Where in its set the key looks first, from 0 to 15; bits that the set's number does not use.
    pub(super) fn start(self) -> usize {
        (self.fingerprint >> 60) as usize
    }
}

/// How maps hash what a keyed hash has made already: a key, a digest, a fingerprint.
pub type AsItIs = BuildHasherDefault<TakeAsItIs>;

/// Takes the last number it is given as it is.
#[derive(Debug, Default)]
pub struct TakeAsItIs(u64);

impl Hasher for TakeAsItIs {
    fn write_u64(&mut self, hashed: u64) {
        self.0 = hashed;
    }

    /// What is meant for this is a number, so this is not called; were it, it would still spread.
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Kinds there are, and the zero that none of them is.
const KINDS: usize = KeyKind::Refused as usize + 1;

/// Hashes identities with a secret drawn at start.
///
/// Each kind has a secret of its own, derived from the one: a value is then hashed as it
/// lies, in one go, instead of being joined to its kind first.
#[derive(Clone)]
pub struct KeyHasher([SipHasher13; KINDS]);

impl KeyHasher {
    /// A hasher with a secret from the operating system.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn from_os() -> std::io::Result<KeyHasher> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(std::io::Error::other)?;
        Ok(KeyHasher::with_secret(&secret))
    }

    /// A hasher with this secret.
    pub fn with_secret(secret: &[u8; 16]) -> KeyHasher {
        let root = SipHasher13::new_with_key(secret);
        KeyHasher(std::array::from_fn(|kind| {
            let derive = |half| root.hash(&[kind as u8, half]);
            SipHasher13::new_with_keys(derive(0), derive(1))
        }))
    }

    /// Digests a value of one kind.
    pub fn digest(&self, kind: KeyKind, value: &[u8]) -> Digest {
        Digest(self.0[kind as usize].hash(value))
    }
}
