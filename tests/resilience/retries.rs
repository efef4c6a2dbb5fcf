//! Trying again: where it is safe, somewhere else first, and never more than was agreed.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{
    BY_HEADER, NO_REFILL, PATIENCE, addresses, attempts, circuit, expect_attempts,
    expect_nothing_held, gateway, get, list, told,
};
use crate::support::{Answer, Ending, Gateway, Link, Upstream, fault, until};

/// What a retry may be waited for where the wait is not the question.
const SOON: &str = "backoff: {base: 1ms, max: 1ms}";

/// The most of a body that is kept for another attempt.
const BODY_KEPT: usize = 64 << 10;

fn retrying(servers: &str, keys: &str) -> Gateway {
    gateway(&format!("servers: {servers}"), &format!("retry: {{{keys}, {SOON}}}"))
}

#[test]
fn only_what_may_arrive_twice_is_tried_again() {
    type Headers = &'static [(&'static str, &'static str)];
    const KEY: Headers = &[("Idempotency-Key", "7")];
    let upstream = Upstream::answering(fault::reset());
    let gateway = retrying(&list([&upstream]), "attempts: 1, when: [reset]");
    let cases: [(&str, Headers, &[u8], usize); 10] = [
        ("GET", &[], b"", 2),
        ("HEAD", &[], b"", 2),
        ("OPTIONS", &[], b"", 2),
        ("TRACE", &[], b"", 2),
        ("DELETE", &[], b"", 2),
        ("PUT", &[], b"body", 2),
        ("POST", &[], b"body", 1),
        ("PATCH", &[], b"body", 1),
        ("POST", KEY, b"body", 2),
        ("PATCH", KEY, b"body", 2),
    ];
    for (method, headers, body, expected) in cases {
        upstream.forget();
        let reply = gateway.client().request(method, "/", headers, body);
        assert_eq!(reply.status, 502, "{method}");
        assert_eq!(upstream.attempts(), expected, "{method} {headers:?}");
    }
    expect_nothing_held(&gateway);
}

#[test]
fn a_connection_that_was_not_made_is_tried_again_for_any_method() {
    for method in ["POST", "PATCH", "GET"] {
        let (gone, there) = (Upstream::refusing(), Upstream::answering(Answer::Echo));
        let gateway = retrying(&list([&gone, &there]), "attempts: 1, when: [connect]");
        let reply = gateway.client().request(method, "/", &[], b"once");
        assert_eq!((reply.status, reply.text().as_str()), (200, "once"), "{method}");
        expect_attempts(&gateway, "main", &[("ok", 1), ("connect", 1)]);
        assert_eq!(there.attempts(), 1);
    }
}

#[test]
fn only_failures_that_the_route_names_are_tried_again() {
    let upstream = Upstream::new();
    let gateway = retrying(&list([&upstream]), "attempts: 1, when: [503, 429]");
    // Breaks first: they leave no connection behind that could be found closed.
    for (answer, told, expected) in [
        (fault::reset(), "502 upstream-reset", 1),
        (fault::hangup(), "502 upstream-reset", 1),
        (fault::status(503), "503", 2),
        (fault::status(429), "429", 2),
        (fault::status(500), "500", 1),
        (fault::status(404), "404", 1),
    ] {
        upstream.switch_to(answer);
        upstream.forget();
        assert_eq!(get(&gateway, "a", "/").what, told);
        assert_eq!(upstream.attempts(), expected, "{told}");
    }
}

#[test]
fn when_attempts_are_used_up_the_last_answer_is_passed_on_as_it_came() {
    let count = AtomicUsize::new(0);
    let upstream = Upstream::scripted(move |_| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!("answer {number}");
        let head = format!(
            "HTTP/1.1 503 Not Now\r\nX-Number: {number}\r\nRetry-After: 9\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        Answer::Bytes([head, body].concat().into_bytes())
    });
    let gateway = retrying(&list([&upstream]), "attempts: 3, when: [503]");
    let seen = get(&gateway, "a", "/");
    assert_eq!((seen.what.as_str(), seen.body.as_str()), ("503", "answer 4"));
    assert_eq!(seen.header("x-number"), Some("4"));
    assert_eq!(seen.header("retry-after"), Some("9"));
    assert!(seen.head.starts_with("HTTP/1.1 503 Not Now\r\n"), "{}", seen.head);
    assert_eq!(upstream.attempts(), 4, "one and three more");
    expect_attempts(&gateway, "main", &[("status_5xx", 4)]);
}

