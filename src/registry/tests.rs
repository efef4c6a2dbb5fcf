use super::*;
use crate::config::{self, ApiKeyHash, Config, KnownClient};
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;

fn now<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

impl Registry {
    fn make(&self, change: Change) -> Result<(), RegistryError> {
        now(self.change(change))
    }

    fn set_tier(&self, id: &str, tier: &str) -> Result<(), RegistryError> {
        self.make(Change::Tier { client: id.into(), tier: Some(tier.into()) })
    }

    fn set_own_limit(&self, id: &str, limit: TokenBucket) -> Result<(), RegistryError> {
        self.make(Change::OwnLimit { client: id.into(), limit: Some(limit) })
    }

    fn remove_own_limit(&self, id: &str) -> Result<(), RegistryError> {
        self.make(Change::OwnLimit { client: id.into(), limit: None })
    }

    fn ids(&self) -> Vec<String> {
        let clients = now(self.clients("", None, 1_000)).unwrap();
        clients.into_iter().map(|(id, _)| id.into()).collect()
    }
}

fn api_key(secret: &str, expires_ms: Option<u64>) -> ApiKey {
    let hash = ApiKeyHash(Sha256::digest(secret).into());
    ApiKey { hash, created_ms: clock::unix_ms(), expires_ms }
}

fn target(kind: &str, value: &str) -> Target {
    Target::parse(kind, value).unwrap()
}

fn block(target: Target, expires_ms: Option<u64>) -> Change {
    Change::Block { target, created_ms: 1, expires_ms }
}

fn config() -> Config {
    config::parse("upstreams: {u: {servers: [127.0.0.1:9001]}}", &|_| None).unwrap().0
}

fn known(clients: &[(&str, Option<&str>)], tiers: &Tiers) -> KnownClients {
    let mut config = config();
    config.clients.known = clients
        .iter()
        .map(|&(id, tier)| KnownClient {
            id: id.into(),
            tier: tier.map(|tier| tiers.find(tier).unwrap()),
            api_keys: Vec::new(),
        })
        .collect();
    KnownClients::new(&config)
}

fn bucket(burst: u64) -> TokenBucket {
    TokenBucket::from_rate_per_second(1.0, burst).unwrap()
}

#[test]
fn a_change_stands_over_the_configuration_and_both_over_the_default() {
    let tiers = Tiers::standard();
    let known = known(&[("configured", Some("basic")), ("named", None)], &tiers);
    let registry = Registry::default();
    let tier_of = |id: &str| {
        let standing = registry.standing(id, &known, &tiers);
        (tiers.get(standing.tier).name.to_string(), standing.is_registered)
    };
    assert_eq!(tier_of("stranger"), ("free".into(), false));
    assert_eq!(tier_of("named"), ("free".into(), true));
    assert_eq!(tier_of("configured"), ("basic".into(), true));
    for id in ["stranger", "named", "configured"] {
        registry.set_tier(id, "PREMIUM").unwrap();
        assert_eq!(tier_of(id), ("premium".into(), true));
    }
    assert_eq!(tier_of("Stranger"), ("free".into(), false), "ids are compared as they are");
}

#[test]
fn a_tier_that_no_longer_exists_falls_back_to_what_is_configured() {
    let tiers = Tiers::standard();
    let known = known(&[("configured", Some("basic"))], &tiers);
    let registry = Registry::default();
    registry.set_tier("configured", "platinum").unwrap();
    registry.set_tier("stranger", "platinum").unwrap();
    let standing = registry.standing("configured", &known, &tiers);
    assert_eq!(Some(standing.tier), tiers.find("basic"));
    let standing = registry.standing("stranger", &known, &tiers);
    assert_eq!((standing.tier, standing.is_registered), (tiers.default_tier(), true));
}

