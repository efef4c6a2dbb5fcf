//! A log replayed in virtual time.

use super::*;
use crate::config;
use std::fmt::Write as _;
use std::io::Cursor;

/// A log of one request by `client` at each of these times in seconds.
fn log(client: &str, seconds: impl IntoIterator<Item = f64>) -> String {
    let mut log = String::new();
    for second in seconds {
        let time = jiff::Timestamp::from_millisecond(1_780_000_000_000 + (second * 1e3) as i64);
        let _ = writeln!(
            log,
            r#"{{"time":"{}","trace_id":"t","client":"{client}","client_ip":"192.0.2.1","tier":"free","method":"GET","host":"a.test","path":"/x/1","query":null,"protocol":"HTTP/1.1","route":"all","upstream":null,"attempts":1,"status":200,"bytes_sent":5,"bytes_received":0,"duration_seconds":0.0,"user_agent":null,"referer":null}}"#,
            time.unwrap(),
        );
    }
    log
}

#[track_caller]
fn replayed(more: &str, log: String) -> Report {
    let text = format!(
        "upstreams: {{u: {{servers: [127.0.0.1:9]}}}}\n\
         routes: [{{name: all, path: /, upstream: u}}]\n\
         tiers: {{free: {{rate: 1/s, burst: 10}}}}\n{more}"
    );
    let (config, _) = config::parse(&text, &|_| None).unwrap();
    let source = Source::of(Cursor::new(log.into_bytes()));
    replay(&config, source, Progress::new(None, false)).unwrap()
}

fn now(report: &Report, policy: &str) -> u64 {
    let rows = report.rows().iter().filter(|((_, _, name), _)| name == policy);
    rows.map(|(_, row)| row.now).sum()
}

#[test]
fn time_passes_as_in_the_log_and_not_as_for_whoever_waits() {
    // 10 at once, then one every two seconds for an hour: the bucket refills in between.
    let times = (0..10).map(|_| 0.0).chain((0..1_800).map(|n| 2.0 * f64::from(n) + 2.0));
    let report = replayed("", log("c", times));
    assert_eq!(now(&report, "tier"), 0);
    let report = replayed("", log("c", (0..40).map(|n| f64::from(n) / 10.0)));
    // 10 of the burst and 3 that came back within 3.9 seconds.
    assert_eq!(now(&report, "tier"), 27);
}

#[test]
fn what_a_shadow_would_have_refused_stands_beside_what_it_would_now() {
    let log = log("c", (0..10).map(|_| 0.0));
    let log = log.replace(r#""status":200"#, r#""status":200,"shadow":["calm"]"#);
    let limits = "limits: [{name: calm, key: client, rate: 1/h, burst: 4, shadow: true}]";
    let report = replayed(limits, log);
    let row = report.rows().iter().find(|((_, _, name), _)| name == "calm (shadow)");
    let (_, row) = row.expect("the shadow's row");
    assert_eq!((row.then, row.now), (10, 6));
}

#[test]
fn windows_and_quotas_follow_the_calendar_of_the_log() {
    let limits = "limits: [{name: day, key: client, rate: 5/d, algorithm: fixed_window}]";
    let report = replayed(limits, log("c", (0..48).map(|hour| 3_600.0 * f64::from(hour))));
    // The log begins at 20:26: four pass on that day, and five on each of the two after it.
    assert_eq!(48 - now(&report, "day"), 4 + 5 + 5);
}

#[test]
fn lines_are_taken_in_the_order_in_which_requests_began() {
    let mut lines: Vec<String> =
        log("c", (0..100).map(f64::from)).lines().map(|line| format!("{line}\n")).collect();
    lines.reverse();
    let report = replayed("", lines.concat());
    assert_eq!((report.requests, now(&report, "tier"), report.late), (100, 0, 0));
}

#[test]
fn a_client_that_the_configuration_does_not_name_keeps_a_tier_above_the_default() {
    let tiers =
        "default_tier: free}\ntiers: {free: {rate: 1/h, burst: 2}, gold: {rate: 1/h, burst: 7}}";
    let replayed = |clients: &str, tier: &str| {
        let text = format!(
            "upstreams: {{u: {{servers: [127.0.0.1:9]}}}}\n\
             routes: [{{name: all, path: /, upstream: u}}]\n\
             clients: {{identify: [{{header: X-Client-ID}}, ip], {clients}{tiers}"
        );
        let (config, _) = config::parse(&text, &|_| None).unwrap();
        let log = log("rt", (0..10).map(f64::from)).replace("\"free\"", &format!("\"{tier}\""));
        let source = Source::of(Cursor::new(log.into_bytes()));
        replay(&config, source, Progress::new(None, false)).unwrap()
    };
    let report = replayed("", "gold");
    assert_eq!(now(&report, "tier"), 3, "{report}");
    let said = "10 were of clients that this configuration does not name, in the tier gold";
    assert!(report.to_string().contains(said), "{report}");
    let known = "known: {rt: {tier: free}}, ";
    for (clients, tier) in [("", "free"), ("", "gone"), (known, "gold")] {
        let report = replayed(clients, tier);
        assert_eq!(now(&report, "tier"), 8, "{clients} {tier}: {report}");
        assert!(!report.to_string().contains("does not name"), "{clients} {tier}: {report}");
    }
}

#[test]
fn limits_by_header_are_left_out_and_said_to_be() {
    let limits = "limits: [{name: region, key: {header: X-Region}, rate: 1/h, burst: 1}]";
    let report = replayed(limits, log("c", (0..5).map(f64::from)));
    assert_eq!(now(&report, "region"), 0);
    assert!(report.to_string().contains("the log has no headers: region"), "{report}");
}

#[test]
fn what_is_no_request_is_counted_and_named_by_its_line() {
    let text = format!("{}nonsense\n\n{{}}\n{}", log("c", [0.0]), log("c", [1.0]));
    let report = replayed("", text).to_string();
    assert!(report.contains("2 lines are no requests"), "{report}");
    assert!(report.contains("line 2: ") && report.contains("line 4: missing field"), "{report}");
    let long = format!("{}\n{}", "x".repeat(1 << 20), log("c", [0.0]));
    let report = replayed("", long).to_string();
    assert!(report.contains("line 1: the line is too long"), "{report}");
}
