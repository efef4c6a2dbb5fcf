//! `clients`: how a request's client is named, and which clients are known.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use ipnet::IpNet;

use super::keys;
use super::raw::{Field, Section, Unique};
use super::report::{Report, did_you_mean, one_of, quote};
use super::server::networks;
use super::value;
use crate::policy::tier::{TierId, Tiers};

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

/// Ways to name a client.
const MAX_IDENTIFIERS: usize = 8;
/// Clients that a file may register.
const MAX_KNOWN_CLIENTS: usize = 100_000;
/// Keys that one client may have: enough to replace them one after the other.
const MAX_API_KEYS: usize = 16;

impl Clients {
    /// Reads all of `clients` but `default_tier`, which was needed to order the tiers.
    pub(super) fn read(section: Option<&Section<'_>>, tiers: &Tiers, report: &mut Report) -> Self {
        let mut clients = Self::default();
        let Some(section) = section else { return clients };
        if let Some(field) = section.get("identify") {
            clients.identify = identifiers(field, report);
        }
        let prefix = section
            .value("ipv6_prefix", report, "a number of bits", |text| value::integer(text, 1..=128));
        if let Some(prefix) = prefix {
            clients.ipv6_prefix = prefix as u8;
        }
        let header = section.value("api_key_header", report, "a header name", value::header);
        if let Some(header) = header {
            clients.api_key_header = header;
        }
        if let Some(field) = section.get("known") {
            clients.known = known_clients(field, tiers, report);
            clients.warn_of_unread_keys(field, report);
        }
        clients
    }

    /// Whether an API key can name a client at all.
    pub(super) fn read_api_keys(&self) -> bool {
        self.identify.contains(&Identifier::ApiKey)
    }

    fn warn_of_unread_keys(&self, field: &Field<'_>, report: &mut Report) {
        let has_keys = self.known.iter().any(|client| !client.api_keys.is_empty());
        if has_keys && !self.read_api_keys() {
            let message = "clients have api_keys, but clients.identify does not name api_key, so \
                           no key is ever read";
            field.warn(report, message);
        }
    }
}

fn identifiers(field: &Field<'_>, report: &mut Report) -> Vec<Identifier> {
    let fields = field.one_or_list(report, MAX_IDENTIFIERS);
    if field.is_empty_list() {
        field.error(report, "there must be a way to name a client; write for example [ip]");
    }
    let mut unique = Unique::default();
    let mut identifiers = Vec::new();
    for field in &fields {
        if let Some(identifier) = identifier(field, report) {
            let name = match &identifier {
                Identifier::ApiKey => "api_key",
                Identifier::Ip => "ip",
                Identifier::Header { name, .. } => name.as_str(),
            };
            unique.claim("the identifier", name, field, report);
            identifiers.push(identifier);
        }
    }
    identifiers
}

fn identifier(field: &Field<'_>, report: &mut Report) -> Option<Identifier> {
    if let Some(text) = field.scalar() {
        return match text {
            "ip" => Some(Identifier::Ip),
            "api_key" => Some(Identifier::ApiKey),
            _ => {
                let later = ["jwt", "mtls"].contains(&text);
                let suggestion = did_you_mean(text, ["ip", "api_key"]);
                let message = if later {
                    format!("{text} is not available yet")
                } else {
                    format!(
                        "{} is not one of ip, api_key, {{header: NAME}}{suggestion}",
                        quote(text)
                    )
                };
                field.error(report, message);
                None
            }
        };
    }
    let section = field.section(report, &keys::IDENTIFIER)?;
    let from = section.get("from").map(|field| networks(field, report)).unwrap_or_default();
    let name = section.require("header", report, "header: X-Client-ID")?;
    let name = name.read(report, "a header name", value::header)?;
    Some(Identifier::Header { name, from })
}

fn known_clients(field: &Field<'_>, tiers: &Tiers, report: &mut Report) -> Vec<KnownClient> {
    let entries = field.entries(report, MAX_KNOWN_CLIENTS).unwrap_or_default();
    let mut owners = HashMap::new();
    let mut known = Vec::with_capacity(entries.len());
    for (id, field) in entries {
        let id = match value::client_id(id) {
            Ok(id) => id,
            Err(message) => {
                field.error(report, message);
                continue;
            }
        };
        let mut client = KnownClient { id: id.into(), tier: None, api_keys: Vec::new() };
        // A client with nothing beside its name is one that is known and has the default tier.
        if field.node.kind != super::yaml::Kind::Null
            && let Some(section) = field.section(report, &keys::KNOWN_CLIENT)
        {
            let tier = section.get("tier");
            client.tier = tier.and_then(|field| read_tier(field, tiers, report));
            if let Some(field) = section.get("api_keys") {
                client.api_keys = api_keys(field, id, &mut owners, report);
            }
        }
        known.push(client);
    }
    known
}

/// Reads the name of a tier that exists.
fn read_tier(field: &Field<'_>, tiers: &Tiers, report: &mut Report) -> Option<TierId> {
    field.read(report, "a tier's name", |text| {
        let names = || tiers.iter().map(|(_, tier)| &*tier.name);
        tiers.find(text).ok_or_else(|| {
            let suggestion = did_you_mean(text, names());
            format!("there is no tier {}{suggestion} (tiers: {})", quote(text), one_of(names()))
        })
    })
}

/// The messages never repeat what is written: it may be the key itself, put there by mistake.
fn api_keys<'a>(
    field: &Field<'_>,
    id: &'a str,
    owners: &mut HashMap<ApiKeyHash, &'a str>,
    report: &mut Report,
) -> Vec<ApiKeyHash> {
    let mut keys = Vec::new();
    for field in field.one_or_list(report, MAX_API_KEYS) {
        let parse = |text: &str| {
            api_key_hash(text).ok_or_else(|| {
                "is not the hash of a key; write sha256: and 64 hex digits, from \
                 printf %s \"$KEY\" | sha256sum"
                    .to_owned()
            })
        };
        let Some(hash) = field.read(report, "the hash of a key", parse) else { continue };
        if let Some(owner) = owners.insert(hash.clone(), id) {
            field.error(report, format!("this key is already a key of {}", quote(owner)));
        }
        keys.push(hash);
    }
    keys
}

fn api_key_hash(text: &str) -> Option<ApiKeyHash> {
    let hex = text.strip_prefix("sha256:")?.as_bytes();
    if hex.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(hex.chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(ApiKeyHash(hash))
}