#[test]
fn an_own_limit_comes_and_goes_beside_the_tier() {
    let tiers = Tiers::standard();
    let known = known(&[], &tiers);
    let registry = Registry::default();
    let standing = || registry.standing("a", &known, &tiers);
    registry.remove_own_limit("a").unwrap();
    assert_eq!(standing(), Standing::stranger(&tiers));

    registry.set_own_limit("a", bucket(7)).unwrap();
    assert_eq!(standing().bucket(&tiers), &bucket(7));
    registry.set_tier("a", "premium").unwrap();
    assert_eq!(standing().bucket(&tiers), &bucket(7), "the tier changes underneath");
    registry.remove_own_limit("a").unwrap();
    assert_eq!(standing().bucket(&tiers).burst(), 200);

    registry.set_own_limit("b", bucket(7)).unwrap();
    registry.remove_own_limit("b").unwrap();
    assert_eq!(registry.standing("b", &known, &tiers), Standing::stranger(&tiers));
    registry.make(Change::Tier { client: "a".into(), tier: None }).unwrap();
    assert_eq!(registry.ids(), [""; 0], "who has nothing left takes no room");
    assert_eq!(registry.counts(), [0, 0, 0]);
}

#[test]
fn a_full_registry_takes_changes_of_those_it_knows_only() {
    let bounds = Bounds { clients: 3, keys: 2, keys_of_client: 1, blocks: 1 };
    let registry = Registry::bounded(None, bounds).unwrap();
    for id in ["a", "b", "c"] {
        registry.set_tier(id, "basic").unwrap();
    }
    let full = Err(RegistryError::TooManyClients(3));
    assert_eq!(registry.set_tier("d", "basic"), full);
    assert_eq!(registry.set_own_limit("d", bucket(1)), full);
    let record = Record { tier: Some("basic".into()), own_limit: None };
    let rows = ["a", "d"].map(|id| (id.into(), record.clone()));
    assert_eq!(registry.make(Change::Import(rows.into())), full);
    let add = |id: &str, secret: &str| {
        registry.make(Change::AddKey { client: id.into(), key: api_key(secret, None) })
    };
    assert_eq!(add("d", "1"), full);
    registry.remove_own_limit("d").unwrap();
    registry.set_tier("a", "premium").unwrap();
    registry.make(Change::Forget { client: "a".into() }).unwrap();
    registry.set_tier("d", "basic").unwrap();
    assert_eq!(registry.set_tier("e", "basic"), full);

    add("b", "1").unwrap();
    assert_eq!(add("b", "2"), Err(RegistryError::TooManyKeysOfClient(1)));
    add("c", "2").unwrap();
    assert_eq!(add("d", "3"), Err(RegistryError::TooManyKeys(2)));

    registry.make(block(target("ip", "192.0.2.1"), None)).unwrap();
    registry.make(block(target("ip", "192.0.2.1"), Some(7))).unwrap();
    let one_more = registry.make(block(target("ip", "192.0.2.2"), None));
    assert_eq!(one_more, Err(RegistryError::TooManyBlocks(1)));
    assert!(!registry.blocks_ip("192.0.2.2".parse().unwrap()));
}

#[test]
fn what_was_acknowledged_is_there_after_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("state");
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    {
        let registry = Registry::open(Some(&folder)).unwrap();
        assert_eq!(registry.condition(), Condition::Durable);
        registry.set_tier("a", "premium").unwrap();
        registry.set_own_limit("b", bucket(7)).unwrap();
        let key = api_key("secret", None);
        registry.make(Change::AddKey { client: "c".into(), key }).unwrap();
        registry.make(block(target("cidr", "192.0.2.0/24"), None)).unwrap();
        registry.make(block(target("client", "evil"), None)).unwrap();
        assert_eq!(Registry::bounded(None, Bounds::default()).unwrap().counts(), [0; 3]);
    }
    let mode = fs::metadata(folder.join(file::FILE_NAME)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let registry = Registry::open(Some(&folder)).unwrap();
    assert_eq!(registry.counts(), [3, 1, 2]);
    let a = registry.standing("a", &known, &tiers);
    assert_eq!((Some(a.tier), a.is_registered), (tiers.find("premium"), true));
    assert_eq!(
        registry.standing("b", &known, &tiers).own_limit.map(|limit| limit.burst()),
        Some(7)
    );
    assert!(registry.standing("c", &known, &tiers).is_registered, "who has a key is registered");
    assert_eq!(registry.client_of_key(b"secret", &known).as_deref(), Some("c"));
    assert!(registry.blocks_ip("192.0.2.77".parse().unwrap()));
    assert!(registry.blocks_client("evil") && !registry.blocks_client("a"));
}

