//! Bodies: of any size at constant memory, of any framing, and within bounds.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Answer, Client, End, Gateway, Pattern, Upstream, ok, until};

const LARGE: u64 = 100 << 20;

/// How much more memory a large body may cost than a small one.
const GROWTH_MAX: u64 = 16 << 20;

/// Runs `work` and says by how many bytes the gateway grew at most meanwhile.
fn growth_during(gateway: &Gateway, work: impl FnOnce()) -> u64 {
    let before = gateway.resident_bytes();
    let (most, over) = (AtomicU64::new(before), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                most.fetch_max(gateway.resident_bytes(), Ordering::SeqCst);
                // A sampling interval, not a wait for anything.
                thread::sleep(Duration::from_millis(10));
            }
        });
        // Ends the sampling when the work fails, too.
        let ending = Ending(&over);
        work();
        drop(ending);
    });
    most.into_inner() - before
}

struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn download(gateway: &Gateway) -> Option<u64> {
    let mut pattern = Pattern::default();
    let mut client = gateway.client();
    client.send("GET /stream HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    let (head, _) =
        client.reply_into("GET", &mut |piece| pattern.check(piece)).unwrap().expect("an answer");
    assert_eq!(head.status(), 200);
    pattern.checked()
}

#[test]
fn a_large_answer_is_streamed() {
    let upstream = Upstream::answering(Answer::Stream(LARGE));
    let gateway = Gateway::before(&upstream).start();
    let grown = growth_during(&gateway, || assert_eq!(download(&gateway), Some(LARGE)));
    assert!(grown < GROWTH_MAX, "grew by {grown} bytes");
}

#[test]
fn a_large_request_is_streamed() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, max_body: 200MiB}");
    let gateway = gateway.start();
    for framing in [format!("Content-Length: {LARGE}"), "Transfer-Encoding: chunked".to_owned()] {
        upstream.forget();
        let chunked = framing.starts_with("Transfer");
        let grown = growth_during(&gateway, || {
            let mut client = gateway.client();
            client.send(format!("PUT /up HTTP/1.1\r\nHost: tollgate.test\r\n{framing}\r\n\r\n"));
            let sent = Pattern::write(LARGE, |piece| {
                if chunked {
                    client.try_send(format!("{:x}\r\n", piece.len()))?;
                }
                client.try_send(piece)?;
                if chunked { client.try_send("\r\n") } else { Ok(()) }
            });
            sent.expect("the gateway takes the whole body");
            if chunked {
                client.send("0\r\n\r\n");
            }
            assert_eq!(client.reply().text(), "PUT /up");
        });
        assert_eq!(upstream.last_complete().pattern, Some(LARGE), "{framing}");
        assert!(grown < GROWTH_MAX, "{framing}: grew by {grown} bytes");
    }
}

#[test]
fn a_reader_that_stops_reading_stops_the_upstream() {
    let upstream = Upstream::answering(Answer::Stream(LARGE));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let grown = growth_during(&gateway, || {
        client.send("GET /stream HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
        // Settled is what did not change from one look to the next.
        let (mut last, mut same) = (0, 0);
        until("the upstream is held back", || {
            let now = upstream.streamed();
            same = if now > 0 && now == last { same + 1 } else { 0 };
            last = now;
            (same > 40).then_some(())
        });
    });
    assert!(upstream.streamed() < LARGE / 2, "{} bytes were taken", upstream.streamed());
    assert!(grown < GROWTH_MAX, "grew by {grown} bytes");
    drop(client);
    assert_eq!(download(&gateway), Some(LARGE), "others are served meanwhile and after");
}

#[test]
fn a_body_too_large_by_its_length_is_413_before_it_is_sent() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, max_body: 64KiB}");
    let gateway = gateway.start();
    let mut client = gateway.client();
    client.send("POST / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 65537\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status, reply.json()["status"].as_u64()), (413, Some(413)));
    assert!(reply.says_close());
    assert_eq!(client.end(), End::Closed);
    assert_eq!(upstream.transcript(), "");
    let body = vec![b'b'; 64 * 1024];
    assert_eq!(gateway.client().post("/", &[], &body).status, 200, "exactly the bound passes");
}

