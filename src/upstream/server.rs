//! One server at work: what it is doing, how fast it is, and whether it may be asked.

use super::servers::Servers;
use crate::config::{Timeouts, UpstreamServer};
use crate::policy::balance::Load;
use crate::policy::ejection::{Ejection, EjectionPolicy};
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::CustomALPN;
use pingora_core::upstreams::peer::{HttpPeer, HttpUpstreamRequestPolicy, Peer};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::Duration;

/// One address requests can go to, or a name that stands for none.
///
/// Everything that changes is atomic, and nothing in here orders anything else, so all of it
/// is relaxed: a choice made on what was true a moment ago is a good choice.
pub struct Server {
    /// The address as the configuration writes it.
    pub configured: Arc<str>,
    /// Where it is; none: its name does not resolve.
    pub address: Option<SocketAddr>,
    /// The address as text, for logs; the configured one where there is none.
    pub name: Arc<str>,
    /// Its share among the upstream's servers, 1 to 1 000.
    pub weight: u32,
    timeouts: Timeouts,
    /// What connections to its address have in common, and no others.
    connections: u64,
    in_flight: AtomicU32,
    latency: Latency,
    is_drained: AtomicBool,
    is_healthy: AtomicBool,
    ejection: AtomicU64,
    policy: Option<EjectionPolicy>,
    /// The set it belongs to, which alone can say whether it may be taken out.
    siblings: Weak<Servers>,
}

/// What a server needs to know of the upstream it belongs to.
pub(super) struct Belonging {
    pub(super) timeouts: Timeouts,
    pub(super) ejection: Option<EjectionPolicy>,
    pub(super) siblings: Weak<Servers>,
}

impl Server {
    pub(super) fn new(
        configured: Arc<str>,
        server: &UpstreamServer,
        address: Option<SocketAddr>,
        belonging: &Belonging,
    ) -> Server {
        Server {
            name: address.map_or_else(|| configured.clone(), |address| address.to_string().into()),
            configured,
            address,
            weight: server.weight.max(1),
            timeouts: belonging.timeouts,
            connections: address.map_or(0, key_of),
            in_flight: AtomicU32::new(0),
            latency: Latency::default(),
            is_drained: AtomicBool::new(false),
            is_healthy: AtomicBool::new(true),
            ejection: AtomicU64::new(Ejection::default().to_bits()),
            policy: belonging.ejection.clone(),
            siblings: belonging.siblings.clone(),
        }
    }

    /// A peer for one attempt; none: its name does not resolve, and it is never chosen.
    pub fn peer(&self) -> Option<Box<HttpPeer>> {
        let mut peer = Box::new(peer(self.address?, self.timeouts));
        peer.group_key = self.connections;
        Some(peer)
    }

