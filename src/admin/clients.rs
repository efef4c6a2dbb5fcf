//! `/clients`: how a client stands, and the changes to it that need no restart.
//!
//! A change is one entry in the registry, is on disk when it is answered, and acts on the very
//! next request. Buckets are left
//! alone: they keep the time until they are full, so whatever the client has used stays used.

use super::App;
use super::body::Fields;
use super::client_view::{Client, client};
use super::problem::{BadInput, Problem};
use super::registry::{Full, Unavailable};
use crate::policy::rate::{BucketError, TokenBucket};
use crate::policy::tier::Tiers;
use crate::registry::{Change, MAX_CLIENT_ID, is_client_id};
use axum::Json;
use axum::extract::{FromRequestParts, Path, State};
use http::request::Parts;
use serde_json::Value;
use std::collections::HashMap;
use utoipa::ToSchema;

/// The largest burst a client's own limit may have: the largest whole number every JSON
/// reader keeps exact, and the bound bursts have in the file.
const MAX_CAPACITY: u64 = 1 << 53;

/// A change of tier.
#[derive(ToSchema)]
pub(super) struct TierChange {
    /// A tier's name, in any case.
    #[schema(example = "premium")]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    tier: String,
}

/// A limit of a client's own.
#[derive(ToSchema)]
pub(super) struct LimitChange {
    /// Tokens in the full bucket.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_992_u64, example = 50)]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    capacity: u64,
    /// Tokens per second.
    #[schema(exclusive_minimum = 0.0, maximum = 1e9, example = 10.0)]
    #[expect(dead_code, reason = "describes the body in the OpenAPI document")]
    refill_rate: f64,
}

/// How a client stands, by id
///
/// The id is what a header names or what an API key belongs to. The two have buckets of
/// their own; of each policy the emptier one is shown. An id nobody registered has the
/// default tier and full buckets. Asking stores nothing.
#[utoipa::path(get, path = "/clients/{id}", tag = "clients",
    operation_id = "client_by_id", params(ClientId),
    responses((status = 200, description = "The client", body = Client), BadInput),
)]
pub(super) async fn by_id(State(app): App, ClientId(id): ClientId) -> Json<Client> {
    Json(client(&app, &id).await)
}

/// Put a client in a tier
#[utoipa::path(method(put, post), path = "/clients/{id}/tier", tag = "clients",
    params(ClientId), request_body = TierChange,
    responses(
        (status = 200, description = "The client as it stands now", body = Client),
        BadInput, Full,
    ),
)]
pub(super) async fn set_tier(
    State(app): App,
    ClientId(id): ClientId,
    fields: Fields,
) -> Result<Json<Client>, Problem> {
    fields.only(&["tier"])?;
    let tier = {
        let tiers = &app.gateway.generation().config.tiers;
        let expected = tier_names(tiers);
        let tier = fields.required("tier", &expected, |value| tiers.find(value.as_str()?))?;
        tiers.get(tier).name.as_ref().into()
    };
    let change = Change::Tier { client: id.as_str().into(), tier: Some(tier) };
    app.gateway.registry.change(change).await?;
    Ok(Json(client(&app, &id).await))
}

/// What a tier's name must be.
pub(super) fn tier_names(tiers: &Tiers) -> String {
    let names: Vec<&str> = tiers.iter().map(|(_, tier)| &*tier.name).collect();
    format!("one of {}", names.join(", "))
}

/// Take a client's tier back; what is configured applies again
///
/// A client without one stays as it is.
#[utoipa::path(delete, path = "/clients/{id}/tier", tag = "clients",
    params(ClientId), responses(
    (status = 200, description = "The client as it stands now", body = Client),
    BadInput, Unavailable,
))]
pub(super) async fn remove_tier(
    State(app): App,
    ClientId(id): ClientId,
) -> Result<Json<Client>, Problem> {
    let change = Change::Tier { client: id.as_str().into(), tier: None };
    app.gateway.registry.change(change).await?;
    Ok(Json(client(&app, &id).await))
}