#[test]
fn each_server_is_asked_once_before_any_is_asked_twice() {
    let failing = [(); 2].map(|()| Upstream::answering(fault::status(502)));
    let well = Upstream::new();
    let servers = list(failing.iter().chain([&well]));
    let gateway = retrying(&servers, "attempts: 2, when: [502]");
    for round in 1..=4 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
        assert_eq!(well.attempts(), round);
        let most = failing.iter().map(Upstream::attempts).max();
        assert!(most <= Some(round), "a server was asked twice for one request");
    }
}

#[test]
fn a_route_may_ask_for_no_further_attempt() {
    let upstream = Upstream::answering(fault::status(503));
    for retry in ["retry: none", "retry: {attempts: 0}"] {
        let gateway = gateway(&format!("servers: {}", list([&upstream])), retry);
        upstream.forget();
        assert_eq!(get(&gateway, "a", "/").what, "503");
        assert_eq!(upstream.attempts(), 1, "{retry}");
    }
}

#[test]
fn all_attempts_and_waits_lie_within_the_time_of_the_route() {
    let upstream = Upstream::answering(fault::status(503));
    let gateway = gateway(
        &format!("servers: {}", list([&upstream])),
        "timeout: 1s, retry: {attempts: 10, backoff: {base: 1s, max: 1s}, when: [503]}",
    );
    let start = Instant::now();
    // Either the next wait would not fit, or the time ends in an attempt.
    let what = get(&gateway, "a", "/").what;
    assert!(what == "503" || what == "504 request-timeout", "{what}");
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    assert!(upstream.attempts() < 11, "ten waits of half a second do not fit into one second");
    expect_nothing_held(&gateway);
}

#[test]
fn where_everything_fails_retries_stay_within_their_budget() {
    const REQUESTS: usize = 500;
    let upstream = Upstream::answering(fault::status(503));
    let gateway = retrying(&list([&upstream]), "attempts: 3, when: [503]");
    let mut client = gateway.client();
    for _ in 0..REQUESTS {
        assert_eq!(client.get("/").status, 503, "never anything but the upstream's answer");
    }
    let made = upstream.attempts();
    assert!(made <= REQUESTS * 12 / 10, "{made} attempts for {REQUESTS} requests");
    assert!(made > REQUESTS, "some were tried again");
    let retries = (made - REQUESTS) as f64;
    gateway.series_once("gateway_retries_total{route=\"all\"}", retries);
    expect_attempts(&gateway, "main", &[("status_5xx", made as u64)]);
    expect_nothing_held(&gateway);
}

#[test]
fn nothing_is_tried_again_into_an_open_circuit() {
    let upstream = Upstream::answering(fault::status(503));
    let gateway = gateway(
        &format!("servers: {}, breaker: {{consecutive_failures: 2}}", list([&upstream])),
        &format!("retry: {{attempts: 5, when: [503], {SOON}}}"),
    );
    assert_eq!(get(&gateway, "a", "/").what, "503", "what the upstream said");
    assert_eq!(upstream.attempts(), 2, "the second failure opened the circuit");
    assert_eq!(circuit(&gateway, "main")["state"], "open");
    assert_eq!(get(&gateway, "a", "/").what, "503 circuit-open");
    assert_eq!(upstream.attempts(), 2);
}

#[test]
fn nothing_is_tried_again_once_a_byte_was_sent() {
    let upstream = Upstream::answering(fault::mid_body(Ending::Reset));
    let gateway = retrying(&list([&upstream]), "attempts: 5, when: [connect, timeout, reset]");
    assert_eq!(get(&gateway, "a", "/").what, "200 cut");
    assert_eq!(upstream.attempts(), 1);
}

