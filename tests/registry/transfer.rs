//! `tollgate clients import` and `export`.

use crate::rig::{all_of, change, lasting};
use crate::support::{Finished, Gateway, Upstream, run_to_exit};
use serde_json::Value;
use std::fmt::Write;
use std::fs;

fn tollgate(gateway: &Gateway, arguments: &[&str]) -> Finished {
    let config = gateway.config();
    let arguments = [&["clients"], arguments, &["-c", "tollgate.yaml"]].concat();
    run_to_exit(config.parent().unwrap(), &arguments)
}

fn import(gateway: &Gateway, name: &str, text: &str) -> Finished {
    fs::write(gateway.path(name), text).unwrap();
    tollgate(gateway, &["import", name])
}

fn changed(gateway: &Gateway) -> Vec<Value> {
    let mut all = all_of(gateway, "clients", 1_000);
    all.retain(|client| !client["changed"].is_null());
    all
}

#[test]
fn what_is_exported_can_be_imported_elsewhere() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let mut text = "client,tier,capacity,refill_rate\n".to_owned();
    for number in 0..1_234 {
        let _ = match number % 3 {
            0 => writeln!(text, "client-{number:05},gold,,"),
            1 => writeln!(text, "client-{number:05},,{},0.25", number + 1),
            _ => writeln!(text, "\"c,\"\"{number:05}\",free,7,1e-3"),
        };
    }
    let finished = import(&gateway, "clients.csv", &text);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stderr.contains("1234 clients imported"), "{}", finished.stderr);
    change(&gateway, "POST", "/clients/with-key/keys", "{}");
    let here = changed(&gateway);
    assert_eq!(here.len(), 1_235);

    for format in ["csv", "jsonl"] {
        let exported = tollgate(&gateway, &["export", "--format", format]);
        assert_eq!(exported.code, Some(0), "{}", exported.stderr);
        let there = lasting(&upstream).start();
        let finished = import(&there, "copy", &exported.stdout);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        assert_eq!(changed(&there), here[..1_234], "all but the key");
        assert_eq!(tollgate(&there, &["export", "--format", format]).stdout, exported.stdout);
        let again = import(&there, "copy", &exported.stdout);
        assert_eq!(again.code, Some(0), "{again:?}");
        assert_eq!(changed(&there).len(), 1_234);
    }
    let some = tollgate(&gateway, &["export", "--format", "jsonl", "--prefix", "client-0000"]);
    assert_eq!(some.stdout.lines().count(), 7, "{}", some.stdout);
}

#[test]
fn a_wrong_line_is_named_and_what_came_before_stays() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let mut text = String::new();
    for number in 0..1_200 {
        let tier = if number == 1_100 { "platinum" } else { "gold" };
        let _ = writeln!(text, r#"{{"client":"c{number}","tier":"{tier}"}}"#);
    }
    let finished = import(&gateway, "clients.jsonl", &text);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("line 1101: tier is wrong"), "{}", finished.stderr);
    assert!(finished.stderr.contains("nothing was set from line 1001 on"), "{}", finished.stderr);
    assert_eq!(changed(&gateway).len(), 1_000);
    let finished = import(&gateway, "clients.jsonl", &text.replace("platinum", "gold"));
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(changed(&gateway).len(), 1_200);

    for (text, told) in [
        ("client,tier\nx,gold\ny\n", "line 3: there are 1 values for 2 columns"),
        ("name\nx\n", "line 1: \"name\" is not a column"),
        ("client,tier\n\"x,gold\n", "line 2: a quotation mark is not closed"),
        ("client,capacity,refill_rate\nx,0,1\n", "line 2: capacity is wrong"),
        ("client,tier\nx y,gold\n", "line 2: client is wrong"),
    ] {
        let finished = import(&gateway, "wrong.csv", text);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(told), "{}", finished.stderr);
    }
    let twice = text.replace("platinum", "gold").replace("\"c1150\"", "\"c7\"");
    let finished = import(&gateway, "twice.jsonl", &twice);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("line 1151: \"c7\" is there twice"), "{}", finished.stderr);
    for (row, told) in [
        (r#"{"client":"x","tier":"gold","tier":"free"}"#, "occurs twice"),
        (r#"{"client":"x","tier":"gold","line":-1}"#, "line is wrong"),
    ] {
        let body = format!(r#"{{"clients":[{row}]}}"#);
        let reply = gateway.admin_request("POST", "/clients", &[], &body);
        assert_eq!((reply.status, &reply.json()["field"]), (400, &"clients".into()), "{row}");
        assert!(reply.text().contains(told), "{}", reply.text());
    }
    assert_eq!(tollgate(&gateway, &["import", "nowhere.csv"]).code, Some(1));
    assert_eq!(changed(&gateway).len(), 1_200);
}

#[test]
fn who_exports_is_told_of_tiers_that_are_gone_and_of_a_refusal() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    change(&gateway, "PUT", "/clients/a/tier", r#"{"tier":"gold"}"#);
    change(&gateway, "PUT", "/clients/b/tier", r#"{"tier":"free"}"#);
    let exported = tollgate(&gateway, &["export"]);
    assert!(!exported.stderr.contains("warning"), "{}", exported.stderr);
    let text = fs::read_to_string(gateway.config()).unwrap();
    fs::write(gateway.config(), text.replace("gold", "silver")).unwrap();
    change(&gateway, "POST", "/reload", "{}");
    let exported = tollgate(&gateway, &["export"]);
    assert_eq!(exported.code, Some(0), "{exported:?}");
    assert!(exported.stdout.contains("a,gold,,"), "{}", exported.stdout);
    assert!(exported.stderr.contains("warning: 1 of them"), "{}", exported.stderr);
    // The command finds another token in the file than the gateway found there.
    let guarded = lasting(&upstream).admin("token: one-of-some-length").start();
    let text = fs::read_to_string(guarded.config()).unwrap();
    fs::write(guarded.config(), text.replace("one-of-some", "another-of-some")).unwrap();
    let refused = tollgate(&guarded, &["export"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("not all clients were exported"), "{}", refused.stderr);
}

#[test]
fn without_a_gateway_there_is_nobody_to_tell() {
    let upstream = Upstream::new();
    let mut gateway = lasting(&upstream).start();
    gateway.kill();
    let finished = import(&gateway, "clients.csv", "client,tier\na,gold\n");
    assert_eq!(finished.code, Some(69), "{finished:?}");
    assert_eq!(tollgate(&gateway, &["export"]).code, Some(69));
}