#[test]
fn a_damaged_file_is_kept_aside_and_the_registry_begins_anew() {
    let damages: [fn(&mut Vec<u8>); 5] = [
        Vec::clear,
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| *bytes = b"something else".to_vec(),
        |bytes| bytes.fill(0xa5),
        |bytes| bytes.iter_mut().skip(4_096).for_each(|byte| *byte ^= 1),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::open(Some(folder.path())).unwrap();
        registry.set_tier("a", "premium").unwrap();
        drop(registry);
        let path = folder.path().join(file::FILE_NAME);
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let registry = Registry::open(Some(folder.path())).unwrap();
        assert_eq!(registry.condition(), Condition::Anew, "{number}");
        assert_eq!(registry.ids(), [""; 0], "{number}");
        registry.set_tier("b", "premium").unwrap();
        let aside = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = aside.filter(|other| *other != path).collect();
        assert_eq!(aside.len(), 1, "{number} {aside:?}");
        drop(registry);
        let registry = Registry::open(Some(folder.path())).unwrap();
        assert_eq!((registry.condition(), registry.ids()), (Condition::Durable, vec!["b".into()]));
    }
}

#[test]
fn what_a_process_left_that_ended_while_it_made_the_file_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let new = folder.path().join(format!("{}.new", file::FILE_NAME));
    for left in [&b""[..], &[0; 8_192]] {
        fs::write(&new, left).unwrap();
        let registry = Registry::open(Some(folder.path())).unwrap();
        assert_eq!(registry.condition(), Condition::Durable);
        registry.set_tier("a", "premium").unwrap();
        let names: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(names, [folder.path().join(file::FILE_NAME)]);
        drop(registry);
        fs::remove_file(folder.path().join(file::FILE_NAME)).unwrap();
    }
}

#[test]
fn where_nothing_can_be_written_changes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let registry = Registry::open(Some(&folder.path().join("file/state"))).unwrap();
    assert_eq!(registry.condition(), Condition::Failing);
    assert!(matches!(registry.set_tier("a", "basic"), Err(RegistryError::Failing(_))));
    assert!(now(registry.clients("", None, 1)).is_err());
    // Once it can, they are made.
    fs::remove_file(folder.path().join("file")).unwrap();
    registry.set_tier("a", "basic").unwrap();
    assert_eq!((registry.condition(), registry.ids()), (Condition::Durable, vec!["a".into()]));
}

#[test]
fn the_file_passes_to_another_and_comes_back_with_what_that_one_did() {
    let folder = tempfile::tempdir().unwrap();
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    let old = Registry::open(Some(folder.path())).unwrap();
    old.set_tier("a", "basic").unwrap();
    old.set_tier("gone", "basic").unwrap();
    old.make(block(target("ip", "192.0.2.1"), None)).unwrap();
    old.let_go();
    assert_eq!(old.set_tier("b", "basic"), Err(RegistryError::HandedOver));
    assert_eq!(old.condition(), Condition::HandedOver);
    assert!(old.standing("a", &known, &tiers).is_registered, "requests go on");

    let new = Registry::open(Some(folder.path())).unwrap();
    assert_eq!(new.ids(), ["a", "gone"]);
    new.set_tier("b", "premium").unwrap();
    new.make(Change::Forget { client: "gone".into() }).unwrap();
    new.make(Change::Unblock { target: target("ip", "192.0.2.1") }).unwrap();
    old.take_back();
    assert_eq!(old.set_tier("c", "basic"), Err(RegistryError::HandedOver), "it is still away");
    drop(new);
    while old.condition() == Condition::HandedOver {
        std::thread::yield_now();
    }
    assert_eq!(old.ids(), ["a", "b"]);
    assert!(!old.standing("gone", &known, &tiers).is_registered);
    assert_eq!(Some(old.standing("b", &known, &tiers).tier), tiers.find("premium"));
    assert!(!old.blocks_ip("192.0.2.1".parse().unwrap()));
    old.set_tier("c", "basic").unwrap();
}

#[test]
fn a_second_process_is_told_that_the_file_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Registry::open(Some(folder.path())).unwrap();
    let second = Registry::open(Some(folder.path())).err();
    assert_eq!(second, Some(RegistryError::Taken));
}

