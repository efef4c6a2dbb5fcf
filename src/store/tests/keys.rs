use super::*;
use std::collections::HashSet;

#[test]
fn kinds_and_policies_keep_equal_names_apart() {
    use KeyKind::{ApiKey, Global, Header, HeaderValue, Ip, Policy, Route};
    let kinds = [ApiKey, Header, Ip, Route, Global, HeaderValue, Policy];
    let policies = ["tier", "per-ip", "route:users"];
    let mut seen = HashSet::new();
    for policy in policies {
        for kind in kinds {
            for name in ["", "a", "192.0.2.1", "tier", "192.0.2.1\u{3}"] {
                let key = Key::new(digest(Policy, policy), digest(kind, name));
                assert!(seen.insert(key.fingerprint()), "{policy} {kind:?} {name}");
            }
        }
    }
}

#[test]
fn keys_depend_on_the_secret_and_on_nothing_else() {
    let one = KeyHasher::with_secret(&[1; 16]);
    let two = KeyHasher::with_secret(&[2; 16]);
    let of = |hasher: &KeyHasher| hasher.digest(KeyKind::Header, b"client-123");
    assert_eq!(of(&one), of(&one.clone()));
    assert_ne!(of(&one), of(&two));
    let drawn = [KeyHasher::from_os().unwrap(), KeyHasher::from_os().unwrap()];
    assert_ne!(of(&drawn[0]), of(&drawn[1]), "every start draws its own secret");
}

#[test]
fn a_fingerprint_is_never_that_of_an_empty_slot() {
    let same = digest(KeyKind::Policy, "tier");
    assert_eq!(Key::new(same, same).fingerprint(), 1);
}

#[test]
fn keys_spread_over_sets_and_starting_points() {
    let mut sets = [0_u32; 64];
    let mut starts = [0_u32; 16];
    for client in 0..64_000 {
        let key = key(client);
        sets[key.set() & 63] += 1;
        starts[key.start()] += 1;
    }
    // A thousand to a set, give or take six standard deviations.
    assert!(sets.iter().all(|&keys| (800..1_200).contains(&keys)), "{sets:?}");
    assert!(starts.iter().all(|&keys| (3_600..4_400).contains(&keys)), "{starts:?}");
}
