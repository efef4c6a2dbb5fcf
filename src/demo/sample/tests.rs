//! The sample service by itself, in memory and over sockets.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Instant;

use axum::body::to_bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tower::ServiceExt as _;

use super::*;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(10);

/// The service in memory, with switches of its own.
fn fresh() -> Router {
    router(Control::default())
}

async fn call(router: &Router, method: &str, target: &str, body: &str) -> (u16, Value) {
    let request = Request::builder().method(method).uri(target).body(Body::from(body.to_owned()));
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
    let router = fresh();
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
    let router = fresh();
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
    let response = fresh().oneshot(request.body(Body::from("12345")).unwrap()).await.unwrap();
    let body = to_bytes(response.into_body(), 4096).await.unwrap();
    let expected = json!({"method": "PUT", "path": "/echo", "query": "a=1",
        "headers": {"x-a": ["1", "2"]}, "body_bytes": 5});
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
}

#[tokio::test]
async fn one_request_can_ask_to_be_slow_or_to_fail() {
    let router = fresh();
    assert_eq!(get(&router, "/users?status=503").await.0, 503);
    assert_eq!(get(&router, "/users?status=204").await, (204, Value::Null));
    let start = Instant::now();
    assert_eq!(get(&router, "/users?delay_ms=30").await.0, 200);
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn a_query_that_makes_no_sense_is_refused_by_field() {
    let router = fresh();
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
    let router = fresh();
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
    let router = fresh();
    call(&router, "PUT", "/switches", r#"{"fail_ratio": 0.25}"#).await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(get(&router, "/users").await.0);
    }
    assert_eq!(statuses, [200, 200, 200, 503, 200, 200, 200, 503]);
}

#[tokio::test]
async fn health_follows_its_own_switch() {
    let router = fresh();
    call(&router, "PUT", "/switches", r#"{"healthy": false}"#).await;
    assert_eq!(get(&router, "/health").await.0, 503);
    assert_eq!(get(&router, "/users").await.0, 200);
}

#[tokio::test]
async fn a_switch_that_makes_no_sense_is_refused_by_field_and_changes_nothing() {
    let router = fresh();
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
async fn a_failure_says_when_to_come_back() {
    let router = fresh();
    let ask = async |target: &str| {
        let request = Request::get(target).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let retry_after = response.headers().get("retry-after").cloned();
        (response.status().as_u16(), retry_after.map(|value| value.to_str().unwrap().to_owned()))
    };
    let seven = Some("7".to_owned());
    assert_eq!(ask("/users?status=503&retry_after=7").await, (503, seven.clone()));
    assert_eq!(ask("/users?fault=status").await, (503, None));
    call(&router, "PUT", "/switches", r#"{"fail_ratio": 0.5, "retry_after": 7}"#).await;
    assert_eq!(ask("/users").await, (200, None));
    assert_eq!(ask("/users").await, (503, seven));
}

#[tokio::test]
async fn failures_come_in_runs() {
    let router = fresh();
    let statuses = async |switches: &str| {
        assert_eq!(call(&router, "PUT", "/switches", switches).await.0, 200);
        let mut statuses = Vec::new();
        for _ in 0..7 {
            statuses.push(get(&router, "/users").await.0);
        }
        statuses
    };
    let run = [500, 500, 500, 200, 200, 200, 200];
    assert_eq!(statuses(r#"{"fail_next": 3, "status": 500}"#).await, run);
    assert_eq!(statuses(r#"{"fail_next": 3, "status": 500}"#).await, run, "a run begins anew");
    assert_eq!(statuses(r#"{"flap": 2}"#).await, [200, 200, 503, 503, 200, 200, 503]);
    assert_eq!(statuses("{}").await, [200; 7]);
}

#[tokio::test]
async fn a_body_can_come_in_drops() {
    let router = fresh();
    let start = Instant::now();
    let (status, users) = get(&router, "/users?drip_ms=5").await;
    assert_eq!((status, users.as_array().unwrap().len()), (200, USERS.len()));
    // 16 drops, or one fewer where the length does not divide well.
    assert!(start.elapsed() >= Duration::from_millis(5 * 14), "{:?}", start.elapsed());
    assert_eq!(get(&router, "/users?drip_ms=5&status=204").await, (204, Value::Null));
}

/// The service on a port, until it is dropped.
struct Served {
    address: SocketAddr,
    task: JoinHandle<std::io::Result<()>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, task: tokio::spawn(serve(listener)) }
    }

    /// What a request brings that is the last of its connection, and how that ends.
    async fn ask(&self, method: &str, target: &str, body: &str) -> (String, Option<ErrorKind>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let head = format!("{method} {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}");
        let request = format!("{head}\r\nconnection: close\r\n\r\n{body}");
        exchange(&mut stream, &request).await
    }
}

/// What a request brings, and the error its connection ends with, if it does not end in
/// order; `TimedOut`: it goes on.
async fn exchange(stream: &mut TcpStream, request: &str) -> (String, Option<ErrorKind>) {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = timeout(Duration::from_millis(400), stream.read_to_end(&mut bytes)).await;
    let end = match read {
        Err(_) => Some(ErrorKind::TimedOut),
        Ok(read) => read.err().map(|error| error.kind()),
    };
    (String::from_utf8(bytes).unwrap(), end)
}

/// Where an answer to GET /users/1 stopped.
#[track_caller]
fn stopped(answer: &str) -> &'static str {
    match answer.split_once("\r\n\r\n") {
        None if answer.is_empty() => "start",
        None => {
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            "head"
        }
        Some((_, body)) => {
            let whole = r#"{"id":1,"name":"Ada"}"#;
            assert!(whole.starts_with(body), "{answer}");
            if body == whole { "nowhere" } else { "body" }
        }
    }
}

#[tokio::test]
async fn a_fault_breaks_the_connection_where_and_how_it_says() {
    let sample = Served::start().await;
    for (ending, end) in [
        ("stall", Some(ErrorKind::TimedOut)),
        ("close", None),
        ("reset", Some(ErrorKind::ConnectionReset)),
    ] {
        for (point, at) in [("", "start"), ("-head", "head"), ("-body", "body")] {
            let fault = format!("{ending}{point}");
            let by_query = sample.ask("GET", &format!("/users/1?fault={fault}"), "").await;
            assert_eq!((stopped(&by_query.0), by_query.1), (at, end), "{fault}");
            let switches = format!(r#"{{"fail_next": 1, "fault": "{fault}"}}"#);
            let set = sample.ask("PUT", "/switches", &switches).await.0;
            assert!(set.contains(&fault), "it is shown by its name: {set}");
            let by_switch = sample.ask("GET", "/users/1", "").await;
            assert_eq!((stopped(&by_switch.0), by_switch.1), (at, end), "{fault}");
            assert_eq!(stopped(&sample.ask("GET", "/users/1", "").await.0), "nowhere");
        }
    }
}

#[tokio::test]
async fn an_answer_without_a_body_ends_behind_its_head() {
    let sample = Served::start().await;
    for (method, target) in
        [("HEAD", "/users/1?fault=reset-body"), ("GET", "/users/1?status=204&fault=reset-body")]
    {
        let (answer, end) = sample.ask(method, target, "").await;
        assert!(answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(end, Some(ErrorKind::ConnectionReset), "{target}");
    }
}

#[tokio::test]
async fn a_service_without_connections_says_so() {
    assert_eq!(get(&fresh(), "/users?fault=reset").await.0, 501);
}

#[tokio::test]
async fn a_port_refuses_for_a_while_and_is_back() {
    let sample = Served::start().await;
    let request = "GET /users/1 HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut kept = TcpStream::connect(sample.address).await.unwrap();
    assert_eq!(stopped(&exchange(&mut kept, request).await.0), "nowhere");
    let (answer, _) = sample.ask("POST", "/refuse?ms=1000", "").await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    let refused = async {
        loop {
            if let Err(error) = TcpStream::connect(sample.address).await {
                break error.kind();
            }
        }
    };
    assert_eq!(timeout(DEADLINE, refused).await.unwrap(), ErrorKind::ConnectionRefused);
    let reset = exchange(&mut kept, request).await;
    assert_eq!(reset, (String::new(), Some(ErrorKind::ConnectionReset)));
    let back = async {
        while TcpStream::connect(sample.address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, back).await.unwrap();
    assert_eq!(stopped(&sample.ask("GET", "/users/1", "").await.0), "nowhere");
    for bad in ["", "?ms=60001", "?ms=-1"] {
        let (answer, _) = sample.ask("POST", &format!("/refuse{bad}"), "").await;
        assert!(answer.starts_with("HTTP/1.1 400") && answer.contains(r#""field":"ms""#));
    }
}
