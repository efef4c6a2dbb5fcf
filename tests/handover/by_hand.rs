//! `tollgate run --upgrade`, then QUIT to the old process.

use crate::rig::{under_load, upgradable};
use crate::support::{
    Answer, DEADLINE, End, Gate, Gateway, Upstream, eventually, ok, run_to_exit, until,
};
use std::fs;
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// Tells `old` to hand over to a successor that waits.
fn hand_over(old: &Gateway) {
    until("the successor waits", || old.path("upgrade.sock").exists().then_some(()));
    old.signal("QUIT");
}

#[test]
fn the_successor_serves_on_the_same_sockets_and_the_old_process_ends() {
    let upstream = Upstream::new();
    let mut old = upgradable(&upstream).start();
    let mut new = old.successor();
    hand_over(&old);
    assert_eq!(old.exit_within(DEADLINE).expect("the old process ends").code(), Some(0));
    assert!(new.is_running());
    assert_eq!(new.get("/after").text(), "GET /after");
    assert_eq!(new.readiness(), Some(200));
    new.series_once("gateway_requests_total{route=\"all\",status=\"200\"}", 1.0);
    assert!(!new.path("upgrade.sock").exists(), "nobody waits there any more");
}

#[test]
fn no_request_fails_while_processes_come_and_go() {
    let upstream = Upstream::new();
    let mut serving = upgradable(&upstream).start();
    let served = under_load(serving.data, || {
        for _ in 0..5 {
            let new = serving.successor();
            hand_over(&serving);
            assert!(serving.exit_within(DEADLINE).is_some(), "the old process ends");
            serving = new;
        }
    });
    assert!(served > 50, "{served}");
}

