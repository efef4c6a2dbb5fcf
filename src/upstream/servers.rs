//! The servers of an upstream over time: names resolve to other addresses, checks and
//! operators take servers out and bring them back, failures eject them.

use super::drains::Drains;
use super::server::{Belonging, Server};
use super::set::{Choice, ServerSet};
use crate::config::{self, ServerAddress, UpstreamServer};
use crate::metrics::ServerMetrics;
use crate::policy::ejection::{Ejection, EjectionPolicy, most_out};
use arc_swap::ArcSwap;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::{Notify, watch};

/// Addresses one name may stand for; the lowest count.
const MAX_ADDRESSES: usize = 64;
/// Servers of one upstream, as long as it names fewer.
const MAX_SERVERS: usize = 4_096;

/// The living servers of one upstream.
pub(super) struct Servers {
    pub(super) upstream: Arc<str>,
    /// The configured servers, each with its address as text.
    pub(super) entries: Vec<(Arc<str>, UpstreamServer)>,
    balance: config::Balance,
    belonging: Belonging,
    metrics: ServerMetrics,
    set: ArcSwap<ServerSet>,
    /// Whose turn it is. Not of a set, so that a new set goes on where the old one was.
    turn: AtomicUsize,
    /// What the set is made of. Held while a new one is made and never by a request.
    sources: Mutex<Sources>,
    /// Held while a server is taken out, so that never too many are, and while a set is
    /// replaced.
    ejecting: Mutex<()>,
    /// There is a new set.
    pub(super) renewed: Notify,
    /// A server was taken out.
    pub(super) ejected: Notify,
    /// Names that have not been looked up yet.
    pub(super) unasked: watch::Sender<usize>,
    /// Another upstream of the same name has taken over the gauges.
    is_retired: AtomicBool,
}

struct Sources {
    /// What each name resolved to last, by entry, in order; empty for what is not a name.
    addresses: Vec<Vec<SocketAddr>>,
    /// Whether it was looked up, by entry; true for what is not a name.
    was_asked: Vec<bool>,
    drains: Drains,
}

impl Servers {
    pub(super) fn new(config: &config::Upstream, metrics: ServerMetrics) -> Arc<Servers> {
        let entry = |server: &UpstreamServer| (server.address.to_string().into(), server.clone());
        let is_ip = |server: &UpstreamServer| matches!(server.address, ServerAddress::Ip(_));
        let was_asked: Vec<bool> = config.servers.iter().map(is_ip).collect();
        let names = was_asked.iter().filter(|was_asked| !**was_asked).count();
        let servers = Arc::new_cyclic(|siblings| Servers {
            upstream: config.name.clone(),
            entries: config.servers.iter().map(entry).collect(),
            balance: config.balance.clone(),
            belonging: Belonging {
                timeouts: config.timeouts,
                ejection: config.ejection.clone(),
                siblings: Weak::clone(siblings),
            },
            metrics,
            set: ArcSwap::from_pointee(ServerSet::new(Vec::new(), &config.balance)),
            turn: AtomicUsize::new(0),
            sources: Mutex::new(Sources {
                addresses: vec![Vec::new(); config.servers.len()],
                was_asked,
                drains: Drains::default(),
            }),
            ejecting: Mutex::new(()),
            renewed: Notify::new(),
            ejected: Notify::new(),
            unasked: watch::Sender::new(names),
            is_retired: AtomicBool::new(false),
        });
        servers.renew(&lock(&servers.sources), 0);
        servers
    }

    /// Goes on from what `old` knew, the servers of an upstream that is replaced: what names
    /// stand for, what operators drained, how each server is.
    pub(super) fn take_over(&self, old: &Servers, are_checked: bool, now_ns: u64) {
        let mut sources = lock(&self.sources);
        {
            let known = lock(&old.sources);
            sources.drains = known.drains.clone();
            for (entry, (configured, _)) in self.entries.iter().enumerate() {
                let same = old.entries.iter().position(|(name, _)| name == configured);
                let Some(same) = same else { continue };
                sources.addresses[entry].clone_from(&known.addresses[same]);
                if known.was_asked[same] && !std::mem::replace(&mut sources.was_asked[entry], true)
                {
                    self.unasked.send_modify(|names| *names = names.saturating_sub(1));
                }
            }
        }
        self.renew(&sources, now_ns);
        let (set, old_set) = (self.set.load(), old.set.load());
        let key = |server: &Arc<Server>| (server.configured.clone(), server.address);
        let known: HashMap<_, _> = old_set.servers.iter().map(|s| (key(s), s)).collect();
        for server in &set.servers {
            if let Some(old) = known.get(&key(server)) {
                server.take_over(old, are_checked);
            }
        }
        {
            let _turn = lock(&self.ejecting);
            readmit_surplus(&set, now_ns);
            self.measure_ejected(now_ns);
        }
        self.measure_healthy(&sources);
    }

