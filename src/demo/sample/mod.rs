//! The sample upstream: a small HTTP service to put a gateway in front of.
//!
//! It exists so that a newcomer can watch limits, time-outs, retries, ejection and breakers
//! without owning a service. It therefore misbehaves on request: for one request by its
//! query, and until told otherwise by `PUT /switches`. A body names what differs from the
//! defaults, so `{}` puts everything back.
//!
//! | name          | value                | where    | what happens |
//! |---------------|----------------------|----------|--------------|
//! | `delay_ms`    | 0 to 60000           | both     | answers so much later |
//! | `drip_ms`     | 0 to 10000           | both     | the body comes in up to 16 drops, this long before each |
//! | `status`      | 200 to 599           | both     | the status of a failure |
//! | `retry_after` | 0 to 3600            | both     | the seconds in `Retry-After` of a failure |
//! | `fault`       | see below            | both     | what a failure is |
//! | `fail_ratio`  | 0 to 1               | switches | this share of the requests fails, evenly |
//! | `fail_next`   | 0 to 1000000         | switches | so many requests fail, then no more by this switch |
//! | `flap`        | 0 to 1000000         | switches | so many requests are fine, as many fail, and so on |
//! | `healthy`     | true, false          | switches | what `/health` says |
//!
//! A `fault` is `status`, the default: an answer that says so. Or it is below HTTP: `stall`
//! (no answer), `close` and `reset` (the connection ends instead, in order or not), each also
//! in the middle of an answer: `stall-head`, `close-head`, `reset-head` stop within the head,
//! `stall-body`, `close-body`, `reset-body` within the body, of which less comes than
//! Content-Length says. A query names its fault for this request: `?fault=reset`. The
//! switches `fail_ratio`, `fail_next` and `flap` decide which requests meet theirs.
//!
//! `POST /refuse?ms=5000` refuses connections for so long, 60 s at most: nobody listens on
//! the port, and a connection that is kept is reset by its next request.
//!
//! `/switches` itself is never slowed or failed, or a switch could not be undone; `/health`
//! follows only its query and the `healthy` switch, as the health of a real service is a
//! statement of its own. Nothing is stored, no answer is larger than [`MAX_DATA_BYTES`] and
//! its envelope, and nothing stalls for longer than [`MAX_DELAY_MS`].

mod connection;
mod fault;
mod switches;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use connection::{Connection, Door};
use fault::Misbehaviour;
use switches::{BadValue, Control, Pairs, Switches};

/// The longest delay a request or a switch may ask for, in milliseconds.
pub const MAX_DELAY_MS: u64 = 60_000;

/// The largest filler `GET /data` produces, in bytes.
pub const MAX_DATA_BYTES: usize = 10 * 1024 * 1024;

const DEFAULT_DATA_BYTES: usize = 16 * 1024;
const USERS: [(u64, &str); 3] = [(1, "Ada"), (2, "Grace"), (3, "Edsger")];

/// Serves on `listener` until the future is dropped, with switches of its own, all at
/// their defaults.
///
/// # Errors
/// When the listener has no address. A connection that cannot be accepted is tried again
/// after a pause.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    let control = Control::default();
    let door = Door::new(listener, &control.closed)?;
    let service = router(control).into_make_service_with_connect_info::<Connection>();
    axum::serve(door, service).await
}

fn router(control: Control) -> Router {
    Router::new()
        .route("/users", get(list_users).post(create_user))
        .route("/users/{id}", get(find_user))
        .route("/data", get(data))
        .route("/echo", any(echo))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .layer(middleware::from_fn_with_state(control.clone(), obey_switches))
        .route("/health", get(health))
        .layer(middleware::from_fn(obey_query))
        // Added after the layers, so that neither applies to them.
        .route("/switches", get(show_switches).put(set_switches))
        .route("/refuse", post(refuse))
        .with_state(control)
}

async fn obey_switches(State(control): State<Control>, request: Request, next: Next) -> Response {
    control.next_request().apply(request, next).await
}

