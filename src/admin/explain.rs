//! `/explain`: what would become of a request and why; what became of one that was refused.

use super::App;
use super::circuits::{self, CircuitBreaker};
use super::explained::{Answered, ClientPlaces, LimitStands, OtherRoutes, Sender, TakingRoute};
use super::problem::{BadInput, Problem, described};
use super::refusals::PastRefusals;
use super::upstreams::{self, Upstream};
use crate::clock;
use crate::decision::outlook::{self, Asked};
use crate::decision::shared;
use crate::decision::toll::Moment;
use crate::registry::{MAX_CLIENT_ID, is_client_id};
use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

/// Headers that a request may be given.
const MAX_HEADERS: usize = 32;
/// What stands before the name of a header.
const HEADER: &str = "header.";

/// What would become of a request, or what became of one.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Explanation {
    Past(PastRefusals),
    Outlook(Box<RequestOutlook>),
}

/// What would become of a request that came now. Nothing was charged or taken for it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RequestOutlook {
    request: ThoughtOf,
    answer: Answered,
    /// The route that takes it; null: none does.
    route: Option<TakingRoute>,
    other_routes: OtherRoutes,
    /// Null where the request does not come so far.
    client: Option<Sender>,
    /// Every limit that applies, in the order they are charged, shadows last.
    limits: Vec<LimitStands>,
    /// What the client has in flight; null where its tier has no cap.
    client_concurrency: Option<ClientPlaces>,
    circuit: Option<CircuitBreaker>,
    upstream: Option<Upstream>,
}

/// The request as it was understood.
#[derive(Debug, Serialize, ToSchema)]
struct ThoughtOf {
    #[schema(example = "GET")]
    method: String,
    /// In normal form, as routes are matched and upstreams see it; null: it has none.
    path: Option<String>,
    /// Empty: without one.
    host: String,
    /// The address it comes from.
    ip: String,
}