    pub(super) fn choose(&self, choice: &Choice<'_>) -> Option<Arc<Server>> {
        self.set.load().choose(choice, &self.turn).cloned()
    }

    pub(super) fn current(&self) -> Arc<ServerSet> {
        self.set.load_full()
    }

    /// The entry of a name, as the configuration writes it.
    pub(super) fn entry_of(&self, name: &str) -> Option<usize> {
        let is_name =
            |server: &UpstreamServer| matches!(server.address, ServerAddress::Name { .. });
        self.entries.iter().position(|(text, server)| **text == *name && is_name(server))
    }

    /// Takes over what the name of an entry resolves to now, and returns whether that is new.
    pub(super) fn resolved(&self, entry: usize, found: Vec<SocketAddr>, now_ns: u64) -> bool {
        let mut found = found;
        found.sort_unstable();
        found.dedup();
        found.truncate(MAX_ADDRESSES.min(MAX_SERVERS / self.entries.len().max(1)).max(1));
        let mut sources = lock(&self.sources);
        match sources.addresses.get_mut(entry) {
            Some(known) if *known != found => *known = found,
            _ => return false,
        }
        self.renew(&sources, now_ns);
        true
    }

    /// The name of an entry has been looked up, whatever came of it.
    pub(super) fn asked(&self, entry: usize) {
        let mut sources = lock(&self.sources);
        if let Some(was_asked) = sources.was_asked.get_mut(entry)
            && !std::mem::replace(was_asked, true)
        {
            self.unasked.send_modify(|names| *names = names.saturating_sub(1));
        }
    }

    /// Makes the set anew. A server that is in the old one as well stays what it is. Every
    /// address of a name is a server with the whole weight of that name, so a name with more
    /// addresses gets more requests.
    fn renew(&self, sources: &Sources, now_ns: u64) {
        let old = self.set.load();
        let key = |server: &Arc<Server>| (server.configured.clone(), server.address);
        let known: HashMap<_, _> = old.servers.iter().map(|server| (key(server), server)).collect();
        let mut taken = HashSet::new();
        let mut servers = Vec::new();
        for ((configured, entry), resolved) in self.entries.iter().zip(&sources.addresses) {
            let addresses: Vec<Option<SocketAddr>> = match (&entry.address, resolved.as_slice()) {
                (ServerAddress::Ip(address), _) => vec![Some(*address)],
                (ServerAddress::Name { .. }, []) => vec![None],
                (ServerAddress::Name { .. }, found) => found.iter().copied().map(Some).collect(),
            };
            for address in addresses {
                // An address that two entries lead to is one server, the first one's.
                if address.is_some_and(|address| !taken.insert(address)) {
                    continue;
                }
                let server = match known.get(&(configured.clone(), address)) {
                    Some(server) => Arc::clone(server),
                    None => Server::new(configured.clone(), entry, address, &self.belonging).into(),
                };
                server.set_drained(sources.drains.holds(&server));
                servers.push(server);
            }
        }
        let set = ServerSet::new(servers, &self.balance);
        {
            let _turn = lock(&self.ejecting);
            readmit_surplus(&set, now_ns);
            self.set.store(Arc::new(set));
            self.measure_ejected(now_ns);
        }
        self.measure_healthy(sources);
        self.renewed.notify_one();
    }

    /// Drains a server or brings it back; returns whether there is one of this address.
    ///
    /// `address` is either one as configured, which stands for everything it resolves to now
    /// and later, or one of those it resolved to. What is set last counts.
    pub(super) fn set_drained(&self, address: &str, is_drained: bool) -> bool {
        let mut sources = lock(&self.sources);
        let set = self.set.load();
        let configured = self.entries.iter().map(|(configured, _)| configured);
        if !sources.drains.set(address, is_drained, configured, &set.servers) {
            return false;
        }
        for server in &set.servers {
            server.set_drained(sources.drains.holds(server));
        }
        self.measure_healthy(&sources);
        true
    }

