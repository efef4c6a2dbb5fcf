//! What a registry keeps for other gateways, and what it takes from them, without a Redis.

use super::*;
use crate::policy::version::Version;
use std::collections::BTreeMap;
use std::path::Path;

const A: u64 = 0xa;
const B: u64 = 0xb;

fn shared(folder: Option<&Path>, writer: u64) -> Registry {
    Registry::open_shared(folder, Bounds::default(), writer).unwrap()
}

/// What the shared copy does, in a map.
#[derive(Default)]
struct Copied(BTreeMap<String, String>);

impl Copied {
    /// Puts what waits there.
    fn push(&mut self, registry: &Registry) {
        let page = self.put(now(registry.unshared(1_000)).unwrap());
        now(registry.merge(page)).unwrap();
    }

    fn put(&mut self, entries: Vec<Entry>) -> Page {
        let mut page = Page::default();
        for entry in entries {
            let stood = self.0.get(entry.name()).cloned().unwrap_or_default();
            let replaced = read_version(&stood).unwrap_or_default();
            if replaced > entry.version() {
                page.found.push(Entry::read(entry.name(), &stood).unwrap());
                continue;
            }
            self.0.insert(entry.name().into(), entry.text());
            let (name, version) = (entry.name().into(), entry.version());
            page.pushed.push(Pushed { name, version, replaced });
        }
        page
    }

    /// Lets a registry read all of it.
    fn read(&self, registry: &Registry) {
        let found = self.0.iter().map(|(name, text)| Entry::read(name, text).unwrap()).collect();
        now(registry.merge(Page { found, ..Page::default() })).unwrap();
    }
}

/// All that requests can tell apart, of clients `a` to `c`.
fn seen(registry: &Registry, keys: &[&str]) -> Vec<String> {
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    let mut seen: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|id| {
            format!("{:?} {}", registry.standing(id, &known, &tiers), registry.blocks_client(id))
        })
        .collect();
    seen.extend(
        keys.iter().map(|key| format!("{:?}", registry.client_of_key(key.as_bytes(), &known))),
    );
    seen.push(format!("{:?} {:?}", registry.counts(), registry.ids()));
    seen
}

/// Lets the wall clock go on.
fn later() {
    let now = clock::unix_ms();
    while clock::unix_ms() == now {
        std::thread::yield_now();
    }
}

fn id_of(secret: &str) -> KeyId {
    KeyId::of(&api_key(secret, None).hash)
}

fn add_key(registry: &Registry, client: &str, secret: &str, end: Option<u64>) {
    registry.make(Change::AddKey { client: client.into(), key: api_key(secret, end) }).unwrap();
}

#[test]
fn what_one_gateway_writes_is_what_another_reads() {
    let (one, other, mut copied) = (shared(None, A), shared(None, B), Copied::default());
    one.set_tier("a", "premium").unwrap();
    one.set_own_limit("a", bucket(7)).unwrap();
    add_key(&one, "b", "secret", None);
    one.make(block(target("client", "c"), None)).unwrap();
    assert_eq!(one.unshared_count(), 3, "an entry waits once");
    copied.push(&one);
    assert_eq!(one.unshared_count(), 0);
    copied.read(&other);
    assert_eq!(seen(&one, &["secret"]), seen(&other, &["secret"]));
    assert_eq!(other.counts(), [2, 1, 1], "who has a key alone is registered too");
    // And back: what the other takes back is gone on both.
    other.make(Change::RevokeKey { client: "b".into(), key: id_of("secret") }).unwrap();
    other.make(Change::Forget { client: "a".into() }).unwrap();
    other.make(Change::Unblock { target: target("client", "c") }).unwrap();
    copied.push(&other);
    copied.read(&one);
    assert_eq!(one.counts(), [0; 3]);
    assert_eq!(seen(&one, &["secret"]), seen(&other, &["secret"]));
}

#[test]
fn the_later_of_two_writes_stands_whoever_comes_first() {
    for is_first_to_push in [true, false] {
        let (one, other, mut copied) = (shared(None, A), shared(None, B), Copied::default());
        one.set_tier("a", "premium").unwrap();
        later();
        other.set_tier("a", "basic").unwrap();
        let order = if is_first_to_push { [&one, &other] } else { [&other, &one] };
        order.into_iter().for_each(|registry| copied.push(registry));
        copied.read(&one);
        copied.read(&other);
        let (tiers, known) = (Tiers::standard(), KnownClients::default());
        for registry in [&one, &other] {
            let tier = registry.standing("a", &known, &tiers).tier;
            assert_eq!(Some(tier), tiers.find("basic"), "{is_first_to_push}");
            assert_eq!(registry.unshared_count(), 0);
        }
    }
}

