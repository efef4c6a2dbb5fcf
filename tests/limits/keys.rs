//! API keys: what an unknown one meets, and that one is enough.

use crate::rig::hashed;
use crate::support::{Gateway, Reply, Upstream};

/// Routes with and without a key; the client `owner` has two, `other` has one.
fn keyed(upstream: &Upstream, further: &str) -> Gateway {
    let [first, second, other] = ["first-key", "second-key", "others-key"].map(hashed);
    Gateway::builder()
        .upstream("main", upstream.address())
        .clients(&format!(
            "identify: [api_key, {{header: X-Client-ID}}, ip]\ndefault_tier: free\n{further}\n\
             known:\n  owner: {{tier: gold, api_keys: [\"{first}\", \"{second}\"]}}\n  \
             other: {{api_keys: [\"{other}\"]}}"
        ))
        .tiers("free: {rate: 1/h, burst: 100}\ngold: {rate: 1/h, burst: 500}")
        .routes(
            "
            - {name: open, path: /open, upstream: main, auth: none}
            - {name: free, path: /free, upstream: main, cost: 0}
            - {name: keyed, path: /keyed, upstream: main, auth: required}",
        )
        .start()
}

fn assert_unauthorized(reply: &Reply) {
    assert_eq!(reply.status, 401, "{}", reply.text());
    assert!(reply.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")));
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.json()["status"], 401);
    assert!(!reply.says_close(), "a 401 keeps the connection");
}

#[test]
fn an_unknown_key_is_refused_on_every_route() {
    let upstream = Upstream::new();
    let gateway = keyed(&upstream, "");
    for target in ["/open", "/free", "/keyed"] {
        for headers in [
            &[("X-API-Key", "never-was")][..],
            &[("x-api-key", "never-was"), ("X-Client-ID", "owner")],
            &[("Authorization", "Bearer never-was")],
            &[("X-API-Key", "first-key ?")],
            &[("X-API-Key", "FIRST-KEY")],
            &[("X-API-Key", "")],
            &[("X-API-Key", &hashed("first-key"))],
        ] {
            assert_unauthorized(&gateway.client().get_with(target, headers));
        }
    }
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_route_with_required_auth_wants_a_key_and_a_key_is_enough() {
    let upstream = Upstream::new();
    let gateway = keyed(&upstream, "");
    assert_unauthorized(&gateway.get("/keyed"));
    assert_unauthorized(&gateway.client().get_with("/keyed", &[("X-Client-ID", "owner")]));
    assert_unauthorized(&gateway.client().get_with("/keyed", &[("Authorization", "Basic Zg==")]));
    for headers in [
        [("X-API-Key", "first-key")],
        [("X-API-Key", "second-key")],
        [("X-API-Key", "others-key")],
        [("Authorization", "Bearer first-key")],
        [("authorization", "bearer first-key")],
    ] {
        assert_eq!(gateway.client().get_with("/keyed", &headers).status, 200, "{headers:?}");
    }
    assert_eq!(gateway.get("/open").status, 200, "elsewhere nobody needs one");
}

#[test]
fn two_keys_at_once_are_none() {
    let upstream = Upstream::new();
    let gateway = keyed(&upstream, "");
    for headers in [
        [("X-API-Key", "first-key"), ("X-API-Key", "others-key")],
        [("X-API-Key", "first-key"), ("X-API-Key", "first-key")],
        [("X-API-Key", "first-key"), ("Authorization", "Bearer others-key")],
        [("X-API-Key", "first-key"), ("Authorization", "Bearer never-was")],
        [("Authorization", "Bearer first-key"), ("Authorization", "Bearer others-key")],
    ] {
        assert_unauthorized(&gateway.client().get_with("/open", &headers));
    }
}

#[test]
fn all_keys_of_a_client_share_its_bucket_and_its_tier() {
    let upstream = Upstream::new();
    let gateway = keyed(&upstream, "");
    for key in ["first-key", "second-key"] {
        assert_eq!(gateway.client().get_with("/open", &[("X-API-Key", key)]).status, 200);
    }
    let owner = gateway.admin_get("/clients/owner").json();
    assert_eq!((&owner["tier"], &owner["registered"]), (&"gold".into(), &true.into()));
    assert_eq!(owner["limits"][0]["tokens_remaining"], 498);
}

#[test]
fn the_header_of_the_key_can_be_another() {
    let upstream = Upstream::new();
    let gateway = keyed(&upstream, "api_key_header: X-Our-Key");
    let ask = |name: &str, value: &str| gateway.client().get_with("/keyed", &[(name, value)]);
    assert_eq!(ask("X-Our-Key", "first-key").status, 200);
    assert_eq!(ask("Authorization", "Bearer first-key").status, 200);
    assert_unauthorized(&ask("X-API-Key", "first-key"));
}

#[test]
fn where_the_header_comes_first_an_unknown_key_is_refused_all_the_same() {
    let upstream = Upstream::new();
    let key = hashed("k");
    let gateway = Gateway::before(&upstream)
        .clients(&format!(
            "identify: [{{header: X-Client-ID}}, ip, api_key]\n\
             known: {{owner: {{api_keys: [\"{key}\"]}}}}"
        ))
        .start();
    let headers = [("X-Client-ID", "me"), ("X-API-Key", "never-was")];
    assert_unauthorized(&gateway.client().get_with("/", &headers));
    let headers = [("X-Client-ID", "me"), ("X-API-Key", "k")];
    assert_eq!(gateway.client().get_with("/", &headers).status, 200);
}
