//! One entry of the registry as gateways tell it to each other, and its text.
//!
//! A name is `client/ID`, `key/ID/KEY` or `block/KIND/VALUE`. A value is the version in decimal
//! digits of fixed width, which a script can compare as text, and behind it a compact JSON
//! object, or nothing where the entry was removed.

use super::blocks::Target;
use super::record::{ApiKey, KeyId, Record};
use super::{MAX_CLIENT_ID, is_client_id};
use crate::config::ApiKeyHash;
use crate::policy::rate::TokenBucket;
use crate::policy::version::{MAX_COUNTER, Version};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use thiserror::Error;

/// Bytes of a version's text: a digit, then counter and writer in as many as 64 bits can have.
const VERSION_BYTES: usize = 1 + 20 + 20;
/// The longest name of a tier that is taken from another gateway, in bytes.
const MAX_TIER: usize = 256;
/// The longest name an entry can have: a key's.
const MAX_NAME: usize = MAX_CLIENT_ID + "key//".len() + 16;

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// What was set for a client.
    Client(&'a str),
    /// A key of a client.
    Key(&'a str, KeyId),
    /// A block.
    Block(Cow<'a, Target>),
}

impl Name<'_> {
    /// Reads what `Display` writes; nothing else names an entry.
    pub(super) fn parse(text: &str) -> Option<Name<'_>> {
        if text.len() > MAX_NAME {
            return None;
        }
        let is_id = |id: &&str| is_client_id(id.as_bytes());
        match text.split_once('/')? {
            ("client", id) => Some(id).filter(is_id).map(Name::Client),
            ("key", rest) => {
                let (client, id) = rest.rsplit_once('/')?;
                let key = KeyId::parse(id).filter(|key| key.to_string() == id)?;
                Some(client).filter(is_id).map(|client| Name::Key(client, key))
            }
            ("block", target) => {
                let found = Target::of_text(target)?;
                Some(found)
                    .filter(|found| found.to_string() == target)
                    .map(Cow::Owned)
                    .map(Name::Block)
            }
            _ => None,
        }
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Name::Client(id) => write!(f, "client/{id}"),
            Name::Key(client, key) => write!(f, "key/{client}/{key}"),
            Name::Block(target) => write!(f, "block/{target}"),
        }
    }
}

/// What an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    /// Of a client; never an empty one.
    Client(Record),
    /// Of a key.
    Key(ApiKey),
    /// Of a block: since when and until when.
    Block(u64, Option<u64>),
}

impl Value {
    /// When it ends by itself, in milliseconds since 1970.
    fn end_ms(&self) -> Option<u64> {
        match self {
            Value::Client(_) => None,
            Value::Key(key) => key.expires_ms,
            Value::Block(_, expires_ms) => *expires_ms,
        }
    }
}

/// One entry as some gateway wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A name that can be read.
    pub(super) name: Box<str>,
    /// Which of its writes this is.
    pub(super) version: Version,
    /// None: it was removed.
    pub(super) value: Option<Value>,
}

/// How long an entry is of interest to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// Until it is changed.
    Always,
    /// It ends by itself, at this many milliseconds since 1970.
    Until(u64),
    /// It was removed.
    Removed,
}

