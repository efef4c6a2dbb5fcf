//! The process's own log.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use crate::support::{Answer, Client, Gateway, Upstream, free_addresses, until};

const ALL_200: &str = "gateway_requests_total{route=\"all\",status=\"200\"}";

fn lines(text: &str) -> usize {
    text.lines().count()
}

#[test]
fn rust_log_decides_what_is_logged() {
    let upstream = Upstream::new();
    let at = |level: &str| {
        let gateway = Gateway::before(&upstream).env("RUST_LOG", level).start();
        assert_eq!(gateway.get("/").status, 200);
        gateway.series_once(ALL_200, 1.0);
        gateway.stderr()
    };
    assert_eq!(at("off"), "", "nothing");
    assert_eq!(at("error"), "", "a good start has no errors to tell");
    at("no such level==,,[");
    let info = at("tollgate=info");
    assert!(info.contains("INFO"), "{info}");
    assert!(info.contains("serving on"), "{info}");
    assert!(lines(&info) < 20, "{info}");
    let trace = at("trace");
    assert!(lines(&trace) > lines(&info), "{trace}");
}

#[test]
fn two_thousand_bad_requests_do_not_flood_the_log() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/bad" => Answer::Last(b"SMTP 220 hello\r\n\r\n".to_vec()),
        _ => Answer::Hangup,
    });
    let [nobody] = free_addresses();
    let gateway = Gateway::before(&upstream)
        .upstream("dead", nobody)
        .routes(
            "
            - {name: all, path: /, upstream: main, max_body: 10}
            - {name: dead, path: /dead, upstream: dead}",
        )
        .start();
    let before = lines(&gateway.stderr());
    let start = Instant::now();
    let kinds = [
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "GET /dead HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /bad HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /hangup HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHo",
    ];
    for index in 0..2_000 {
        let mut stream = TcpStream::connect(gateway.data).unwrap();
        let _ = stream.write_all(kinds[index % kinds.len()].as_bytes());
        if index % 3 == 0 {
            continue;
        }
        drop(Client::connect(gateway.data));
    }
    let seconds = start.elapsed().as_secs_f64();
    until("it is done with them", || {
        (gateway.series().sum("gateway_inflight_requests") == 0.0).then_some(())
    });
    let log = gateway.stderr();
    let told = lines(&log) - before;
    assert!(told < 50, "{told} lines in {seconds:.1} s:\n{log}");
}