#[test]
fn a_request_in_flight_is_answered_by_the_process_that_took_it() {
    let gate = Gate::default();
    let held = Answer::Held(gate.clone(), Box::new(ok("late")));
    let upstream = Upstream::scripted(move |head| match head.target() {
        "/held" => held.clone(),
        _ => ok("quick"),
    });
    let mut old = upgradable(&upstream).start();
    let mut client = old.client();
    client.send("GET /held HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    upstream.wait_for(1);
    let new = old.successor();
    hand_over(&old);
    until("the new process is ready", || (new.readiness() == Some(200)).then_some(()));
    assert_eq!(new.get("/quick").text(), "quick");
    assert!(old.is_running(), "it waits for what is in flight");
    gate.open();
    assert_eq!(client.reply().text(), "late");
    assert!(old.exit_within(DEADLINE).is_some());
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_web_socket_stays_with_the_old_process_until_it_ends() {
    let acceptance = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let upstream = Upstream::answering(Answer::Upgrade(acceptance.to_owned()));
    let mut old = upgradable(&upstream).start();
    let mut socket = old.client();
    socket.send(
        "GET / HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    assert_eq!(socket.next_head().status(), 101);
    let new = old.successor();
    hand_over(&old);
    until("the new process is ready", || (new.readiness() == Some(200)).then_some(()));
    // Longer than what is silent may stay while the process drains.
    assert!(old.exit_within(Duration::from_secs(1)).is_none());
    socket.send("still here");
    assert_eq!(socket.exactly(10), b"still here");
    drop(socket);
    assert!(old.exit_within(DEADLINE).is_some(), "nothing is left");
}

#[test]
fn without_a_successor_the_old_process_goes_on_and_says_so() {
    let upstream = Upstream::new();
    let mut gateway = upgradable(&upstream).start();
    gateway.signal("QUIT");
    until("it gives up", || gateway.stderr().contains("no successor waits at").then_some(()));
    assert!(gateway.is_running());
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.readiness(), Some(200));
}

#[test]
fn a_successor_that_dies_with_the_sockets_changes_nothing() {
    let upstream = Upstream::new();
    let mut old = upgradable(&upstream).start();
    let socket = old.path("upgrade.sock");
    for _ in 0..3 {
        // Takes the sockets as a successor would, and is gone.
        let listener = UnixListener::bind(&socket).unwrap();
        old.signal("QUIT");
        let (stream, _) = listener.accept().unwrap();
        drop(listener);
        fs::remove_file(&socket).unwrap();
        let said = old.stderr().matches("the successor went away").count();
        drop(stream);
        until("it notices", || {
            (old.stderr().matches("the successor went away").count() > said).then_some(())
        });
        assert!(old.is_running());
        assert_eq!(old.get("/").status, 200);
    }
    // What failed before does not spoil what follows.
    let new = old.successor();
    hand_over(&old);
    assert!(old.exit_within(DEADLINE).is_some());
    assert_eq!(new.get("/").status, 200);
}

#[test]
fn a_successor_that_is_killed_on_the_way_changes_nothing() {
    let upstream = Upstream::new();
    let mut old = upgradable(&upstream).start();
    let new = old.successor();
    until("it waits", || old.path("upgrade.sock").exists().then_some(()));
    // Stopped, it takes the sockets but never serves.
    new.signal("STOP");
    old.signal("QUIT");
    until("it has them", || old.stderr().contains("is given the sockets").then_some(()));
    assert_eq!(old.get("/").status, 200, "served while the successor is waited for");
    new.signal("KILL");
    until("it notices", || old.stderr().contains("no upgrade").then_some(()));
    assert!(old.is_running());
    assert_eq!(old.get("/").status, 200);
}

#[test]
fn a_successor_that_is_not_ready_in_time_is_given_up_and_ends() {
    let upstream = Upstream::new();
    let mut old = upgradable(&upstream).start();
    let mut new = old.successor();
    until("it waits", || old.path("upgrade.sock").exists().then_some(()));
    new.signal("STOP");
    old.signal("QUIT");
    let given_up = eventually(Duration::from_secs(40), || {
        old.stderr().contains("not ready within 30s").then_some(())
    });
    assert!(given_up.is_some(), "{}", old.stderr());
    assert!(old.is_running());
    assert_eq!(old.get("/").status, 200);
    new.signal("CONT");
    let status = new.exit_within(DEADLINE).expect("a successor that is not wanted ends");
    assert_ne!(status.code(), Some(0));
    assert_eq!(old.get("/").status, 200);
}

#[test]
fn a_gateway_told_to_stop_gives_up_its_successor_and_ends() {
    let upstream = Upstream::new();
    let mut old = upgradable(&upstream).start();
    let mut new = old.successor();
    until("it waits", || old.path("upgrade.sock").exists().then_some(()));
    new.signal("STOP");
    old.signal("QUIT");
    until("the hand-over is under way", || {
        old.stderr().contains("is given the sockets").then_some(())
    });
    // They are in a process that does not serve them.
    assert_eq!(old.get("/").status, 200);
    old.terminate();
    assert!(old.exit_within(Duration::from_secs(3)).is_some(), "it does not wait for 30 s");
    new.signal("CONT");
    let status = new.exit_within(DEADLINE).expect("nobody wants the successor");
    assert_ne!(status.code(), Some(0));
    assert!(crate::support::Client::try_connect(old.data).is_none(), "nobody listens");
}

#[test]
fn a_successor_whose_configuration_is_wrong_never_waits() {
    let upstream = Upstream::new();
    let old = upgradable(&upstream).start();
    old.rewrite_as("routes: {}");
    let mut new = old.successor();
    assert_eq!(new.exit_within(DEADLINE).and_then(|status| status.code()), Some(64));
    assert_eq!(old.get("/").status, 200);
}

#[test]
fn a_second_successor_is_told_that_one_waits_already() {
    let upstream = Upstream::new();
    let old = upgradable(&upstream).start();
    let _first = old.successor();
    until("it waits", || old.path("upgrade.sock").exists().then_some(()));
    let mut second = old.successor();
    assert!(second.exit_within(DEADLINE).is_some_and(|status| !status.success()));
    assert!(second.stderr().contains("waits at upgrade.sock already"), "{}", second.stderr());
}

#[test]
fn what_a_dead_successor_left_behind_is_in_nobodys_way() {
    let upstream = Upstream::new();
    let mut old = upgradable(&upstream).start();
    let dead = old.successor();
    until("it waits", || old.path("upgrade.sock").exists().then_some(()));
    drop(dead);
    assert!(old.path("upgrade.sock").exists(), "killed, it could not tidy up");
    let new = old.successor();
    until("the next one waits", || new.stderr().contains("waiting at").then_some(()));
    old.signal("QUIT");
    assert!(old.exit_within(DEADLINE).is_some());
    assert_eq!(new.get("/").status, 200);
}

#[test]
fn a_new_address_is_opened_and_one_that_is_gone_is_closed() {
    let upstream = Upstream::new();
    let [further] = crate::support::free_addresses();
    let mut old = upgradable(&upstream).start();
    let (data, admin, metrics) = (old.data, old.admin, old.metrics);
    let yaml = upgradable(&upstream).yaml(data, admin, metrics);
    let listen = format!("listen: \"{data}\"");
    old.rewrite_as(&yaml.replace(&listen, &format!("listen: [\"{data}\", \"{further}\"]")));
    let mut both = old.successor();
    hand_over(&old);
    assert!(old.exit_within(DEADLINE).is_some());
    for address in [data, further] {
        assert_eq!(crate::support::Client::connect(address).get("/").status, 200, "{address}");
    }
    both.rewrite_as(&yaml);
    let one = both.successor();
    hand_over(&both);
    assert!(both.exit_within(DEADLINE).is_some());
    assert_eq!(one.get("/").status, 200);
    assert!(crate::support::Client::try_connect(further).is_none(), "nobody listens there");
    assert!(one.stderr().contains(&further.to_string()), "it says so: {}", one.stderr());
}

#[test]
fn upgrade_sockets_path_that_cannot_be_is_an_error_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let upstream = Upstream::new();
    let [data, admin, metrics] = crate::support::free_addresses();
    let builder = Gateway::before(&upstream).server("upgrade_socket: nowhere/upgrade.sock");
    fs::write(dir.path().join("c.yaml"), builder.yaml(data, admin, metrics)).unwrap();
    let finished = run_to_exit(dir.path(), &["run", "-c", "c.yaml", "--upgrade"]);
    assert_ne!(finished.code, Some(0));
    assert!(finished.stderr.contains("nowhere/upgrade.sock"), "{}", finished.stderr);
}
