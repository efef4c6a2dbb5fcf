//! The registry passes to a successor and comes back from one that fails, and no change that was
//! acknowledged is lost.

use crate::rig::{all_of, change, lasting};
use crate::support::{DEADLINE, Gateway, Upstream, run_to_exit, signal_process, until};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A process that no child handle holds; ended with the test.
struct Stray(u32);

impl Drop for Stray {
    fn drop(&mut self) {
        signal_process(self.0, "KILL");
    }
}

/// Ends the writers also where what goes on meanwhile fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Replaces the gateway that serves; the process that serves then. A process that has just been
/// replaced may close the connection before it reads what was asked.
fn upgrade(folder: &Path) -> Stray {
    until("it is replaced", || {
        let finished = run_to_exit(folder, &["upgrade", "-c", "tollgate.yaml"]);
        if finished.code == Some(69) {
            return None;
        }
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let process = finished.stdout.split_whitespace().nth(1).and_then(|word| word.parse().ok());
        Some(Stray(process.unwrap_or_else(|| panic!("which process? {finished:?}"))))
    })
}

fn hand_over(old: &Gateway) {
    until("the successor waits", || old.path("upgrade.sock").exists().then_some(()));
    old.signal("QUIT");
}

fn set(gateway: &Gateway, id: &str) {
    change(gateway, "PUT", &format!("/clients/{id}/tier"), r#"{"tier":"gold"}"#);
}

fn clients(gateway: &Gateway) -> BTreeSet<String> {
    let clients = all_of(gateway, "clients", 1_000);
    clients.iter().map(|client| client["client"].as_str().unwrap().to_owned()).collect()
}

/// Sets one client after the other until it is over; those whose change was acknowledged, and
/// how many were refused for a moment.
fn set_many(gateway: &Gateway, prefix: &str, is_over: &AtomicBool) -> (Vec<String>, usize) {
    let (mut set, mut refused) = (Vec::new(), 0);
    for number in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{prefix}{number}");
        let Some(mut client) = crate::support::Client::try_connect(gateway.admin) else { continue };
        let body = r#"{"tier":"gold"}"#;
        let request = format!(
            "PUT /clients/{id}/tier HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if client.try_send(request).is_err() {
            continue;
        }
        let Ok(Some(reply)) = client.try_reply() else { continue };
        match reply.status {
            200 => set.push(id),
            503 => {
                assert!(reply.header("retry-after").is_some(), "{}", reply.text());
                refused += 1;
            }
            status => panic!("{status}: {}", reply.text()),
        }
    }
    (set, refused)
}

#[test]
fn nothing_acknowledged_is_lost_while_processes_come_and_go() {
    let upstream = Upstream::new();
    let mut gateway = lasting(&upstream).start();
    let folder = gateway.config().parent().unwrap().to_owned();
    let is_over = AtomicBool::new(false);
    let mut processes = Vec::new();
    let acknowledged: Vec<String> = thread::scope(|scope| {
        let (gateway, is_over) = (&gateway, &is_over);
        let writers: Vec<_> = ["a", "b", "c"]
            .into_iter()
            .map(|prefix| scope.spawn(move || set_many(gateway, prefix, is_over)))
            .collect();
        let stop = Stop(is_over);
        for _ in 0..3 {
            processes.push(upgrade(&folder));
        }
        drop(stop);
        writers.into_iter().flat_map(|writer| writer.join().unwrap().0).collect()
    });
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    assert!(gateway.exit_within(DEADLINE).is_some());
    let kept = clients(&gateway);
    let lost: Vec<_> = acknowledged.iter().filter(|id| !kept.contains(*id)).collect();
    assert!(lost.is_empty(), "{} of {}: {lost:?}", lost.len(), acknowledged.len());
    set(&gateway, "last");
}

#[test]
fn a_successor_that_ends_gives_the_registry_back() {
    let upstream = Upstream::new();
    let builder = lasting(&upstream);
    let gateway = builder.start();
    set(&gateway, "before");
    // It takes everything over but cannot open this.
    let yaml = builder.yaml(gateway.data, gateway.admin, gateway.metrics);
    gateway.rewrite_as(&yaml.replace("upgrade_socket", "access_log: {file: /}\n  upgrade_socket"));
    let failed = gateway.admin_request("POST", "/upgrade", &[], "");
    assert_eq!(failed.status, 500, "{}", failed.text());
    gateway.rewrite_as(&yaml);
    set(&gateway, "after");
    assert_eq!(gateway.admin_get("/health").json()["registry"], "durable");
}