#[test]
fn a_body_of_64_kib_is_sent_again_whole_and_a_larger_one_is_not() {
    let whole: Vec<u8> = (0..BODY_KEPT).map(|at| (at % 251) as u8).collect();
    let larger = [&whole[..], b"!"].concat();
    let chunked =
        [format!("{:x}\r\n", whole.len()).as_bytes(), &whole[..], b"\r\n0\r\n\r\n"].concat();
    for (headers, body, sent, expected) in [
        (&[][..], &whole[..], &whole[..], 2),
        (&[("Transfer-Encoding", "chunked")][..], &chunked[..], &whole[..], 2),
        (&[][..], &larger[..], &larger[..], 1),
        (&[][..], &b"x"[..], &b"x"[..], 2),
    ] {
        let upstream = Upstream::answering(fault::status(503));
        let gateway = retrying(&list([&upstream]), "attempts: 1, when: [503]");
        let reply = gateway.client().request("PUT", "/", headers, body);
        assert_eq!(told(&reply), "503");
        let requests = upstream.requests();
        assert_eq!(requests.len(), expected, "{} bytes", sent.len());
        for (number, request) in requests.iter().enumerate() {
            assert!(request.complete && request.body == sent, "attempt {number}: {headers:?}");
            assert_eq!(request.head.raw, requests[0].head.raw, "every attempt sends the same");
        }
    }
}

#[test]
fn a_time_out_of_its_own_ends_an_attempt_that_another_can_replace() {
    let (silent, well) = (Upstream::answering(fault::silent()), Upstream::new());
    let per_try = format!("per_try_timeout: {}ms", PATIENCE.as_millis());
    let gateway = retrying(&list([&silent, &well]), &format!("attempts: 1, {per_try}"));
    let seen = get(&gateway, "a", "/");
    assert_eq!(seen.what, "200");
    assert!(seen.took >= PATIENCE, "{:?}", seen.took);
    expect_attempts(&gateway, "main", &[("ok", 1), ("timeout", 1)]);
    expect_nothing_held(&gateway);
}

#[test]
fn the_time_of_an_attempt_ends_where_its_answer_begins() {
    let upstream = Upstream::answering(fault::drip_body(6, PATIENCE / 2));
    let per_try = format!("per_try_timeout: {}ms", PATIENCE.as_millis());
    let gateway = retrying(&list([&upstream]), &format!("attempts: 1, {per_try}"));
    let seen = get(&gateway, "a", "/");
    assert_eq!((seen.what.as_str(), seen.body.as_str()), ("200", fault::BODY));
    assert!(seen.took > PATIENCE * 2, "{:?}", seen.took);
}

#[test]
fn attempts_are_in_the_access_log_and_the_metrics_and_not_on_the_wire() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let (gone, failing) = (Upstream::refusing(), Upstream::answering(fault::status(502)));
    let well = Upstream::new();
    let gateway = Gateway::builder()
        .server(&format!("access_log: {{file: \"{}\"}}", file.display()))
        .clients(BY_HEADER)
        .tiers(NO_REFILL)
        .upstreams(&format!(
            "main: {{servers: {}}}\nplain: {{servers: {}}}",
            list([&gone, &failing, &well]),
            list([&well]),
        ))
        .routes(&format!(
            "- {{name: all, path: /, upstream: main, retry: {{attempts: 2, {SOON}}}}}\n\
             - {{name: plain, path: /plain, upstream: plain}}"
        ))
        .start();
    let retried = get(&gateway, "a", "/");
    let plain = get(&gateway, "a", "/plain");
    assert_eq!((retried.what.as_str(), plain.what.as_str()), ("200", "200"));
    let names = |head: &str| -> Vec<String> {
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.map(|(name, _)| name.to_ascii_lowercase()).collect()
    };
    assert_eq!(names(&retried.head), names(&plain.head), "a client cannot tell them apart");
    assert!(!well.transcript().to_lowercase().contains("retry"), "{}", well.transcript());

    let lines = until("both lines are in the log", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        (text.lines().count() == 2 && text.ends_with('\n')).then_some(text)
    });
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["attempts"], &lines[0]["status"]), (&3.into(), &200.into()));
    let tries = lines[0]["tries"].as_array().expect("tries");
    let tries: Vec<(&str, &str, Option<u64>)> = tries
        .iter()
        .map(|each| {
            assert!(each["duration_seconds"].as_f64().is_some_and(|took| took >= 0.0), "{each}");
            let text = |name: &str| each[name].as_str().expect("text");
            (text("upstream"), text("outcome"), each["status"].as_u64())
        })
        .collect();
    let addresses = [&gone, &failing, &well].map(|upstream| upstream.address().to_string());
    let expected = [
        (&*addresses[0], "connect", None),
        (&*addresses[1], "status_5xx", Some(502)),
        (&*addresses[2], "ok", Some(200)),
    ];
    assert_eq!(tries, expected);
    assert_eq!(lines[0]["upstream"], addresses[2], "the one that answered");
    assert_eq!((&lines[1]["attempts"], &lines[1]["tries"]), (&1.into(), &Value::Null));

    let series = gateway.series_once("gateway_retries_total{route=\"all\"}", 2.0);
    assert_eq!(series.value("gateway_retries_total{route=\"plain\"}"), 0.0);
    let outcomes = [("ok", 1), ("status_5xx", 1), ("connect", 1)];
    assert_eq!(attempts(&series, "main"), outcomes);
}

