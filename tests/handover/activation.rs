//! Sockets that systemd holds for the service.

use crate::rig::under_load;
use crate::support::{
    Client, DEADLINE, Gateway, GatewayBuilder, Upstream, command, eventually, free_addresses, until,
};
use rustix::io::{FdFlags, fcntl_setfd};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Runs the binary as systemd would: with the listener's descriptor, and its own number in
/// LISTEN_PID, which the shell has before it becomes the binary.
fn activated(listener: &TcpListener, folder: &Path, number_of_process: &str) -> Activated {
    let binary = env!("CARGO_BIN_EXE_tollgate");
    let script = format!("LISTEN_PID={number_of_process} exec {binary} run -c tollgate.yaml");
    let child = Command::new("sh")
        .args(["-c", &script])
        .current_dir(folder)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDS_FIRST_FD", listener.as_raw_fd().to_string())
        .env("RUST_LOG", "info")
        .stderr(Stdio::from(fs::File::create(folder.join("stderr")).unwrap()))
        .spawn()
        .unwrap();
    Activated(child)
}

/// Ended with the test.
struct Activated(Child);

impl Activated {
    fn stop(&mut self) {
        assert!(crate::support::signal_process(self.0.id(), "TERM"));
        let ended = eventually(DEADLINE, || self.0.try_wait().unwrap());
        assert_eq!(ended.and_then(|status| status.code()), Some(0));
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A listener that survives `exec`.
fn held() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    fcntl_setfd(&listener, FdFlags::empty()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn written(builder: &GatewayBuilder, data: SocketAddr) -> (tempfile::TempDir, SocketAddr) {
    let folder = tempfile::tempdir().unwrap();
    let [admin, metrics] = free_addresses();
    fs::write(folder.path().join("tollgate.yaml"), builder.yaml(data, admin, metrics)).unwrap();
    (folder, admin)
}

#[test]
fn a_connection_made_while_nobody_serves_is_served_later() {
    let upstream = Upstream::new();
    let (listener, address) = held();
    let (folder, _) = written(&Gateway::before(&upstream), address);
    let mut early = Client::connect(address);
    early.send("GET /early HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    let _gateway = activated(&listener, folder.path(), "$$");
    assert_eq!(early.reply().text(), "GET /early");
}

#[test]
fn no_request_fails_while_the_service_restarts() {
    let upstream = Upstream::new();
    let (listener, address) = held();
    let (folder, admin) = written(&Gateway::before(&upstream), address);
    let mut gateway = activated(&listener, folder.path(), "$$");
    let served = under_load(address, || {
        for _ in 0..5 {
            until("it is ready", || ready(admin).then_some(()));
            gateway.stop();
            gateway = activated(&listener, folder.path(), "$$");
        }
    });
    assert!(served > 5, "one for each restart at least: {served}");
}

fn ready(admin: SocketAddr) -> bool {
    Client::try_connect(admin).is_some_and(|mut client| {
        let asked = client.try_send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
        asked.is_ok() && client.try_reply().ok().flatten().is_some_and(|reply| reply.status == 200)
    })
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let upstream = Upstream::new();
    let (listener, address) = held();
    let (folder, _) = written(&Gateway::before(&upstream), address);
    let mut gateway = activated(&listener, folder.path(), "1");
    let ended = eventually(DEADLINE, || gateway.0.try_wait().unwrap());
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "the port is taken");
    let said = fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert!(said.contains("in use"), "{said}");
}

#[test]
fn a_socket_nobody_asked_for_is_named() {
    let upstream = Upstream::new();
    let (listener, passed) = held();
    let [data] = free_addresses();
    let (folder, admin) = written(&Gateway::before(&upstream), data);
    let _gateway = activated(&listener, folder.path(), "$$");
    until("it is ready", || ready(admin).then_some(()));
    let said = fs::read_to_string(folder.path().join("stderr")).unwrap();
    assert!(said.contains(&format!("the socket on {passed}")), "{said}");
}

#[test]
fn systemd_itself_can_pass_the_socket() {
    let upstream = Upstream::new();
    let [data] = free_addresses();
    let (folder, _) = written(&Gateway::before(&upstream), data);
    let binary = command(folder.path()).get_program().to_owned();
    let child = Command::new("systemd-socket-activate")
        .args(["-l", &data.to_string()])
        .arg(binary)
        .args(["run", "-c", "tollgate.yaml"])
        .current_dir(folder.path())
        .spawn()
        .expect("systemd-socket-activate starts: it is in Debian's package systemd");
    let _gateway = Activated(child);
    // It begins to listen a moment after it starts, and starts the gateway at the first
    // connection.
    let mut client = until("somebody listens", || Client::try_connect(data));
    assert_eq!(client.get("/first").text(), "GET /first");
}
