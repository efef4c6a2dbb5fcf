//! `tollgate simulate` on what a gateway wrote.

use std::fs;
use std::path::Path;

use crate::rig::{BY_HEADER, get_as};
use crate::support::{Finished, Gateway, Upstream, run_to_exit, until};

#[track_caller]
fn simulate(dir: &Path, config: &str, log: &Path) -> Finished {
    let file = dir.join("new.yaml");
    fs::write(&file, config).unwrap();
    let (file, log) = (file.to_str().unwrap(), log.to_str().unwrap());
    run_to_exit(dir, &["simulate", "--config", file, log])
}

fn config(more: &str) -> String {
    format!(
        "upstreams: {{main: {{servers: [127.0.0.1:9]}}}}\n\
         routes: [{{name: new, path: /, upstream: main}}]\n{more}"
    )
}

/// The words of the line that begins like this.
#[track_caller]
fn words<'a>(report: &'a str, begin: &str) -> Vec<&'a str> {
    let line = report.lines().find(|line| line.starts_with(begin));
    line.unwrap_or_else(|| panic!("no {begin:?} in\n{report}")).split_whitespace().collect()
}

#[test]
fn a_log_of_the_gateway_is_replayed_and_compared() {
    let upstream = Upstream::new();
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let gateway = Gateway::before(&upstream)
        .server(&format!("access_log: {{file: \"{}\"}}", log.display()))
        .clients(BY_HEADER)
        .tiers("free: {rate: 1/d, burst: 8}")
        .start();
    for (client, requests) in [("a", 10), ("b", 5)] {
        for _ in 0..requests {
            get_as(&gateway, client, "/x");
        }
    }
    until("the log is written", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (text.lines().count() == 15).then_some(())
    });
    let before = upstream.requests().len();
    let said = simulate(dir.path(), &config("tiers: {free: {rate: 1/d, burst: 3}}"), &log);
    assert_eq!(said.code, Some(0), "{said:?}");
    let report = said.stdout;
    assert_eq!(words(&report, "15 requests,").len(), 5);
    assert_eq!(words(&report, "limited, as the log says")[5..], ["2", "13.3", "%"]);
    assert_eq!(words(&report, "limited by this configuration")[4..], ["9", "60.0", "%"]);
    assert_eq!(words(&report, "  of them passed before")[4..], ["7", "46.7", "%"]);
    let row = words(&report, "free             new ");
    assert_eq!(row, ["free", "new", "tier", "0", "9", "60.0", "%"], "{report}");
    assert_eq!(words(&report, "a  "), ["a", "7"], "{report}");
    assert_eq!(upstream.requests().len(), before, "nothing is sent anywhere");
    let generous = simulate(dir.path(), &config("tiers: {free: {rate: 9/s, burst: 99}}"), &log);
    assert_eq!(words(&generous.stdout, "limited before and passing now")[5..], ["2", "13.3", "%"]);
}

#[test]
fn the_exit_code_says_what_was_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("access.log");
    let missing = simulate(dir.path(), &config(""), &log);
    assert_eq!(missing.code, Some(66), "{missing:?}");
    assert!(missing.stderr.contains("access.log"), "{missing:?}");
    fs::write(&log, "192.0.2.1 - - [14/Nov/2023:22:13:20 +0000] \"GET / HTTP/1.1\" 200 5\n")
        .unwrap();
    let combined = simulate(dir.path(), &config(""), &log);
    assert_eq!(combined.code, Some(66), "{combined:?}");
    assert!(combined.stderr.contains("no line of it is a request in JSON; line 1"), "{combined:?}");
    let wrong = simulate(dir.path(), &config("tiers: {free: {rate: 0/s}}"), &log);
    assert_eq!(wrong.code, Some(64), "{wrong:?}");
    assert!(wrong.stderr.contains("tiers.free.rate"), "{wrong:?}");
}