async fn obey_query(
    Query(pairs): Pairs,
    request: Request,
    next: Next,
) -> Result<Response, BadValue> {
    Ok(Misbehaviour::asked_for(&pairs)?.apply(request, next).await)
}

async fn show_switches(State(control): State<Control>) -> Json<Switches> {
    Json(control.switches())
}

/// Takes the body as JSON whatever its Content-Type, because `curl -d` sends
/// another one and this service is there to be tried with curl.
async fn set_switches(
    State(control): State<Control>,
    body: Bytes,
) -> Result<Json<Switches>, BadValue> {
    let switches = Switches::parse(&body)?;
    control.set(switches.clone());
    Ok(Json(switches))
}

async fn refuse(State(control): State<Control>, Query(pairs): Pairs) -> Result<Response, BadValue> {
    let ms = find(&pairs, "ms").and_then(|text| text.parse().ok());
    let ms = switches::number("ms", ms, MAX_DELAY_MS, "a whole number from 0 to 60000")?;
    control.closed.for_a_while(Duration::from_millis(ms));
    Ok((StatusCode::ACCEPTED, Json(json!({"refuses_ms": ms}))).into_response())
}

async fn health(State(control): State<Control>) -> Response {
    if control.switches().healthy {
        Json(json!({"status": "ok"})).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"status": "unhealthy"}))).into_response()
    }
}

async fn list_users() -> Json<Value> {
    Json(USERS.iter().map(|&(id, name)| json!({"id": id, "name": name})).collect())
}

async fn find_user(Path(id): Path<String>) -> Response {
    let known = id.parse::<u64>().ok().and_then(|id| USERS.iter().find(|&&(known, _)| known == id));
    match known {
        Some((id, name)) => Json(json!({"id": id, "name": name})).into_response(),
        None => problem(StatusCode::NOT_FOUND, "no such user"),
    }
}

/// Answers with the object it was sent and the id it would have been given.
async fn create_user(body: Bytes) -> Result<(StatusCode, Json<Value>), BadValue> {
    let mut user: Map<String, Value> = serde_json::from_slice(&body)
        .map_err(|_| BadValue::new("body", "a JSON object such as {\"name\": \"Barbara\"}"))?;
    user.insert("id".to_owned(), json!(USERS.len() + 1));
    Ok((StatusCode::CREATED, Json(Value::Object(user))))
}

/// `?bytes=N` is the length of the filler, not of the whole answer.
async fn data(Query(pairs): Pairs) -> Result<Json<Value>, BadValue> {
    let bytes = match find(&pairs, "bytes") {
        None => DEFAULT_DATA_BYTES,
        Some(text) => text
            .parse()
            .ok()
            .filter(|&bytes| bytes <= MAX_DATA_BYTES)
            .ok_or(BadValue::new("bytes", "a whole number from 0 to 10485760"))?,
    };
    Ok(Json(json!({"bytes": bytes, "data": "x".repeat(bytes)})))
}

/// Says what arrived. The body is counted as it passes, so its size is bounded
/// by the sender's patience and not by this process' memory.
async fn echo(method: Method, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    match count_bytes(body).await {
        Ok(body_bytes) => Json(json!({
            "method": method.as_str(),
            "path": uri.path(),
            "query": uri.query(),
            "headers": values_by_name(&headers),
            "body_bytes": body_bytes,
        }))
        .into_response(),
        Err(_) => problem(StatusCode::BAD_REQUEST, "the request body ended early"),
    }
}

async fn count_bytes(mut body: Body) -> Result<u64, axum::Error> {
    let mut total = 0;
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        total += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(total)
}

/// A list for every name: what was repeated on the wire must stay visible.
fn values_by_name(headers: &HeaderMap) -> Map<String, Value> {
    let values = |name| -> Value {
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes())).collect()
    };
    headers.keys().map(|name| (name.as_str().to_owned(), values(name))).collect()
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}
