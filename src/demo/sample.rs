//! The sample upstream: a small HTTP service to put a gateway in front of.
//!
//! It exists so that a newcomer can watch limits, time-outs and failures
//! without owning a service. It therefore misbehaves on request, in two ways:
//!
//! - for one request, by its query: `?delay_ms=250`, `?status=503`;
//! - until told otherwise, by `PUT /switches`. A body names what differs from
//!   the defaults, so `{}` puts everything back.
//!
//! `/switches` itself is never slowed or failed, or a switch could not be
//! undone; `/health` follows only the `healthy` switch, as the health of a real
//! service is a statement of its own. Nothing is stored, and no answer is larger
//! than [`MAX_DATA_BYTES`] and its envelope.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::{Body, HttpBody};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

/// The longest delay a request or a switch may ask for, in milliseconds.
pub const MAX_DELAY_MS: u64 = 60_000;

/// The largest filler `GET /data` produces, in bytes.
pub const MAX_DATA_BYTES: usize = 10 * 1024 * 1024;

const DEFAULT_DATA_BYTES: usize = 16 * 1024;
const USERS: [(u64, &str); 3] = [(1, "Ada"), (2, "Grace"), (3, "Edsger")];

/// The service with switches of its own, all at their defaults.
///
/// It answers inside a Tokio runtime with time enabled.
pub fn router() -> Router {
    let control: Control = Arc::new(ArcSwap::from_pointee(Active::default()));
    Router::new()
        .route("/users", get(list_users).post(create_user))
        .route("/users/{id}", get(find_user))
        .route("/data", get(data))
        .route("/echo", any(echo))
        .fallback(async || problem(StatusCode::NOT_FOUND, "no such path"))
        .layer(middleware::from_fn_with_state(Arc::clone(&control), obey_switches))
        .route("/health", get(health))
        .layer(middleware::from_fn(obey_query))
        // Added after the layers, so that neither applies to it.
        .route("/switches", get(show_switches).put(set_switches))
        .with_state(control)
}

/// Serves [`router`] on `listener` until the future is dropped.
///
/// # Errors
/// None today: a connection that cannot be accepted is tried again after a
/// pause. The result leaves room for a listener that ends.
pub async fn serve(listener: TcpListener) -> std::io::Result<()> {
    // Without this, the kernel may hold a small answer back for the delayed
    // acknowledgement of the one before it, 40 ms that look like the gateway's.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            log::debug!("sample upstream: cannot set TCP_NODELAY: {error}");
        }
    });
    axum::serve(listener, router()).await
}

/// What `/switches` shows and sets.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Switches {
    delay_ms: u64,
    fail_ratio: f64,
    status: u16,
    healthy: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self { delay_ms: 0, fail_ratio: 0.0, status: 503, healthy: true }
    }
}

impl Switches {
    fn parse(body: &[u8]) -> Result<Self, BadValue> {
        let object: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|_| BadValue::new("body", "a JSON object such as {\"delay_ms\": 250}"))?;
        let mut switches = Self::default();
        for (name, value) in object {
            match name.as_str() {
                "delay_ms" => switches.delay_ms = checked_delay(value.as_u64())?,
                "status" => switches.status = checked_status(value.as_u64())?.as_u16(),
                "fail_ratio" => {
                    switches.fail_ratio = value
                        .as_f64()
                        .filter(|ratio| (0.0..=1.0).contains(ratio))
                        .ok_or(BadValue::new("fail_ratio", "a number from 0 to 1"))?;
                }
                "healthy" => {
                    switches.healthy =
                        value.as_bool().ok_or(BadValue::new("healthy", "true or false"))?;
                }
                _ => {
                    let expected = "one of delay_ms, fail_ratio, status, healthy";
                    return Err(BadValue { field: name, expected });
                }
            }
        }
        Ok(switches)
    }
}

/// The switches in force and how many requests have met them.
#[derive(Default)]
struct Active {
    switches: Switches,
    requests: AtomicU64,
}

impl Active {
    /// Whether the next request is one of those that fail.
    ///
    /// Failures are spread evenly rather than drawn at random: of any n requests
    /// `n * fail_ratio` fail, rounded down, so a demonstration shows the same
    /// thing every time.
    fn next_fails(&self) -> bool {
        let before = self.requests.fetch_add(1, Ordering::Relaxed) as f64;
        let failed = |requests: f64| (requests * self.switches.fail_ratio).floor();
        failed(before + 1.0) > failed(before)
    }
}

