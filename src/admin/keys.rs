//! `/clients/{id}/keys`: API keys that are made, replaced and revoked while the gateway runs.
//!
//! A key is shown once, in the answer that makes it. What is kept is its SHA-256: the keys are
//! 192 random bits, so there is nothing a slower hash would protect.

use super::blocks::time;
use super::body::Fields;
use super::clients::ClientId;
use super::problem::{BadInput, Problem, described};
use super::registry::{Full, Unavailable};
use super::{AdminState, App};
use crate::clock;
use crate::config::{self, ApiKeyHash};
use crate::registry::{ApiKey, Change, KeyId};
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use http::StatusCode;
use http::request::Parts;
use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Duration;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

/// How a key begins, so that people and scanners know one when they see it.
const PREFIX: &str = "tg_";
/// Random bytes of a key.
const KEY_BYTES: usize = 24;
/// How long a key may be valid, unless it has no end.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(3_660 * 24 * 3_600);
/// How long a key that is replaced stays valid.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 3_600);
const MAX_OVERLAP: Duration = Duration::from_secs(90 * 24 * 3_600);

/// A client's keys.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Keys {
    client: String,
    /// Those of the configuration first.
    keys: Vec<Key>,
    /// Whether `clients.identify` names api_key. Otherwise no key is read, and everybody with
    /// one is taken for somebody without.
    read: bool,
}

/// A key, as far as it is known here.
#[derive(Debug, Serialize, ToSchema)]
struct Key {
    /// The first 16 hex digits of its SHA-256.
    #[schema(example = "9f86d081884c7d65")]
    key: String,
    /// Whether the configuration has it. Then only a change of that file revokes it.
    configured: bool,
    /// Null for a key of the configuration.
    #[schema(value_type = Option<String>, format = DateTime)]
    created: Option<Timestamp>,
    /// Null: it has no end.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Timestamp>,
}

/// A key that was just made.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewKey {
    client: String,
    /// What it is called from now on.
    #[schema(example = "9f86d081884c7d65")]
    key: String,
    /// The key itself. Nobody can be told again.
    #[schema(example = "tg_0123456789abcdef0123456789abcdef0123456789abcdef")]
    secret: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    expires: Option<Timestamp>,
    /// The key it replaces and when that one ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<Replaced>,
}

/// A key that another one has replaced.
#[derive(Debug, Serialize, ToSchema)]
struct Replaced {
    #[schema(example = "9f86d081884c7d65")]
    key: String,
    #[schema(value_type = String, format = DateTime)]
    expires: Option<Timestamp>,
}

/// How long a new key is valid.
#[derive(ToSchema)]
pub(super) struct KeyFor {
    /// `1s` to `87840h`; absent: until it is revoked.
    #[schema(example = "2160h")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    ttl: Option<String>,
}

/// How a key is replaced.
#[derive(ToSchema)]
pub(super) struct Rotation {
    /// How long the old key stays valid beside the new one: `0s` to `2160h`, `24h` when absent.
    #[schema(example = "24h")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    overlap: Option<String>,
    /// As for a new key.
    #[schema(example = "2160h")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    ttl: Option<String>,
}

/// The API keys of a client, never the keys themselves
#[utoipa::path(get, path = "/clients/{id}/keys", tag = "clients", operation_id = "keys",
    params(ClientId),
    responses((status = 200, description = "Its keys", body = Keys), BadInput, Unavailable),
)]
pub(super) async fn keys(
    State(app): App,
    ClientId(client): ClientId,
) -> Result<Json<Keys>, Problem> {
    let made = app.gateway.registry.keys_of(&client).await?;
    let generation = app.gateway.generation();
    let configured = generation.known.keys_of(&client).iter().map(|hash| Key {
        key: KeyId::of(hash).to_string(),
        configured: true,
        created: None,
        expires: None,
    });
    let now = clock::unix_ms();
    let valid = made.iter().filter(|key| !key.has_ended(now));
    let made = valid.map(|key| Key {
        key: KeyId::of(&key.hash).to_string(),
        configured: false,
        created: time(key.created_ms),
        expires: key.expires_ms.and_then(time),
    });
    let keys = configured.chain(made).collect();
    let read = generation.config.clients.identify.contains(&config::Identifier::ApiKey);
    Ok(Json(Keys { client, keys, read }))
}

/// Make an API key for a client
///
/// The answer is the only place where it is ever shown. At most 16 keys a client.
#[utoipa::path(post, path = "/clients/{id}/keys", tag = "clients", operation_id = "create_key",
    params(ClientId), request_body = KeyFor,
    responses((status = 200, description = "The key", body = NewKey), BadInput, Full),
)]
pub(super) async fn create(
    State(app): App,
    ClientId(client): ClientId,
    fields: Fields,
) -> Result<Json<NewKey>, Problem> {
    fields.only(&["ttl"])?;
    let (secret, key) = draw(duration(&fields, "ttl", MIN_TTL, MAX_TTL)?)?;
    let change = Change::AddKey { client: client.as_str().into(), key: key.clone() };
    app.gateway.registry.change(change).await?;
    Ok(Json(NewKey {
        client,
        key: KeyId::of(&key.hash).to_string(),
        secret,
        expires: key.expires_ms.and_then(time),
        replaces: None,
    }))
}

