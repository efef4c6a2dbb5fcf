//! Which of two writes to one entry stands, where gateways wrote without knowing of each other.
//!
//! Every write has a version, versions are ordered, and everywhere the highest one stands. That
//! is a last-writer-wins register (Shapiro et al., "A comprehensive study of Convergent and
//! Commutative Replicated Data Types", 2011, §3.2.1): in whatever order writes arrive, and
//! however often, all gateways end with the same one.
//!
//! The counter is a Lamport clock that is never behind the wall clock in milliseconds (Kulkarni
//! et al., "Logical Physical Clocks", 2014, with the two parts in one number). A bare count
//! would let the gateway win that wrote more often, not the one that wrote last.

use std::fmt;

/// The highest counter that is believed. A higher one was not counted but made up, and would
/// leave no room for a later one.
pub const MAX_COUNTER: u64 = 1 << 62;

/// The version of a write. Those that end something for good stand above all others: a key that
/// was revoked must not come back because somebody else gave it a new end later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    /// Whether it ends something for good.
    pub is_final: bool,
    /// When it was written: milliseconds since 1970, or more where writes came faster or a
    /// clock was behind.
    pub counter: u64,
    /// Who wrote it, to tell apart what was written at the same time.
    pub writer: u64,
}

impl Version {
    /// Of what nobody wrote.
    pub const NONE: Version = Version { is_final: false, counter: 0, writer: 0 };
}

/// For people.
impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.counter, self.writer)
    }
}

/// The counter of a write that is made now, behind everything that was `seen`.
pub fn next_counter(seen: u64, now_ms: u64) -> u64 {
    seen.saturating_add(1).max(now_ms).min(MAX_COUNTER)
}

/// What a gateway has of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Its version.
    pub version: Version,
    /// Where it was written here and is not shared yet: the last version of the others that the
    /// writer can have known.
    pub unshared_over: Option<Version>,
}

/// What to do with a version of an entry that another gateway wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stands, here too. It is a conflict where it wins over a write that was not shared.
    Take {
        /// Whether both wrote without knowing of the other.
        is_conflict: bool,
    },
    /// It is what is here.
    Same,
    /// What is here stands and is on its way to the others.
    Keep {
        /// Whether both wrote without knowing of the other.
        is_conflict: bool,
    },
    /// What is here stands and was shared, and was lost there: it is to be shared again.
    Repeat,
}

