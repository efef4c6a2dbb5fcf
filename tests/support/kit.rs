//! The kit tried on itself: its client against its upstream, with no gateway
//! between them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use crate::support::{
    Answer, Client, End, Gate, Gateway, Pattern, Upstream, eventually, free_addresses, ok, until,
};

#[path = "kit_faults.rs"]
mod faults;
#[path = "kit_link.rs"]
mod link;

#[test]
fn the_upstream_records_heads_bodies_and_bytes() {
    let upstream = Upstream::new();
    let mut client = Client::connect(upstream.address());
    assert_eq!(client.post("/a?b", &[("X-Odd", " v \t")], b"hello").text(), "POST /a?b");
    assert_eq!(client.get("/second").text(), "GET /second");
    let seen = upstream.requests();
    assert_eq!((seen.len(), upstream.connections()), (2, 1), "one connection, kept alive");
    assert_eq!((seen[0].body.as_slice(), seen[0].complete), (b"hello".as_slice(), true));
    assert_eq!(seen[0].head.header("x-odd"), Some("v"));
    assert!(upstream.transcript().starts_with("POST /a?b HTTP/1.1\r\nHost: tollgate.test\r\n"));
    upstream.forget();
    assert_eq!(upstream.transcript(), "");
}

#[test]
fn chunks_are_read_by_both_ends() {
    let upstream = Upstream::answering(Answer::Chunked(vec![b"one ".to_vec(), b"two".to_vec()]));
    let mut client = Client::connect(upstream.address());
    client.send(
        "POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n",
    );
    assert_eq!(client.reply().text(), "one two");
    assert_eq!(upstream.last_complete().body, b"abcde");
    assert_eq!(client.get("/").text(), "one two", "both ends agree where the messages end");
}

#[test]
fn a_body_without_its_end_is_not_complete() {
    let upstream = Upstream::new();
    for cut in ["Content-Length: 9\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\nff\r\nx"] {
        upstream.forget();
        let mut client = Client::connect(upstream.address());
        client.send(format!("POST / HTTP/1.1\r\n{cut}"));
        client.finish_sending();
        assert_eq!(client.end(), End::Closed);
        assert!(!upstream.last().complete);
    }
}

#[test]
fn answers_without_a_body_are_read_as_such() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/204" => Answer::Bytes(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        "/304" => Answer::Bytes(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n".to_vec()),
        _ => ok("hello"),
    });
    let mut client = Client::connect(upstream.address());
    let head = client.request("HEAD", "/", &[], b"");
    assert_eq!((head.header("content-length"), head.body.len()), (Some("5"), 0));
    assert_eq!(client.get("/204").status, 204);
    assert_eq!(client.get("/304").status, 304);
    assert_eq!(client.get("/").text(), "hello");
}

#[test]
fn interim_answers_are_kept_apart() {
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
    let upstream = Upstream::answering(Answer::Interim(interim, Box::new(Answer::Echo)));
    let reply = Client::connect(upstream.address()).post("/", &[], b"hello");
    assert_eq!((reply.status, reply.text().as_str()), (200, "hello"));
    assert_eq!(reply.interim[0].header("link"), Some("</a>"));
}

#[test]
fn a_gate_holds_an_answer_until_it_is_opened() {
    let gate = Gate::default();
    let upstream = Upstream::answering(Answer::Held(gate.clone(), Box::new(ok("late"))));
    let mut client = Client::connect(upstream.address()).patience(Duration::from_millis(50));
    client.send("GET / HTTP/1.1\r\n\r\n");
    upstream.wait_for(1);
    assert_eq!(client.end(), End::Open);
    gate.open();
    assert_eq!(client.patience(Duration::from_secs(5)).reply().text(), "late");
}

#[test]
fn connections_end_as_scripted() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel".to_vec();
    let upstream = Upstream::scripted(move |head| match head.target() {
        "/hangup" => Answer::Hangup,
        "/cut" => Answer::Last(cut.clone()),
        _ => Answer::Silent,
    });
    let connect = || Client::connect(upstream.address()).patience(Duration::from_millis(200));
    let mut client = connect();
    client.send("GET /hangup HTTP/1.1\r\n\r\n");
    assert!(matches!(client.try_reply(), Ok(None)));
    let mut client = connect();
    client.send("GET /cut HTTP/1.1\r\n\r\n");
    assert!(client.try_reply().is_err(), "a body cut off is no answer");
    let mut client = connect();
    client.send("GET /silent HTTP/1.1\r\n\r\n");
    assert_eq!(client.end(), End::Open);
    drop(upstream);
    assert_eq!(client.end(), End::Closed, "an upstream takes its connections with it");
}

#[test]
fn an_upgraded_connection_sends_back() {
    let upstream = Upstream::answering(Answer::Upgrade("Upgrade: websocket\r\n".to_owned()));
    let mut client = Client::connect(upstream.address());
    client.send("GET / HTTP/1.1\r\n\r\nfirst");
    assert_eq!(client.reply().status, 101);
    assert_eq!(client.exactly(5), b"first");
}

#[test]
fn a_pattern_shows_what_was_lost() {
    let mut bytes = Vec::new();
    let put = |piece: &[u8]| -> Result<(), ()> {
        bytes.extend_from_slice(piece);
        Ok(())
    };
    Pattern::write(200_000, put).unwrap();
    let checked = |bytes: &[u8]| {
        let mut pattern = Pattern::default();
        bytes.chunks(999).for_each(|piece| pattern.check(piece));
        pattern.checked()
    };
    assert_eq!(checked(&bytes), Some(200_000));
    let mut shorter = bytes.clone();
    shorter.drain(4096..8192);
    assert_eq!(checked(&shorter), None);
    let upstream = Upstream::answering(Answer::Stream(200_000));
    assert_eq!(checked(&Client::connect(upstream.address()).get("/").body), Some(200_000));
}

#[test]
fn a_second_answer_is_more_than_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = Client::connect(listener.local_addr().unwrap());
    let (mut peer, _) = listener.accept().unwrap();
    client.send("x");
    peer.read_exact(&mut [0]).unwrap();
    peer.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1").unwrap();
    assert_eq!(client.reply().status, 200);
    assert_eq!(client.end(), End::More("HTTP/1.1".to_owned()));
}

#[test]
fn waiting_has_an_end() {
    assert_eq!(eventually(Duration::from_millis(20), || None::<()>), None);
    let mut left = 3;
    until("it has counted down", || {
        left -= 1;
        (left == 0).then_some(())
    });
}

#[test]
fn free_addresses_differ_and_are_free() {
    let addresses: [_; 3] = free_addresses();
    assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2]);
    for address in addresses {
        TcpListener::bind(address).unwrap();
    }
}

#[test]
fn the_configuration_is_what_the_test_says() {
    let [data, admin, metrics] = free_addresses();
    let yaml = Gateway::builder()
        .server(
            "
            health_path: /healthz
            access_log:
              file: log
            ",
        )
        .upstream("a", data)
        .upstream("b", admin)
        .routes("- {name: all, path: /, upstream: a}")
        .yaml(data, admin, metrics);
    let parsed: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
    assert_eq!(parsed["server"]["listen"], data.to_string());
    assert_eq!(parsed["server"]["access_log"]["file"], "log");
    assert_eq!(parsed["metrics"]["listen"], metrics.to_string());
    assert_eq!(parsed["upstreams"]["b"]["servers"][0], admin.to_string());
    assert_eq!(parsed["routes"][0]["upstream"], "a");
    assert!(parsed.get("limits").is_none());
}
