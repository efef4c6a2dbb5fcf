//! The servers of an upstream at one moment, and the choice among them.

use super::ring::Ring;
use super::server::Server;
use crate::config::Balance;
use crate::policy::balance::Rotation;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What a choice depends on besides the servers.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// A hash of what the request has in common with others, for consistent hashing. It should
    /// be the same in every gateway and after a restart. None: by turns.
    pub affinity: Option<u64>,
    /// Servers this request has asked already; others come first.
    pub tried: &'a [Arc<Server>],
    /// The time.
    pub now_ns: u64,
}

/// The servers and what balancing computes of them beforehand. Immutable; the servers live.
pub(super) struct ServerSet {
    pub(super) servers: Vec<Arc<Server>>,
    rotation: Rotation,
    way: Way,
}

enum Way {
    InTurn,
    LeastLoaded,
    Consistent(Ring),
}

/// How gladly a server is asked, from the best.
///
/// An ejected server is better than none: ejection is a guess made from failures, and when
/// nobody else is left the guess may as well be tested. What a check or an operator took out
/// is never asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Untried,
    Tried,
    EjectedUntried,
    EjectedTried,
}

impl Rank {
    /// None: it must not be asked.
    fn of(server: &Arc<Server>, choice: &Choice<'_>) -> Option<Rank> {
        if !server.is_usable() {
            return None;
        }
        let is_tried = choice.tried.iter().any(|tried| Arc::ptr_eq(tried, server));
        Some(match (server.ejection().is_out(choice.now_ns), is_tried) {
            (false, false) => Rank::Untried,
            (false, true) => Rank::Tried,
            (true, false) => Rank::EjectedUntried,
            (true, true) => Rank::EjectedTried,
        })
    }
}

impl ServerSet {
    /// A set of at most 65 536 servers.
    pub(super) fn new(servers: Vec<Arc<Server>>, balance: &Balance) -> ServerSet {
        let weights: Vec<u32> = servers.iter().map(|server| server.weight).collect();
        let way = match balance {
            Balance::RoundRobin => Way::InTurn,
            Balance::LeastLoaded => Way::LeastLoaded,
            Balance::Consistent(_) => Way::Consistent(Ring::new(&servers)),
        };
        ServerSet { servers, rotation: Rotation::new(&weights), way }
    }

    /// The server to ask; none: there is none that may be asked. Allocates nothing.
    pub(super) fn choose(&self, choice: &Choice<'_>, turn: &AtomicUsize) -> Option<&Arc<Server>> {
        let picked = self.pick(Rank::Untried, choice, turn).or_else(|| {
            let ranks = self.servers.iter().filter_map(|server| Rank::of(server, choice));
            let best = ranks.min()?;
            // What was the best a moment ago may have changed; then any will do.
            self.pick(best, choice, turn).or_else(|| {
                self.servers.iter().position(|server| Rank::of(server, choice).is_some())
            })
        });
        self.servers.get(picked?)
    }

    fn pick(&self, rank: Rank, choice: &Choice<'_>, turn: &AtomicUsize) -> Option<usize> {
        let has_rank = |place: usize| {
            self.servers.get(place).and_then(|server| Rank::of(server, choice)) == Some(rank)
        };
        match (&self.way, choice.affinity) {
            (Way::Consistent(ring), Some(affinity)) => ring.pick(affinity, has_rank),
            (Way::LeastLoaded, _) => {
                let draw = |below| fastrand::usize(..below);
                let load = |place: usize| self.servers[place].load(choice.now_ns);
                self.rotation.less_loaded(draw, has_rank, load)
            }
            (Way::InTurn | Way::Consistent(_), _) => {
                self.rotation.in_turn(|| turn.fetch_add(1, Ordering::Relaxed), has_rank)
            }
        }
    }
}
