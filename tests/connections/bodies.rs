use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{closed_for, has_ended, narrow, plain, took, with};
use crate::support::{Answer, End, Gateway, Upstream, eventually};

/// What a request may wait for its client before a byte has moved.
const GRACE: Duration = Duration::from_secs(10);
/// Longer than that and all that can be saved up in these tests.
const PATIENCE: Duration = Duration::from_secs(40);

const UPLOAD: &str = "POST /up HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 1000000\r\n\r\n";

/// An upstream whose circuit would open at the first failure.
fn sensitive(upstream: &Upstream, server: &str) -> Gateway {
    Gateway::builder()
        .server(server)
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], breaker: {{consecutive_failures: 1}}}}",
            upstream.address()
        ))
        .routes("- {name: all, path: /, upstream: main, retry: {}}")
        .start()
}

#[test]
fn a_body_that_drips_is_refused_and_no_upstream_blamed() {
    let upstream = Upstream::new();
    let gateway = sensitive(&upstream, "min_body_rate: 64KiB");
    let mut client = gateway.client().patience(Duration::from_millis(200));
    let began = Instant::now();
    client.send(UPLOAD);
    let answer = eventually(PATIENCE, || {
        let _ = client.try_send("x");
        match client.end() {
            End::Open => None,
            end => Some(end),
        }
    });
    took(began, GRACE - Duration::from_secs(1), GRACE + Duration::from_secs(5));
    let Some(End::More(answer)) = answer else { panic!("{answer:?} instead of an answer") };
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(answer.contains("urn:tollgate:problem:client-timeout"), "{answer}");
    let series = gateway.series_once(&closed_for("min_body_rate"), 1.0);
    let outcome = |outcome| {
        format!("gateway_upstream_attempts_total{{outcome=\"{outcome}\",upstream=\"main\"}}")
    };
    assert!((series.value(&outcome("cancelled")) - 1.0).abs() < 0.1);
    assert!(series.value("gateway_circuit_state{circuit=\"main\"}") < 0.5, "it is closed");
    assert_eq!(upstream.attempts(), 1, "nothing is tried again");
    assert_eq!(gateway.get("/x").status, 200);
}

#[test]
fn a_body_that_is_slow_and_steady_arrives() {
    let (gateway, upstream) = with("");
    let mut client = gateway.client();
    let piece = [b'x'; 2_000];
    client.send("POST /up HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 28000\r\n\r\n");
    for _ in 0..14 {
        thread::sleep(Duration::from_secs(1));
        client.send(piece);
    }
    assert_eq!(client.reply().status, 200, "four seconds more than the grace");
    assert_eq!(upstream.last_complete().body.len(), 28_000);
}

#[test]
fn a_pause_of_the_upstream_is_not_the_clients() {
    let upstream = Upstream::answering(Answer::After(
        Duration::from_secs(12),
        Box::new(crate::support::ok("late")),
    ));
    let gateway = Gateway::before(&upstream).server("min_body_rate: 1GiB").start();
    let mut client = gateway.client().patience(PATIENCE);
    assert_eq!(client.post("/", &[], b"a small body").text(), "late");
}

#[test]
fn a_client_that_awaits_100_continue_in_vain_is_not_slow_and_one_that_got_it_is() {
    let upstream = Upstream::scripted(|head| match head.target() {
        "/go" => Answer::Interim(
            b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(),
            Box::new(crate::support::ok("done")),
        ),
        _ => Answer::Early(Vec::new()),
    });
    let gateway = Gateway::builder()
        .server("min_body_rate: 64KiB")
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], timeouts: {{read: 11s}}, breaker: {{}}}}",
            upstream.address()
        ))
        .routes("- {name: all, path: /, upstream: main}")
        .start();
    let ask = |target: &str| {
        let mut client = gateway.client().patience(PATIENCE);
        client.send(format!(
            "POST {target} HTTP/1.1\r\nHost: tollgate.test\r\nExpect: 100-continue\r\n\
             Content-Length: 5\r\n\r\n"
        ));
        client
    };
    let (mut silent, mut slow) = (ask("/silent"), ask("/go"));
    assert_eq!(slow.next_head().status(), 100);
    assert_eq!(slow.reply().status, 408, "it had its leave, and sent nothing");
    assert_eq!(silent.reply().status, 504, "it never had");
}

/// Reads this much each second, for so many seconds.
fn read_steadily(stream: &mut impl Read, bytes: usize, seconds: u32) -> std::io::Result<()> {
    let mut piece = vec![0; bytes];
    for _ in 0..seconds {
        thread::sleep(Duration::from_secs(1));
        stream.read_exact(&mut piece)?;
    }
    Ok(())
}

#[test]
fn a_stalled_reader_is_cut_and_its_upstream_freed_while_a_steady_one_goes_on() {
    const DOWNLOAD: &str = "GET /down HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";
    let upstream = Upstream::answering(Answer::Stream(64 << 20));
    let gateway = sensitive(&upstream, "min_body_rate: 2KiB");
    let (mut steady, mut stalled) = (narrow(&gateway, 16 << 10), narrow(&gateway, 16 << 10));
    steady.write_all(DOWNLOAD.as_bytes()).unwrap();
    stalled.write_all(DOWNLOAD.as_bytes()).unwrap();
    upstream.wait_for(2);
    let began = Instant::now();
    let reading = thread::spawn(move || {
        // At this rate the kernel wakes the writer after half a minute only.
        let read = read_steadily(&mut steady, 3 << 10, 24);
        (steady, read)
    });
    let freed = eventually(PATIENCE, || (upstream.in_flight() == 1).then_some(()));
    assert!(freed.is_some(), "{} are in flight", upstream.in_flight());
    took(began, GRACE - Duration::from_secs(1), GRACE + Duration::from_secs(12));
    let (steady, read) = reading.join().unwrap();
    read.expect("the steady reader reads on");
    assert!(!has_ended(&steady));
    let mut rest = Vec::new();
    assert!(stalled.read_to_end(&mut rest).is_err(), "its answer is not whole");
    let series = gateway.series_once(&closed_for("min_body_rate"), 1.0);
    assert!((series.value("gateway_connections") - 1.0).abs() < 0.1);
    assert!(series.value("gateway_circuit_state{circuit=\"main\"}") < 0.5, "it is closed");
    drop(steady);
    gateway.series_once("gateway_connections", 0.0);
}

#[test]
fn a_rate_of_zero_bounds_nothing() {
    let (gateway, _upstream) = with("min_body_rate: 0");
    let mut stream = plain(&gateway);
    stream.write_all(UPLOAD.as_bytes()).unwrap();
    thread::sleep(GRACE + Duration::from_secs(2));
    assert!(!has_ended(&stream));
}