/// Replace an API key
///
/// Makes a new one; the old one stays valid for `overlap`, so that both can be used while the
/// client changes over.
#[utoipa::path(post, path = "/clients/{id}/keys/{key}/rotate", tag = "clients",
    operation_id = "rotate_key",
    params(ClientId, KeyPath), request_body = Rotation,
    responses(
        (status = 200, description = "The new key", body = NewKey), BadInput, NotThisKey, Full,
    ),
)]
pub(super) async fn rotate(
    State(app): App,
    ClientId(client): ClientId,
    KeyPath(old): KeyPath,
    fields: Fields,
) -> Result<Json<NewKey>, Problem> {
    fields.only(&["overlap", "ttl"])?;
    let overlap = duration(&fields, "overlap", Duration::ZERO, MAX_OVERLAP)?;
    let (secret, key) = draw(duration(&fields, "ttl", MIN_TTL, MAX_TTL)?)?;
    is_changeable(&app, &client, old)?;
    let overlap = overlap.unwrap_or(DEFAULT_OVERLAP);
    let overlapped_ms = key.created_ms + overlap.as_millis() as u64;
    let made = app.gateway.registry.keys_of(&client).await?;
    let own_end_ms =
        made.iter().find(|key| KeyId::of(&key.hash) == old).and_then(|old| old.expires_ms);
    // Being replaced gives nobody's key more time.
    let old_expires_ms = own_end_ms.map_or(overlapped_ms, |end_ms| end_ms.min(overlapped_ms));
    let change =
        Change::RotateKey { client: client.as_str().into(), old, old_expires_ms, key: key.clone() };
    app.gateway.registry.change(change).await?;
    let replaced = Replaced { key: old.to_string(), expires: time(old_expires_ms) };
    Ok(Json(NewKey {
        client,
        key: KeyId::of(&key.hash).to_string(),
        secret,
        expires: key.expires_ms.and_then(time),
        replaces: Some(replaced),
    }))
}

/// Revoke an API key
///
/// The next request with it is answered with 401.
#[utoipa::path(delete, path = "/clients/{id}/keys/{key}", tag = "clients",
    operation_id = "revoke_key",
    params(ClientId, KeyPath),
    responses(
        (status = 200, description = "What was revoked", body = RevokedKey),
        BadInput, NotThisKey, Unavailable,
    ),
)]
pub(super) async fn revoke(
    State(app): App,
    ClientId(client): ClientId,
    KeyPath(key): KeyPath,
) -> Result<Json<RevokedKey>, Problem> {
    is_changeable(&app, &client, key)?;
    let change = Change::RevokeKey { client: client.as_str().into(), key };
    app.gateway.registry.change(change).await?;
    Ok(Json(RevokedKey { client, key: key.to_string() }))
}

/// A key that is valid no more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RevokedKey {
    client: String,
    #[schema(example = "9f86d081884c7d65")]
    key: String,
}

/// A key of the file is the file's.
fn is_changeable(app: &AdminState, client: &str, key: KeyId) -> Result<(), Problem> {
    let generation = app.gateway.generation();
    match generation.known.keys_of(client).iter().any(|hash| KeyId::of(hash) == key) {
        false => Ok(()),
        true => Err(Problem::new(
            StatusCode::CONFLICT,
            "the configuration has this key; take it out of clients.known there and reload",
        )),
    }
}

/// A new key, and what is kept of it.
fn draw(ttl: Option<Duration>) -> Result<(String, ApiKey), Problem> {
    let mut random = [0; KEY_BYTES];
    getrandom::fill(&mut random).map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the system has no randomness to give")
    })?;
    let mut secret = PREFIX.to_owned();
    for byte in random {
        let _ = write!(secret, "{byte:02x}");
    }
    let created_ms = clock::unix_ms();
    let key = ApiKey {
        hash: ApiKeyHash(Sha256::digest(&secret).into()),
        created_ms,
        expires_ms: ttl.map(|ttl| created_ms + ttl.as_millis() as u64),
    };
    Ok((secret, key))
}

fn duration(
    fields: &Fields,
    name: &str,
    shortest: Duration,
    longest: Duration,
) -> Result<Option<Duration>, Problem> {
    let text = fields.optional(name, "a duration such as 24h", |value| value.as_str())?;
    let duration = text.map(|text| config::duration(text, shortest..=longest)).transpose();
    duration.map_err(|message| Problem::field(name, format!("{name}: {message}")))
}

/// A key's name from the path.
#[derive(utoipa::IntoParams)]
#[into_params(names("key"), parameter_in = Path)]
pub(super) struct KeyPath(
    /// What the key is called: 16 hex digits
    #[param(value_type = String, example = "9f86d081884c7d65")]
    KeyId,
);

impl<S: Send + Sync> FromRequestParts<S> for KeyPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<KeyPath, Problem> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await.ok();
        let key = path.and_then(|Path(path)| KeyId::parse(path.get("key")?));
        key.map(KeyPath).ok_or_else(|| {
            Problem::field("key", "a key is called by the first 16 hex digits of its SHA-256")
        })
    }
}

/// The answers where the key is not there or not to be changed here, for the OpenAPI document.
pub(super) struct NotThisKey;

impl IntoResponses for NotThisKey {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let missing = described("The client has no such key. Nothing changed.");
        let configured = described("The configuration has this key. Nothing changed.");
        [("404".to_owned(), missing.into()), ("409".to_owned(), configured.into())].into()
    }
}
