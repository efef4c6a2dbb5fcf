//! `POST /clients`: many clients in one request, all or none of them.

use super::App;
use super::body::Fields;
use super::clients::{own_limit, tier_names};
use super::problem::{BadInput, Problem};
use super::registry::Full;
use crate::policy::tier::Tiers;
use crate::registry::{Change, Record, is_client_id};
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashSet;
use utoipa::ToSchema;

/// Errors that are told of one request.
const MAX_ERRORS: usize = 20;

/// What was imported.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Imported {
    /// Clients whose settings are now as they were sent.
    imported: usize,
}

/// Clients and their settings.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body in the OpenAPI document")]
pub(super) struct Import {
    /// Each client at most once.
    clients: Vec<ImportedClient>,
}

/// A client's settings: a tier, or a limit of its own, or both.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the body in the OpenAPI document")]
struct ImportedClient {
    #[schema(example = "client-123")]
    client: String,
    #[schema(example = "premium")]
    tier: Option<String>,
    /// Goes with `refill_rate`.
    #[schema(example = 50)]
    capacity: Option<u64>,
    /// Goes with `capacity`.
    #[schema(example = 10.0)]
    refill_rate: Option<f64>,
    /// Where it is in its file, for messages; its place in the list when absent.
    line: Option<u64>,
}

/// Set tiers and limits of many clients
///
/// What was set for each of them before is replaced; keys stay, and so do clients that are not
/// named. All of it is made or nothing. `tollgate clients import` sends a file in such pieces.
#[utoipa::path(post, path = "/clients", tag = "clients", operation_id = "import_clients",
    request_body = Import,
    responses((status = 200, description = "All were set", body = Imported), BadInput, Full),
)]
pub(super) async fn import(State(app): App, fields: Fields) -> Result<Json<Imported>, Problem> {
    fields.only(&["clients"])?;
    let rows = {
        let generation = app.gateway.generation();
        let list = fields.required("clients", "a list of clients", Value::as_array)?;
        read(list, &generation.config.tiers)?
    };
    let imported = rows.len();
    app.gateway.registry.change(Change::Import(rows)).await?;
    Ok(Json(Imported { imported }))
}

fn read(list: &[Value], tiers: &Tiers) -> Result<Vec<(Box<str>, Record)>, Problem> {
    let (mut rows, mut errors, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, value) in list.iter().enumerate() {
        let line = value.get("line").and_then(Value::as_u64).unwrap_or(index as u64 + 1);
        match row(value, tiers) {
            Ok((client, _)) if !seen.insert(client.clone()) => {
                errors.push(format!("line {line}: {client} is there twice"));
            }
            Ok(row) => rows.push(row),
            Err(problem) => errors.push(format!("line {line}: {}", problem.detail())),
        }
        if errors.len() >= MAX_ERRORS {
            break;
        }
    }
    match errors.first() {
        None => Ok(rows),
        Some(first) => Err(Problem::field("clients", first.clone()).with_errors(errors)),
    }
}

fn row(value: &Value, tiers: &Tiers) -> Result<(Box<str>, Record), Problem> {
    let fields = Fields::of(value)?;
    fields.only(&["client", "tier", "capacity", "refill_rate", "line"])?;
    fields.optional("line", "a whole number", Value::as_u64)?;
    let client =
        fields.required("client", "an id of 1 to 256 bytes of visible ASCII", |value| {
            value.as_str().filter(|id| is_client_id(id.as_bytes()))
        })?;
    let expected = tier_names(tiers);
    let tier = fields.optional("tier", &expected, |value| tiers.find(value.as_str()?))?;
    let own_limit = match fields.has("capacity") || fields.has("refill_rate") {
        true => Some(own_limit(&fields)?),
        false => None,
    };
    if tier.is_none() && own_limit.is_none() {
        return Err(Problem::bad("a client needs a tier, or a capacity and a refill_rate"));
    }
    let tier = tier.map(|tier| tiers.get(tier).name.clone());
    Ok((client.into(), Record { tier, own_limit }))
}
