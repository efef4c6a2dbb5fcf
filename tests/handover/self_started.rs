//! The gateway starts its own successor: USR2, POST /upgrade, `tollgate upgrade`.

use crate::rig::{Stray, under_load, upgradable};
use crate::support::{
    Client, DEADLINE, Gateway, Upstream, free_addresses, run_to_exit, signal_process, until,
};
use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

/// `tollgate upgrade`, which prints the process that serves now.
fn upgrade(gateway: &Gateway) -> Stray {
    let folder = gateway.config();
    let folder = folder.parent().unwrap_or(Path::new("."));
    let finished = run_to_exit(folder, &["upgrade", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let process = finished.stdout.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    Stray(process.unwrap_or_else(|| panic!("which process? {finished:?}")))
}

#[test]
fn the_command_replaces_the_process_again_and_again_under_load() {
    let upstream = Upstream::new();
    let mut gateway = upgradable(&upstream).start();
    // Those that drain are left alone until all is over.
    let mut started: Vec<Stray> = Vec::new();
    let served = under_load(gateway.data, || {
        for _ in 0..4 {
            started.push(upgrade(&gateway));
        }
    });
    assert!(served > 50, "{served}");
    let numbers: HashSet<u32> = started.iter().map(|process| process.0).collect();
    assert_eq!(numbers.len(), 4, "a new process each time");
    assert_eq!(gateway.exit_within(DEADLINE).and_then(|status| status.code()), Some(0));
    assert_eq!(gateway.get("/").status, 200);
    // The last one can be stopped like the first.
    let last = started.last().expect("four were started").0;
    assert!(signal_process(last, "TERM"));
    until("it is gone", || (!signal_process(last, "0")).then_some(()));
}

#[test]
fn the_signal_does_the_same() {
    let upstream = Upstream::new();
    let mut gateway = upgradable(&upstream).start();
    gateway.signal("USR2");
    assert_eq!(gateway.exit_within(DEADLINE).and_then(|status| status.code()), Some(0));
    let log = gateway.stderr();
    let process = log.split("as process ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let _new = Stray(process.and_then(|word| word.parse().ok()).expect(&log));
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_successor_that_ends_at_once_leaves_the_old_process_serving() {
    let upstream = Upstream::new();
    let mut gateway = upgradable(&upstream).start();
    gateway.rewrite_as("routes: {}");
    let reply = gateway.admin_request("POST", "/upgrade", &[], "");
    assert_eq!(reply.status, 500);
    let detail = reply.json()["detail"].as_str().unwrap_or_default().to_owned();
    assert!(detail.contains("exit status: 64"), "{detail}");
    assert!(gateway.is_running());
    assert_eq!(gateway.get("/").status, 200);
    let folder = gateway.config();
    let folder = folder.parent().unwrap();
    let yaml = upgradable(&upstream).yaml(gateway.data, gateway.admin, gateway.metrics);
    gateway.rewrite_as(&yaml.replace("upgrade_socket", "access_log: {file: /}\n  upgrade_socket"));
    let finished = run_to_exit(folder, &["upgrade", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("server.access_log"), "it says why: {}", finished.stderr);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn the_admin_api_can_move_with_an_upgrade() {
    let upstream = Upstream::new();
    let folder = tempfile::tempdir().unwrap();
    let mut gateway = Gateway::before(&upstream)
        .env("XDG_RUNTIME_DIR", &folder.path().display().to_string())
        .start();
    let [elsewhere] = free_addresses();
    let yaml = Gateway::before(&upstream).yaml(gateway.data, elsewhere, gateway.metrics);
    gateway.rewrite_as(&yaml);
    let reply = gateway.admin_request("POST", "/upgrade", &[], "");
    assert_eq!(reply.status, 200, "{}", reply.text());
    let process = reply.json()["process"].as_u64().and_then(|process| process.try_into().ok());
    let _new = Stray(process.expect("a process"));
    assert!(gateway.exit_within(DEADLINE).is_some());
    assert_eq!(Client::connect(elsewhere).get("/ready").status, 200);
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn a_link_that_leads_to_another_binary_by_now_is_followed() {
    let upstream = Upstream::new();
    let folder = tempfile::tempdir().unwrap();
    let [data, admin, metrics] = free_addresses();
    let yaml = upgradable(&upstream).yaml(data, admin, metrics);
    fs::write(folder.path().join("tollgate.yaml"), yaml).unwrap();
    let link = folder.path().join("tollgate");
    symlink(env!("CARGO_BIN_EXE_tollgate"), &link).unwrap();
    let mut running = Command::new(&link)
        .args(["run", "-c", "tollgate.yaml"])
        .current_dir(folder.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("it serves", || Client::try_connect(data));
    fs::remove_file(&link).unwrap();
    symlink("/bin/false", &link).unwrap();
    let finished = run_to_exit(folder.path(), &["upgrade", "-c", "tollgate.yaml"]);
    let _ = running.kill();
    let _ = running.wait();
    assert!(finished.stderr.contains("exit status: 1"), "the other one ran: {finished:?}");
}

#[test]
fn one_upgrade_at_a_time() {
    let upstream = Upstream::new();
    let mut gateway = upgradable(&upstream).start();
    gateway.signal("QUIT");
    until("it looks for a successor, which takes seconds, for none is there", || {
        gateway.stderr().contains("looking for a successor").then_some(())
    });
    assert_eq!(gateway.admin_request("POST", "/upgrade", &[], "").status, 409);
    assert!(gateway.is_running());
}
