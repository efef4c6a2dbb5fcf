use super::*;
use crate::config::{self, ApiKeyHash, Config, KnownClient};
use crate::policy::rate::{Period, Rate};

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
    TokenBucket::new(Rate { count: 1, period: Period::Second }, burst).unwrap()
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
    registry.remove_own_limit("a");
    assert_eq!(standing(), Standing::stranger(&tiers));

    registry.set_own_limit("a", bucket(7)).unwrap();
    assert_eq!(standing().bucket(&tiers), &bucket(7));
    registry.set_tier("a", "premium").unwrap();
    assert_eq!(standing().bucket(&tiers), &bucket(7), "the tier changes underneath");
    registry.remove_own_limit("a");
    assert_eq!(standing().bucket(&tiers).burst(), 200);

    registry.set_own_limit("b", bucket(7)).unwrap();
    registry.remove_own_limit("b");
    assert_eq!(registry.standing("b", &known, &tiers), Standing::stranger(&tiers));
    assert_eq!(registry.changes.len(), 1, "who has nothing left takes no room");
}

#[test]
fn a_full_registry_takes_changes_of_those_it_knows_only() {
    let registry = Registry::default();
    let changes = registry.changes.pin();
    for number in 0..MAX_CHANGED_CLIENTS {
        let change = Change { tier: Some("basic".into()), own_limit: None };
        changes.insert(number.to_string().into(), change);
    }
    assert_eq!(registry.set_tier("one too many", "basic"), Err(RegistryFull));
    assert_eq!(registry.set_own_limit("one too many", bucket(1)), Err(RegistryFull));
    registry.remove_own_limit("one too many");
    assert_eq!(registry.set_tier("77", "premium"), Ok(()));
    changes.remove("0");
    assert_eq!(registry.set_tier("one too many", "basic"), Ok(()));
    assert_eq!(registry.set_tier("two too many", "basic"), Err(RegistryFull));
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
    let client = |key: &str| known.client_of_key(key.as_bytes()).map(ToString::to_string);
    assert_eq!(client("k1").as_deref(), Some("one"));
    assert_eq!(client("k2").as_deref(), Some("one"));
    assert_eq!(client("k3").as_deref(), Some("two"));
    for stranger in ["", "k4", "K1", "k1 "] {
        assert_eq!(client(stranger), None, "{stranger:?}");
    }
}
