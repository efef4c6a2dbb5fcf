//! Requests that are answered before their body was read, and several requests
//! at once: what follows on the connection is never taken for something else.

use crate::rig::{Rig, SMUGGLED, still_serves};
use crate::support::{Client, End, Gateway, Upstream};

/// Ways to be refused before the body is read: name, request line, status.
const REFUSED: [(&str, &str, u16); 5] = [
    ("without a key", "POST /private HTTP/1.1", 401),
    ("with too large a body", "POST /small HTTP/1.1", 413),
    ("over the limit", "POST /limited HTTP/1.1", 429),
    ("by method", "POST /reading HTTP/1.1", 405),
    ("by path", "POST /nowhere HTTP/1.1", 404),
];

/// A gateway that refuses each of [`REFUSED`] and lets `/open` through.
fn refusing() -> Rig {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients("{identify: [api_key, ip], default_tier: free}")
        .routes(
            "
            - {name: open, path: /open, upstream: main}
            - {name: private, path: /private, upstream: main, auth: required}
            - {name: small, path: /small, upstream: main, max_body: 1KiB}
            - {name: limited, path: /limited, upstream: main, limit: {rate: 1/d, burst: 1, key: ip}}
            - {name: reading, path: /reading, upstream: main, methods: [GET]}
            ",
        )
        .start();
    assert_eq!(gateway.get("/limited").status, 200, "the one token of the day");
    upstream.forget();
    Rig { gateway, upstream }
}

/// The bytes of a request with these framing fields and this body.
fn request(line: &str, framing: &str, body: &str) -> String {
    format!("{line}\r\nHost: tollgate.test\r\n{framing}\r\n\r\n{body}")
}

/// As many hidden requests as make about two KiB.
fn hidden() -> String {
    SMUGGLED.repeat(2048 / SMUGGLED.len())
}

#[track_caller]
fn nothing_smuggled(rig: &Rig, name: &str) {
    let got = rig.upstream.transcript();
    assert!(!got.contains("smuggled"), "{name}: the upstream got {got:?}");
}

#[test]
fn a_refusal_keeps_the_connection_when_the_request_has_no_body() {
    let rig = refusing();
    for (name, line, status) in REFUSED {
        if status == 413 {
            continue;
        }
        let mut client = rig.gateway.client();
        client.send(request(line, "Accept: */*", ""));
        let reply = client.reply();
        assert_eq!((reply.status, reply.says_close()), (status, false), "{name}");
        still_serves(&mut client, "/open/next");
    }
}

#[test]
fn a_refusal_keeps_the_connection_when_the_whole_body_has_arrived() {
    let rig = refusing();
    let body = hidden();
    let by_length = format!("Content-Length: {}", body.len());
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for (name, line, status) in REFUSED {
        for (framing, sent) in [(&*by_length, &body), ("Transfer-Encoding: chunked", &chunked)] {
            if status == 413 && framing != by_length {
                // Its size shows only while it is streamed, which is another test.
                continue;
            }
            let mut client = rig.gateway.client();
            client.send(request(line, framing, sent));
            let reply = client.reply();
            assert_eq!(
                (reply.status, reply.says_close()),
                (status, false),
                "{name}, {framing}: {}",
                reply.text()
            );
            still_serves(&mut client, "/open/next");
            nothing_smuggled(&rig, name);
        }
    }
}

#[test]
fn a_refusal_closes_the_connection_when_the_body_is_still_on_its_way() {
    let rig = refusing();
    let part = hidden();
    for (name, line, status) in REFUSED {
        for framing in ["Content-Length: 100000", "Content-Length: 2200"] {
            let mut client = rig.gateway.client();
            client.send(request(line, framing, &part));
            let reply = client.reply();
            assert_eq!(
                (reply.status, reply.says_close()),
                (status, true),
                "{name}, {framing}: {}",
                reply.text()
            );
            // What would have been the rest of the body.
            let _ = client.try_send(hidden());
            assert_eq!(client.end(), End::Closed, "{name}, {framing}");
            nothing_smuggled(&rig, name);
        }
    }
}

