//! What the hand-over is tried with.

use crate::support::{Client, Gateway, GatewayBuilder, Reply, Upstream, signal_process};
use std::mem::replace;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

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

/// How long the gateway waits for a request on an open connection while it drains.
const DRAIN_SILENCE: Duration = Duration::from_millis(500);

/// Keeps clients asking while `meanwhile` goes on: two that keep their connections, one that
/// makes a new one for each request. Every request must be answered with 200. Returns how many
/// were.
pub(crate) fn under_load(address: SocketAddr, meanwhile: impl FnOnce()) -> usize {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let kept = || {
            let mut connection = Connection::new(address);
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let reply = connection.ask("GET /kept HTTP/1.1\r\nHost: localhost\r\n\r\n");
                assert_eq!(reply.status, 200);
                served += 1;
                if reply.says_close() {
                    connection = Connection::new(address);
                }
            }
            served
        };
        let fresh = || {
            let request = "GET /new HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(Connection::new(address).ask(request).status, 200);
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

/// A connection of a client that asks at once, as far as the machine lets it.
struct Connection {
    address: SocketAddr,
    client: Client,
    /// A moment before which the connection was not silent.
    silent_since: Instant,
}

impl Connection {
    fn new(address: SocketAddr) -> Connection {
        let silent_since = Instant::now();
        Connection { address, client: Client::connect(address), silent_since }
    }

    /// Asks and gets an answer: at once, or on a new connection where this one was closed after it
    /// had been silent for so long that a gateway which drains may close it. That is so only where
    /// the machine had no time for this thread.
    fn ask(&mut self, request: &str) -> Reply {
        loop {
            let silent_since = replace(&mut self.silent_since, Instant::now());
            let sent = self.client.try_send(request);
            let silence = silent_since.elapsed();
            let ended = match sent.and_then(|()| self.client.try_reply()) {
                Ok(Some(reply)) => return reply,
                Ok(None) => "closed".to_owned(),
                Err(error) => error.to_string(),
            };
            assert!(silence >= DRAIN_SILENCE, "no answer after {silence:?} of silence: {ended}");
            *self = Connection::new(self.address);
        }
    }
}

/// Ends the clients also where what goes on meanwhile fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