#[test]
fn a_change_made_after_another_was_seen_stands_above_it_whatever_the_clock() {
    let (one, mut copied) = (shared(None, A), Copied::default());
    let ahead = clock::unix_ms() + 3_600_000;
    let theirs = Version { is_final: false, counter: ahead, writer: B };
    let text = format!("{}{}", version_text(theirs), r#"{"tier":"basic"}"#);
    copied.0.insert("client/a".into(), text);
    copied.read(&one);
    one.set_tier("a", "premium").unwrap();
    let entries = now(one.unshared(10)).unwrap();
    assert!(entries[0].version() > theirs);
    copied.push(&one);
    copied.read(&one);
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    assert_eq!(Some(one.standing("a", &known, &tiers).tier), tiers.find("premium"));
}

#[test]
fn a_revoked_key_stays_revoked_even_if_somebody_prolongs_it_later() {
    let (one, other, mut copied) = (shared(None, A), shared(None, B), Copied::default());
    add_key(&one, "a", "old", None);
    copied.push(&one);
    copied.read(&other);
    one.make(Change::RevokeKey { client: "a".into(), key: id_of("old") }).unwrap();
    later();
    let (client, key) = ("a".into(), api_key("new", None));
    let old_expires_ms = clock::unix_ms() + 3_600_000;
    other.make(Change::RotateKey { client, old: id_of("old"), old_expires_ms, key }).unwrap();
    copied.push(&one);
    copied.push(&other);
    copied.read(&one);
    copied.read(&other);
    let known = KnownClients::default();
    for registry in [&one, &other] {
        assert_eq!(registry.client_of_key(b"old", &known), None);
        assert_eq!(registry.client_of_key(b"new", &known).as_deref(), Some("a"));
    }
    assert_eq!(seen(&one, &[]), seen(&other, &[]));
}

#[test]
fn a_key_and_the_end_of_its_client_meet_in_any_order() {
    for is_first_to_push in [true, false] {
        let (one, other, mut copied) = (shared(None, A), shared(None, B), Copied::default());
        one.set_tier("a", "premium").unwrap();
        copied.push(&one);
        copied.read(&other);
        one.make(Change::Forget { client: "a".into() }).unwrap();
        add_key(&other, "a", "secret", None);
        let order = if is_first_to_push { [&one, &other] } else { [&other, &one] };
        order.into_iter().for_each(|registry| copied.push(registry));
        copied.read(&one);
        copied.read(&other);
        assert_eq!(seen(&one, &["secret"]), seen(&other, &["secret"]));
        assert_eq!(one.counts(), [1, 1, 0], "the key stands and its client with it, without tier");
    }
}

#[test]
fn what_was_removed_does_not_come_back_from_a_copy_that_forgot() {
    let (one, other) = (shared(None, A), shared(None, B));
    let mut copied = Copied::default();
    one.set_tier("a", "premium").unwrap();
    copied.push(&one);
    copied.read(&other);
    one.make(Change::Forget { client: "a".into() }).unwrap();
    copied.push(&one);
    // The other did not hear of it, and the copy is lost: all put again what they have.
    let mut anew = Copied::default();
    for registry in [&other, &one] {
        let entries = now(registry.entries(None, 10)).unwrap();
        let page = anew.put(entries);
        now(registry.merge(page)).unwrap();
    }
    anew.read(&other);
    anew.read(&one);
    assert_eq!((one.counts(), other.counts()), ([0; 3], [0; 3]));
}

#[test]
fn what_the_copy_lost_is_put_there_again() {
    let (one, mut copied) = (shared(None, A), Copied::default());
    one.set_tier("a", "premium").unwrap();
    copied.push(&one);
    let old = copied.0.clone();
    one.set_tier("a", "basic").unwrap();
    copied.push(&one);
    copied.0 = old;
    copied.read(&one);
    assert_eq!(one.unshared_count(), 1, "what is there is older than what was shared");
    copied.push(&one);
    assert!(copied.0["client/a"].contains("basic"));
}

#[test]
fn versions_and_what_waits_outlive_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let mut copied = Copied::default();
    let one = shared(Some(folder.path()), A);
    one.set_tier("a", "premium").unwrap();
    one.set_tier("b", "premium").unwrap();
    copied.push(&one);
    one.make(Change::Forget { client: "a".into() }).unwrap();
    let before = now(one.entries(None, 10)).unwrap();
    let mark = Mark { origin: "copy 1".into(), sequence: 7 };
    now(one.merge(Page { mark: Some(mark.clone()), ..Page::default() })).unwrap();
    drop(one);
    // Without sharing, versions are kept as well.
    let alone = Registry::open(Some(folder.path())).unwrap();
    alone.set_tier("b", "basic").unwrap();
    drop(alone);
    let one = shared(Some(folder.path()), B);
    assert_eq!(one.unshared_count(), 2);
    assert_eq!(now(one.progress()).unwrap().mark, mark);
    let after = now(one.entries(None, 10)).unwrap();
    assert_eq!((after.len(), &after[0]), (2, &before[0]), "a removed one is kept");
    assert!(after[1].version() > before[1].version());
    copied.push(&one);
    assert!(copied.0["client/b"].contains("basic") && !copied.0["client/a"].contains("premium"));
}

