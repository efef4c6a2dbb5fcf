//! The life of an API key that the admin API makes.

use crate::rig::{change, get_with, lasting};
use crate::support::{Gateway, Upstream, until};
use serde_json::Value;
use std::fs;

fn status_with(gateway: &Gateway, key: &str) -> u16 {
    get_with(gateway, &[("X-API-Key", key)]).status
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

#[test]
fn a_key_is_shown_once_and_works_until_it_is_revoked() {
    let upstream = Upstream::new();
    let mut gateway = lasting(&upstream).start();
    let made = change(&gateway, "POST", "/clients/one/keys", "{}");
    let (secret, id) = (text(&made, "secret"), text(&made, "key"));
    assert!(secret.starts_with("tg_") && secret.len() == 51, "{secret}");
    assert_eq!(status_with(&gateway, secret), 200);
    assert_eq!(status_with(&gateway, &secret[1..]), 401);
    let client = gateway.admin_get("/clients/one").json();
    assert_eq!(client["registered"], true, "{client}");
    let listed = gateway.admin_get("/clients/one/keys");
    assert!(!listed.text().contains(secret), "{}", listed.text());
    assert_eq!(listed.json()["keys"][0]["key"], id);
    assert_eq!(listed.json()["read"], true);
    gateway.kill();
    let kept = fs::read(gateway.path("state/registry.redb")).unwrap();
    let holds = |needle: &str| kept.windows(needle.len()).any(|part| part == needle.as_bytes());
    assert!(holds("one") && !holds(&secret[3..]), "only a hash is kept");
    let gateway = gateway.another();
    assert_eq!(status_with(&gateway, secret), 200, "it outlives the process");
    change(&gateway, "DELETE", &format!("/clients/one/keys/{id}"), "");
    assert_eq!(status_with(&gateway, secret), 401);
    assert_eq!(gateway.admin_get("/clients/one").json()["registered"], false);
    let again = gateway.admin_request("DELETE", &format!("/clients/one/keys/{id}"), &[], "");
    assert_eq!(again.status, 404);
}

#[test]
fn old_and_new_key_are_valid_together_for_a_while() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let first = change(&gateway, "POST", "/clients/one/keys", "{}");
    let rotate = |key: &Value, overlap: &str| {
        let target = format!("/clients/one/keys/{}/rotate", text(key, "key"));
        change(&gateway, "POST", &target, &format!(r#"{{"overlap":"{overlap}"}}"#))
    };
    let second = rotate(&first, "1h");
    assert_eq!(second["replaces"]["key"], first["key"]);
    let works = |key: &Value| status_with(&gateway, text(key, "secret"));
    assert_eq!((works(&first), works(&second)), (200, 200));
    let third = rotate(&second, "1s");
    assert_eq!(works(&third), 200);
    until("the second has ended", || (works(&second) == 401).then_some(()));
    let fourth = rotate(&third, "0s");
    assert_eq!((works(&first), works(&third), works(&fourth)), (200, 401, 200));
    let lasting = change(&gateway, "POST", "/clients/one/keys", r#"{"ttl":"1h"}"#);
    let its_successor = rotate(&lasting, "24h");
    assert_eq!(
        its_successor["replaces"]["expires"], lasting["expires"],
        "no more time than it had"
    );
    let short = change(&gateway, "POST", "/clients/one/keys", r#"{"ttl":"1s"}"#);
    assert!(short["expires"].is_string());
    until("it has ended", || (works(&short) == 401).then_some(()));
    let target = format!("/clients/one/keys/{}", text(&short, "key"));
    let revoked = gateway.admin_request("DELETE", &target, &[], "");
    let replaced = gateway.admin_request("POST", &format!("{target}/rotate"), &[], "{}");
    assert_eq!((revoked.status, replaced.status), (404, 404), "like one that never was");
}

#[test]
fn keys_of_the_file_are_the_files() {
    let upstream = Upstream::new();
    let hash = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let gateway = lasting(&upstream)
        .clients(&format!("identify: [api_key]\nknown: {{one: {{api_keys: [\"sha256:{hash}\"]}}}}"))
        .start();
    let keys = gateway.admin_get("/clients/one/keys").json();
    assert_eq!(keys["keys"][0]["configured"], true, "{keys}");
    for (method, target) in [("DELETE", "9f86d081884c7d65"), ("POST", "9f86d081884c7d65/rotate")] {
        let target = format!("/clients/one/keys/{target}");
        let body = if method == "POST" { "{}" } else { "" };
        let reply = gateway.admin_request(method, &target, &[], body);
        assert_eq!(reply.status, 409, "{}", reply.text());
        assert!(reply.text().contains("configuration"), "{}", reply.text());
    }
    assert_eq!(status_with(&gateway, "test"), 200);
    let bad = gateway.admin_request("DELETE", "/clients/one/keys/nonsense", &[], "");
    assert_eq!((bad.status, &bad.json()["field"]), (400, &"key".into()));
}

#[test]
fn a_client_has_sixteen_keys_at_most() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let keys: Vec<Value> =
        (0..16).map(|_| change(&gateway, "POST", "/clients/one/keys", "{}")).collect();
    let rotate = |overlap: &str| {
        let target = format!("/clients/one/keys/{}/rotate", text(&keys[0], "key"));
        gateway.admin_request("POST", &target, &[], &format!(r#"{{"overlap":"{overlap}"}}"#))
    };
    assert_eq!(rotate("1h").status, 507, "for an hour there would be seventeen");
    assert_eq!(rotate("0s").status, 200);
    let full = gateway.admin_request("POST", "/clients/one/keys", &[], "{}");
    assert_eq!(full.status, 507, "{}", full.text());
    change(&gateway, "DELETE", "/clients/one", "");
    assert_eq!(gateway.admin_get("/clients/one/keys").json()["keys"], serde_json::json!([]));
}
