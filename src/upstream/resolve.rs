//! Names in `servers` are resolved here, never by a request.
//!
//! The system's resolver is asked (`getaddrinfo`, on Tokio's threads for what blocks), so
//! `/etc/hosts`, search domains and whatever else the host is set up with count. It does not
//! say how long an answer is valid; every name is asked for again after ten seconds. What
//! stood behind a name stays in use while later lookups fail: that a resolver is down says
//! nothing about the servers.

use super::servers::Servers;
use super::upkeep::jittered;
use crate::clock;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Between two lookups of a name, and the longest wait after a failure.
const INTERVAL: Duration = Duration::from_secs(10);
/// After the first failure; doubles with each in a row.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// After this a lookup counts as failed. What it finds later is taken nevertheless.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Lookups at a time in the whole process. A lookup cannot be called off and holds a thread
/// until the resolver gives up; the pool of such threads is everybody's.
static LOOKUPS: Semaphore = Semaphore::const_new(16);

/// One name of an upstream.
pub(super) struct Name {
    servers: Arc<Servers>,
    entry: usize,
    host: Arc<str>,
    port: u16,
    /// Lookups that failed in a row.
    failures: u32,
    has_resolved: bool,
}

/// What a lookup changed; each is worth a line in the log.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// It stands for other addresses than before.
    Moved,
    /// It resolves again, to the same addresses.
    Recovered,
    /// It does not resolve and never did: there is no server.
    Unknown(String),
    /// It does not resolve any more; the addresses found before stay.
    Stale(String),
}

impl Name {
    pub(super) fn new(servers: Arc<Servers>, entry: usize, host: Arc<str>, port: u16) -> Name {
        Name { servers, entry, host, port, failures: 0, has_resolved: false }
    }

    /// Resolves it again and again.
    pub(super) async fn keep_resolved(mut self) {
        loop {
            self.look_up().await;
            sleep(jittered(wait_after(self.failures))).await;
        }
    }

    async fn look_up(&mut self) {
        // Never closed; and if it were, the bound would be gone and nothing else.
        let _place = LOOKUPS.acquire().await;
        let host = self.host.clone();
        let mut lookup = pin!(look_up(&host, self.port));
        if let Ok(found) = timeout(TIMEOUT, &mut lookup).await {
            self.conclude(found);
            return;
        }
        self.conclude(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer within {} s", TIMEOUT.as_secs()),
        )));
        // It goes on whether anybody waits or not. Asking again meanwhile would only hold one
        // thread more.
        self.conclude(lookup.await);
    }

    fn conclude(&mut self, found: io::Result<Vec<SocketAddr>>) {
        let Some(change) = self.judge(found) else { return };
        let (upstream, host, port) = (&self.servers.upstream, &self.host, self.port);
        match change {
            Change::Moved => {
                log::info!("upstream {upstream}: {host}:{port} resolves to new addresses");
            }
            Change::Recovered => log::info!("upstream {upstream}: {host}:{port} resolves again"),
            Change::Unknown(error) => {
                log::warn!("upstream {upstream}: {host}:{port} does not resolve: {error}");
            }
            Change::Stale(error) => log::warn!(
                "upstream {upstream}: {host}:{port} does not resolve any more, the addresses it \
                 had stay in use: {error}"
            ),
        }
    }

    /// Hands on what was found and tells what that changes.
    fn judge(&mut self, found: io::Result<Vec<SocketAddr>>) -> Option<Change> {
        let change = match found {
            Ok(addresses) => {
                let is_new = self.servers.resolved(self.entry, addresses, clock::now_ns());
                let has_failed = std::mem::take(&mut self.failures) > 0;
                self.has_resolved = true;
                match (is_new, has_failed) {
                    (true, _) => Some(Change::Moved),
                    (false, true) => Some(Change::Recovered),
                    (false, false) => None,
                }
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                match (self.failures, self.has_resolved) {
                    (1, true) => Some(Change::Stale(error.to_string())),
                    (1, false) => Some(Change::Unknown(error.to_string())),
                    _ => None,
                }
            }
        };
        self.servers.asked(self.entry);
        change
    }
}

/// The addresses of a name. What nothing can be sent to is left out: some resolvers answer
/// with 0.0.0.0 for what they block, and connecting there would reach this machine.
async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let found = lookup_host((host, port)).await?;
    let usable =
        |address: &SocketAddr| !address.ip().is_unspecified() && !address.ip().is_multicast();
    let found: Vec<SocketAddr> = found.filter(usable).collect();
    if found.is_empty() {
        return Err(io::Error::other("there is no address behind it"));
    }
    Ok(found)
}

/// Until the next lookup, after so many failures in a row.
fn wait_after(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => INTERVAL,
        Some(doublings) => FIRST_RETRY.saturating_mul(1 << doublings.min(10)).min(INTERVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{address, named, upstream};
    use super::*;
    use crate::config::Balance;

    fn failed() -> io::Result<Vec<SocketAddr>> {
        Err(io::Error::other("nobody knows"))
    }

    fn found(n: u8) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![address(n)])
    }

    #[test]
    fn only_a_change_is_told() {
        let upstream = upstream(vec![named("a.test")], Balance::RoundRobin);
        let mut name = Name::new(upstream.servers.clone(), 0, "a.test".into(), 80);
        assert_eq!(name.judge(failed()), Some(Change::Unknown("nobody knows".into())));
        assert_eq!(name.judge(failed()), None);
        assert_eq!(name.judge(found(1)), Some(Change::Moved));
        assert_eq!(name.judge(found(1)), None);
        assert_eq!(name.judge(found(2)), Some(Change::Moved));
        assert_eq!(name.judge(failed()), Some(Change::Stale("nobody knows".into())));
        assert_eq!(name.judge(failed()), None);
        assert_eq!(upstream.counts(), (1, 1), "the last good address stays");
        assert_eq!(name.judge(found(2)), Some(Change::Recovered));
        assert_eq!(name.judge(found(2)), None);
    }

    #[test]
    fn failures_are_retried_after_a_second_and_then_less_and_less_often() {
        let seconds = |failures| wait_after(failures).as_secs();
        assert_eq!([1, 2, 3, 4, 5, 6].map(seconds), [1, 2, 4, 8, 10, 10]);
        assert_eq!([0, 99, u32::MAX].map(seconds), [10, 10, 10]);
    }

    #[tokio::test]
    async fn an_address_nothing_can_be_sent_to_is_none() {
        assert!(look_up("0.0.0.0", 80).await.is_err());
        assert!(look_up("224.0.0.1", 80).await.is_err());
        assert_eq!(look_up("127.0.0.9", 80).await.unwrap(), ["127.0.0.9:80".parse().unwrap()]);
    }
}
