//! Consistent hashing: the same server for the same value, as long as it can be used.

use super::server::Server;
use crate::policy::balance;
use pingora_ketama::{Bucket, Continuum};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Servers on a ketama ring, as nginx lays it out: 160 points a server and unit of weight.
///
/// When a server comes or goes, only about its own share of the values moves, and the values
/// of one that cannot be used go on to the servers that follow it on the ring. The ring is
/// made of addresses and weights alone, so every gateway with the same servers has the same.
pub(super) struct Ring {
    continuum: Continuum,
    /// The server at each point; the crate itself tells addresses only.
    points: Box<[u16]>,
    servers: usize,
}

/// Units of weight on a ring, unless there are more servers; 3 MiB.
const MAX_UNITS: u32 = 2_048;
/// Points that are passed before the servers are walked in order. Where one server in ten can
/// be used, one value in 10^11 needs more.
const MAX_STEPS: usize = 256;

impl Ring {
    /// Lays out the ring of those servers that have an address; no two have the same.
    pub(super) fn new(servers: &[Arc<Server>]) -> Ring {
        let weights: Vec<u32> = servers.iter().map(|server| server.weight).collect();
        let weights = balance::scale(&weights, MAX_UNITS);
        let mut buckets = Vec::with_capacity(servers.len());
        let mut places: HashMap<SocketAddr, u16> = HashMap::with_capacity(servers.len());
        for ((place, server), weight) in (0..=u16::MAX).zip(servers).zip(weights) {
            if let Some(address) = server.address {
                buckets.push(Bucket::new(address, weight));
                places.insert(address, place);
            }
        }
        // Where two servers have the same point, the first is asked to decide.
        buckets.sort_unstable();
        let continuum = Continuum::new(&buckets);
        let points = points(&continuum, &places);
        Ring { continuum, points, servers: servers.len() }
    }

    /// The number of the server for `value`, or of the next one on the ring that is usable.
    pub(super) fn pick(&self, value: u64, is_usable: impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.continuum.node_idx(&value.to_le_bytes());
        let (before, after) = self.points.split_at_checked(start)?;
        let steps = after.iter().chain(before).take(MAX_STEPS);
        let near = steps.map(|&place| usize::from(place)).find(|&place| is_usable(place));
        near.or_else(|| balance::walk(self.servers, start, is_usable))
    }
}

/// Walks once around the ring.
fn points(continuum: &Continuum, places: &HashMap<SocketAddr, u16>) -> Box<[u16]> {
    let mut points = Vec::new();
    let mut next = 0;
    while let Some(place) = continuum.get_addr(&mut next).and_then(|addr| places.get(addr)) {
        points.push(*place);
        if next == 0 {
            break;
        }
    }
    points.into_boxed_slice()
}