#[test]
fn what_is_in_memory_alone_stays_there() {
    let registry = Registry::default();
    registry.set_tier("a", "basic").unwrap();
    registry.let_go();
    registry.take_back();
    assert_eq!((registry.ids(), registry.condition()), (vec!["a".into()], Condition::InMemory));
}

#[test]
fn a_list_has_pages_in_a_stable_order() {
    let registry = Registry::default();
    for id in ["b2", "a", "b10", "b", "c", "B"] {
        registry.set_tier(id, "basic").unwrap();
    }
    let page = |prefix: &str, after: Option<&str>, most| {
        let rows = now(registry.clients(prefix, after, most)).unwrap();
        rows.into_iter().map(|(id, _)| id.into()).collect::<Vec<String>>()
    };
    assert_eq!(page("", None, 10), ["B", "a", "b", "b10", "b2", "c"]);
    assert_eq!(page("", None, 2), ["B", "a"]);
    assert_eq!(page("", Some("a"), 2), ["b", "b10"]);
    assert_eq!(page("b", None, 10), ["b", "b10", "b2"]);
    assert_eq!(page("b", Some("b10"), 10), ["b2"]);
    assert_eq!(page("b", Some("a"), 1), ["b"], "behind what comes before the prefix");
    assert_eq!(page("x", None, 10), [""; 0]);
}

#[test]
fn keys_are_made_replaced_and_end() {
    let registry = Registry::default();
    let known = KnownClients::default();
    let client = |key: &str| registry.client_of_key(key.as_bytes(), &known);
    let add = |secret: &str, end| {
        registry.make(Change::AddKey { client: "a".into(), key: api_key(secret, end) })
    };
    add("one", None).unwrap();
    let hour = clock::unix_ms() + 3_600_000;
    add("over", Some(1)).unwrap();
    assert_eq!((client("one").as_deref(), client("over")), (Some("a"), None));
    let id = |secret| KeyId::of(&api_key(secret, None).hash);
    let rotate = |old, new, old_expires_ms| {
        let (client, key) = ("a".into(), api_key(new, None));
        registry.make(Change::RotateKey { client, old: id(old), old_expires_ms, key })
    };
    assert_eq!(rotate("none", "x", hour), Err(RegistryError::NoSuchKey));
    rotate("one", "two", hour).unwrap();
    assert_eq!((client("one").as_deref(), client("two").as_deref()), (Some("a"), Some("a")));
    rotate("two", "three", 0).unwrap();
    assert_eq!((client("two"), client("three").as_deref()), (None, Some("a")));
    let keys = now(registry.keys_of("a")).unwrap();
    let mut ids: Vec<_> = keys.iter().map(|key| KeyId::of(&key.hash)).collect();
    ids.sort();
    let mut expected = [id("one"), id("three")];
    expected.sort();
    assert_eq!(ids, expected, "what has ended made room");
    let revoke = |secret| registry.make(Change::RevokeKey { client: "a".into(), key: id(secret) });
    revoke("three").unwrap();
    assert_eq!(revoke("three"), Err(RegistryError::NoSuchKey));
    assert_eq!(registry.counts(), [1, 1, 0]);
    revoke("one").unwrap();
    assert_eq!(registry.counts(), [0, 0, 0], "nothing keeps the client here any more");
}

#[test]
fn what_has_ended_is_thrown_away() {
    let registry = Registry::default();
    let key = |secret, end| Change::AddKey { client: "a".into(), key: api_key(secret, end) };
    registry.make(key("short", Some(5))).unwrap();
    registry.make(block(target("ip", "192.0.2.1"), Some(5))).unwrap();
    registry.make(block(target("client", "b"), Some(6))).unwrap();
    registry.make(Change::Purge { now_ms: 4 }).unwrap();
    assert_eq!(registry.counts(), [1, 1, 2]);
    registry.make(Change::Purge { now_ms: 5 }).unwrap();
    assert_eq!(registry.counts(), [0, 0, 1]);
    assert_eq!(now(registry.blocks(None, 10)).unwrap(), [], "it has ended and is not shown");
}

#[test]
fn a_change_that_is_refused_does_not_hold_up_those_written_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::open(Some(folder.path())).unwrap();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let registry = &registry;
            scope.spawn(move || {
                for round in 0..5 {
                    registry.set_tier(&format!("{number}-{round}"), "basic").unwrap();
                    let missing = Change::Unblock { target: target("client", "nobody") };
                    assert_eq!(registry.make(missing), Err(RegistryError::NoSuchBlock));
                }
            });
        }
    });
    assert_eq!(registry.ids().len(), 40);
}

