//! What a supervisor is told, in the protocol of `sd_notify`.

use crate::rig::upgradable;
use crate::support::{DEADLINE, Gateway, GatewayBuilder, Upstream, eventually, until};
use std::os::unix::net::UnixDatagram;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// A supervisor's socket.
struct Supervisor {
    folder: TempDir,
    messages: Receiver<String>,
    heard: Vec<String>,
}

impl Supervisor {
    fn new() -> Supervisor {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        let (sender, messages) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                let message = String::from_utf8_lossy(&bytes[..length]).into_owned();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Supervisor { folder, messages, heard: Vec::new() }
    }

    /// `builder` with this supervisor.
    fn of(&self, builder: GatewayBuilder) -> GatewayBuilder {
        builder.env("NOTIFY_SOCKET", &self.folder.path().join("notify").display().to_string())
    }

    /// The next message with such a line, of those nobody has asked for yet.
    fn hears(&mut self, beginning: &str) -> String {
        let found = eventually(DEADLINE, || {
            self.heard.extend(self.messages.try_iter());
            let is_it = |message: &String| message.lines().any(|line| line.starts_with(beginning));
            let index = self.heard.iter().position(is_it)?;
            self.heard.drain(..=index).next_back()
        });
        found.unwrap_or_else(|| panic!("waited in vain for {beginning}; heard {:?}", self.heard))
    }
}

#[test]
fn it_is_told_of_start_reload_and_stop() {
    let upstream = Upstream::new();
    let mut supervisor = Supervisor::new();
    let mut gateway = supervisor.of(Gateway::before(&upstream)).start();
    let ready = supervisor.hears("READY=1");
    assert!(ready.contains(&format!("STATUS=serving on {}", gateway.data)), "{ready}");
    gateway.hang_up();
    let reloading = supervisor.hears("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let ready = supervisor.hears("READY=1");
    assert!(ready.contains("generation 2"), "{ready}");
    gateway.rewrite_as("routes: {}");
    gateway.hang_up();
    supervisor.hears("RELOADING=1");
    let ready = supervisor.hears("READY=1");
    assert!(ready.contains("generation 2") && ready.contains("rejected"), "{ready}");
    gateway.terminate();
    supervisor.hears("STOPPING=1");
    assert!(gateway.exit_within(DEADLINE).is_some());
}

#[test]
fn it_is_told_who_the_main_process_is_before_that_one_speaks() {
    let upstream = Upstream::new();
    let mut supervisor = Supervisor::new();
    let mut old = supervisor.of(upgradable(&upstream)).start();
    supervisor.hears("READY=1");
    let new = old.successor();
    until("it waits", || old.path("upgrade.sock").exists().then_some(()));
    old.signal("QUIT");
    assert_eq!(supervisor.hears("MAINPID=").trim(), format!("MAINPID={}", new.process()));
    supervisor.hears("READY=1");
    assert!(old.exit_within(DEADLINE).is_some());
    new.terminate();
    supervisor.hears("STOPPING=1");
}

#[test]
fn its_watchdog_is_fed_through_the_data_port() {
    let upstream = Upstream::new();
    let mut supervisor = Supervisor::new();
    let builder = Gateway::before(&upstream).server("access_log: stdout");
    let gateway = supervisor.of(builder).env("WATCHDOG_USEC", "600000").start();
    for _ in 0..3 {
        supervisor.hears("WATCHDOG=1");
    }
    assert_eq!(upstream.connections(), 0, "no upstream is asked for it");
    assert_eq!(gateway.stdout(), "", "nor does it show in the access log");
    let all = gateway.series();
    assert_eq!(all.value("gateway_requests_total{route=\"none\",status=\"404\"}"), 0.0);
    // Stopped, nothing answers; and what is stopped cannot feed either.
    gateway.signal("STOP");
    thread::sleep(Duration::from_millis(50));
    supervisor.heard.clear();
    let _ = supervisor.messages.try_iter().count();
    assert!(supervisor.messages.recv_timeout(Duration::from_secs(1)).is_err());
    gateway.signal("CONT");
    supervisor.hears("WATCHDOG=1");
}
