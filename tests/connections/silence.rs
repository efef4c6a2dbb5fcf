use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{GET, closed_for, plain, to_the_end, took, with};
use crate::support::{Answer, End, Gateway, Upstream};

const MOST: Duration = Duration::from_secs(3);

#[test]
fn a_connection_that_never_says_anything_is_closed_after_the_shorter_time() {
    for server in
        ["header_timeout: 500ms\nidle_timeout: 30s", "header_timeout: 30s\nidle_timeout: 500ms"]
    {
        let (gateway, _upstream) = with(server);
        let began = Instant::now();
        assert_eq!(to_the_end(&mut plain(&gateway)), "");
        took(began, Duration::from_millis(450), MOST);
        gateway.series_once(&closed_for("idle_timeout"), 1.0);
        gateway.series_once("gateway_connections", 0.0);
    }
}

#[test]
fn a_connection_that_was_served_may_be_silent_for_its_idle_time() {
    let (gateway, _upstream) = with("header_timeout: 200ms\nidle_timeout: 1s");
    let mut stream = plain(&gateway);
    stream.write_all(GET.as_bytes()).unwrap();
    let began = Instant::now();
    let answers = to_the_end(&mut stream);
    took(began, Duration::from_millis(950), MOST);
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
}

#[test]
fn a_connection_in_use_is_not_idle() {
    let (gateway, upstream) = with("idle_timeout: 400ms");
    let mut client = gateway.client();
    for _ in 0..6 {
        assert_eq!(client.get("/x").status, 200);
        thread::sleep(Duration::from_millis(200));
    }
    upstream.switch_to(Answer::After(Duration::from_secs(1), Box::new(crate::support::ok("late"))));
    assert_eq!(client.get("/x").text(), "late", "to wait for an upstream is not to be idle");
}

#[test]
fn a_websocket_may_be_silent_for_longer_than_every_bound() {
    let upstream = Upstream::answering(Answer::Upgrade(
        "Connection: Upgrade\r\nUpgrade: websocket\r\n".to_owned(),
    ));
    let gateway = Gateway::before(&upstream)
        .server("header_timeout: 200ms\nidle_timeout: 200ms\nmax_requests_per_connection: 1")
        .start();
    let mut client = gateway.client().patience(Duration::from_millis(900));
    client.send(
        "GET / HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(client.next_head().status(), 101);
    assert_eq!(client.end(), End::Open);
    client.send("still here");
    assert_eq!(client.exactly(10), b"still here");
}

#[test]
fn a_reload_changes_the_times_of_what_begins_afterwards() {
    let upstream = Upstream::new();
    let builder = Gateway::before(&upstream);
    let gateway = builder.clone().server("idle_timeout: 30s\nheader_timeout: 30s").start();
    let mut stream = plain(&gateway);
    gateway.rewrite(&builder.clone().server("idle_timeout: 500ms\nheader_timeout: 300ms"));
    let reload = gateway.reload();
    assert_eq!(reload.status, 200);
    assert_eq!(reload.json()["warnings"].as_array().map(Vec::len), Some(0), "{}", reload.text());
    let began = Instant::now();
    stream.write_all(GET.as_bytes()).unwrap();
    assert!(to_the_end(&mut stream).starts_with("HTTP/1.1 200 "));
    took(began, Duration::from_millis(450), MOST);
    let mut stream = plain(&gateway);
    stream.write_all(b"GET / HT").unwrap();
    assert!(to_the_end(&mut stream).starts_with("HTTP/1.1 408 "));
    took(began, Duration::from_millis(750), MOST);
}