/// Why a text is no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    /// The name is none.
    #[error("its name is not of a kind this gateway knows")]
    Name,
    /// The version is none.
    #[error("it has no version that can be read")]
    Version,
    /// The value is none, or of something else.
    #[error("its value cannot be read")]
    Value,
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// When it ends by itself.
    pub(super) fn end_ms(&self) -> Option<u64> {
        self.value.as_ref().and_then(Value::end_ms)
    }

    /// How long it is of interest.
    pub fn lasting(&self) -> Lasting {
        match &self.value {
            None => Lasting::Removed,
            Some(value) => value.end_ms().map_or(Lasting::Always, Lasting::Until),
        }
    }

    /// Version and value as text.
    pub fn text(&self) -> String {
        let mut text = version_text(self.version);
        if let Some(value) = &self.value {
            // A plain object of numbers and text has nothing that could fail.
            text.push_str(&serde_json::to_string(&Body::of(value)).unwrap_or_default());
        }
        text
    }

    /// Reads a name and what [`text`](Entry::text) wrote, whoever did.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn read(name: &str, text: &str) -> Result<Entry, EntryError> {
        let parsed = Name::parse(name).ok_or(EntryError::Name)?;
        let version = read_version(text).ok_or(EntryError::Version)?;
        let value = match text.get(VERSION_BYTES..).unwrap_or_default() {
            "" => None,
            body => Some(value(&parsed, body).ok_or(EntryError::Value)?),
        };
        Ok(Entry { name: name.into(), version, value })
    }
}

/// The text of a version. Texts are in the order of versions, wherever digits are in order.
pub fn version_text(version: Version) -> String {
    let Version { is_final, counter, writer } = version;
    format!("{}{counter:020}{writer:020}", u8::from(is_final))
}

/// Reads what begins with the text of a version; none is read whose counter cannot be true.
pub fn read_version(text: &str) -> Option<Version> {
    let digits = text.get(..VERSION_BYTES)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let is_final = match digits.get(..1)? {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    let counter = digits.get(1..21)?.parse().ok().filter(|&counter| counter <= MAX_COUNTER)?;
    Some(Version { is_final, counter, writer: digits.get(21..)?.parse().ok()? })
}

/// A value in JSON. The rate is text, which keeps every bit of it.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Body {
    Key { hash: String, created_ms: u64, expires_ms: Option<u64> },
    Block { created_ms: u64, expires_ms: Option<u64> },
    Client { tier: Option<String>, rate: Option<String>, burst: Option<u64> },
}

impl Body {
    fn of(value: &Value) -> Body {
        match value {
            Value::Client(record) => Body::Client {
                tier: record.tier.as_deref().map(str::to_owned),
                rate: record.own_limit.map(|limit| limit.rate_per_second().to_string()),
                burst: record.own_limit.map(|limit| limit.burst()),
            },
            Value::Key(key) => Body::Key {
                hash: key.hash.0.iter().map(|byte| format!("{byte:02x}")).collect(),
                created_ms: key.created_ms,
                expires_ms: key.expires_ms,
            },
            &Value::Block(created_ms, expires_ms) => Body::Block { created_ms, expires_ms },
        }
    }
}

fn value(name: &Name<'_>, body: &str) -> Option<Value> {
    match (name, serde_json::from_str(body).ok()?) {
        (Name::Client(_), Body::Client { tier, rate, burst }) => {
            let own_limit = match (rate, burst) {
                (None, None) => None,
                (rate, burst) => {
                    let limit = TokenBucket::from_rate_per_second(rate?.parse().ok()?, burst?);
                    Some(limit.ok()?)
                }
            };
            if tier.as_ref().is_some_and(|tier| tier.is_empty() || tier.len() > MAX_TIER) {
                return None;
            }
            let record = Record { tier: tier.map(Into::into), own_limit };
            (!record.is_empty()).then_some(Value::Client(record))
        }
        (Name::Key(_, id), Body::Key { hash, created_ms, expires_ms }) => {
            let hash = read_hash(&hash).filter(|hash| KeyId::of(hash) == *id)?;
            Some(Value::Key(ApiKey { hash, created_ms, expires_ms }))
        }
        (Name::Block(_), Body::Block { created_ms, expires_ms }) => {
            Some(Value::Block(created_ms, expires_ms))
        }
        _ => None,
    }
}

