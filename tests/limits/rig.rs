//! What these tests ask again and again.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::{Gateway, Reply, until};

/// Clients by header, else by address.
pub(crate) const BY_HEADER: &str = "identify: [{header: X-Client-ID}, ip]\ndefault_tier: free";

/// GET with this client id, on a connection of its own.
#[track_caller]
pub(crate) fn get_as(gateway: &Gateway, client: &str, target: &str) -> Reply {
    gateway.client().get_with(target, &[("X-Client-ID", client)])
}

/// How many of `count` requests with these headers are not refused.
#[track_caller]
pub(crate) fn admitted(gateway: &Gateway, count: usize, headers: &[(&str, &str)]) -> usize {
    let mut client = gateway.client();
    let statuses = (0..count).map(|_| client.get_with("/", headers).status);
    statuses
        .filter(|&status| {
            assert!(matches!(status, 200 | 429), "{status}");
            status == 200
        })
        .count()
}

/// The tokens a client has left under a policy, as the admin API says.
#[track_caller]
pub(crate) fn left(gateway: &Gateway, client: &str, policy: &str) -> u64 {
    let reply = gateway.admin_get(&format!("/clients/{client}"));
    let client = reply.json();
    let limits = client["limits"].as_array().expect("limits");
    let limit = limits.iter().find(|limit| limit["policy"] == policy);
    let limit = limit.unwrap_or_else(|| panic!("no policy {policy} in {client}"));
    limit["tokens_remaining"].as_u64().expect("a whole number")
}

/// The parts of one item of `RateLimit-Policy` or `RateLimit`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) policy: String,
    /// q or r.
    pub(crate) tokens: u64,
    /// w or t.
    pub(crate) seconds: u64,
}

/// `RateLimit-Policy` and `RateLimit` of an answer.
#[track_caller]
pub(crate) fn rate_limit(reply: &Reply) -> (Item, Item) {
    let read = |header: &str, keys: [&str; 2]| {
        let text = reply.header(header).unwrap_or_else(|| panic!("no {header}"));
        let mut parts = text.split(';');
        let quoted = parts.next().expect("a name");
        let policy = quoted.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
        let values = keys.map(|key| {
            let (name, value) = parts.next().and_then(|part| part.split_once('=')).expect(text);
            assert_eq!(name, key, "{text}");
            value.parse().expect(text)
        });
        assert_eq!(parts.next(), None, "{text}");
        let policy = policy.expect("a quoted name").to_owned();
        Item { policy, tokens: values[0], seconds: values[1] }
    };
    (read("ratelimit-policy", ["q", "w"]), read("ratelimit", ["r", "t"]))
}

/// Asserts a time that was `expected` when a test began and passes while it runs.
#[track_caller]
pub(crate) fn assert_near(seconds: u64, expected: u64) {
    let allowed = expected.saturating_sub(10)..=expected;
    assert!(allowed.contains(&seconds), "{seconds} s instead of {expected} s");
}

/// Asserts a 429 by this policy that lets the client come back after about so long.
#[track_caller]
pub(crate) fn assert_limited(reply: &Reply, policy: &str, retry_after_seconds: u64) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    let problem = reply.json();
    assert_eq!(problem["policy"], policy, "{problem}");
    assert_eq!(problem["status"], 429, "{problem}");
    assert_eq!(rate_limit(reply).1.policy, policy);
    let retry = problem["retry_after_seconds"].as_u64().expect("whole seconds");
    assert_eq!(reply.header("retry-after"), Some(&*retry.to_string()));
    assert_near(retry, retry_after_seconds);
    assert_eq!(problem["trace_id"].as_str(), reply.header("x-trace-id"));
    for member in ["type", "title", "detail"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
    }
}

/// `sha256:…` of an API key, as the configuration wants it.
pub(crate) fn hashed(key: &str) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write as _;
    Sha256::digest(key.as_bytes()).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Seconds until the day ends in UTC. Waits for the next day where this one is all but over, so
/// that no test sees it end.
pub(crate) fn seconds_left_today() -> u64 {
    const DAY: u64 = 86_400;
    until("the day is not about to end", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
        let left = DAY - now % DAY;
        (left > 8).then_some(left)
    })
}