    /// Takes over what a server's checks say of it.
    pub(super) fn set_healthy(&self, server: &Server, is_healthy: bool) {
        let sources = lock(&self.sources);
        server.set_healthy(is_healthy);
        self.measure_healthy(&sources);
    }

    /// Takes a server out that has failed often enough, unless too many are out already.
    ///
    /// Of the servers that may be asked at all, no more than half may be out; so ejection
    /// does not finish what checks and operators have begun.
    pub(super) fn consider_ejecting(&self, server: &Server, policy: &EjectionPolicy, now_ns: u64) {
        let _turn = lock(&self.ejecting);
        if !server.ejection().is_due(policy, now_ns) {
            return;
        }
        let set = self.set.load();
        let usable = set.servers.iter().filter(|server| server.is_usable()).count();
        let is_current = set.servers.iter().any(|other| std::ptr::eq(&**other, server));
        if !is_current || count_out(&set, now_ns) >= most_out(usable) {
            server.change_ejection(Ejection::spare);
            return;
        }
        let ejection = server.change_ejection(|ejection| ejection.eject(policy, now_ns));
        self.measure_ejected(now_ns);
        self.ejected.notify_one();
        log::warn!(
            "upstream {}: server {} failed {} times in a row and is out of balancing for {} s",
            self.upstream,
            server.name,
            policy.consecutive_failures,
            ejection.out_for_ns(now_ns).div_ceil(1_000_000_000),
        );
    }

    /// Servers that are resolved, healthy and not drained, and all of them.
    pub(super) fn counts(&self) -> (usize, usize) {
        let set = self.set.load();
        (set.servers.iter().filter(|server| server.is_usable()).count(), set.servers.len())
    }

    /// Brings the gauge of ejected servers up to date, for nothing happens when an ejection
    /// ends, and returns when the next one does.
    pub(super) fn end_ejections(&self, now_ns: u64) -> Option<u64> {
        let _turn = lock(&self.ejecting);
        self.measure_ejected(now_ns);
        let set = self.set.load();
        let left = set.servers.iter().map(|server| server.ejection().out_for_ns(now_ns));
        left.filter(|&left_ns| left_ns > 0).min().map(|left_ns| now_ns + left_ns)
    }

    /// Whether servers are taken out for failing.
    pub(super) fn ejects(&self) -> bool {
        self.belonging.ejection.is_some()
    }

    /// Leaves the gauges alone from now on.
    pub(super) fn retire(&self) {
        let _held = (lock(&self.sources), lock(&self.ejecting));
        self.is_retired.store(true, Ordering::Relaxed);
    }

    /// The caller holds `ejecting`, or an older count could replace a newer one.
    fn measure_ejected(&self, now_ns: u64) {
        let ejected = count_out(&self.set.load(), now_ns);
        if self.is_retired.load(Ordering::Relaxed) {
            return;
        }
        self.metrics.ejected.set(i64::try_from(ejected).unwrap_or(i64::MAX));
    }

    /// The caller holds the sources, for the same reason.
    fn measure_healthy(&self, _held: &Sources) {
        let (healthy, _) = self.counts();
        if self.is_retired.load(Ordering::Relaxed) {
            return;
        }
        self.metrics.healthy.set(i64::try_from(healthy).unwrap_or(i64::MAX));
    }
}

fn count_out(set: &ServerSet, now_ns: u64) -> usize {
    set.servers.iter().filter(|server| server.ejection().is_out(now_ns)).count()
}

/// Brings back as many as are out beyond half of a set that became smaller, those first that
/// have the least left to wait.
fn readmit_surplus(set: &ServerSet, now_ns: u64) {
    let left = |server: &Arc<Server>| server.ejection().out_for_ns(now_ns);
    let mut out: Vec<_> = set.servers.iter().filter(|server| left(server) > 0).collect();
    out.sort_unstable_by_key(|server| left(server));
    let surplus = out.len().saturating_sub(most_out(set.servers.len()));
    for server in out.into_iter().take(surplus) {
        server.change_ejection(|ejection| ejection.restore(now_ns));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
