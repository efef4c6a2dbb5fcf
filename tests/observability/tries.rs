//! What the access log says of attempts.

use serde_json::{Value, json};

use crate::access_log::Log;
use crate::support::{Ending, Gateway, Upstream, fault, free_addresses, ok};

const RETRY: &str = "retry: {attempts: 2, backoff: {base: 1ms, max: 1ms}, \
                     when: [connect, timeout, reset, 502, 503, 504]}";

#[test]
fn a_first_attempt_that_succeeds_is_a_number_and_nothing_more() {
    let log = Log::new();
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server(&log.yaml()).start();
    assert_eq!(gateway.get("/").status, 200);
    let entry = log.entry(0);
    assert_eq!((&entry["attempts"], &entry["status"]), (&json!(1), &json!(200)));
    assert_eq!(entry["upstream"], upstream.address().to_string());
    assert_eq!(entry.get("tries"), None, "{entry}");
    assert_eq!(entry.get("refusal"), None, "{entry}");
}

#[test]
fn every_attempt_is_told_once_one_has_failed() {
    let log = Log::new();
    let (bad, good) = (Upstream::answering(fault::status(503)), Upstream::new());
    let gateway = Gateway::before(&good)
        .server(&log.yaml())
        .upstreams(&format!(
            "main: {{servers: [\"{}\", \"{}\"], ejection: none}}",
            bad.address(),
            good.address()
        ))
        .routes(&format!("- {{name: all, path: /, upstream: main, {RETRY}}}"))
        .start();
    for _ in 0..2 {
        assert_eq!(gateway.get("/").status, 200);
    }
    // The servers take turns, so one of the two requests began with the bad one.
    let entries = [log.entry(0), log.entry(1)];
    let entry = entries.iter().find(|entry| entry["attempts"] == 2).expect("a retry");
    let tries = entry["tries"].as_array().unwrap();
    assert_eq!(tries.len(), 2, "{entry}");
    for (index, (server, outcome, status)) in
        [(&bad, "status_5xx", 503), (&good, "ok", 200)].into_iter().enumerate()
    {
        let one = &tries[index];
        assert_eq!(one["upstream"], server.address().to_string(), "{entry}");
        assert_eq!((&one["outcome"], &one["status"]), (&json!(outcome), &json!(status)));
        let seconds = one["duration_seconds"].as_f64().unwrap();
        assert!(seconds > 0.0 && seconds < entry["duration_seconds"].as_f64().unwrap(), "{entry}");
    }
    assert_eq!(entry["upstream"], good.address().to_string(), "who answered");
    assert_eq!((&entry["status"], entry.get("refusal")), (&json!(200), None));
}

#[test]
fn what_failed_says_how() {
    let log = Log::new();
    let [nobody] = free_addresses();
    let upstream = Upstream::scripted(|head| match head.target() {
        "/reset" => fault::reset(),
        "/cut" => fault::mid_body(Ending::Close),
        "/5xx" => fault::status(500),
        _ => fault::silent(),
    });
    let gateway = Gateway::before(&upstream)
        .server(&log.yaml())
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], ejection: none, timeouts: {{read: 1s}}}}\n\
             dead: {{servers: [\"{nobody}\"]}}",
            upstream.address()
        ))
        .routes(&format!(
            "
            - {{name: all, path: /, upstream: main}}
            - {{name: dead, path: /dead, upstream: dead, {RETRY}}}"
        ))
        .start();
    let mut index = 0;
    let mut ask = |target: &str| {
        let _ = {
            let mut client = gateway.client();
            client.send(format!("GET {target} HTTP/1.1\r\nHost: tollgate.test\r\n\r\n"));
            client.try_reply()
        };
        index += 1;
        log.entry(index - 1)
    };
    for (target, outcome, status, refusal) in [
        ("/reset", "reset", None, Some("upstream-reset")),
        ("/silent", "timeout", None, Some("read-timeout")),
        ("/5xx", "status_5xx", Some(500), None),
        ("/cut", "reset", Some(200), Some("upstream-reset")),
    ] {
        let entry = ask(target);
        let tries = entry["tries"].as_array().unwrap_or_else(|| panic!("{entry}"));
        assert_eq!((tries.len(), &entry["attempts"]), (1, &json!(1)), "{entry}");
        assert_eq!(tries[0]["outcome"], outcome, "{entry}");
        assert_eq!(tries[0].get("status").and_then(Value::as_u64), status, "{entry}");
        assert_eq!(entry.get("refusal").and_then(Value::as_str), refusal, "{entry}");
    }
    let entry = ask("/dead");
    assert_eq!((&entry["attempts"], &entry["status"]), (&json!(3), &json!(502)));
    let tries = entry["tries"].as_array().unwrap();
    assert_eq!(tries.len(), 3, "{entry}");
    assert!(tries.iter().all(|one| one["outcome"] == "connect"), "{entry}");
    assert!(tries.iter().all(|one| one["upstream"] == nobody.to_string()), "{entry}");
    assert_eq!(entry["refusal"], "connect-failed");
}

#[test]
fn a_client_that_went_away_is_blamed_on_nobody() {
    let log = Log::new();
    let upstream = Upstream::answering(fault::silent());
    let gateway = Gateway::before(&upstream).server(&log.yaml()).start();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    upstream.wait_for(1);
    drop(client);
    let entry = log.entry(0);
    assert_eq!((&entry["status"], entry.get("refusal")), (&json!(499), None));
    assert_eq!(entry["tries"][0]["outcome"], "cancelled", "{entry}");
}

#[test]
fn retries_do_not_show_on_the_wire() {
    let upstream = Upstream::scripted(fault::run(1, fault::status(503), ok("fine")));
    let gateway = Gateway::before(&upstream)
        .routes(&format!("- {{name: all, path: /, upstream: main, {RETRY}}}"))
        .start();
    let reply = gateway.get("/");
    assert_eq!(reply.status, 200);
    let text = format!("{:?}", reply.head).to_ascii_lowercase();
    assert!(!text.contains("retry") && !text.contains("attempt"), "{text}");
}