/// Take back all that was set for a client: tier, limit and keys
///
/// What the configuration says of it stays, and its keys there.
#[utoipa::path(delete, path = "/clients/{id}", tag = "clients", operation_id = "forget_client",
    params(ClientId), responses(
    (status = 200, description = "The client as it stands now", body = Client),
    BadInput, Unavailable,
))]
pub(super) async fn forget(
    State(app): App,
    ClientId(id): ClientId,
) -> Result<Json<Client>, Problem> {
    app.gateway.registry.change(Change::Forget { client: id.as_str().into() }).await?;
    Ok(Json(client(&app, &id).await))
}

/// Give a client a limit of its own instead of its tier's
#[utoipa::path(put, path = "/clients/{id}/limit", tag = "clients",
    params(ClientId), request_body = LimitChange,
    responses(
        (status = 200, description = "The client as it stands now", body = Client),
        BadInput, Full,
    ),
)]
pub(super) async fn set_limit(
    State(app): App,
    ClientId(id): ClientId,
    fields: Fields,
) -> Result<Json<Client>, Problem> {
    fields.only(&["capacity", "refill_rate"])?;
    let bucket = own_limit(&fields)?;
    let change = Change::OwnLimit { client: id.as_str().into(), limit: Some(bucket) };
    app.gateway.registry.change(change).await?;
    Ok(Json(client(&app, &id).await))
}

/// The limit that `capacity` and `refill_rate` describe.
pub(super) fn own_limit(fields: &Fields) -> Result<TokenBucket, Problem> {
    let whole = format!("a whole number of tokens from 1 to {MAX_CAPACITY}");
    let capacity = fields.required("capacity", &whole, |value| {
        whole_number(value).filter(|capacity| (1..=MAX_CAPACITY).contains(capacity))
    })?;
    let rate =
        fields.required("refill_rate", "a number of tokens per second above 0", |value| {
            value.as_f64().filter(|&rate| rate > 0.0)
        })?;
    TokenBucket::from_rate_per_second(rate, capacity).map_err(|error| {
        // Too slow a bucket may be mended at either end; name the one that is too much.
        let at_fault = match error {
            BucketError::ZeroBurst => "capacity",
            BucketError::TooSlow if TokenBucket::from_rate_per_second(rate, 1).is_ok() => {
                "capacity"
            }
            _ => "refill_rate",
        };
        Problem::field(at_fault, error.to_string())
    })
}

/// A number that is whole, however it is written: some write every number as `50.0`.
fn whole_number(value: &Value) -> Option<u64> {
    let whole =
        |number: &f64| number.fract() == 0.0 && (0.0..=MAX_CAPACITY as f64).contains(number);
    value.as_u64().or_else(|| value.as_f64().filter(whole).map(|number| number as u64))
}

/// Take a client's own limit back; its tier's applies again
///
/// A client without one stays as it is.
#[utoipa::path(delete, path = "/clients/{id}/limit", tag = "clients",
    params(ClientId), responses(
    (status = 200, description = "The client as it stands now", body = Client),
    BadInput, Unavailable,
))]
pub(super) async fn remove_limit(
    State(app): App,
    ClientId(id): ClientId,
) -> Result<Json<Client>, Problem> {
    let change = Change::OwnLimit { client: id.as_str().into(), limit: None };
    app.gateway.registry.change(change).await?;
    Ok(Json(client(&app, &id).await))
}

/// A client id from the path, percent-decoded.
#[derive(utoipa::IntoParams)]
#[into_params(names("id"), parameter_in = Path)]
pub(super) struct ClientId(
    /// The client's id, percent-encoded: 1 to 256 bytes of visible ASCII
    #[param(min_length = 1, max_length = 256, example = "client-123")]
    pub(super) String,
);

impl<S: Send + Sync> FromRequestParts<S> for ClientId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<ClientId, Problem> {
        let path = Path::<HashMap<String, String>>::from_request_parts(parts, state).await.ok();
        let id = path.and_then(|Path(mut path)| path.remove("id"));
        id.filter(|id| is_client_id(id.as_bytes())).map(ClientId).ok_or_else(|| {
            let detail = format!("an id is 1 to {MAX_CLIENT_ID} bytes of visible ASCII");
            Problem::field("id", detail)
        })
    }
}
