//! Connections that become something else than HTTP.

use crate::support::{Answer, Client, End, Gateway, Upstream, ok};

const HANDSHAKE: &str = "GET /socket HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

const ACCEPTANCE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

fn upgraded(gateway: &Gateway) -> Client {
    let mut client = gateway.client();
    client.send(HANDSHAKE);
    let head = client.next_head();
    assert_eq!(head.status(), 101);
    assert!(head.has_token("connection", "upgrade"));
    assert!(head.has_token("upgrade", "websocket"));
    assert_eq!(head.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client
}

#[test]
fn a_websocket_carries_bytes_both_ways() {
    let upstream = Upstream::answering(Answer::Upgrade(ACCEPTANCE.to_owned()));
    let gateway = Gateway::before(&upstream).start();
    let mut client = upgraded(&gateway);
    let seen = upstream.last().head;
    assert!(seen.has_token("connection", "upgrade") && seen.has_token("upgrade", "websocket"));
    assert_eq!(seen.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    // Frames are opaque to the gateway, so any bytes will do, also those of a request.
    for bytes in [b"\x81\x05hello".as_slice(), b"\0\r\n\r\n", HANDSHAKE.as_bytes(), &[7; 60_000]] {
        client.send(bytes);
        assert!(client.exactly(bytes.len()) == bytes);
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_websocket_outlives_the_timeout_of_its_route() {
    let upstream = Upstream::answering(Answer::Upgrade(ACCEPTANCE.to_owned()));
    let gateway = Gateway::before(&upstream)
        .routes("- {name: all, path: /, upstream: main, timeout: 300ms}")
        .start();
    let mut client = upgraded(&gateway).patience(std::time::Duration::from_millis(900));
    assert_eq!(client.end(), End::Open, "silent for three times the timeout");
    client.send("still here");
    assert_eq!(client.exactly(10), b"still here");
}

#[test]
fn a_websocket_ends_with_its_upstream() {
    let upstream = Upstream::answering(Answer::Upgrade(ACCEPTANCE.to_owned()));
    let gateway = Gateway::before(&upstream).start();
    let mut client = upgraded(&gateway);
    drop(upstream);
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn an_upgrade_the_upstream_declines_is_an_ordinary_answer() {
    let upstream = Upstream::answering(ok("no sockets here"));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(HANDSHAKE);
    let reply = client.reply();
    assert_eq!((reply.status, reply.text().as_str()), (200, "no sockets here"));
}

#[test]
fn a_101_nobody_asked_for_is_502() {
    let upstream = Upstream::answering(Answer::Upgrade(ACCEPTANCE.to_owned()));
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.get("/").status, 502);
}
