//! A gateway through several lives.

use crate::support::{
    Client, DEADLINE, Gateway, GatewayBuilder, Upstream, eventually, signal_process, until,
};
use std::net::SocketAddr;
use std::path::PathBuf;

/// A gateway that keeps its state beside its configuration, and the limit of its one tier.
pub(crate) fn durable(upstream: &Upstream, tier: &str) -> GatewayBuilder {
    Gateway::before(upstream)
        .server("upgrade_socket: upgrade.sock\nworkers: 2\ngrace_period: 5s")
        .tiers(&format!("free: {tier}"))
        .limiter("slots: 4096")
        .state_dir("state")
}

/// What becomes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Reload,
    Restart,
    Upgrade,
    Kill,
}

pub(crate) const EVENTS: [Event; 4] = [Event::Reload, Event::Restart, Event::Upgrade, Event::Kill];

/// A gateway whose process changes.
pub(crate) struct Life {
    gateway: Gateway,
    /// The process that serves, where it was started by the gateway itself.
    successor: Option<Successor>,
}

/// A process that no child handle holds; ended with the test.
struct Successor(u32);

impl Drop for Successor {
    fn drop(&mut self) {
        signal_process(self.0, "KILL");
    }
}

impl Life {
    pub(crate) fn of(builder: &GatewayBuilder) -> Life {
        Life { gateway: builder.start(), successor: None }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.gateway.data
    }

    pub(crate) fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    pub(crate) fn table(&self) -> PathBuf {
        self.gateway.path("state/limiter.table")
    }

    /// Lets it happen; afterwards a process serves again.
    #[track_caller]
    pub(crate) fn pass(&mut self, event: Event) {
        match event {
            Event::Reload => assert_eq!(self.gateway.reload().status, 200),
            Event::Restart => self.start_after("TERM"),
            Event::Kill => self.start_after("KILL"),
            Event::Upgrade => self.upgrade(),
        }
    }

    /// Ends the process that serves by a signal, then starts another.
    #[track_caller]
    pub(crate) fn start_after(&mut self, signal: &str) {
        self.end_by(signal);
        self.start();
    }

    #[track_caller]
    pub(crate) fn end_by(&mut self, signal: &str) {
        match self.successor.take() {
            Some(successor) => {
                assert!(signal_process(successor.0, signal));
                until("it is gone", || (!signal_process(successor.0, "0")).then_some(()));
            }
            None => {
                self.gateway.signal(signal);
                assert!(self.gateway.exit_within(DEADLINE).is_some(), "it ends");
            }
        }
    }

    #[track_caller]
    pub(crate) fn start(&mut self) {
        self.gateway = self.gateway.another();
    }

    #[track_caller]
    fn upgrade(&mut self) {
        let reply = self.gateway.admin_request("POST", "/upgrade", &[], "");
        assert_eq!(reply.status, 200, "{}", reply.text());
        let process = reply.json()["process"].as_u64().expect("a process");
        let before = self.successor.replace(Successor(process as u32));
        match before {
            Some(before) => {
                until("the old one ends", || (!signal_process(before.0, "0")).then_some(()));
            }
            None => assert!(self.gateway.exit_within(DEADLINE).is_some(), "the old one ends"),
        }
        until("it is ready", || (self.gateway.readiness() == Some(200)).then_some(()));
    }

    /// How many of `count` requests are admitted.
    #[track_caller]
    pub(crate) fn admitted(&self, count: usize) -> usize {
        let mut client = Client::connect(self.address());
        (0..count).filter(|_| is_admitted(client.get("/").status)).count()
    }
}

pub(crate) fn is_admitted(status: u16) -> bool {
    assert!(matches!(status, 200 | 429), "{status}");
    status == 200
}

/// The status of a request on a connection of its own; none where nobody answers.
pub(crate) fn try_get(address: SocketAddr) -> Option<u16> {
    let mut client = Client::try_connect(address)?;
    let request = "GET / HTTP/1.1\r\nHost: tollgate.test\r\nConnection: close\r\n\r\n";
    client.try_send(request).ok()?;
    client.try_reply().ok()?.map(|reply| reply.status)
}

/// Waits until the log holds these words.
#[track_caller]
pub(crate) fn logged(gateway: &Gateway, words: &str) -> String {
    let found = eventually(DEADLINE, || gateway.stderr().contains(words).then_some(()));
    assert!(found.is_some(), "{words:?} is not in the log");
    gateway.stderr()
}
