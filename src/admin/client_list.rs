//! `/clients`: the clients that are registered, page by page, and one by its address.

use super::client_view::{self, Client};
use super::problem::{BadInput, Problem};
use super::registry::{Page, Parameters, Unavailable, parameters};
use super::{AdminState, App};
use crate::policy::rate::TokenBucket;
use crate::registry::Record;
use axum::Json;
use axum::extract::State;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Registered clients, in the order of their ids' bytes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ClientPage {
    clients: Vec<Registered>,
    /// What to ask for as `after` to go on; null: there are no more.
    next: Option<String>,
}

/// A client that the configuration names, or something was set for at run time, or both.
#[derive(Debug, Serialize, ToSchema)]
struct Registered {
    client: String,
    /// The tier it is in.
    tier: String,
    /// Whether the configuration names it.
    configured: bool,
    /// What was set at run time; null: nothing.
    changed: Option<Changed>,
}

/// What was set for a client at run time. All are null where it only has an API key.
#[derive(Debug, Serialize, ToSchema)]
struct Changed {
    /// A tier's name. It may be one that is no longer configured.
    tier: Option<String>,
    /// Tokens in the full bucket of its own limit.
    capacity: Option<u64>,
    /// Tokens per second of its own limit.
    refill_rate: Option<f64>,
}

/// The answer: a page, or one client.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum PageOrClient {
    /// Without `ip`.
    Page(ClientPage),
    /// With `ip`.
    Client(Client),
}

/// Registered clients, or how one stands by its address
///
/// Without `ip`: clients that the configuration or the admin API names, by id. With it: what a
/// client that only its address names meets, and the limits that count by address; an IPv6
/// address stands for its prefix of `clients.ipv6_prefix` bits.
#[utoipa::path(get, path = "/clients", tag = "clients", operation_id = "clients",
    params(
        ("ip" = Option<String>, Query, description = "IPv4 or IPv6; not with the others",
            example = "203.0.113.7"),
        ("prefix" = Option<String>, Query, description = "What ids begin with", example = "client-"),
        ("after" = Option<String>, Query, description = "The id behind which to begin"),
        ("limit" = Option<u32>, Query, description = "Clients of a page, 100 when absent",
            minimum = 1, maximum = 1_000),
    ),
    responses(
        (status = 200, description = "The clients, or the client", body = PageOrClient),
        BadInput, Unavailable,
    ),
)]
pub(super) async fn list(
    State(app): App,
    query: Parameters,
) -> Result<Json<PageOrClient>, Problem> {
    let parameters = parameters(query)?;
    let answer = match parameters.iter().any(|(name, _)| name == "ip") {
        true => PageOrClient::Client(by_ip(&app, &parameters).await?),
        false => {
            let page = Page::read(parameters, &["ip", "prefix", "after", "limit"])?;
            PageOrClient::Page(registered(&app, &page).await?)
        }
    };
    Ok(Json(answer))
}

async fn by_ip(app: &AdminState, parameters: &[(String, String)]) -> Result<Client, Problem> {
    if let Some((name, _)) = parameters.iter().find(|(name, _)| name != "ip") {
        return Err(Problem::field(name, format!("{name:?} does not go together with ip")));
    }
    let [(_, ip)] = parameters else {
        return Err(Problem::field("ip", "name one address: /clients?ip=203.0.113.7"));
    };
    let ip = ip.parse().map_err(|_| {
        Problem::field("ip", "ip is not an IPv4 or IPv6 address such as 203.0.113.7 or 2001:db8::1")
    })?;
    Ok(client_view::address(app, ip).await)
}

/// A page of both sources: each gives as many as the page has, and the first of all are taken.
async fn registered(app: &AdminState, page: &Page) -> Result<ClientPage, Problem> {
    let gateway = &app.gateway;
    let prefix = page.prefix.as_deref().unwrap_or_default();
    let after = page.after.as_deref();
    // One more than is shown tells whether there are more.
    let most = page.limit + 1;
    let changed = gateway.registry.clients(prefix, after, most).await?;
    let generation = gateway.generation();
    let known = &generation.known;
    let configured = known.ids(prefix, after).take(most).map(|id| (id.clone(), None));
    let mut all: BTreeMap<Arc<str>, Option<Record>> = configured.collect();
    all.extend(changed.into_iter().map(|(id, record)| (id.into(), Some(record))));
    let has_more = all.len() > page.limit;
    let tiers = &generation.config.tiers;
    let clients = all.into_iter().take(page.limit).map(|(id, record)| {
        let configured = known.find(&id);
        let set = record.as_ref().and_then(|record| tiers.find(record.tier.as_deref()?));
        let tier = set.or(configured.flatten()).unwrap_or_else(|| tiers.default_tier());
        Registered {
            client: id.to_string(),
            tier: tiers.get(tier).name.to_string(),
            configured: configured.is_some(),
            changed: record.map(Changed::from),
        }
    });
    let clients: Vec<Registered> = clients.collect();
    let last = clients.last().filter(|_| has_more);
    Ok(ClientPage { next: last.map(|last| last.client.clone()), clients })
}

impl From<Record> for Changed {
    fn from(record: Record) -> Changed {
        Changed {
            tier: record.tier.map(|tier| tier.to_string()),
            capacity: record.own_limit.as_ref().map(TokenBucket::burst),
            refill_rate: record.own_limit.as_ref().map(TokenBucket::rate_per_second),
        }
    }
}