#[test]
fn a_refusal_closes_the_connection_when_the_end_of_a_chunked_body_is_missing() {
    let rig = refusing();
    for (name, line, status) in REFUSED {
        if status == 413 {
            continue;
        }
        let part = format!("ffff\r\n{}", hidden());
        let mut client = rig.gateway.client();
        client.send(request(line, "Transfer-Encoding: chunked", &part));
        let reply = client.reply();
        assert_eq!((reply.status, reply.says_close()), (status, true), "{name}");
        let _ = client.try_send(hidden());
        assert_eq!(client.end(), End::Closed, "{name}");
        nothing_smuggled(&rig, name);
    }
}

#[test]
fn a_refusal_is_readable_when_the_client_keeps_sending_a_large_body() {
    let rig = refusing();
    for (name, line, status) in REFUSED {
        let mut client = rig.gateway.client();
        client.send(request(line, "Content-Length: 8388608", ""));
        let piece = hidden();
        // Until the gateway has had enough; the answer must not get lost over it.
        let _ = (0..512).try_for_each(|_| client.try_send(&piece));
        assert_eq!(client.reply().status, status, "{name}");
        assert_eq!(client.end(), End::Closed, "{name}");
        nothing_smuggled(&rig, name);
    }
}

#[test]
fn a_refused_request_is_never_told_to_continue() {
    let rig = refusing();
    for (name, line, status) in REFUSED {
        let mut client = rig.gateway.client();
        client.send(request(line, "Content-Length: 5000\r\nExpect: 100-continue", ""));
        let reply = client.reply();
        assert_eq!(reply.status, status, "{name}");
        assert!(reply.interim.is_empty(), "{name}: {:?}", reply.interim);
        assert!(reply.says_close(), "{name}: the body may or may not follow");
        assert_eq!(client.end(), End::Closed, "{name}");
    }
}

/// Reads answers until the connection is silent or ends.
fn all_replies(client: &mut Client, most: usize) -> Vec<(u16, String)> {
    let mut replies = Vec::new();
    while replies.len() < most {
        let Ok(Some(reply)) = client.try_reply() else { break };
        replies.push((reply.status, reply.text()));
        if reply.says_close() {
            break;
        }
    }
    replies
}

#[test]
fn requests_sent_at_once_are_answered_in_order_or_not_at_all() {
    let rig = Rig::new();
    let mut client = rig.gateway.client();
    let targets: Vec<String> = (0..5).map(|index| format!("/at-once/{index}")).collect();
    let line = |target: &String| format!("GET {target} HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    client.send(targets.iter().map(line).collect::<String>());
    let replies = all_replies(&mut client, targets.len());
    let wanted: Vec<_> = targets.iter().map(|target| (200, format!("GET {target}"))).collect();
    assert!(!replies.is_empty(), "the first one is answered");
    assert!(wanted.starts_with(&replies), "{replies:?}");
    if replies.len() < targets.len() {
        assert_eq!(client.end(), End::Closed, "what is not answered is not left hanging");
    }
}

#[test]
fn a_request_sent_together_with_a_refused_one_gets_its_own_answer_or_none() {
    let rig = refusing();
    for (name, line, status) in REFUSED {
        if status == 413 {
            continue;
        }
        let mut client = rig.gateway.client();
        let second = request("GET /open/second HTTP/1.1", "Accept: */*", "");
        client.send(request(line, "Content-Length: 5", "hello") + &second);
        let replies = all_replies(&mut client, 2);
        assert_eq!(replies.first().map(|reply| reply.0), Some(status), "{name}");
        match replies.get(1) {
            Some(second) => assert_eq!(*second, (200, "GET /open/second".to_owned()), "{name}"),
            None => assert_eq!(client.end(), End::Closed, "{name}"),
        }
    }
}

#[test]
fn the_body_of_an_answered_request_is_never_a_request() {
    // An upstream that answers without reading leaves the body to the gateway.
    let early = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly".to_vec();
    let upstream = Upstream::answering(crate::support::Answer::Early(early));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(request("POST /victim HTTP/1.1", "Content-Length: 100000", &hidden()));
    assert_eq!(client.reply().text(), "early");
    let _ = client.try_send(hidden());
    assert!(matches!(client.end(), End::Closed | End::Open), "one answer to one request");
    let targets = upstream.targets();
    assert_eq!(targets, ["/victim"]);
}