#[test]
fn a_registry_from_before_is_shared_as_what_is_older_than_all_else() {
    let folder = tempfile::tempdir().unwrap();
    let alone = Registry::open(Some(folder.path())).unwrap();
    let ids: Vec<String> = (0..1_200).map(|number| format!("c{number}")).collect();
    let record = Record { tier: Some("premium".into()), own_limit: None };
    let rows = ids.iter().map(|id| (id.as_str().into(), record.clone())).collect();
    alone.make(Change::Import(rows)).unwrap();
    add_key(&alone, "keyed", "secret", None);
    alone.make(block(target("ip", "192.0.2.1"), None)).unwrap();
    assert_eq!(alone.unshared_count(), 0, "alone, nothing waits");
    drop(alone);
    let other = shared(None, B);
    other.set_tier("c7", "basic").unwrap();
    let mut copied = Copied::default();
    copied.push(&other);
    let one = shared(Some(folder.path()), A);
    assert!(!now(one.progress()).unwrap().is_adopted);
    let (mut after, mut pages) = (Some(String::new()), 0);
    while let Some(page) = after {
        after = now(one.adopt(page)).unwrap();
        pages += 1;
    }
    assert_eq!(pages, 3);
    assert!(now(one.progress()).unwrap().is_adopted);
    assert_eq!(one.unshared_count(), 1_202);
    while one.unshared_count() > 0 {
        copied.push(&one);
    }
    copied.read(&other);
    assert_eq!(seen(&one, &["secret"]), seen(&other, &["secret"]));
    assert_eq!(other.counts(), [1_201, 1, 1]);
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    assert_eq!(Some(one.standing("c7", &known, &tiers).tier), tiers.find("basic"));
}

#[test]
fn a_change_is_sent_as_one_and_the_latest_first() {
    let registry = shared(None, A);
    for number in 0..10 {
        registry.set_tier(&format!("early{number}"), "basic").unwrap();
    }
    let record = Record { tier: Some("premium".into()), own_limit: None };
    let rows = (0..30).map(|number| (format!("late{number}").into(), record.clone())).collect();
    registry.make(Change::Import(rows)).unwrap();
    let page = now(registry.unshared(5)).unwrap();
    assert_eq!(page.len(), 30);
    assert!(page.iter().all(|entry| entry.name().starts_with("client/late")));
    assert_eq!(now(registry.unshared(31)).unwrap().len(), 31);
    let all = now(registry.entries(None, 100)).unwrap();
    let paged = now(registry.entries(Some(all[19].name()), 20)).unwrap();
    assert_eq!(paged, all[20..]);
}

#[test]
fn what_does_not_fit_is_left_out_and_does_not_wait() {
    let bounds = Bounds { clients: 1, keys: 1, keys_of_client: 1, blocks: 1 };
    let small = Registry::open_shared(None, bounds, A).unwrap();
    let (large, mut copied) = (shared(None, B), Copied::default());
    small.set_tier("a", "basic").unwrap();
    small.make(Change::Forget { client: "a".into() }).unwrap();
    small.set_tier("b", "basic").unwrap();
    later();
    for id in ["a", "b", "c"] {
        large.set_tier(id, "premium").unwrap();
    }
    add_key(&large, "b", "one", None);
    add_key(&large, "b", "two", None);
    copied.push(&large);
    copied.push(&small);
    copied.read(&small);
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    assert_eq!(small.counts(), [1, 1, 0]);
    assert_eq!(Some(small.standing("b", &known, &tiers).tier), tiers.find("premium"));
    assert_eq!(small.unshared_count(), 0);
}

#[test]
fn what_ended_by_itself_is_not_taken_and_not_sent_as_a_removal() {
    let (one, other, mut copied) = (shared(None, A), shared(None, B), Copied::default());
    add_key(&one, "a", "over", Some(1));
    one.make(block(target("client", "c"), Some(2))).unwrap();
    copied.push(&one);
    copied.read(&other);
    assert_eq!(other.counts(), [0; 3]);
    one.make(Change::Purge { now_ms: 10 }).unwrap();
    assert_eq!((one.counts(), one.unshared_count()), ([0; 3], 0));
    copied.read(&one);
    assert_eq!((one.counts(), one.unshared_count()), ([0; 3], 0));
}

