use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{GET, closed_for, plain, to_the_end, took, with};
use crate::support::{Gateway, until};

const QUICK: &str = "header_timeout: 600ms\nidle_timeout: 30s";
const LEAST: Duration = Duration::from_millis(550);
const MOST: Duration = Duration::from_secs(3);

/// Sends one byte after another until the gateway answers, and gives the answer.
fn dripped(gateway: &Gateway, bytes: &'static [u8], every: Duration) -> String {
    let mut stream = plain(gateway);
    let mut sending = stream.try_clone().unwrap();
    thread::spawn(move || {
        for byte in bytes.iter().cycle() {
            // It ends when the gateway has gone on without it.
            if sending.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(every);
        }
    });
    to_the_end(&mut stream)
}

#[test]
fn a_head_that_drips_is_refused_after_its_total_time() {
    let (gateway, upstream) = with(QUICK);
    let began = Instant::now();
    let head = b"GET / HTTP/1.1\r\nHost: tollgate.test\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let answer = dripped(&gateway, head, Duration::from_millis(50));
    took(began, LEAST, MOST);
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
    assert!(answer.contains("urn:tollgate:problem:header-timeout"), "{answer}");
    assert!(upstream.requests().is_empty());
    let series = gateway.series_once(&closed_for("header_timeout"), 1.0);
    assert!(
        (series.value("gateway_requests_total{route=\"none\",status=\"408\"}") - 1.0).abs() < 0.1
    );
    until("the log has a line", || {
        gateway.stderr().contains("1 requests refused (server.header_timeout)").then_some(())
    });
}

#[test]
fn empty_lines_are_part_of_a_head() {
    let (gateway, _upstream) = with(QUICK);
    let began = Instant::now();
    let answer = dripped(&gateway, b"\r\n", Duration::from_millis(50));
    took(began, LEAST, MOST);
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[test]
fn a_head_that_comes_whole_behind_others_is_never_late() {
    let (gateway, _upstream) = with(QUICK);
    let mut client = gateway.client();
    client.send(&GET[..20]);
    thread::sleep(Duration::from_millis(300));
    client.send(&GET[20..]);
    assert_eq!(client.reply().status, 200);
    thread::sleep(Duration::from_millis(900));
    client.send(GET.repeat(3));
    for _ in 0..3 {
        assert_eq!(client.reply().status, 200, "silence in between was none of its time");
    }
}

#[test]
fn a_pipelined_head_has_its_time_once_its_turn_has_come() {
    let (gateway, _upstream) = with(QUICK);
    let mut stream = plain(&gateway);
    let began = Instant::now();
    stream.write_all((GET.to_owned() + &GET[..20]).as_bytes()).unwrap();
    let answers = to_the_end(&mut stream);
    took(began, LEAST, MOST);
    assert!(answers.starts_with("HTTP/1.1 200 "), "{answers}");
    assert!(answers.contains("HTTP/1.1 408 "), "{answers}");
}

#[test]
fn a_flood_of_slow_heads_is_one_line_a_second() {
    let (gateway, _upstream) = with("header_timeout: 100ms");
    let mut streams: Vec<_> = (0..200).map(|_| plain(&gateway)).collect();
    for stream in &mut streams {
        stream.write_all(b"GET / HT").unwrap();
    }
    gateway.series_once(&closed_for("header_timeout"), 200.0);
    let lines = || {
        let lines: Vec<_> = gateway
            .stderr()
            .lines()
            .filter(|line| line.contains("WARN"))
            .map(str::to_owned)
            .collect();
        lines
    };
    let counted = |lines: &[String]| -> u64 {
        lines
            .iter()
            .filter_map(|line| {
                line.split(" requests refused").next()?.rsplit(' ').next()?.parse::<u64>().ok()
            })
            .sum()
    };
    until("all are accounted for", || (counted(&lines()) == 200).then_some(()));
    assert!(lines().len() <= 4, "{:?}", lines());
}