#[test]
fn a_body_too_large_while_it_streams_is_413_and_never_whole_upstream() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, max_body: 64KiB}");
    let gateway = gateway.start();
    let chunk = format!("2000\r\n{}\r\n", "c".repeat(0x2000));
    let start = "POST / HTTP/1.1\r\nHost: tollgate.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = gateway.client();
    client.send(start);
    let _ = (0..32).try_for_each(|_| client.try_send(&chunk));
    assert_eq!(client.reply().status, 413);
    assert_eq!(client.end(), End::Closed);
    assert!(upstream.requests().iter().all(|request| !request.complete));

    let mut client = gateway.client();
    client.send(start.to_owned() + &chunk.repeat(8) + "0\r\n\r\n");
    assert_eq!(client.reply().status, 200, "exactly the bound passes");
}

#[test]
fn a_body_too_large_is_no_failure_of_the_upstream() {
    let upstream = Upstream::new();
    let gateway =
        Gateway::before(&upstream).routes("- {name: all, path: /, upstream: main, max_body: 1KiB}");
    let gateway = gateway.start();
    let chunked = [("Transfer-Encoding", "chunked")];
    let body = format!("800\r\n{}\r\n0\r\n\r\n", "c".repeat(0x800));
    assert_eq!(gateway.client().post("/", &chunked, body.as_bytes()).status, 413);
    let metrics = Client::connect(gateway.metrics).get("/metrics").text();
    let failed = metrics.lines().find(|line| {
        let attempt = line.starts_with("gateway_upstream_attempts_total{");
        let bad = ["status_5xx", "connect", "timeout", "reset"];
        attempt && bad.iter().any(|outcome| line.contains(outcome)) && !line.ends_with(" 0")
    });
    assert_eq!(failed, None);
}

#[test]
fn chunked_answers_arrive_whole_and_piece_by_piece() {
    let pieces: Vec<Vec<u8>> = (0..50).map(|index| vec![b'a' + index % 26; 997]).collect();
    let upstream = Upstream::answering(Answer::Chunked(pieces.clone()));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for _ in 0..2 {
        let reply = client.get("/");
        assert!(reply.head.has_token("transfer-encoding", "chunked"));
        assert_eq!(reply.header("content-length"), None);
        assert!(reply.body == pieces.concat());
    }
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let upstream = Upstream::answering(Answer::Chunked(vec![b"one ".to_vec(), b"two".to_vec()]));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.0\r\nHost: tollgate.test\r\n\r\n");
    let reply = client.reply();
    assert_eq!(reply.header("transfer-encoding"), None);
    assert_eq!(reply.text(), "one two");
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_body_that_ends_with_the_connection_arrives_whole() {
    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end".to_vec();
    let upstream = Upstream::answering(Answer::Last(answer));
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.get("/").text(), "until the end");
}

#[test]
fn answers_without_a_body_leave_the_connection_in_step() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/204" => Answer::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        "/304" => Answer::Bytes(
            b"HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\nContent-Length: 9\r\n\r\n".to_vec(),
        ),
        _ => ok("hello"),
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for _ in 0..2 {
        let head = client.request("HEAD", "/", &[], b"");
        assert_eq!((head.status, head.header("content-length")), (200, Some("5")));
        let none = client.get("/204");
        assert_eq!((none.status, none.header("transfer-encoding")), (204, None));
        let not_modified = client.get("/304");
        assert_eq!((not_modified.status, not_modified.header("etag")), (304, Some("\"e\"")));
        assert_eq!(client.get("/").text(), "hello");
    }
}

#[test]
fn refusals_of_head_requests_have_no_body() {
    let gateway = Gateway::before(&Upstream::new())
        .routes("- {name: some, path: /some, upstream: main}")
        .start();
    let mut client = gateway.client();
    for _ in 0..2 {
        assert_eq!(client.request("HEAD", "/nowhere", &[], b"").status, 404);
    }
}

#[test]
fn a_body_sent_byte_by_byte_arrives_whole() {
    let upstream = Upstream::answering(Answer::Echo);
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let request = "POST / HTTP/1.1\r\nHost: tollgate.test\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let each = request.as_bytes().chunks(1).try_for_each(|byte| match client.try_send(byte) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    assert!(each.is_continue(), "{each:?}");
    assert_eq!(client.reply().text(), "hello world");
}

#[test]
fn many_bodies_at_once_do_not_mix() {
    let upstream = Upstream::answering(Answer::Echo);
    let gateway = Arc::new(Gateway::before(&upstream).start());
    let workers: Vec<_> = (0..8_u8)
        .map(|worker| {
            let gateway = Arc::clone(&gateway);
            thread::spawn(move || {
                let mut client = gateway.client();
                for round in 1..=20 {
                    let body = vec![b'a' + worker; 1000 * round];
                    assert!(client.post("/", &[], &body).body == body);
                }
            })
        })
        .collect();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}
