//! What these tests ask again and again.

use serde_json::Value;

use crate::support::{Gateway, Reply};

/// Clients by header, else by address.
pub(crate) const BY_HEADER: &str = "identify: [{header: X-Client-ID}, ip]\ndefault_tier: free";

/// The explanation of a request.
#[track_caller]
pub(crate) fn explain(gateway: &Gateway, query: &str) -> Value {
    let reply = gateway.admin_get(&format!("/explain?{query}"));
    assert_eq!(reply.status, 200, "{query}: {}", reply.text());
    reply.json()
}

/// What a problem document says refused, whatever the member is called.
pub(crate) fn refused_by(problem: &Value) -> Value {
    let members = ["policy", "circuit", "upstream", "tier"];
    let mut values = members.iter().map(|name| &problem[*name]);
    values.find(|value| value.is_string()).cloned().unwrap_or_default()
}

/// A limit of an explanation.
#[track_caller]
pub(crate) fn limit<'a>(explanation: &'a Value, policy: &str) -> &'a Value {
    let limits = explanation["limits"].as_array().expect("limits");
    limits.iter().find(|limit| limit["policy"] == policy).expect("the policy")
}

/// GET with this client id, on a connection of its own.
#[track_caller]
pub(crate) fn get_as(gateway: &Gateway, client: &str, target: &str) -> Reply {
    gateway.client().get_with(target, &[("X-Client-ID", client)])
}
