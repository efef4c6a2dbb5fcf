//! What requests must have in common to meet the same server.

use crate::config::{Affinity, Balance};
use crate::decision::toll::Toll;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;
use std::net::IpAddr;

/// The request's value for consistent hashing; none where the upstream balances otherwise,
/// or where the header it goes by is absent.
///
/// The hash has no secret: every gateway in front of the same servers must choose alike.
/// Whoever picks values to burden one server could as well send them all the same.
pub(super) fn of_request(toll: &Toll<'_>, path: &str, balance: &Balance) -> Option<u64> {
    let Balance::Consistent(affinity) = balance else { return None };
    let hash = |bytes: &[u8]| {
        let mut hasher = SipHasher13::new();
        hasher.write(bytes);
        Some(hasher.finish())
    };
    match affinity {
        Affinity::Client => hash(toll.caller.identity.name.as_bytes()),
        Affinity::Ip => match toll.source {
            IpAddr::V4(ip) => hash(&ip.octets()),
            IpAddr::V6(ip) => hash(&ip.octets()),
        },
        Affinity::Path => hash(path.as_bytes()),
        Affinity::Header(name) => toll.headers.get(name).and_then(|value| hash(value.as_bytes())),
    }
}
