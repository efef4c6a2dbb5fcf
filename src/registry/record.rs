//! What the registry keeps of clients and their keys, and the changes that can be made to it.

use super::blocks::Target;
use crate::config::ApiKeyHash;
use crate::policy::rate::TokenBucket;
use std::fmt;
use std::sync::Arc;

/// What the admin API set for one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// A tier by name; none: as configured.
    pub tier: Option<Arc<str>>,
    /// A limit of its own instead of its tier's.
    pub own_limit: Option<TokenBucket>,
}

impl Record {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Record::default()
    }
}

/// An API key as it is kept: its hash, never the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What finds it.
    pub hash: ApiKeyHash,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it stops to be valid; none: never.
    pub expires_ms: Option<u64>,
}

impl ApiKey {
    /// Whether it is valid no more; then it is like one that never was.
    pub fn has_ended(&self, now_ms: u64) -> bool {
        self.expires_ms.is_some_and(|end| end <= now_ms)
    }
}

/// What an API key is called: the first 64 bits of its hash, in hex. It tells nobody the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(pub u64);

impl KeyId {
    /// The name of the key with this hash.
    pub fn of(hash: &ApiKeyHash) -> KeyId {
        KeyId(hash.0.iter().take(8).fold(0, |id, &byte| id << 8 | u64::from(byte)))
    }

    /// Reads the 16 hex digits that `Display` writes.
    pub fn parse(text: &str) -> Option<KeyId> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(text, 16).ok().map(KeyId)).flatten()
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A change to the registry: all of it is made, or nothing.
#[derive(Debug, Clone)]
pub enum Change {
    /// Puts a client in a tier, or takes that back.
    Tier {
        /// Whom.
        client: Box<str>,
        /// The tier's name.
        tier: Option<Box<str>>,
    },
    /// Gives a client a limit of its own, or takes it back.
    OwnLimit {
        /// Whom.
        client: Box<str>,
        /// The limit.
        limit: Option<TokenBucket>,
    },
    /// Replaces what is set for each of these clients; their keys stay.
    Import(Vec<(Box<str>, Record)>),
    /// Takes back everything that was set for a client, its keys included.
    Forget {
        /// Whom.
        client: Box<str>,
    },
    /// Gives a client one more key.
    AddKey {
        /// Whom.
        client: Box<str>,
        /// The key.
        key: ApiKey,
    },
    /// Gives a client a key in place of one that is valid for a while longer.
    RotateKey {
        /// Whom.
        client: Box<str>,
        /// The key that is replaced.
        old: KeyId,
        /// When that one ends, unless it ends before.
        old_expires_ms: u64,
        /// The key that takes its place.
        key: ApiKey,
    },
    /// Ends a key.
    RevokeKey {
        /// Whose.
        client: Box<str>,
        /// Which.
        key: KeyId,
    },
    /// Blocks somebody, or sets a new end to that.
    Block {
        /// Whom.
        target: Target,
        /// Since when, in milliseconds since 1970.
        created_ms: u64,
        /// Until when; none: until it is taken back.
        expires_ms: Option<u64>,
    },
    /// Takes a block back.
    Unblock {
        /// Whose.
        target: Target,
    },
    /// Throws away the keys and blocks that had ended by then.
    Purge {
        /// In milliseconds since 1970.
        now_ms: u64,
    },
}

/// What a change comes to for the request path: one entry as it stands now.
#[derive(Debug)]
pub(super) enum Effect {
    /// A client; none: it is registered no more.
    Client(Box<str>, Option<Record>),
    /// A key and whose it is; none: it is no key any more.
    Key(ApiKeyHash, Option<(Box<str>, Option<u64>)>),
    /// A block with its end; none: there is none any more.
    Block(Target, Option<BlockEnd>),
}

/// When a block ends; none: by itself never.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockEnd(pub(super) Option<u64>);
