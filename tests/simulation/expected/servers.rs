//! The servers of an upstream: which there are, which may be asked, which are out.

use crate::tally::{Happening, Tally};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tollgate::config::{self, ServerAddress, UpstreamServer};
use tollgate::metrics::ServerMetrics;
use tollgate::policy::ejection::EjectionPolicy;
use tollgate::policy::health::{Health, HealthThresholds};
use tollgate::upstream::{Choice, Server, ServerState, ServerView, Upstream};

const MS: u64 = 1_000_000;

/// The real servers, and how each of them is expected to stand.
pub(crate) struct WatchedServers {
    real: Arc<Upstream>,
    gauges: ServerMetrics,
    ejection: Option<EjectionPolicy>,
    entries: Vec<Entry>,
    /// What operators said of single addresses, and the entry these belonged to then.
    drains: Vec<(SocketAddr, usize, bool)>,
    servers: Vec<Expected>,
    /// Attempts in flight by number of server, those that left the set included.
    in_flight: BTreeMap<u64, u32>,
    numbers: u64,
}

/// One line of `servers` in the configuration.
struct Entry {
    server: UpstreamServer,
    text: String,
    addresses: Vec<SocketAddr>,
    is_drained: bool,
}

struct Expected {
    number: u64,
    entry: usize,
    address: Option<SocketAddr>,
    health: Health,
    /// In a row, since it was last out or spared.
    failures: u32,
    until_ns: u64,
    was_ejected: bool,
    /// Known once it was chosen.
    real: Option<Arc<Server>>,
}

impl WatchedServers {
    pub(crate) fn new(
        real: Arc<Upstream>,
        config: &config::Upstream,
        gauges: ServerMetrics,
    ) -> WatchedServers {
        let entry = |server: &UpstreamServer| Entry {
            server: server.clone(),
            text: server.address.to_string(),
            addresses: Vec::new(),
            is_drained: false,
        };
        let mut servers = WatchedServers {
            real,
            gauges,
            ejection: config.ejection.clone(),
            entries: config.servers.iter().map(entry).collect(),
            drains: Vec::new(),
            servers: Vec::new(),
            in_flight: BTreeMap::new(),
            numbers: 0,
        };
        servers.renew();
        servers
    }

