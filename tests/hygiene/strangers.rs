//! Peers that speak something else, or HTTP from another time.

use crate::rig::{Rig, post};
use crate::support::End;

/// The beginning of a TLS 1.2 ClientHello as a browser sends it.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03\x5a\x11\xc0\xde\x00\x01\
    \x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\
    \x19\x1a\x1b\x00\x00\x20\xc0\x2b\xc0\x2f\xc0\x2c\xc0\x30\xcc\xa9\xcc\xa8\xc0\x13\xc0\x14\x00\
    \x9c\x00\x9d\x00\x2f\x00\x35\x00\x0a";

#[test]
fn requests_of_other_versions_are_turned_away() {
    let host = "\r\nHost: tollgate.test\r\n\r\n";
    Rig::new().turns_away(&[
        ("HTTP/0.9", "GET /victim\r\n".to_owned()),
        ("HTTP/0.9 with an empty line", "GET /victim\r\n\r\n".to_owned()),
        ("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("HTTP/2.0", format!("GET /victim HTTP/2.0{host}")),
        ("HTTP/1.2", format!("GET /victim HTTP/1.2{host}")),
        ("HTTP/1.10", format!("GET /victim HTTP/1.10{host}")),
        ("HTTP/01.1", format!("GET /victim HTTP/01.1{host}")),
        ("lower case", format!("GET /victim http/1.1{host}")),
        ("another protocol", format!("GET /victim SIP/2.0{host}")),
        ("a blank after the version", format!("GET /victim HTTP/1.1 {host}")),
    ]);
}

#[test]
fn methods_that_are_no_tokens_are_turned_away() {
    let rest = b" /victim HTTP/1.1\r\nHost: tollgate.test\r\n\r\n".as_slice();
    let row = |method: &[u8]| [method, rest].concat();
    Rig::new().turns_away(&[
        ("empty", row(b"")),
        ("parentheses", row(b"G(E)T")),
        ("a quote", row(b"\"GET\"")),
        ("a slash", row(b"GET/")),
        ("a colon", row(b"GET:")),
        ("beyond ASCII", row(b"G\xc3\x8bT")),
        ("NUL", row(b"GE\0T")),
        ("a blank before it", row(b" GET")),
    ]);
}

#[test]
fn peers_that_do_not_speak_http_are_turned_away() {
    let rig = Rig::new();
    let noise: Vec<u8> = (0..4096_u32).map(|index| (index * 193 % 251) as u8 | 0x80).collect();
    for (name, bytes) in [
        ("TLS", CLIENT_HELLO),
        ("SSH", b"SSH-2.0-OpenSSH_9.6\r\n".as_slice()),
        ("SMTP", b"EHLO tollgate.test\r\n"),
        ("Redis", b"*1\r\n$4\r\nPING\r\n"),
        ("NUL", &[0; 512]),
        ("noise", &noise),
        ("PROXY protocol", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n"),
    ] {
        let mut client = rig.gateway.client();
        // Where it is refused before everything was read, the rest finds nobody.
        let _ = client.try_send(bytes);
        client.finish_sending();
        let status = client.try_reply().unwrap_or_default().map(|reply| reply.status);
        assert!(status.is_none_or(|status| (400..500).contains(&status)), "{name}: {status:?}");
        assert_eq!(client.end(), End::Closed, "{name}");
    }
    assert_eq!(rig.upstream.transcript(), "");
    assert_eq!(rig.gateway.get("/after").status, 200, "it serves on");
}

#[test]
fn a_connection_that_says_nothing_and_goes_leaves_no_trace() {
    let rig = Rig::new();
    for bytes in ["", "\r\n", "GET", "GET / HTTP/1.1\r\nHost: tollgate.te"] {
        let mut client = rig.gateway.client();
        client.send(bytes);
        client.finish_sending();
        let status = client.try_reply().unwrap_or_default().map(|reply| reply.status);
        assert!(status.is_none_or(|status| (400..500).contains(&status)), "{bytes:?}: {status:?}");
    }
    assert_eq!(rig.upstream.transcript(), "");
}

#[test]
fn an_upgrade_to_http_2_in_clear_is_not_passed_on() {
    let rig = Rig::new();
    let seen = rig.forwards(
        "h2c",
        "GET /victim HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade, HTTP2-Settings\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    );
    for name in ["Upgrade", "HTTP2-Settings"] {
        assert_eq!(seen.head.header(name), None, "{name}");
    }
    assert!(!seen.head.has_token("connection", "upgrade"));
}

#[test]
fn an_upgrade_that_is_never_answered_does_not_open_a_tunnel() {
    let rig = Rig::new();
    let mut client = rig.gateway.client();
    client.send(
        "GET /socket HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    // The upstream answers 200: the connection still speaks HTTP/1.1.
    assert_eq!(client.reply().status, 200);
    rig.upstream.forget();
    let _ = client.try_send(post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello"));
    let status = client.try_reply().unwrap_or_default().map(|reply| reply.status);
    assert!(matches!(status, None | Some(400)), "{status:?}");
    assert_eq!(rig.upstream.transcript(), "");
}
