//! Upstreams at work: their servers, who is next, and what came of the attempts.

pub mod budget;
pub mod circuit;
mod drains;
mod health;
pub mod places;
mod resolve;
mod ring;
mod server;
mod servers;
mod set;
pub mod shortage;
mod succession;
mod upkeep;

use crate::config::{self, Balance, Timeouts};
use crate::metrics::{AttemptMetrics, Metrics};
use budget::RetryBudget;
use circuit::Circuit;
use places::Places;
pub use server::{Server, ServerLoad};
use servers::Servers;
pub use set::Choice;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use succession::State;
use tokio::runtime::Handle;
use upkeep::Upkeep;

/// One upstream.
pub struct Upstream {
    /// Its name.
    pub name: Arc<str>,
    /// Counters of attempts at it.
    pub attempts: AttemptMetrics,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// How a server is chosen.
    pub balance: Balance,
    /// The circuit in front of it, for routes that have none of their own.
    pub circuit: Arc<Circuit>,
    /// How many requests it may have at a time; none: any number.
    pub places: Option<Arc<Places>>,
    /// How many of its requests may be tried again.
    pub budget: Arc<RetryBudget>,
    config: config::Upstream,
    servers: Arc<Servers>,
    upkeep: Mutex<Option<Upkeep>>,
}

/// How one server stands, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerView {
    /// Its address as configured.
    pub configured: Arc<str>,
    /// Where it is; none: its name does not resolve.
    pub address: Option<SocketAddr>,
    /// Its weight, 1 to 1 000.
    pub weight: u32,
    /// Whether it is asked, and if not, why.
    pub state: ServerState,
    /// Attempts in flight.
    pub in_flight: u32,
    /// Its average latency; none without recent answers.
    pub latency: Option<Duration>,
    /// How much longer it is ejected; none: it is not.
    pub ejected_for: Option<Duration>,
}

/// Whether a server is asked. Where several reasons are against it, the one that lasts longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// It is.
    Up,
    /// An operator took it out.
    Drained,
    /// Its name does not resolve.
    Unresolved,
    /// Its health checks fail.
    Unhealthy,
    /// It failed too often in a row and is asked only when no other is left.
    Ejected,
}

impl ServerState {
    /// Its name in JSON.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Drained => "drained",
            Self::Unresolved => "unresolved",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
        }
    }

    fn of(server: &Server, now_ns: u64) -> ServerState {
        match server {
            server if server.is_drained() => Self::Drained,
            server if server.address.is_none() => Self::Unresolved,
            server if !server.is_healthy() => Self::Unhealthy,
            server if server.ejection().is_out(now_ns) => Self::Ejected,
            _ => Self::Up,
        }
    }
}

impl Upstream {
    /// Sets up an upstream as configured. Its names do not resolve yet.
    pub fn new(config: &config::Upstream, metrics: &Metrics) -> Arc<Upstream> {
        let state = State {
            circuit: State::circuit(config, metrics),
            places: State::places(config, metrics),
            budget: Arc::default(),
        };
        Arc::new(Upstream::with(config, metrics, state))
    }

    fn with(config: &config::Upstream, metrics: &Metrics, state: State) -> Upstream {
        Upstream {
            name: config.name.clone(),
            attempts: metrics.attempts(&config.name),
            timeouts: config.timeouts,
            balance: config.balance.clone(),
            circuit: state.circuit,
            places: state.places,
            budget: state.budget,
            config: config.clone(),
            servers: Servers::new(config, metrics.servers(&config.name)),
            upkeep: Mutex::new(None),
        }
    }

    /// Starts resolving its names and checking its servers on the runtime of `handle`, unless
    /// that goes on already. It ends when the upstream is dropped or retired.
    pub fn spawn_upkeep(&self, handle: &Handle) {
        let mut slot = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_some() {
            return;
        }
        let upkeep = Upkeep::spawn(&self.servers, self.config.health_check.as_ref(), handle);
        *slot = Some(upkeep);
    }

    /// Ends what [`spawn_upkeep`](Self::spawn_upkeep) began and leaves the gauges alone, for
    /// another upstream of this name has taken its place. Requests that are under way keep
    /// their servers and may choose among them still.
    pub fn retire(&self) {
        self.servers.retire();
        *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits until each of its names has been looked up once, with whatever result; at once
    /// where it has none. Whoever waits should do so for a bounded time: a lookup takes as
    /// long as the system's resolver takes, and nothing comes before
    /// [`spawn_upkeep`](Self::spawn_upkeep).
    pub async fn settled(&self) {
        // The sender lives as long as this does.
        let _ = self.servers.unasked.subscribe().wait_for(|names| *names == 0).await;
    }

    /// The server to ask next; none when there is none that may be asked.
    ///
    /// Servers that this request has not tried and that are not ejected come first, then those
    /// it has tried, then ejected ones. Takes no lock and allocates nothing.
    pub fn choose(&self, choice: &Choice<'_>) -> Option<Arc<Server>> {
        self.servers.choose(choice)
    }

    /// How many servers are resolved, healthy and not drained, and how many there are.
    pub fn counts(&self) -> (usize, usize) {
        self.servers.counts()
    }

    /// How each server stands, in the order of the configuration.
    pub fn servers(&self, now_ns: u64) -> Vec<ServerView> {
        let set = self.servers.current();
        let view = |server: &Arc<Server>| {
            let ejected_ns = server.ejection().out_for_ns(now_ns);
            ServerView {
                configured: server.configured.clone(),
                address: server.address,
                weight: server.weight,
                state: ServerState::of(server, now_ns),
                in_flight: server.in_flight(),
                latency: server.latency(now_ns),
                ejected_for: (ejected_ns > 0).then(|| Duration::from_nanos(ejected_ns)),
            }
        };
        set.servers.iter().map(view).collect()
    }

    /// Drains a server or brings it back; false: there is none of this address.
    ///
    /// `address` is written as in the configuration, and then stands for everything it
    /// resolves to now and later, or it is one of the addresses a name resolved to. A drained
    /// server gets no new requests; those in flight go on.
    pub fn set_drained(&self, address: &str, is_drained: bool) -> bool {
        self.servers.set_drained(address, is_drained)
    }

    /// Takes over what a name among the servers, written as in the configuration, resolves to
    /// now, as the lookups of [`spawn_upkeep`](Self::spawn_upkeep) do; without an address the
    /// name is no server. Returns whether that is news; to what is no such name nothing is.
    pub fn set_addresses(&self, name: &str, found: Vec<SocketAddr>, now_ns: u64) -> bool {
        self.servers.entry_of(name).is_some_and(|entry| self.servers.resolved(entry, found, now_ns))
    }

    /// Takes over what checks say of the server at an address, as those of
    /// [`spawn_upkeep`](Self::spawn_upkeep) do; false: there is none.
    pub fn set_healthy(&self, address: SocketAddr, is_healthy: bool) -> bool {
        let set = self.servers.current();
        let server = set.servers.iter().find(|server| server.address == Some(address));
        server.inspect(|server| self.servers.set_healthy(server, is_healthy)).is_some()
    }
}

#[cfg(test)]
mod tests;
