//! How servers behave: well, slowly, badly, not at all, or now this way and now that.

use crate::setup::{ADDRESSES, FINE_NS, MS, SECOND, address, one_of};
use fastrand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use tollgate::policy::retry::Failure;

/// The moods of all servers.
pub(crate) struct Weather(BTreeMap<SocketAddr, Mood>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Fine,
    /// Answers take up to this long.
    Slow(u64),
    /// So many of a hundred attempts fail.
    Shaky(u8, Fault),
    Failing(Fault),
    BlackHole,
    /// Fine and failing by turns of this length.
    Flapping(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Refuses,
    Resets,
    Answers(u16),
}

/// What becomes of an attempt if nobody loses patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// An answer of this status, with what it asks for by `Retry-After`.
    Status(u16, Option<u64>),
    /// A failure without an answer.
    Failure(Failure),
    /// Nothing ever comes.
    Silence,
}

impl Weather {
    pub(crate) fn fine() -> Weather {
        Weather((1..=ADDRESSES).map(|n| (address(n), Mood::Fine)).collect())
    }

    /// One server changes its mood, or all of them do.
    pub(crate) fn change(&mut self, rng: &mut Rng) {
        let mood = draw(rng);
        match rng.u8(..8) {
            0 => self.0.values_mut().for_each(|own| *own = mood),
            1 => self.0.values_mut().for_each(|own| *own = draw(rng)),
            2 => *self = Weather::fine(),
            _ => {
                self.0.insert(address(rng.u8(1..=ADDRESSES)), mood);
            }
        }
    }

    /// Whether a check that is made now finds the server well.
    pub(crate) fn is_well(&self, at: SocketAddr, now_ns: u64, rng: &mut Rng) -> bool {
        match self.at(at) {
            Mood::Fine | Mood::Slow(_) => true,
            Mood::Shaky(percent, _) => rng.u8(..100) >= percent,
            Mood::Failing(_) | Mood::BlackHole => false,
            Mood::Flapping(period_ns) => (now_ns / period_ns).is_multiple_of(2),
        }
    }

    /// What an attempt that begins now meets, and after how long.
    pub(crate) fn meet(&self, at: SocketAddr, now_ns: u64, rng: &mut Rng) -> (Answer, u64) {
        let fine = (Answer::Status(200, None), rng.u64(..FINE_NS));
        match self.at(at) {
            Mood::Fine => fine,
            Mood::Slow(longest_ns) => (fine.0, rng.u64(..longest_ns)),
            Mood::Shaky(percent, fault) if rng.u8(..100) < percent => fault.meet(rng),
            Mood::Shaky(..) => fine,
            Mood::Failing(fault) => fault.meet(rng),
            Mood::BlackHole => (Answer::Silence, u64::MAX),
            Mood::Flapping(period_ns) if (now_ns / period_ns).is_multiple_of(2) => fine,
            Mood::Flapping(_) => Fault::Resets.meet(rng),
        }
    }

    fn at(&self, at: SocketAddr) -> Mood {
        self.0.get(&at).copied().unwrap_or(Mood::Fine)
    }
}

fn draw(rng: &mut Rng) -> Mood {
    let fault = match rng.u8(..4) {
        0 => Fault::Refuses,
        1 => Fault::Resets,
        _ => Fault::Answers([429, 500, 501, 502, 503][rng.usize(..5)]),
    };
    match rng.u8(..10) {
        0 => Mood::Fine,
        1 | 2 => Mood::Slow(rng.u64(MS..3 * SECOND)),
        3 | 4 => Mood::Shaky(rng.u8(1..100), fault),
        5 | 6 => Mood::Failing(fault),
        7 | 8 => Mood::BlackHole,
        _ => Mood::Flapping(rng.u64(10 * MS..3 * SECOND)),
    }
}

impl Fault {
    fn meet(self, rng: &mut Rng) -> (Answer, u64) {
        let after_ns = rng.u64(..2 * FINE_NS);
        let answer = match self {
            Self::Refuses => Answer::Failure(Failure::Connect),
            Self::Resets => Answer::Failure(Failure::Reset),
            Self::Answers(status) => {
                let asks = matches!(status, 429 | 503) && one_of(rng, 3);
                Answer::Status(status, asks.then(|| rng.u64(..20) * SECOND))
            }
        };
        (answer, after_ns)
    }
}
