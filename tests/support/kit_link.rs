//! The link, between the kit's client and its upstream.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Answer, Client, End, Link, Pattern, Upstream, fault, until};

const A_MOMENT: Duration = Duration::from_millis(100);

#[test]
fn a_whole_link_is_not_noticed() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/stream" => Answer::Stream(3_000_000),
        _ => Answer::Echo,
    });
    let link = Link::to(upstream.address());
    let mut client = Client::connect(link.address());
    assert_eq!(client.post("/", &[], &[b'x'; 300_000]).body.len(), 300_000);
    let mut pattern = Pattern::default();
    pattern.check(&client.get("/stream").body);
    assert_eq!(pattern.checked(), Some(3_000_000));
    client.send("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!((client.reply().status, client.end()), (200, End::Closed), "an end passes too");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn half_a_connection_can_end() {
    let upstream = Upstream::new();
    let link = Link::to(upstream.address());
    let mut client = Client::connect(link.address());
    client.send("GET / HTTP/1.1\r\n\r\n");
    client.finish_sending();
    assert_eq!((client.reply().text().as_str(), client.end()), ("GET /", End::Closed));
}

#[test]
fn a_cut_resets_connections_and_refuses_new_ones() {
    let upstream = Upstream::answering(fault::silent());
    let link = Link::to(upstream.address());
    let mut stream = TcpStream::connect(link.address()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    upstream.wait_for(1);
    link.cut();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    until("the upstream's side is gone", || (upstream.in_flight() == 0).then_some(()));
    for _ in 0..10 {
        let refused = TcpStream::connect(link.address()).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(ErrorKind::ConnectionRefused));
    }
    link.restore();
    upstream.switch_to(Answer::Echo);
    assert_eq!(Client::connect(link.address()).get("/").status, 200);
}

#[test]
fn a_frozen_link_is_a_black_hole_until_it_is_restored() {
    let upstream = Upstream::new();
    let link = Link::to(upstream.address());
    let mut old = Client::connect(link.address());
    assert_eq!(old.get("/before").status, 200);
    link.freeze();
    let mut old = old.patience(A_MOMENT);
    old.send("GET /old HTTP/1.1\r\n\r\n");
    let mut fresh = Client::connect(link.address()).patience(A_MOMENT);
    fresh.send("GET /fresh HTTP/1.1\r\n\r\n");
    assert_eq!((old.end(), fresh.end()), (End::Open, End::Open));
    assert_eq!((upstream.attempts(), upstream.connections()), (1, 1), "nothing came through");
    link.restore();
    for (client, text) in [(old, "GET /old"), (fresh, "GET /fresh")] {
        assert_eq!(client.patience(Duration::from_secs(5)).reply().text(), text);
    }
}

#[test]
fn a_stream_stops_in_the_middle_and_goes_on_without_a_gap() {
    const LENGTH: u64 = 30_000_000;
    let upstream = Upstream::answering(Answer::Stream(LENGTH));
    let link = Link::to(upstream.address());
    let mut client = Client::connect(link.address());
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(client.next_head().status(), 200);
    let mut pattern = Pattern::default();
    pattern.check(&client.exactly(1_000_000));
    link.freeze();
    // What the kernel has of it still comes, and then nothing.
    let mut client = client.patience(A_MOMENT);
    let mut got = 1_000_000;
    loop {
        match client.end() {
            End::More(bytes) => {
                let bytes: Vec<u8> = bytes.chars().map(|byte| byte as u8).collect();
                pattern.check(&bytes);
                got += bytes.len() as u64;
            }
            end => break assert_eq!(end, End::Open),
        }
    }
    assert!(got < LENGTH, "it was frozen in the middle");
    link.restore();
    let mut client = client.patience(Duration::from_secs(10));
    pattern.check(&client.exactly(usize::try_from(LENGTH - got).unwrap()));
    assert_eq!(pattern.checked(), Some(LENGTH));
}

#[test]
fn what_was_frozen_can_be_cut_and_what_was_cut_can_be_frozen() {
    let upstream = Upstream::new();
    let link = Link::to(upstream.address());
    let mut client = Client::connect(link.address());
    link.freeze();
    client.send("GET / HTTP/1.1\r\n\r\n");
    link.cut();
    assert_eq!(client.end(), End::Closed);
    link.freeze();
    let mut client = Client::connect(link.address()).patience(A_MOMENT);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!((client.end(), upstream.attempts()), (End::Open, 0));
    link.restore();
    assert_eq!(client.patience(Duration::from_secs(5)).reply().status, 200);
}

#[test]
fn a_reset_passes_and_so_does_an_upstream_that_is_not_there() {
    let mut upstream = Upstream::answering(fault::reset());
    let link = Link::to(upstream.address());
    let error_of = || {
        let mut stream = TcpStream::connect(link.address()).unwrap();
        // Whichever meets the reset first reports it, and the other sees the end.
        let written = stream.write_all(b"GET / HTTP/1.1\r\n\r\n");
        written.and_then(|()| stream.read(&mut [0])).unwrap_err().kind()
    };
    assert_eq!(error_of(), ErrorKind::ConnectionReset);
    upstream.close();
    assert_eq!(error_of(), ErrorKind::ConnectionReset);
}

#[test]
fn a_link_takes_its_connections_with_it() {
    let upstream = Upstream::answering(fault::silent());
    let link = Link::to(upstream.address());
    let mut client = Client::connect(link.address());
    client.send("GET / HTTP/1.1\r\n\r\n");
    upstream.wait_for(1);
    let address = link.address();
    drop(link);
    assert_eq!(client.end(), End::Closed);
    assert!(Client::try_connect(address).is_none());
    until("the upstream sees it too", || (upstream.in_flight() == 0).then_some(()));
}
