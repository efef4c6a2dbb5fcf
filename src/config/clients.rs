//! `clients`: how a request's client is named, and which clients are known.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;

use crate::policy::tier::TierId;

/// `clients`. The default tier is kept with the tiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clients {
    /// Ways to name a client, in order; the first that yields a value wins.
    pub identify: Vec<Identifier>,
    /// Leading bits of an IPv6 address that make one client, 1 to 128.
    pub ipv6_prefix: u8,
    /// Registered clients.
    pub known: Vec<KnownClient>,
    /// The header that carries an API key, besides `Authorization: Bearer`.
    pub api_key_header: HeaderName,
}

impl Default for Clients {
    fn default() -> Self {
        Self {
            identify: vec![
                Identifier::Header {
                    name: HeaderName::from_static("x-client-id"),
                    from: Vec::new(),
                },
                Identifier::Ip,
            ],
            ipv6_prefix: 64,
            known: Vec::new(),
            api_key_header: HeaderName::from_static("x-api-key"),
        }
    }
}

/// One way to name a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identifier {
    /// By an API key that a known client has.
    ApiKey,
    /// By the value of a request header.
    Header {
        /// The header.
        name: HeaderName,
        /// Peers that may assert it; empty: anybody.
        from: Vec<IpNet>,
    },
    /// By address.
    Ip,
}

/// A client that the file registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownClient {
    /// Its id: 1 to 256 bytes of visible ASCII.
    pub id: Arc<str>,
    /// Its tier; none: the default tier.
    pub tier: Option<TierId>,
    /// Hashes of the keys that name it.
    pub api_keys: Vec<ApiKeyHash>,
}

/// The SHA-256 of an API key. A hash of a weak key can be guessed, so it is not printed either.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiKeyHash(pub [u8; 32]);

impl fmt::Debug for ApiKeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:***")
    }
}
