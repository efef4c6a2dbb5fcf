//! Everything that happens around the requests, and the calm in which it stops.

use crate::agenda::Event;
use crate::expected::WatchedCircuit;
use crate::run::Run;
use crate::setup::{ADDRESSES, MS, SECOND, address, one_of};
use crate::tally::Happening;
use crate::weather::Weather;
use std::time::Duration;
use tollgate::config::ServerAddress;
use tollgate::upstream::circuit::ForceTo;

/// What is under way when the calm begins is over after this long.
const PATIENCE_NS: u64 = 120 * SECOND;
/// Beyond cooldowns and leases, for the requests that probe.
const SLACK_NS: u64 = 5 * SECOND;

/// A time in which servers are well and nobody interferes.
pub(crate) struct Calm {
    began_ns: u64,
    /// The first request of the calm; older ones may still fail.
    first: u64,
    /// When everything must have recovered; not known while older requests are under way.
    until_ns: Option<u64>,
}

impl Run {
    /// Servers change how they behave.
    pub(super) fn mood(&mut self) {
        let after_ns = self.rng.u64(20 * MS..4 * SECOND);
        self.put(after_ns, Event::Mood);
        if self.calm.is_none() {
            self.weather.change(&mut self.rng);
        }
    }

    /// One check of a server's health.
    pub(super) fn health_check(&mut self, number: u64) {
        let Some(checks) = &self.setup.checks else { return };
        let Some(address) = self.servers.address_of(number) else { return };
        let is_good = self.weather.is_well(address, self.now_ns, &mut self.rng);
        self.servers.checked(number, is_good, checks.thresholds, &mut self.tally);
        let interval_ns = checks.interval_ns;
        self.put(interval_ns, Event::Check { server: number });
    }

    /// Puts the checks of servers that are new on the agenda.
    pub(super) fn begin_checks(&mut self) {
        let Some(checks) = &self.setup.checks else { return };
        let interval_ns = checks.interval_ns;
        let numbers: Vec<u64> = self.servers.numbers().collect();
        for server in numbers {
            if self.checked.insert(server) {
                let after_ns = self.rng.u64(..interval_ns);
                self.put(after_ns, Event::Check { server });
            }
        }
    }

    /// An operator forces a circuit, or drains a server or brings it back; or another gateway has
    /// opened its circuit.
    pub(super) fn operator(&mut self) {
        let after_ns = self.rng.u64(MS..10 * SECOND);
        self.put(after_ns, Event::Operator);
        if self.calm.is_some() {
            return;
        }
        let until_ns = self.now_ns + self.rng.u64(..4 * SECOND);
        if one_of(&mut self.rng, 3) {
            let circuit = self.rng.usize(..self.circuits.len());
            self.circuits[circuit].hint(self.now_ns, &mut self.tally);
            return;
        }
        let to = match self.rng.u8(..9) {
            0 => ForceTo::Open { until_ns },
            1 => ForceTo::Closed { until_ns },
            2 => ForceTo::Auto,
            3 => {
                return self.servers.set_drained("10.9.9.9:80", true, &mut self.tally);
            }
            _ => {
                let names = self.servers.names();
                let name = &names[self.rng.usize(..names.len())];
                let is_drained = one_of(&mut self.rng, 4);
                return self.servers.set_drained(name, is_drained, &mut self.tally);
            }
        };
        self.count(Happening::Forced);
        let circuit = self.rng.usize(..self.circuits.len());
        self.circuits[circuit].force(to, self.now_ns);
    }

    /// A name resolves to something else, or to the same.
    pub(super) fn lookup(&mut self) {
        let after_ns = self.rng.u64(MS..5 * SECOND);
        self.put(after_ns, Event::Lookup);
        if self.calm.is_some() {
            return;
        }
        let names = self.names();
        let entry = names[self.rng.usize(..names.len())];
        let mut found = self.servers.addresses_of(entry).to_vec();
        if self.rng.bool() {
            found.retain(|_| self.rng.bool());
        } else {
            let others = self.rng.usize(..8);
            found = (0..others).map(|_| address(self.rng.u8(1..=ADDRESSES))).collect();
        }
        self.servers.resolve(entry, found, self.now_ns, &mut self.tally);
        self.begin_checks();
    }

    /// Nothing runs for a while: mostly moments, seldom half a day.
    pub(super) fn stall(&mut self) {
        let after_ns = self.rng.u64(SECOND..60 * SECOND);
        self.put(after_ns, Event::Stall);
        if self.calm.is_some() {
            return;
        }
        let longest_ns = [50 * MS, SECOND, 60 * SECOND, 43_200 * SECOND][self.rng.usize(..4)];
        self.now_ns += self.rng.u64(..longest_ns);
        self.count(Happening::Stall);
        if let Some(places) = &mut self.places {
            places.turn_clock(self.now_ns);
        }
    }

    /// Everything is well from now on.
    pub(super) fn begin_calm(&mut self) {
        self.weather = Weather::fine();
        for entry in self.names() {
            // Its own, so that every name is a server.
            let own = vec![address(entry as u8 + 1)];
            self.servers.resolve(entry, own, self.now_ns, &mut self.tally);
        }
        self.begin_checks();
        for name in self.servers.names() {
            self.servers.set_drained(&name, false, &mut self.tally);
        }
        for circuit in &mut self.circuits {
            circuit.force(ForceTo::Auto, self.now_ns);
        }
        let (began_ns, first) = (self.now_ns, self.arrived + 1);
        self.calm = Some(Calm { began_ns, first, until_ns: None });
        self.put(0, Event::CalmEnd);
    }

    /// Waits for older requests, then for the longest that recovery may take; then nothing may
    /// be left of what was.
    pub(super) fn calm_end(&mut self) {
        let Some(calm) = &mut self.calm else { return };
        let is_settled = self.requests.first_key_value().is_none_or(|(&id, _)| id >= calm.first);
        if !is_settled {
            let is_patient = self.now_ns - calm.began_ns < PATIENCE_NS;
            assert!(is_patient, "a request from before the calm does not end");
            return self.put(SECOND / 10, Event::CalmEnd);
        }
        if calm.until_ns.is_none() {
            let longest = self.circuits.iter().map(WatchedCircuit::longest_ns).max();
            let queue = self.setup.upstream.concurrency.map_or(Duration::ZERO, |c| c.queue_timeout);
            let checks_ns = self.setup.checks.as_ref().map_or(0, |checks| {
                checks.interval_ns * u64::from(checks.thresholds.healthy_after)
            });
            let recovery_ns = longest.unwrap_or(0) + queue.as_nanos() as u64 + checks_ns + SLACK_NS;
            calm.until_ns = Some(self.now_ns + recovery_ns);
            return self.put(recovery_ns, Event::CalmEnd);
        }
        // One that no route asks stays as it is.
        for &circuit in &self.circuit_of {
            self.circuits[circuit].assert_closed();
        }
        assert!(self.servers.are_all_usable(), "a server is well and is not asked");
        self.calm = None;
        self.calm_at_step = self.step + self.setup.calm_after;
        self.count(Happening::Calm);
    }

    /// Entries of the configuration that are names.
    fn names(&self) -> Vec<usize> {
        let servers = self.setup.upstream.servers.iter().enumerate();
        let names = servers.filter(|(_, s)| matches!(s.address, ServerAddress::Name { .. }));
        names.map(|(entry, _)| entry).collect()
    }
}
