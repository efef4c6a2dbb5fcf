//! `/blocks`: who is turned away before any limit.

use super::App;
use super::body::Fields;
use super::problem::{BadInput, Problem, described};
use super::registry::{Full, Page, Parameters, Unavailable, parameters};
use crate::clock;
use crate::config;
use crate::registry::{Block, Change, Target, TargetError};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};

/// How long a block may last, unless it has no end.
const MIN_TTL: Duration = Duration::from_secs(1);
const MAX_TTL: Duration = Duration::from_secs(366 * 24 * 3_600);

/// Blocks, in the order of their kinds and values.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BlockPage {
    blocks: Vec<Blocked>,
    /// What to ask for as `after` to go on; null: there are no more.
    #[schema(example = "ip/203.0.113.7")]
    next: Option<String>,
}

/// One who is blocked.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Blocked {
    /// `ip`, `cidr` or `client`.
    #[schema(example = "ip")]
    kind: &'static str,
    /// The address, the network or the client's id.
    #[schema(example = "203.0.113.7")]
    value: String,
    #[schema(value_type = String, format = DateTime)]
    since: Option<Timestamp>,
    /// Null: until it is taken back.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
}

/// How long to block.
#[derive(ToSchema)]
pub(super) struct BlockFor {
    /// `1s` to `8784h`; absent: until it is taken back.
    #[schema(example = "1h")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    ttl: Option<String>,
}

/// Who is blocked
#[utoipa::path(get, path = "/blocks", tag = "clients", operation_id = "blocks",
    params(
        ("after" = Option<String>, Query, description = "Kind and value behind which to begin",
            example = "ip/203.0.113.7"),
        ("limit" = Option<u32>, Query, description = "Blocks of a page, 100 when absent",
            minimum = 1, maximum = 1_000),
    ),
    responses((status = 200, description = "The blocks", body = BlockPage), BadInput, Unavailable),
)]
pub(super) async fn blocks(State(app): App, query: Parameters) -> Result<Json<BlockPage>, Problem> {
    let page = Page::read(parameters(query)?, &["after", "limit"])?;
    // One more than is shown tells whether there are more.
    let found = app.gateway.registry.blocks(page.after.as_deref(), page.limit + 1).await?;
    let shown = found.get(..page.limit).unwrap_or(&found);
    let next = shown.last().filter(|_| shown.len() < found.len());
    Ok(Json(BlockPage {
        next: next.map(|last| last.target.to_string()),
        blocks: shown.iter().map(Blocked::from).collect(),
    }))
}

/// Block an address, a network or a client
///
/// From the next request on it is answered with 403, before limits and at no cost. A network is
/// written with %2F or a slash. Blocking again sets a new end.
#[utoipa::path(put, path = "/blocks/{kind}/{value}", tag = "clients", operation_id = "block",
    params(
        ("kind" = String, Path, description = "ip, cidr or client", example = "ip"),
        ("value" = String, Path, description = "The address, network or client, percent-encoded",
            example = "203.0.113.7"),
    ),
    request_body = BlockFor,
    responses((status = 200, description = "The block", body = Blocked), BadInput, Full),
)]
pub(super) async fn block(
    State(app): App,
    Named(target): Named,
    fields: Fields,
) -> Result<Json<Blocked>, Problem> {
    fields.only(&["ttl"])?;
    let ttl = fields.optional("ttl", "a duration such as 1h", |value| value.as_str())?;
    let ttl = ttl.map(|text| config::duration(text, MIN_TTL..=MAX_TTL)).transpose();
    let ttl = ttl.map_err(|message| Problem::field("ttl", format!("ttl: {message}")))?;
    let created_ms = clock::unix_ms();
    let expires_ms = ttl.map(|ttl| created_ms + ttl.as_millis() as u64);
    let block = Block { target: target.clone(), created_ms, expires_ms };
    app.gateway.registry.change(Change::Block { target, created_ms, expires_ms }).await?;
    Ok(Json(Blocked::from(&block)))
}

/// Take a block back
#[utoipa::path(delete, path = "/blocks/{kind}/{value}", tag = "clients", operation_id = "unblock",
    params(
        ("kind" = String, Path, description = "ip, cidr or client", example = "ip"),
        ("value" = String, Path, description = "As it is listed, percent-encoded",
            example = "203.0.113.7"),
    ),
    responses(
        (status = 200, description = "What is blocked no more", body = Unblocked),
        BadInput, NoSuchBlock, Unavailable,
    ),
)]
pub(super) async fn unblock(
    State(app): App,
    Named(target): Named,
) -> Result<Json<Unblocked>, Problem> {
    app.gateway.registry.change(Change::Unblock { target: target.clone() }).await?;
    Ok(Json(Unblocked { kind: target.kind(), value: target.value() }))
}

/// One who is blocked no more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Unblocked {
    /// `ip`, `cidr` or `client`.
    #[schema(example = "ip")]
    kind: &'static str,
    /// The address, the network or the client's id.
    #[schema(example = "203.0.113.7")]
    value: String,
}

impl From<&Block> for Blocked {
    fn from(block: &Block) -> Blocked {
        Blocked {
            kind: block.target.kind(),
            value: block.target.value(),
            since: time(block.created_ms),
            until: block.expires_ms.and_then(time),
        }
    }
}

/// Milliseconds since 1970 as a time.
pub(super) fn time(unix_ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()
}

/// Whom a path names.
pub(super) struct Named(Target);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Named, Problem> {
        let path: Result<Path<Vec<(String, String)>>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        let Path(path) = path?;
        // A network that is written with a slash takes one segment more.
        let mut segments = path.into_iter().map(|(_, segment)| segment);
        let kind = segments.next().unwrap_or_default();
        let value = segments.collect::<Vec<_>>().join("/");
        Target::parse(&kind, &value).map(Named).map_err(|error| {
            let field = if error == TargetError::Kind { "kind" } else { "value" };
            Problem::field(field, error.to_string())
        })
    }
}

/// The answer where nobody of that name is blocked, for the OpenAPI document.
pub(super) struct NoSuchBlock;

impl IntoResponses for NoSuchBlock {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let missing = described("There is no such block. Nothing changed.");
        [("404".to_owned(), missing.into())].into()
    }
}