/// `cargo test --release --lib a_million_clients -- --ignored --nocapture` prints the figures of
/// docs/ARCHITECTURE.md.
#[test]
#[ignore = "takes minutes in a debug build; run it by hand, in release"]
fn a_million_clients() {
    const CLIENTS: usize = 1_000_000;
    let resident = || {
        let status = fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4_096
    };
    let folder = tempfile::tempdir().unwrap();
    let (tiers, known) = (Tiers::standard(), KnownClients::default());
    let id = |number: usize| format!("client-{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let record = Record { tier: Some("premium".into()), own_limit: None };
    let numbers: Vec<usize> = (0..CLIENTS).collect();
    let started = clock::now();
    let registry = Registry::open(Some(folder.path())).unwrap();
    for chunk in numbers.chunks(500) {
        let rows = chunk.iter().map(|&number| (id(number).into(), record.clone())).collect();
        registry.make(Change::Import(rows)).unwrap();
    }
    println!("imported in {:?}", started.elapsed());
    let started = clock::now();
    let next = CLIENTS + 1;
    assert!(registry.set_tier(&id(next), "free").is_err(), "it is full");
    registry.set_tier(&id(7), "free").unwrap();
    println!("two changes in {:?}", started.elapsed());
    drop(registry);
    let bytes = fs::metadata(folder.path().join(file::FILE_NAME)).unwrap().len();
    println!("{} bytes a client on disk", bytes / CLIENTS as u64);
    let before = resident();
    let started = clock::now();
    let registry = Registry::open(Some(folder.path())).unwrap();
    println!("loaded in {:?}", started.elapsed());
    println!("{} bytes a client in memory", (resident() - before) / CLIENTS);
    // In an order that no cache can guess, each id where the last one was.
    let mut order = numbers;
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let ids: Vec<String> = order.into_iter().map(id).collect();
    let started = clock::now();
    let found = ids.iter().filter(|id| registry.standing(id, &known, &tiers).is_registered).count();
    println!("{} ns a lookup, {found} found", started.elapsed().as_nanos() / CLIENTS as u128);
    drop(registry);
    let before = resident();
    let registry = Registry::open(None).unwrap();
    for chunk in ids.chunks(500) {
        let rows = chunk.iter().map(|id| (id.as_str().into(), record.clone())).collect();
        registry.make(Change::Import(rows)).unwrap();
    }
    println!("{} bytes a client without a folder", (resident() - before) / CLIENTS);
}

#[test]
fn a_client_id_is_visible_ascii_of_bounded_length() {
    for good in ["a", "client-123", "!~", &"x".repeat(MAX_CLIENT_ID)] {
        assert!(is_client_id(good.as_bytes()), "{good:?}");
    }
    for bad in ["", " ", "a b", "a\t", "a\n", "a\0", "a\u{7f}", "\u{e9}", &"x".repeat(257)] {
        assert!(!is_client_id(bad.as_bytes()), "{bad:?}");
    }
    assert!(!is_client_id(&[0xff]));
}

#[test]
fn an_api_key_leads_to_its_client_and_no_other() {
    let hash = |key: &str| ApiKeyHash(Sha256::digest(key).into());
    let mut config = config();
    config.clients.known = [("one", vec!["k1", "k2"]), ("two", vec!["k3"])]
        .map(|(id, keys)| KnownClient {
            id: id.into(),
            tier: None,
            api_keys: keys.into_iter().map(hash).collect(),
        })
        .into();
    let known = KnownClients::new(&config);
    let registry = Registry::default();
    let client =
        |key: &str| registry.client_of_key(key.as_bytes(), &known).map(|id| id.to_string());
    assert_eq!(client("k1").as_deref(), Some("one"));
    assert_eq!(client("k2").as_deref(), Some("one"));
    assert_eq!(client("k3").as_deref(), Some("two"));
    for stranger in ["", "k4", "K1", "k1 "] {
        assert_eq!(client(stranger), None, "{stranger:?}");
    }
}

mod sharing;