#[test]
fn a_client_that_leaves_between_attempts_is_not_served_another() {
    let upstream = Upstream::answering(fault::status(503));
    let gateway = gateway(
        &format!("servers: {}", addresses([upstream.address()])),
        "retry: {attempts: 10, backoff: {base: 200ms, max: 200ms}, when: [503]}",
    );
    let client = crate::rig::sent(&gateway, "a", "/");
    upstream.wait_for(1);
    drop(client);
    expect_nothing_held(&gateway);
    assert!(upstream.attempts() < 11, "{} attempts for nobody", upstream.attempts());
}

#[test]
fn a_connection_that_was_closed_while_nobody_used_it_is_no_failure() {
    let mut upstream = Upstream::new();
    let gateway = gateway(
        &format!("servers: {}, breaker: {{consecutive_failures: 1}}", list([&upstream])),
        "",
    );
    for _ in 0..10 {
        assert_eq!(get(&gateway, "a", "/").what, "200");
        upstream.close();
        upstream.open();
    }
    assert_eq!(upstream.connections(), 10, "one for each time it was there");
    assert_eq!(circuit(&gateway, "main")["state"], "closed");
    gateway.series_once("gateway_retries_total{route=\"all\"}", 0.0);
}

#[test]
fn a_body_that_is_still_under_way_is_sent_again_from_its_beginning() {
    let refusal = b"HTTP/1.1 503 Scripted\r\nContent-Length: 4\r\n\r\nbusy";
    let early = Upstream::answering(Answer::Early(refusal.to_vec()));
    let broken = cut_at_the_head();
    for failing in [early.address(), broken.link.get().expect("set").address()] {
        let well = Upstream::answering(Answer::Echo);
        let servers = addresses([failing, well.address()]);
        let gateway = retrying(&servers, "attempts: 1, when: [reset, 503]");
        let mut client = gateway.client();
        client.send("PUT / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 10\r\n\r\n01234");
        well.wait_for(1);
        client.send("56789");
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "0123456789"));
        expect_nothing_held(&gateway);
    }
    assert_eq!((early.attempts(), broken.upstream.attempts()), (1, 1));
}

/// An upstream behind a link that is cut as soon as the head of a request has come.
struct CutAtTheHead {
    upstream: Upstream,
    link: Arc<OnceLock<Link>>,
}

fn cut_at_the_head() -> CutAtTheHead {
    let link: Arc<OnceLock<Link>> = Arc::default();
    let to_cut = Arc::clone(&link);
    let upstream = Upstream::scripted(move |_| {
        to_cut.get().expect("requests come through the link").cut();
        fault::silent()
    });
    link.set(Link::to(upstream.address())).expect("set once");
    CutAtTheHead { upstream, link }
}