fn read_hash(hex: &str) -> Option<ApiKeyHash> {
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(index * 2..index * 2 + 2)?, 16).ok()?;
    }
    Some(ApiKeyHash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(counter: u64) -> Version {
        Version { is_final: false, counter, writer: u64::MAX }
    }

    fn entry(name: &str, value: Option<Value>) -> Entry {
        Entry { name: name.into(), version: version(1_763_754_807_123), value }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        let hash = ApiKeyHash(std::array::from_fn(|index| 0xf8 ^ index as u8));
        let key = ApiKey { hash: hash.clone(), created_ms: 1, expires_ms: Some(2) };
        let limit = TokenBucket::from_rate_per_second(0.1 + 0.2, 7).ok();
        let entries = [
            entry(
                "client/a/b",
                Some(Value::Client(Record { tier: Some("x".into()), own_limit: limit })),
            ),
            entry("client/a", Some(Value::Client(Record { tier: None, own_limit: limit }))),
            entry(&format!("key/a/b/{}", KeyId::of(&hash)), Some(Value::Key(key))),
            entry("block/ip/192.0.2.1", Some(Value::Block(5, None))),
            entry("block/client/a/b", Some(Value::Block(5, Some(9)))),
            entry("block/cidr/10.0.0.0/8", None),
        ];
        for entry in entries {
            assert_eq!(
                Entry::read(&entry.name, &entry.text()),
                Ok(entry.clone()),
                "{}",
                entry.text()
            );
        }
        let texts = [
            entry("client/a", None).text(),
            entry("block/ip/192.0.2.1", Some(Value::Block(5, None))).text(),
        ];
        assert_eq!(texts[0], "00000000176375480712318446744073709551615");
        assert_eq!(&texts[1][VERSION_BYTES..], r#"{"created_ms":5,"expires_ms":null}"#);
    }

    #[test]
    fn what_another_gateway_cannot_have_meant_is_not_taken() {
        let block = entry("block/ip/192.0.2.1", Some(Value::Block(5, None))).text();
        let bad_names = [
            "",
            "client",
            "client/",
            "client/a b",
            "key/a",
            "key/a/123",
            "key//0123456789abcdef",
            "key/a/0123456789ABCDEF",
            "block/ip/1",
            "block/ip/::ffff:192.0.2.1",
            "other/a",
            &format!("client/{}", "x".repeat(257)),
        ];
        for name in bad_names {
            assert_eq!(Entry::read(name, &block), Err(EntryError::Name), "{name}");
        }
        let too_high = version_text(version(MAX_COUNTER + 1));
        for text in ["", "0", &block[1..], &format!("2{}", &block[1..]), &too_high, "ä"] {
            let read = Entry::read("block/ip/192.0.2.1", text);
            assert_eq!(read, Err(EntryError::Version), "{text}");
        }
        let version = version_text(version(1));
        let bodies = [
            ("client/a", "{}"),
            ("client/a", r#"{"tier":""}"#),
            ("client/a", r#"{"rate":"1"}"#),
            ("client/a", r#"{"rate":"-1","burst":1}"#),
            ("client/a", r#"{"created_ms":5}"#),
            ("block/ip/192.0.2.1", r#"{"tier":"x"}"#),
            ("key/a/0123456789abcdef", r#"{"hash":"00","created_ms":5}"#),
            (
                "key/a/0123456789abcdef",
                &format!(r#"{{"hash":"{}","created_ms":5}}"#, "0".repeat(64)),
            ),
            ("client/a", "x"),
        ];
        for (name, body) in bodies {
            let read = Entry::read(name, &format!("{version}{body}"));
            assert_eq!(read, Err(EntryError::Value), "{name} {body}");
        }
    }

    #[test]
    fn texts_of_versions_are_in_their_order() {
        let mut versions = Vec::new();
        for is_final in [false, true] {
            for counter in [0, 9, 10, 1 << 53, MAX_COUNTER] {
                for writer in [0, 1, u64::MAX] {
                    versions.push(Version { is_final, counter, writer });
                }
            }
        }
        let texts: Vec<String> = versions.iter().map(|&version| version_text(version)).collect();
        assert!(texts.is_sorted());
        let read: Vec<_> = texts.iter().filter_map(|text| read_version(text)).collect();
        assert_eq!(read, versions);
    }
}
