use super::*;
use crate::policy::rate::{Period, Rate};
use proptest::prelude::*;
use siphasher::sip128::{Hasher128, SipHasher13};
use std::hash::Hasher;
use std::sync::atomic::AtomicBool;

/// The fingerprint of client number `client`.
fn fingerprint(client: u64) -> Fingerprint {
    let mut hasher = SipHasher13::new_with_keys(1, 2);
    hasher.write_u64(client);
    let hash = hasher.finish128();
    Fingerprint::new(hash.h1, hash.h2 as u32)
}

fn limit(burst: u64) -> TokenBucket {
    TokenBucket::new(Rate { count: 1, period: Period::Second }, burst).unwrap()
}

/// Clients and the thread that writes them.
struct Written {
    clients: Clients,
    numbers: Numbers,
}

impl Written {
    fn new() -> Written {
        Written { clients: Clients::new(), numbers: Numbers::default() }
    }

    fn set(&mut self, client: u64, tier: Option<&str>, own: Option<u64>) {
        let tier = tier.map(TierName::of);
        self.clients.set(fingerprint(client), tier, own.map(limit), &mut self.numbers);
    }

    fn get(&self, client: u64) -> Option<(Option<TierName>, Option<u64>)> {
        read(&self.clients, client)
    }

    fn lines(&self) -> usize {
        self.clients.shelf.load().lines.len()
    }
}

fn read(clients: &Clients, client: u64) -> Option<(Option<TierName>, Option<u64>)> {
    let held = clients.get(fingerprint(client))?;
    Some((held.tier, held.own_limit.map(|limit| limit.burst())))
}

fn basic() -> Option<TierName> {
    Some(TierName::of("basic"))
}

#[test]
fn fingerprints_that_look_like_a_condition_are_clients_like_others() {
    let mut written = Written::new();
    for upper in [EMPTY, GIVEN_UP] {
        let fingerprint = Fingerprint::new(upper, 7);
        assert_eq!(written.clients.get(fingerprint), None);
        written.clients.set(fingerprint, None, None, &mut written.numbers);
        assert_eq!(written.clients.get(fingerprint), Some(Held { tier: None, own_limit: None }));
        written.clients.remove(fingerprint);
        assert_eq!((written.clients.get(fingerprint), written.clients.len()), (None, 0));
    }
}

#[test]
fn fingerprints_that_share_a_part_are_kept_apart() {
    let mut written = Written::new();
    let lowers = [0, 1, 2, 3, 4, 5, 6, 7, 8, u32::MAX];
    let all = || {
        let uppers = [Fingerprint::LEAST, 3, u64::MAX].into_iter();
        uppers.flat_map(|upper| lowers.map(|lower| Fingerprint::new(upper, lower)))
    };
    for fingerprint in all() {
        let tier = TierName::of(&format!("{fingerprint:?}"));
        written.clients.set(fingerprint, Some(tier), None, &mut written.numbers);
    }
    for fingerprint in all() {
        let tier = written.clients.get(fingerprint).map(|held| held.tier);
        assert_eq!(tier, Some(Some(TierName::of(&format!("{fingerprint:?}")))));
    }
}

#[test]
fn a_table_grows_with_its_clients_and_shrinks_after_them() {
    let mut written = Written::new();
    let crowd = 20_000;
    for client in 0..crowd {
        written.set(client, Some("basic"), None);
        let places = written.lines() * ENTRIES;
        assert!(3 * written.clients.used.load(Ordering::Relaxed) <= 2 * places);
    }
    let largest = written.lines();
    assert!(largest * ENTRIES <= 9 * crowd as usize / 4 + ENTRIES, "{largest}");
    assert!((0..crowd).all(|client| written.get(client).is_some()));
    assert!((crowd..2 * crowd).all(|client| written.get(client).is_none()));
    // Who comes and goes for ever finds room, and nothing grows.
    for client in crowd..10 * crowd {
        written.set(client, None, None);
        written.clients.remove(fingerprint(client));
        assert!(written.lines() <= largest.max((crowd as usize + 1) * 9 / (4 * ENTRIES) + 1));
    }
    written.clients.retain(|kept| kept == fingerprint(3));
    assert_eq!((written.clients.len(), written.lines()), (1, MIN_LINES));
    assert_eq!(written.get(3), Some((basic(), None)));
}

#[test]
fn of_a_limit_that_nobody_has_any_more_nothing_is_kept() {
    let mut written = Written::new();
    for round in 1..50 {
        written.set(1, Some("basic"), Some(round));
        written.set(2, None, Some(round));
        assert_eq!(written.get(1), Some((basic(), Some(round))));
        assert_eq!(written.clients.own.len(), 2);
        if round % 2 == 0 {
            written.set(1, Some("basic"), None);
            written.clients.remove(fingerprint(2));
            assert_eq!(written.clients.own.len(), 0);
        }
    }
    written.clients.retain(|_| false);
    assert_eq!((written.clients.own.len(), written.clients.len()), (0, 0));
}

