//! What operators took out of balancing, kept apart from the servers so that it outlives them.

use super::server::Server;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Which configured servers are drained, and which of their addresses stand differently.
#[derive(Default, Clone)]
pub(super) struct Drains {
    /// By address as configured.
    configured: HashMap<Arc<str>, bool>,
    /// By address, over what its configured one says.
    addresses: HashMap<SocketAddr, Own>,
}

/// What was said of a single address.
#[derive(Clone)]
struct Own {
    is_drained: bool,
    /// The configured server it belonged to then. What is said of that one later goes for this
    /// address as well, also while it is not resolved to.
    configured: Arc<str>,
}

/// Addresses that may stand differently from their names before those that are gone are
/// forgotten. A name that keeps resolving to others would let them pile up otherwise.
const MAX_ADDRESSES: usize = 4_096;

impl Drains {
    /// Whether `server` is drained.
    pub(super) fn holds(&self, server: &Server) -> bool {
        let own = server.address.and_then(|address| self.addresses.get(&address));
        let of_all = || self.configured.get(&server.configured).copied();
        own.map(|own| own.is_drained).or_else(of_all).unwrap_or(false)
    }

    /// Drains what `address` means or brings it back; returns whether it means anything.
    pub(super) fn set<'a>(
        &mut self,
        address: &str,
        is_drained: bool,
        mut configured: impl Iterator<Item = &'a Arc<str>>,
        servers: &[Arc<Server>],
    ) -> bool {
        let parsed = address.parse().ok();
        let is_meant = |text: &str| {
            text.eq_ignore_ascii_case(address) || parsed.is_some() && text.parse().ok() == parsed
        };
        if let Some(configured) = configured.find(|text| is_meant(text)) {
            let its = servers.iter().filter(|server| server.configured == *configured);
            for address in its.filter_map(|server| server.address) {
                self.addresses.remove(&address);
            }
            self.addresses.retain(|_, own| own.configured != *configured);
            self.configured.insert(configured.clone(), is_drained);
            return true;
        }
        let Some(address) = parsed else { return false };
        let Some(server) = servers.iter().find(|server| server.address == parsed) else {
            return false;
        };
        self.addresses.remove(&address);
        if self.holds(server) != is_drained {
            if self.addresses.len() >= MAX_ADDRESSES {
                let is_present = |address| servers.iter().any(|s| s.address == Some(address));
                self.addresses.retain(|&address, _| is_present(address));
            }
            let configured = server.configured.clone();
            self.addresses.insert(address, Own { is_drained, configured });
        }
        true
    }
}