    /// Counts an attempt as in flight until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> ServerLoad {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        ServerLoad(self.clone())
    }

    /// Attempts in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Tells what came of an attempt. The caller classifies: no connection, a time-out, a reset
    /// and 5xx except 501 are failures; what the client caused is not told at all.
    ///
    /// `latency_ns` is the time until the answer began; only that of a success counts, for a
    /// server that fails fast is not a fast server. A success after a success costs two loads
    /// and two stores; what takes a lock is only the failure that may take the server out.
    pub fn tell(&self, is_ok: bool, latency_ns: u64, now_ns: u64) {
        if is_ok {
            self.latency.add(latency_ns, now_ns);
            if self.ejection().has_failures() {
                self.change_ejection(Ejection::succeeded);
            }
            return;
        }
        let Some(policy) = &self.policy else { return };
        let ejection = self.change_ejection(|ejection| ejection.failed(now_ns));
        if ejection.is_due(policy, now_ns)
            && let Some(siblings) = self.siblings.upgrade()
        {
            siblings.consider_ejecting(self, policy, now_ns);
        }
    }

    /// How it stands in ejection.
    pub(super) fn ejection(&self) -> Ejection {
        Ejection::from_bits(self.ejection.load(Ordering::Relaxed))
    }

    /// Replaces the state of ejection in one step and returns the new one.
    pub(super) fn change_ejection(&self, change: impl Fn(Ejection) -> Ejection) -> Ejection {
        let step = |bits| Some(change(Ejection::from_bits(bits)).to_bits());
        // `step` always gives a value, so both sides are the old state.
        let (Ok(old) | Err(old)) =
            self.ejection.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step);
        change(Ejection::from_bits(old))
    }

    /// Goes on from what is known of `old`, the same server of an upstream that is replaced;
    /// of its health only where both `are_checked`. Attempts in flight stay the old one's.
    pub(super) fn take_over(&self, old: &Server, are_checked: bool) {
        self.latency.take_over(&old.latency);
        if self.policy == old.policy {
            self.ejection.store(old.ejection.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        if are_checked {
            self.set_healthy(old.is_healthy());
        }
    }

    /// Whether it is out of balancing for failing.
    pub fn is_ejected(&self, now_ns: u64) -> bool {
        self.ejection().is_out(now_ns)
    }

    /// Whether requests may go there at all: resolved, healthy by its checks and not drained.
    pub fn is_usable(&self) -> bool {
        self.address.is_some() && self.is_healthy() && !self.is_drained()
    }

    /// Whether its checks say it is healthy; without checks it is.
    pub fn is_healthy(&self) -> bool {
        self.is_healthy.load(Ordering::Relaxed)
    }

    pub(super) fn set_healthy(&self, is_healthy: bool) {
        self.is_healthy.store(is_healthy, Ordering::Relaxed);
    }

    /// Whether an operator took it out.
    pub fn is_drained(&self) -> bool {
        self.is_drained.load(Ordering::Relaxed)
    }

    pub(super) fn set_drained(&self, is_drained: bool) {
        self.is_drained.store(is_drained, Ordering::Relaxed);
    }

    /// How loaded it is.
    pub(super) fn load(&self, now_ns: u64) -> Load {
        Load {
            in_flight: self.in_flight(),
            latency_ns: self.latency.at(now_ns),
            weight: self.weight,
        }
    }

    /// Its average latency; none without recent answers.
    pub fn latency(&self, now_ns: u64) -> Option<Duration> {
        match self.latency.at(now_ns) {
            0 => None,
            ns => Some(Duration::from_nanos(ns)),
        }
    }
}

/// An attempt in flight at a server; dropping it ends it.
pub struct ServerLoad(Arc<Server>);

impl ServerLoad {
    /// The server.
    pub fn server(&self) -> &Arc<Server> {
        &self.0
    }
}

impl Drop for ServerLoad {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An exponentially weighted average of latencies that fades while nothing is added.
///
/// Each sample moves it by an eighth of the difference. Without samples it is halved every
/// ten seconds and at last forgotten: a server that was slow once is asked less by those who
/// look at its latency, and would otherwise never get to show that it has become fast again.
/// Two samples at the same instant may count as one.
#[derive(Default)]
struct Latency {
    /// 0: nothing known.
    average_ns: AtomicU64,
    last_ns: AtomicU64,
}

/// How long it takes without samples until an average is halved.
const HALF_LIFE_NS: u64 = 10_000_000_000;

impl Latency {
    fn add(&self, sample_ns: u64, now_ns: u64) {
        let average = match self.at(now_ns) {
            0 => sample_ns,
            average => average - average / 8 + sample_ns / 8,
        };
        self.average_ns.store(average.max(1), Ordering::Relaxed);
        self.last_ns.store(now_ns, Ordering::Relaxed);
    }

    fn take_over(&self, old: &Latency) {
        self.average_ns.store(old.average_ns.load(Ordering::Relaxed), Ordering::Relaxed);
        self.last_ns.store(old.last_ns.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn at(&self, now_ns: u64) -> u64 {
        let idle_ns = now_ns.saturating_sub(self.last_ns.load(Ordering::Relaxed));
        let halvings = (idle_ns / HALF_LIFE_NS).min(63);
        self.average_ns.load(Ordering::Relaxed) >> halvings
    }
}

/// What makes Pingora ask the proxy's own connector for a connection; never sent anywhere.
static OUR_CONNECTOR: LazyLock<ALPN> =
    LazyLock::new(|| ALPN::Custom(CustomALPN::new("ours".into())));

/// Hashed once, since every attempt needs it.
fn key_of(address: SocketAddr) -> u64 {
    HttpPeer::new(address, false, String::new()).reuse_hash()
}

/// Pingora leaves every timeout open; here each one is set. Made for each attempt, which takes
/// half of what a copy of one made before does.
fn peer(address: SocketAddr, timeouts: Timeouts) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    // Not HTTP/1 to Pingora's connector, so that it asks ours, which comes back with HTTP/1.
    peer.options.alpn = OUR_CONNECTOR.clone();
    peer.options.connection_timeout = Some(timeouts.connect);
    peer.options.read_timeout = Some(timeouts.read);
    peer.options.write_timeout = Some(timeouts.write);
    peer.options.idle_timeout = Some(timeouts.idle);
    // The proxy has removed hop-by-hop headers before the first attempt.
    peer.options.http_upstream_request_policy = HttpUpstreamRequestPolicy::preserve();
    peer
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn latency_begins_with_the_first_sample_and_follows_an_eighth_of_the_way() {
        let latency = Latency::default();
        assert_eq!(latency.at(SECOND), 0);
        latency.add(800, SECOND);
        assert_eq!(latency.at(SECOND), 800);
        latency.add(1_600, SECOND);
        assert_eq!(latency.at(SECOND), 900);
        for _ in 0..100 {
            latency.add(8_000, SECOND);
        }
        assert!((7_900..=8_000).contains(&latency.at(SECOND)), "{}", latency.at(SECOND));
    }

    #[test]
    fn latency_fades_without_samples_and_is_forgotten() {
        let latency = Latency::default();
        latency.add(1_000, SECOND);
        assert_eq!(latency.at(10 * SECOND), 1_000);
        assert_eq!(latency.at(11 * SECOND), 500);
        assert_eq!(latency.at(31 * SECOND), 125);
        assert_eq!(latency.at(3_600 * SECOND), 0);
        latency.add(64, 3_600 * SECOND);
        assert_eq!(latency.at(3_600 * SECOND), 64, "it begins anew");
        assert_eq!(latency.at(SECOND), 64, "an older now changes nothing");
    }
}