#[test]
fn numbers_of_limits_begin_anew_and_pass_over_those_in_use() {
    let mut written = Written::new();
    written.set(1, None, Some(10));
    written.numbers.own = u32::MAX - 1;
    for client in 2..6 {
        written.set(client, None, Some(client * 10));
    }
    assert!((1..6).all(|client| written.get(client) == Some((None, Some(client * 10)))));
}

/// What is done to the clients.
#[derive(Debug, Clone)]
enum Step {
    Set(u64, Option<u8>, Option<u64>),
    Remove(u64),
    KeepBelow(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Few clients, so that they come back; and enough of them that the table changes its size.
    let client = prop_oneof![0..40_u64, 0..2_000_u64];
    let own = prop_oneof![4 => Just(None), 1 => (1..9_u64).prop_map(Some)];
    let tier = prop::option::of(0..5_u8);
    prop::collection::vec(
        prop_oneof![
            200 => (client.clone(), tier, own).prop_map(|(client, tier, own)| Step::Set(client, tier, own)),
            60 => client.clone().prop_map(Step::Remove),
            1 => client.prop_map(Step::KeepBelow),
        ],
        1..1_500,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn it_is_a_map(steps in steps()) {
        let mut written = Written::new();
        let mut model = HashMap::new();
        for step in steps {
            match step {
                Step::Set(client, tier, own) => {
                    let tier = tier.map(|number| format!("tier {number}"));
                    written.set(client, tier.as_deref(), own);
                    model.insert(client, (tier, own));
                }
                Step::Remove(client) => {
                    written.clients.remove(fingerprint(client));
                    model.remove(&client);
                }
                Step::KeepBelow(bound) => {
                    let kept: Vec<Fingerprint> = (0..bound).map(fingerprint).collect();
                    written.clients.retain(|fingerprint| kept.contains(&fingerprint));
                    model.retain(|client, _| *client < bound);
                }
            }
            prop_assert_eq!(written.clients.len(), model.len());
        }
        for client in 0..2_000 {
            let expected = model.get(&client).map(|(tier, own): &(Option<String>, Option<u64>)| {
                (tier.as_deref().map(TierName::of), *own)
            });
            prop_assert_eq!(written.get(client), expected);
        }
    }
}

/// While one thread registers, changes and removes strangers, so that the table is copied again
/// and again, others ask for clients that are there all the while, and for such as never are.
#[test]
fn readers_never_miss_a_client_nor_see_it_stand_as_another() {
    let mut written = Written::new();
    // Client n of the first hundred has tier n and, by turns, limit n or none.
    let steady = 0..100_u64;
    for client in steady.clone() {
        written.set(client, Some(&client.to_string()), Some(client + 1));
    }
    let Written { clients, mut numbers } = written;
    let is_over = AtomicBool::new(false);
    let copies = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for reader in 0..3_u64 {
            let (clients, is_over, steady) = (&clients, &is_over, steady.clone());
            scope.spawn(move || {
                let mut round = reader;
                while !is_over.load(Ordering::Relaxed) {
                    for client in steady.clone() {
                        let (tier, own) = read(clients, client).expect("it was never removed");
                        let tier = tier.expect("it has one");
                        // Its own name, and that of a limit which it has by turns.
                        match own {
                            Some(burst) if burst != client + 1 => {
                                assert_eq!(tier, TierName::of(&format!("{client}-{burst}")));
                            }
                            _ => assert_eq!(tier, TierName::of(&client.to_string())),
                        }
                    }
                    // Of the strangers each has one tier for as long as it is there.
                    let stranger = 1_000 + round % 3_000;
                    if let Some((tier, own)) = read(clients, stranger) {
                        let expected = TierName::of(&format!("s{}", stranger % 7));
                        assert_eq!((tier, own), (Some(expected), None));
                    }
                    assert_eq!(read(clients, 1_000_000 + round), None);
                    round += 3;
                }
            });
        }
        let mut set = |client, tier: String, own: Option<u64>| {
            let tier = Some(TierName::of(&tier));
            clients.set(fingerprint(client), tier, own.map(limit), &mut numbers);
        };
        for round in 0..8_u64 {
            let lines = clients.shelf.load().lines.len();
            for stranger in 1_000..4_000_u64 {
                set(stranger, format!("s{}", stranger % 7), None);
                let client = stranger % 100;
                match stranger % 3 {
                    0 => set(client, client.to_string(), None),
                    1 => set(client, client.to_string(), Some(client + 1)),
                    _ => set(client, format!("{client}-{}", round + 200), Some(round + 200)),
                }
            }
            copies.fetch_add(
                usize::from(clients.shelf.load().lines.len() != lines),
                Ordering::Relaxed,
            );
            (1_000..4_000).for_each(|stranger| clients.remove(fingerprint(stranger)));
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(copies.load(Ordering::Relaxed) > 0);
}