#[test]
fn a_removal_is_remembered_until_it_is_shared_and_a_week_longer() {
    let (one, mut copied) = (shared(None, A), Copied::default());
    for id in ["a", "b"] {
        one.set_tier(id, "premium").unwrap();
        one.make(Change::Forget { client: id.into() }).unwrap();
        if id == "a" {
            copied.push(&one);
        }
    }
    let names = || {
        let entries = now(one.entries(None, 10)).unwrap();
        entries.iter().map(|entry| entry.name().to_owned()).collect::<Vec<_>>()
    };
    let week_ms = u64::try_from(KEEP_REMOVED.as_millis()).unwrap();
    let now_ms = clock::unix_ms();
    one.make(Change::Purge { now_ms: now_ms + week_ms - 60_000 }).unwrap();
    assert_eq!(names(), ["client/a", "client/b"]);
    one.make(Change::Purge { now_ms: now_ms + week_ms + 60_000 }).unwrap();
    assert_eq!(names(), ["client/b"]);
    copied.push(&one);
    one.make(Change::Purge { now_ms: now_ms + week_ms + 60_000 }).unwrap();
    assert_eq!(names(), [""; 0]);
}

#[test]
fn who_shares_nothing_keeps_nothing_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let alone = Registry::open(Some(folder.path())).unwrap();
    alone.set_tier("a", "premium").unwrap();
    alone.make(Change::Forget { client: "a".into() }).unwrap();
    alone.make(Change::Purge { now_ms: 1 }).unwrap();
    drop(alone);
    let file = redb::Database::open(folder.path().join(file::FILE_NAME)).unwrap();
    let tables = redb::ReadableDatabase::begin_read(&file).unwrap();
    assert_eq!(tables.list_tables().unwrap().count(), 4);
}

#[test]
fn who_was_away_too_long_loses_what_all_others_removed() {
    let (one, mut copied) = (shared(None, A), Copied::default());
    one.set_tier("a", "premium").unwrap();
    one.set_tier("b", "premium").unwrap();
    copied.push(&one);
    one.set_tier("b", "basic").unwrap();
    let gone = ["client/a", "client/b"].map(Into::into).into();
    now(one.merge(Page { gone, ..Page::default() })).unwrap();
    assert_eq!(one.ids(), ["b"], "what was changed here since is not lost");
    assert_eq!(now(one.entries(None, 10)).unwrap().len(), 1);
}

/// Four gateways that write, push, read, start anew and lose the copy in any order end equal,
/// memory and file alike.
#[test]
fn gateways_end_equal_whatever_happens_when() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let mut gateways: Vec<Option<Registry>> =
            [1, 2, 3].map(|writer| Some(shared(None, writer))).into();
        gateways.push(Some(shared(Some(folder.path()), 4)));
        let mut copied = Copied::default();
        for _ in 0..60 {
            let at = random.usize(..gateways.len());
            let registry = gateways[at].as_ref().unwrap();
            let client: Box<str> = ["a", "b", "c"][random.usize(..3)].into();
            let secret = ["x", "y", "z"][random.usize(..3)];
            let change = match random.u8(..12) {
                0 => Some(Change::Tier { client, tier: Some("premium".into()) }),
                1 => Some(Change::Tier { client, tier: None }),
                2 => Some(Change::OwnLimit { client, limit: Some(bucket(random.u64(1..9))) }),
                3 => Some(Change::Forget { client }),
                4 => Some(Change::AddKey { client: "a".into(), key: api_key(secret, None) }),
                5 => Some(Change::RevokeKey { client: "a".into(), key: id_of(secret) }),
                6 => Some(block(target("client", &client), None)),
                7 => Some(Change::Unblock { target: target("client", &client) }),
                8 | 9 => {
                    copied.push(registry);
                    None
                }
                10 => {
                    copied.read(registry);
                    None
                }
                _ => {
                    copied.0.clear();
                    for registry in gateways.iter().flatten() {
                        let page = copied.put(now(registry.entries(None, 100)).unwrap());
                        now(registry.merge(page)).unwrap();
                    }
                    if let Some(last) = gateways.last_mut() {
                        drop(last.take());
                        *last = Some(shared(Some(folder.path()), random.u64(5..)));
                    }
                    None
                }
            };
            if let (Some(change), Some(registry)) = (change, &gateways[at]) {
                let _ = registry.make(change);
            }
        }
        for registry in gateways.iter().flatten() {
            copied.push(registry);
        }
        for registry in gateways.iter().flatten() {
            copied.read(registry);
            assert_eq!(registry.unshared_count(), 0);
        }
        let all: Vec<_> =
            gateways.iter().flatten().map(|registry| seen(registry, &["x", "y", "z"])).collect();
        assert!(all.iter().all(|seen| *seen == all[0]), "seed {seed}: {all:#?}");
        drop(gateways.pop());
        let again = seen(&shared(Some(folder.path()), 9), &["x", "y", "z"]);
        assert_eq!(again, all[0], "seed {seed}");
    }
}