/// A successor that this test plays: it has the sockets and the registry, and does not serve.
struct Played {
    stream: UnixStream,
    registry: redb::Database,
}

impl Played {
    fn takes_over_from(old: &Gateway) -> Played {
        let listener = UnixListener::bind(old.path("upgrade.sock")).unwrap();
        old.signal("QUIT");
        // The sockets come with this line; reading it like any other closes them.
        let (mut stream, _) = listener.accept().unwrap();
        std::fs::remove_file(old.path("upgrade.sock")).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("sockets"));
        set(old, "until-asked");
        stream.write_all(b"\"release\"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "\"released\"");
        let registry = redb::Database::open(old.path("state/registry.redb")).unwrap();
        Played { stream, registry }
    }
}

/// Whether a change is made; if not, it must be said when to ask again.
fn can_change(gateway: &Gateway, id: &str) -> bool {
    let target = format!("/clients/{id}/tier");
    let reply = gateway.admin_request("PUT", &target, &[], r#"{"tier":"gold"}"#);
    if reply.status == 503 {
        assert_eq!(reply.header("retry-after"), Some("1"));
        assert_eq!(gateway.admin_get(&format!("/clients/{id}")).status, 200);
        assert_eq!(gateway.get("/").status, 200, "requests go on");
    }
    reply.status == 200
}

#[test]
fn a_successor_that_dies_with_the_registry_open_gives_it_back() {
    let upstream = Upstream::new();
    let mut gateway = lasting(&upstream).start();
    set(&gateway, "before");
    let Played { stream, registry } = Played::takes_over_from(&gateway);
    assert!(!can_change(&gateway, "x"));
    assert_eq!(gateway.admin_get("/clients").status, 503, "the list is in the file");
    assert_eq!(gateway.admin_get("/health").json()["registry"], "handed_over");
    drop(stream);
    until("it has noticed", || gateway.stderr().contains("no upgrade").then_some(()));
    assert!(!can_change(&gateway, "x"), "the file is not free yet");
    drop(registry);
    until("changes are made again", || can_change(&gateway, "after").then_some(()));
    assert!(gateway.is_running());
    assert_eq!(gateway.admin_get("/health").json()["registry"], "durable");

    let new = gateway.successor();
    hand_over(&gateway);
    assert!(gateway.exit_within(DEADLINE).is_some());
    let kept = clients(&new);
    for id in ["before", "until-asked", "after"] {
        assert!(kept.contains(id), "{id} {kept:?}");
    }
    assert!(!kept.contains("x"));
}

#[test]
fn a_successor_that_says_it_failed_gives_the_registry_back() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let Played { mut stream, registry } = Played::takes_over_from(&gateway);
    drop(registry);
    stream.write_all(b"{\"failed\":{\"why\":\"no room\"}}\n").unwrap();
    until("changes are made again", || can_change(&gateway, "after").then_some(()));
    until("it has said so", || gateway.stderr().contains("no room").then_some(()));
}

#[test]
fn two_gateways_cannot_have_one_registry() {
    let upstream = Upstream::new();
    let gateway = lasting(&upstream).start();
    let [data, admin, metrics] = crate::support::free_addresses();
    let yaml = lasting(&upstream).yaml(data, admin, metrics);
    std::fs::write(gateway.path("other.yaml"), yaml).unwrap();
    let folder = gateway.config().parent().unwrap().to_owned();
    let finished = run_to_exit(&folder, &["run", "-c", "other.yaml"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("state_dir"), "{}", finished.stderr);
}

#[test]
fn a_damaged_file_does_not_keep_the_gateway_from_serving() {
    let upstream = Upstream::new();
    let mut gateway = lasting(&upstream).start();
    set(&gateway, "lost");
    gateway.kill();
    std::fs::write(gateway.path("state/registry.redb"), "not a registry at all").unwrap();
    let gateway = gateway.another();
    assert_eq!(gateway.get("/").status, 200);
    let health = gateway.admin_get("/health");
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["status"], "degraded");
    assert_eq!(health.json()["registry"], "anew");
    assert!(gateway.stderr().contains("registry.redb.damaged-"), "{}", gateway.stderr());
    set(&gateway, "kept");
    assert!(clients(&gateway).contains("kept"));
}