type Control = Arc<ArcSwap<Active>>;
type Pairs = Query<Vec<(String, String)>>;

async fn obey_switches(State(control): State<Control>, request: Request, next: Next) -> Response {
    let active = control.load_full();
    if active.switches.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(active.switches.delay_ms)).await;
    }
    match StatusCode::from_u16(active.switches.status) {
        Ok(status) if active.next_fails() => as_asked(status),
        _ => next.run(request).await,
    }
}

async fn obey_query(
    Query(pairs): Pairs,
    request: Request,
    next: Next,
) -> Result<Response, BadValue> {
    let status = match find(&pairs, "status") {
        Some(text) => Some(checked_status(text.parse().ok())?),
        None => None,
    };
    if let Some(text) = find(&pairs, "delay_ms") {
        let delay_ms = checked_delay(text.parse().ok())?;
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
    }
    Ok(match status {
        Some(status) => as_asked(status),
        None => next.run(request).await,
    })
}

async fn show_switches(State(control): State<Control>) -> Json<Switches> {
    Json(control.load().switches.clone())
}

/// Takes the body as JSON whatever its Content-Type, because `curl -d` sends
/// another one and this service is there to be tried with curl.
async fn set_switches(
    State(control): State<Control>,
    body: Bytes,
) -> Result<Json<Switches>, BadValue> {
    let switches = Switches::parse(&body)?;
    control.store(Arc::new(Active { switches: switches.clone(), requests: AtomicU64::new(0) }));
    Ok(Json(switches))
}

