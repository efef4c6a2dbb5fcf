//! What the hand-over is tried with.

use crate::support::{Client, Gateway, GatewayBuilder, Upstream, signal_process};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A gateway whose successors wait beside its configuration.
pub(crate) fn upgradable(upstream: &Upstream) -> GatewayBuilder {
    Gateway::before(upstream).server("upgrade_socket: upgrade.sock\nworkers: 2")
}

/// A process that no child handle holds; ended with the test.
#[derive(Debug)]
pub(crate) struct Stray(pub(crate) u32);

impl Drop for Stray {
    fn drop(&mut self) {
        signal_process(self.0, "KILL");
    }
}

/// Keeps clients asking while `meanwhile` goes on: two that keep their connections, one that
/// makes a new one for each request. Every request must be answered with 200. Returns how many
/// were.
pub(crate) fn under_load(address: SocketAddr, meanwhile: impl FnOnce()) -> usize {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let kept = || {
            let mut client = Client::connect(address);
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = client.get("/kept");
                assert_eq!(reply.status, 200);
                served += 1;
                if reply.says_close() {
                    client = Client::connect(address);
                }
            }
            served
        };
        let fresh = || {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = Client::connect(address).get_with("/new", &[("Connection", "close")]);
                assert_eq!(reply.status, 200);
                served += 1;
            }
            served
        };
        let clients = [scope.spawn(kept), scope.spawn(kept), scope.spawn(fresh)];
        let guard = Over(&is_over);
        meanwhile();
        drop(guard);
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    })
}

/// Ends the clients also where what goes on meanwhile fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