    /// Numbers of the servers that are checked.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        let resolved = self.servers.iter().filter(|server| server.address.is_some());
        resolved.map(|server| server.number)
    }

    /// Where the server of this number is, as long as it is in the set.
    pub(crate) fn address_of(&self, number: u64) -> Option<SocketAddr> {
        self.servers.iter().find(|server| server.number == number)?.address
    }

    /// What a name resolves to.
    pub(crate) fn addresses_of(&self, entry: usize) -> &[SocketAddr] {
        &self.entries[entry].addresses
    }

    /// Everything that an operator can name.
    pub(crate) fn names(&self) -> Vec<String> {
        let addresses = self.servers.iter().filter_map(|server| server.address);
        let texts = self.entries.iter().map(|entry| entry.text.clone());
        addresses.map(|address| address.to_string()).chain(texts).collect()
    }

    pub(crate) fn are_all_usable(&self) -> bool {
        self.servers.iter().all(|server| self.is_usable(server))
    }

    /// Asks for a server: one of the best that there are, and one as long as any may be asked.
    pub(crate) fn choose(
        &mut self,
        affinity: Option<u64>,
        tried: &[Arc<Server>],
        said_ns: u64,
        tally: &mut Tally,
    ) -> Option<(u64, Arc<Server>)> {
        let rank = |server: &Expected| {
            let is_tried = server.real.as_ref().is_some_and(|real| is_among(real, tried));
            (server.until_ns > said_ns, is_tried)
        };
        let usable = self.servers.iter().filter(|server| self.is_usable(server));
        let best = usable.map(rank).min();
        let Some(chosen) = self.real.choose(&Choice { affinity, tried, now_ns: said_ns }) else {
            assert_eq!(best, None, "no server was chosen");
            tally.note(Happening::NoServer);
            return None;
        };
        let (entries, servers) = (&self.entries, &self.servers);
        let found = servers.iter().position(|server| {
            server.address == chosen.address && entries[server.entry].text == *chosen.configured
        });
        let found = found.unwrap_or_else(|| panic!("{} is not in the set", chosen.name));
        let server = &self.servers[found];
        assert!(self.is_usable(server), "{} must not be asked", chosen.name);
        assert_eq!(Some(rank(server)), best, "there was a better one than {}", chosen.name);
        if let Some((is_out, is_tried)) = best {
            is_out.then(|| tally.note(Happening::AskedEjected));
            is_tried.then(|| tally.note(Happening::AskedTriedAgain));
        }
        let server = &mut self.servers[found];
        let known = server.real.get_or_insert_with(|| chosen.clone());
        assert!(Arc::ptr_eq(known, &chosen), "{} lost its state", chosen.name);
        Some((server.number, chosen))
    }

    /// An attempt begins.
    pub(crate) fn enter(&mut self, number: u64) {
        *self.in_flight.entry(number).or_default() += 1;
    }

    /// An attempt has ended at `server`.
    pub(crate) fn leave(&mut self, number: u64, server: &Server) {
        let in_flight = self.in_flight.get_mut(&number).expect("an attempt is in flight");
        *in_flight -= 1;
        assert_eq!(server.in_flight(), *in_flight, "in flight at {}", server.name);
        if *in_flight == 0 {
            self.in_flight.remove(&number);
        }
    }

    /// Tells what came of an attempt; after enough failures in a row the server is taken out
    /// unless half of those that may be asked are.
    pub(crate) fn tell(
        &mut self,
        number: u64,
        server: &Server,
        is_ok: bool,
        took_ns: u64,
        said_ns: u64,
        tally: &mut Tally,
    ) {
        server.tell(is_ok, took_ns, said_ns);
        let usable = self.servers.iter().filter(|server| self.is_usable(server)).count();
        let out = self.out(said_ns);
        let Some(policy) = &self.ejection else { return };
        let Some(at) = self.servers.iter().position(|server| server.number == number) else {
            return;
        };
        let expected = &mut self.servers[at];
        if is_ok {
            expected.failures = 0;
        }
        if is_ok || expected.until_ns > said_ns {
            return;
        }
        expected.failures += 1;
        if expected.failures < policy.consecutive_failures {
            return;
        }
        expected.failures = 0;
        if out >= usable / 2 {
            tally.note(Happening::Spared);
            return;
        }
        tally.note(Happening::Ejected);
        let view = &self.real.servers(said_ns)[at];
        let left_ns = view.ejected_for.map_or(0, |left| left.as_nanos() as u64);
        let most_ns = if expected.was_ejected { policy.max_ns } else { policy.base_ns };
        let is_right = (policy.base_ns..most_ns + MS).contains(&left_ns);
        assert!(is_right, "out for {} to {most_ns} and not {left_ns} ns", policy.base_ns);
        expected.was_ejected = true;
        expected.until_ns = said_ns + left_ns;
    }

    /// One more check of a server's health.
    pub(crate) fn checked(
        &mut self,
        number: u64,
        is_good: bool,
        thresholds: HealthThresholds,
        tally: &mut Tally,
    ) {
        let mut servers = self.servers.iter_mut();
        let Some(server) = servers.find(|server| server.number == number) else { return };
        let Some(address) = server.address else { return };
        let after = server.health.after(is_good, thresholds);
        if after.is_healthy() != server.health.is_healthy() {
            assert!(self.real.set_healthy(address, after.is_healthy()));
            (!after.is_healthy()).then(|| tally.note(Happening::Unhealthy));
        }
        server.health = after;
    }

    /// An operator drains what this means or brings it back.
    pub(crate) fn set_drained(&mut self, text: &str, is_drained: bool, tally: &mut Tally) {
        let is_known = self.real.set_drained(text, is_drained);
        let address: Option<SocketAddr> = text.parse().ok();
        if let Some(entry) = self.entries.iter().position(|entry| entry.text == text) {
            let servers = &self.servers;
            let is_its = |address: SocketAddr| {
                servers.iter().any(|s| s.address == Some(address) && s.entry == entry)
            };
            self.drains.retain(|&(address, own, _)| own != entry && !is_its(address));
            self.entries[entry].is_drained = is_drained;
        } else {
            let server = self.servers.iter().find(|s| s.address.is_some() && s.address == address);
            assert_eq!(is_known, server.is_some(), "{text}");
            let Some(server) = server else { return };
            let own = (server.address.expect("it has one"), server.entry, is_drained);
            self.drains.retain(|&(address, ..)| address != own.0);
            // Where its entry says the same, it goes on following its entry.
            if self.entries[own.1].is_drained != is_drained {
                self.drains.push(own);
            }
        }
        is_drained.then(|| tally.note(Happening::Drained));
    }

    /// A name resolves to other addresses.
    pub(crate) fn resolve(
        &mut self,
        entry: usize,
        found: Vec<SocketAddr>,
        now_ns: u64,
        tally: &mut Tally,
    ) {
        let mut sorted = found.clone();
        sorted.sort_unstable();
        sorted.dedup();
        let is_new = self.entries[entry].addresses != sorted;
        assert_eq!(self.real.set_addresses(&self.entries[entry].text, found, now_ns), is_new);
        if !is_new {
            return;
        }
        tally.note(Happening::SetChanged);
        self.entries[entry].addresses = sorted;
        self.renew();
        self.readmit(now_ns, tally);
    }

    /// Compares everything that can be seen.
    pub(crate) fn check(&self, now_ns: u64) {
        let views = self.real.servers(now_ns);
        assert_eq!(views.len(), self.servers.len(), "{views:?}");
        for (view, server) in views.iter().zip(&self.servers) {
            self.compare(view, server, now_ns);
        }
        let usable = self.servers.iter().filter(|server| self.is_usable(server)).count();
        assert_eq!(self.real.counts(), (usable, self.servers.len()));
        assert_eq!(self.gauges.healthy.get(), usable as i64, "the gauge of healthy servers");
        assert!(self.out(now_ns) <= self.servers.len() / 2, "more than half are out: {views:?}");
    }

    fn compare(&self, view: &ServerView, server: &Expected, now_ns: u64) {
        let text = &self.entries[server.entry].text;
        assert_eq!((&*view.configured, view.address), (&**text, server.address));
        let state = match server {
            server if self.is_drained(server) => ServerState::Drained,
            server if server.address.is_none() => ServerState::Unresolved,
            server if !server.health.is_healthy() => ServerState::Unhealthy,
            server if server.until_ns > now_ns => ServerState::Ejected,
            _ => ServerState::Up,
        };
        assert_eq!(view.state, state, "{view:?}");
        let left_ns = view.ejected_for.map_or(0, |left| left.as_nanos() as u64);
        assert_eq!(left_ns, server.until_ns.saturating_sub(now_ns), "{view:?}");
        let in_flight = self.in_flight.get(&server.number).copied().unwrap_or(0);
        assert_eq!(view.in_flight, in_flight, "{view:?}");
    }

    /// At the end nothing is in flight.
    pub(crate) fn check_idle(&self) {
        assert!(self.in_flight.is_empty(), "{:?}", self.in_flight);
    }

    fn is_usable(&self, server: &Expected) -> bool {
        server.address.is_some() && server.health.is_healthy() && !self.is_drained(server)
    }

    fn is_drained(&self, server: &Expected) -> bool {
        let own = self.drains.iter().find(|(address, ..)| Some(*address) == server.address);
        own.map_or(self.entries[server.entry].is_drained, |&(_, _, is_drained)| is_drained)
    }

    fn out(&self, now_ns: u64) -> usize {
        self.servers.iter().filter(|server| server.until_ns > now_ns).count()
    }

    /// Every address once, at the first entry that leads there; who was there stays.
    fn renew(&mut self) {
        let mut old = std::mem::take(&mut self.servers);
        for (number, entry) in self.entries.iter().enumerate() {
            let addresses = match &entry.server.address {
                ServerAddress::Ip(address) => vec![Some(*address)],
                ServerAddress::Name { .. } if entry.addresses.is_empty() => vec![None],
                ServerAddress::Name { .. } => entry.addresses.iter().copied().map(Some).collect(),
            };
            for address in addresses {
                if address.is_some() && self.servers.iter().any(|s| s.address == address) {
                    continue;
                }
                let known = old.iter().position(|s| (s.entry, s.address) == (number, address));
                self.numbers += 1;
                self.servers.push(known.map(|at| old.swap_remove(at)).unwrap_or(Expected {
                    number: self.numbers,
                    entry: number,
                    address,
                    health: Health::default(),
                    failures: 0,
                    until_ns: 0,
                    was_ejected: false,
                    real: None,
                }));
            }
        }
    }

    /// Of a set that became smaller, as many as are out beyond half come back, first those
    /// with the least left to wait.
    fn readmit(&mut self, now_ns: u64, tally: &mut Tally) {
        let surplus = self.out(now_ns).saturating_sub(self.servers.len() / 2);
        let views = self.real.servers(now_ns);
        let (mut back, mut longest_back_ns, mut shortest_out_ns) = (0, 0, u64::MAX);
        for (server, view) in self.servers.iter_mut().zip(&views) {
            if server.until_ns <= now_ns {
                continue;
            }
            if view.ejected_for.is_some() {
                shortest_out_ns = shortest_out_ns.min(server.until_ns);
            } else {
                back += 1;
                longest_back_ns = longest_back_ns.max(server.until_ns);
                server.until_ns = now_ns;
                tally.note(Happening::BackForSmallerSet);
            }
        }
        assert_eq!(back, surplus, "back before their time: {views:?}");
        assert!(longest_back_ns <= shortest_out_ns, "the wrong ones came back: {views:?}");
    }
}

fn is_among(server: &Arc<Server>, tried: &[Arc<Server>]) -> bool {
    tried.iter().any(|tried| Arc::ptr_eq(tried, server))
}