/// What would become of a request, or what became of a refused one
///
/// Goes through the same decisions as the proxy, and charges nothing: the route and why others
/// do not take it, the client, every limit with its key and what is left, the circuit, the
/// places, the servers, and the answer that the request would get. With `trace_id`: why that
/// request was refused, for the last 4 096 refusals.
#[utoipa::path(get, path = "/explain", tag = "limits", 
    params(
        ("method" = Option<String>, Query, description = "GET when absent", example = "GET"),
        ("path" = Option<String>, Query, example = "/api/users",
            description = "With the query if there is one; this or `trace_id` is needed"),
        ("host" = Option<String>, Query, description = "The Host header", example = "example.com"),
        ("client" = Option<String>, Query, example = "client-123",
            description = "The client that the request names, by whatever header or API key; \
                           when absent, what its headers and its address say"),
        ("ip" = Option<String>, Query, example = "203.0.113.7",
            description = "Where it comes from; 127.0.0.1 when absent"),
        ("header.NAME" = Option<String>, Query, example = "eu",
            description = "A header of this name, such as header.X-Region; up to 32"),
        ("trace_id" = Option<String>, Query, example = "7f97244684e8cbee8947182c59a2a16d",
            description = "A refused request's trace id, instead of all others"),
    ),
    responses(
    (status = 200, description = "The outlook, or the refusals of the trace id", body = Explanation),
    BadInput, NoSuchTrace,
))]
pub(super) async fn explain(
    State(app): App,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<Explanation>, Problem> {
    let Query(parameters) = query.map_err(|_| Problem::bad("the query cannot be read"))?;
    if let Some((_, trace_id)) = parameters.iter().find(|(name, _)| name == "trace_id") {
        if let Some((name, _)) = parameters.iter().find(|(name, _)| name != "trace_id") {
            return Err(Problem::field(name, "a trace_id is asked about alone"));
        }
        if parameters.len() > 1 {
            return Err(Problem::field("trace_id", "trace_id is there twice"));
        }
        let past = PastRefusals::of(&app.gateway.refused, trace_id);
        let past = past.ok_or_else(|| {
            let detail = "none of the last refusals has this trace id";
            Problem::missing("trace_id", detail)
        })?;
        return Ok(Json(Explanation::Past(past)));
    }
    let request = Request::read(&parameters)?;
    Ok(Json(Explanation::Outlook(Box::new(request.outlook(&app.gateway).await))))
}

/// The request in question.
struct Request {
    method: Method,
    target: String,
    client: Option<String>,
    ip: IpAddr,
    headers: HeaderMap,
}

impl Request {
    fn read(parameters: &[(String, String)]) -> Result<Request, Problem> {
        let mut request = Request {
            method: Method::GET,
            target: String::new(),
            client: None,
            ip: Ipv4Addr::LOCALHOST.into(),
            headers: HeaderMap::new(),
        };
        for (number, (name, value)) in parameters.iter().enumerate() {
            if number > MAX_HEADERS + 5 {
                return Err(Problem::bad(format!("at most {MAX_HEADERS} headers can be given")));
            }
            let is_repeated = parameters[..number].iter().any(|(before, _)| before == name);
            if is_repeated && !name.starts_with(HEADER) {
                return Err(Problem::field(name, format!("{name} is there twice")));
            }
            request.take(name, value)?;
        }
        if request.target.is_empty() {
            let detail = "name a request, as in /explain?path=/api/users, or a trace_id";
            return Err(Problem::field("path", detail));
        }
        Ok(request)
    }

    fn take(&mut self, name: &str, value: &str) -> Result<(), Problem> {
        let wrong = |right: &str| Problem::field(name, format!("{name} is wrong; {right}"));
        match name {
            "method" => {
                let method = Method::from_bytes(value.as_bytes());
                self.method = method.map_err(|_| wrong("it must be a method such as GET"))?;
            }
            "path" => value.clone_into(&mut self.target),
            "host" => {
                let host = HeaderValue::from_str(value).ok();
                let host = host.ok_or_else(|| wrong("it must be a host such as example.com"))?;
                self.headers.insert(header::HOST, host);
            }
            "client" => {
                if !is_client_id(value.as_bytes()) {
                    let right = format!("an id is 1 to {MAX_CLIENT_ID} bytes of visible ASCII");
                    return Err(wrong(&right));
                }
                self.client = Some(value.to_owned());
            }
            "ip" => {
                let right = "it must be an address such as 203.0.113.7 or 2001:db8::1";
                self.ip = value.parse().map_err(|_| wrong(right))?;
            }
            _ => {
                let known = "known here: method, path, host, client, ip, header.NAME, trace_id";
                let header = name.strip_prefix(HEADER).ok_or_else(|| {
                    Problem::field(name, format!("unknown parameter {name:?}; {known}"))
                })?;
                let right = "it must be a header's name and value, as in header.X-Region=eu";
                let header = HeaderName::try_from(header).map_err(|_| wrong(right))?;
                let value = HeaderValue::from_str(value).map_err(|_| wrong(right))?;
                self.headers.append(header, value);
            }
        }
        Ok(())
    }

    async fn outlook(&self, gateway: &crate::gateway::Gateway) -> RequestOutlook {
        let generation = gateway.generation();
        let asked = Asked {
            method: &self.method,
            target: &self.target,
            headers: &self.headers,
            peer: self.ip,
            client: self.client.as_deref(),
        };
        let at = Moment::at(clock::now_ns());
        let mut outlook = outlook::foresee(&asked, gateway, &generation, at);
        if let (Some(_), Some(toll)) = (&gateway.fleet, outlook.toll(&asked)) {
            shared::refresh(&toll, gateway, &generation, at).await;
            outlook = outlook::foresee(&asked, gateway, &generation, Moment::at(clock::now_ns()));
        }
        let host = self.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let route = outlook.route;
        let upstream = route.map(|route| generation.upstream_of(route));
        RequestOutlook {
            request: ThoughtOf {
                method: self.method.to_string(),
                path: outlook.target.as_ref().map(|target| target.path.to_string()),
                host: host.unwrap_or_default().to_owned(),
                ip: outlook.source.to_string(),
            },
            answer: Answered::of(&outlook, &generation),
            route: route.map(|route| TakingRoute::of(route, &generation)),
            other_routes: OtherRoutes::of(&asked, &outlook, &generation),
            client: outlook.caller.as_ref().map(|caller| Sender::of(caller, &generation)),
            limits: LimitStands::all(&outlook, &generation),
            client_concurrency: outlook.client_places.map(ClientPlaces::of),
            circuit: route.map(|route| circuits::view(&generation.route(route).circuit)),
            upstream: upstream.map(|upstream| upstreams::view(upstream)),
        }
    }
}

/// The answer where there is no such refusal, for the OpenAPI document.
pub(super) struct NoSuchTrace;

impl IntoResponses for NoSuchTrace {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let missing = described("None of the last refusals has this trace id.");
        [("404".to_owned(), missing.into())].into()
    }
}