/// Decides between what is here and what another gateway wrote.
pub fn judge(held: Held, theirs: Version) -> Verdict {
    use std::cmp::Ordering::{Equal, Greater, Less};
    match (theirs.cmp(&held.version), held.unshared_over) {
        (Greater, over) => Verdict::Take { is_conflict: over.is_some() },
        (Equal, _) => Verdict::Same,
        (Less, Some(over)) => Verdict::Keep { is_conflict: theirs > over },
        (Less, None) => Verdict::Repeat,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn version(counter: u64, writer: u64) -> Version {
        Version { is_final: false, counter, writer }
    }

    #[test]
    fn the_later_write_stands_and_of_two_at_once_always_the_same() {
        assert!(version(2, 1) > version(1, 9));
        assert!(version(1, 2) > version(1, 1));
        assert!(version(0, 1) > Version::NONE);
        let revoked = Version { is_final: true, ..version(1, 1) };
        assert!(revoked > version(MAX_COUNTER, u64::MAX), "what is revoked stays so");
    }

    #[test]
    fn a_counter_follows_the_clock_and_everything_seen() {
        assert_eq!(next_counter(0, 1_000), 1_000);
        assert_eq!(next_counter(1_000, 1_000), 1_001);
        assert_eq!(next_counter(5_000, 1_000), 5_001, "a clock that is behind does not matter");
        assert_eq!(next_counter(u64::MAX, 1_000), MAX_COUNTER);
    }

    #[test]
    fn a_conflict_is_what_neither_knew_of() {
        let shared = |counter| Held { version: version(counter, 1), unshared_over: None };
        let own = |counter, over| Held { version: version(counter, 1), unshared_over: Some(over) };
        let theirs = version(5, 2);
        let cases = [
            (shared(4), Verdict::Take { is_conflict: false }),
            (own(4, version(3, 2)), Verdict::Take { is_conflict: true }),
            (Held { version: theirs, unshared_over: None }, Verdict::Same),
            (own(6, version(3, 2)), Verdict::Keep { is_conflict: true }),
            (own(6, theirs), Verdict::Keep { is_conflict: false }),
            (shared(6), Verdict::Repeat),
        ];
        for (held, verdict) in cases {
            assert_eq!(judge(held, theirs), verdict, "{held:?}");
        }
    }

    /// What happens in a fleet, one thing at a time.
    #[derive(Debug, Clone)]
    enum Event {
        /// A gateway writes an entry; its clock may be anywhere.
        Write { gateway: usize, entry: u8, now_ms: u64, is_final: bool },
        /// A gateway pushes what it has not shared.
        Push { gateway: usize },
        /// A gateway reads, from any point of what there is.
        Read { gateway: usize, skip: usize },
        /// The store forgets everything, and gateways share all they have again.
        Lose,
    }

    const GATEWAYS: usize = 4;

    fn event() -> impl Strategy<Value = Event> {
        let gateway = 0..GATEWAYS;
        prop_oneof![
            6 => (gateway.clone(), 0..3_u8, 0..50_u64, prop::bool::weighted(0.1)).prop_map(
                |(gateway, entry, now_ms, is_final)| Event::Write { gateway, entry, now_ms, is_final }
            ),
            3 => gateway.clone().prop_map(|gateway| Event::Push { gateway }),
            3 => (gateway, 0..4_usize).prop_map(|(gateway, skip)| Event::Read { gateway, skip }),
            1 => Just(Event::Lose),
        ]
    }

    #[derive(Debug, Default, Clone)]
    struct Model {
        entries: BTreeMap<u8, Held>,
        seen: u64,
    }

    impl Model {
        fn held(&self, entry: u8) -> Held {
            let none = Held { version: Version::NONE, unshared_over: None };
            self.entries.get(&entry).copied().unwrap_or(none)
        }

        fn write(&mut self, entry: u8, writer: u64, now_ms: u64, is_final: bool) -> Version {
            let old = self.held(entry);
            self.seen = next_counter(self.seen, now_ms);
            let is_final = is_final || old.version.is_final;
            let version = Version { is_final, counter: self.seen, writer };
            let over = Some(old.unshared_over.unwrap_or(old.version));
            self.entries.insert(entry, Held { version, unshared_over: over });
            version
        }

        fn receive(&mut self, entry: u8, theirs: Version) {
            self.seen = self.seen.max(theirs.counter);
            let held = self.held(entry);
            let next = match judge(held, theirs) {
                Verdict::Take { .. } | Verdict::Same => {
                    Held { version: theirs, unshared_over: None }
                }
                Verdict::Keep { .. } => Held { unshared_over: Some(theirs), ..held },
                Verdict::Repeat => Held { unshared_over: Some(theirs), ..held },
            };
            self.entries.insert(entry, next);
        }

        fn push(&mut self, store: &mut BTreeMap<u8, Version>, is_all: bool) {
            for (entry, held) in self.entries.clone() {
                if !is_all && held.unshared_over.is_none() {
                    continue;
                }
                let stands = store.entry(entry).or_insert(Version::NONE);
                *stands = held.version.max(*stands);
                self.receive(entry, *stands);
            }
        }
    }

    proptest! {
        #[test]
        fn all_gateways_end_with_the_highest_version_whatever_arrives_when(
            events in prop::collection::vec(event(), 0..200)
        ) {
            let mut gateways = vec![Model::default(); GATEWAYS];
            let mut store = BTreeMap::new();
            let mut highest: BTreeMap<u8, Version> = BTreeMap::new();
            for event in events {
                match event {
                    Event::Write { gateway, entry, now_ms, is_final } => {
                        let writer = gateway as u64 + 1;
                        let version = gateways[gateway].write(entry, writer, now_ms, is_final);
                        let stands = highest.entry(entry).or_default();
                        *stands = version.max(*stands);
                    }
                    Event::Push { gateway } => gateways[gateway].push(&mut store, false),
                    Event::Read { gateway, skip } => {
                        for (&entry, &version) in store.iter().skip(skip) {
                            gateways[gateway].receive(entry, version);
                        }
                    }
                    Event::Lose => {
                        store.clear();
                        gateways.iter_mut().for_each(|gateway| gateway.push(&mut store, true));
                    }
                }
            }
            gateways.iter_mut().for_each(|gateway| gateway.push(&mut store, false));
            for gateway in &mut gateways {
                for (&entry, &version) in &store {
                    gateway.receive(entry, version);
                }
                let versions: BTreeMap<u8, Version> =
                    gateway.entries.iter().map(|(&entry, held)| (entry, held.version)).collect();
                prop_assert_eq!(&versions, &highest);
                prop_assert!(gateway.entries.values().all(|held| held.unshared_over.is_none()));
            }
        }

        #[test]
        fn a_write_stands_above_all_its_writer_has_seen(
            seen in prop::collection::vec((0..MAX_COUNTER, 0..5_u64), 1..20), now_ms in 0..u64::MAX,
        ) {
            let highest = seen.iter().map(|&(counter, _)| counter).max().unwrap_or(0);
            let next = version(next_counter(highest, now_ms), 0);
            prop_assert!(seen.iter().all(|&(counter, writer)| version(counter, writer) < next)
                || highest == MAX_COUNTER);
        }
    }
}