async fn health(State(control): State<Control>) -> Response {
    if control.load().switches.healthy {
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

fn checked_delay(delay_ms: Option<u64>) -> Result<u64, BadValue> {
    delay_ms
        .filter(|&delay_ms| delay_ms <= MAX_DELAY_MS)
        .ok_or(BadValue::new("delay_ms", "a whole number from 0 to 60000"))
}

/// 1xx is left out: those are never the last answer to a request.
fn checked_status(code: Option<u64>) -> Result<StatusCode, BadValue> {
    code.filter(|code| (200..=599).contains(code))
        .and_then(|code| StatusCode::from_u16(u16::try_from(code).ok()?).ok())
        .ok_or(BadValue::new("status", "a status code from 200 to 599"))
}

fn as_asked(status: StatusCode) -> Response {
    match status {
        // These three have no body, whatever is said about it.
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            status.into_response()
        }
        _ => (status, Json(json!({"status": status.as_u16(), "detail": "answered as asked"})))
            .into_response(),
    }
}

fn problem(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}

/// A value that cannot be used: 400 with the field and what would be right.
#[derive(Debug)]
struct BadValue {
    field: String,
    expected: &'static str,
}

impl BadValue {
    fn new(field: &str, expected: &'static str) -> Self {
        Self { field: field.to_owned(), expected }
    }
}

impl IntoResponse for BadValue {
    fn into_response(self) -> Response {
        let Self { field, expected } = self;
        let error = format!("{field}: expected {expected}");
        (StatusCode::BAD_REQUEST, Json(json!({"error": error, "field": field}))).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use axum::body::to_bytes;
    use tower::ServiceExt as _;

    use super::*;

    async fn call(router: &Router, method: &str, target: &str, body: &str) -> (u16, Value) {
        let request =
            Request::builder().method(method).uri(target).body(Body::from(body.to_owned()));
        let response = router.clone().oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), MAX_DATA_BYTES + 1024).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    async fn get(router: &Router, target: &str) -> (u16, Value) {
        call(router, "GET", target, "").await
    }

    #[tokio::test]
    async fn users_are_listed_found_created_or_not_found() {
        let router = router();
        assert_eq!(get(&router, "/users").await.1.as_array().unwrap().len(), USERS.len());
        assert_eq!(get(&router, "/users/2").await, (200, json!({"id": 2, "name": "Grace"})));
        assert_eq!(get(&router, "/users/99").await.0, 404);
        assert_eq!(get(&router, "/users/nobody").await.0, 404);
        let created = call(&router, "POST", "/users", r#"{"name": "Barbara"}"#).await;
        assert_eq!(created, (201, json!({"id": 4, "name": "Barbara"})));
        assert_eq!(call(&router, "POST", "/users", "[1]").await.1["field"], "body");
    }

    #[tokio::test]
    async fn data_is_as_long_as_asked_and_never_longer_than_its_bound() {
        let router = router();
        let (status, answer) = get(&router, "/data?bytes=100000").await;
        assert_eq!((status, answer["data"].as_str().unwrap().len()), (200, 100_000));
        for bad in ["10485761", "-1", "many", ""] {
            let (status, answer) = get(&router, &format!("/data?bytes={bad}")).await;
            assert_eq!((status, &answer["field"]), (400, &json!("bytes")), "{bad}");
        }
    }

    #[tokio::test]
    async fn echo_says_method_path_headers_and_body_length() {
        let request = Request::put("/echo?a=1").header("x-a", "1").header("x-a", "2");
        let response = router().oneshot(request.body(Body::from("12345")).unwrap()).await.unwrap();
        let body = to_bytes(response.into_body(), 4096).await.unwrap();
        let expected = json!({"method": "PUT", "path": "/echo", "query": "a=1",
            "headers": {"x-a": ["1", "2"]}, "body_bytes": 5});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }

    #[tokio::test]
    async fn one_request_can_ask_to_be_slow_or_to_fail() {
        let router = router();
        assert_eq!(get(&router, "/users?status=503").await.0, 503);
        assert_eq!(get(&router, "/users?status=204").await, (204, Value::Null));
        let start = Instant::now();
        assert_eq!(get(&router, "/users?delay_ms=30").await.0, 200);
        assert!(start.elapsed() >= Duration::from_millis(30));
    }

    #[tokio::test]
    async fn a_query_that_makes_no_sense_is_refused_by_field() {
        let router = router();
        for (query, field) in [
            ("status=199", "status"),
            ("status=600", "status"),
            ("status=99999999999999999999", "status"),
            ("delay_ms=60001", "delay_ms"),
            ("delay_ms=-5", "delay_ms"),
            ("delay_ms=5&status=no", "status"),
        ] {
            let (status, answer) = get(&router, &format!("/users?{query}")).await;
            assert_eq!((status, &answer["field"]), (400, &json!(field)), "{query}");
        }
    }

    #[tokio::test]
    async fn switches_last_until_they_are_put_back() {
        let router = router();
        let set = call(&router, "PUT", "/switches", r#"{"fail_ratio": 1, "status": 500}"#).await;
        assert_eq!(set.1["status"], 500);
        assert_eq!(get(&router, "/users").await.0, 500);
        assert_eq!(get(&router, "/nowhere").await.0, 500);
        assert_eq!(get(&router, "/health").await.0, 200);
        assert_eq!(call(&router, "PUT", "/switches", "{}").await.0, 200);
        assert_eq!(get(&router, "/switches").await.1, json!(Switches::default()));
        assert_eq!(get(&router, "/users").await.0, 200);
    }

    #[tokio::test]
    async fn a_ratio_fails_that_share_of_requests_evenly() {
        let router = router();
        call(&router, "PUT", "/switches", r#"{"fail_ratio": 0.25}"#).await;
        let mut statuses = Vec::new();
        for _ in 0..8 {
            statuses.push(get(&router, "/users").await.0);
        }
        assert_eq!(statuses, [200, 200, 200, 503, 200, 200, 200, 503]);
    }

    #[tokio::test]
    async fn health_follows_its_own_switch() {
        let router = router();
        call(&router, "PUT", "/switches", r#"{"healthy": false}"#).await;
        assert_eq!(get(&router, "/health").await.0, 503);
        assert_eq!(get(&router, "/users").await.0, 200);
    }

    #[tokio::test]
    async fn a_switch_that_makes_no_sense_is_refused_by_field_and_changes_nothing() {
        let router = router();
        for (body, field) in [
            (r#"{"delay_ms": 60001}"#, "delay_ms"),
            (r#"{"delay_ms": "1"}"#, "delay_ms"),
            (r#"{"healthy": false, "fail_ratio": 1.5}"#, "fail_ratio"),
            (r#"{"status": 100}"#, "status"),
            (r#"{"healthy": 1}"#, "healthy"),
            (r#"{"colour": 1}"#, "colour"),
            ("", "body"),
            ("[]", "body"),
        ] {
            let (status, answer) = call(&router, "PUT", "/switches", body).await;
            assert_eq!((status, &answer["field"]), (400, &json!(field)), "{body}");
        }
        assert_eq!(get(&router, "/switches").await.1, json!(Switches::default()));
    }

    #[tokio::test]
    async fn it_serves_on_a_listener() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = b"GET /users/1 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        server.abort();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("Ada"), "{answer}");
    }
}
