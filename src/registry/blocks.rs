//! Who is blocked: addresses, networks and clients.
//!
//! Networks are kept in one map by their first address and length, and a request looks once for
//! every length that is in use. That is nothing while nobody is blocked, one look for a list of
//! single addresses, and rarely more than three. A trie would look once whatever the lengths,
//! but readers of it would need a copy for every change.

use ipnet::IpNet;
use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use thiserror::Error;

use super::is_client_id;

/// Whom a block keeps out. The address of an IPv4 host is the same whether or not it is mapped
/// into IPv6, and a network of one address is that address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// One address.
    Ip(IpAddr),
    /// A network.
    Cidr(IpNet),
    /// A client by its id, whether a header or an API key names it.
    Client(Box<str>),
}

/// Why a text names nobody to block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TargetError {
    /// It is none of the three kinds.
    #[error("what can be blocked is an ip, a cidr or a client")]
    Kind,
    /// It is no address.
    #[error("this is not an IPv4 or IPv6 address such as 203.0.113.7 or 2001:db8::1")]
    Ip,
    /// It is no network.
    #[error("this is not a network such as 203.0.113.0/24 or 2001:db8::%2F32")]
    Cidr,
    /// It is no client's id.
    #[error("a client's id is 1 to 256 bytes of visible ASCII")]
    Client,
}

impl Target {
    /// Reads a kind and a value of that kind. Bits of a network's address behind its prefix do
    /// not matter.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn parse(kind: &str, value: &str) -> Result<Target, TargetError> {
        match kind {
            "ip" => {
                let ip: IpAddr = value.parse().map_err(|_| TargetError::Ip)?;
                Ok(Target::Ip(ip.to_canonical()))
            }
            "cidr" => {
                let net: IpNet = value.parse().map_err(|_| TargetError::Cidr)?;
                Ok(canonical(net))
            }
            "client" if is_client_id(value.as_bytes()) => Ok(Target::Client(value.into())),
            "client" => Err(TargetError::Client),
            _ => Err(TargetError::Kind),
        }
    }

    /// Reads what `Display` writes.
    pub(super) fn of_text(text: &str) -> Option<Target> {
        let (kind, value) = text.split_once('/')?;
        Target::parse(kind, value).ok()
    }

    /// `ip`, `cidr` or `client`.
    pub fn kind(&self) -> &'static str {
        match self {
            Target::Ip(_) => "ip",
            Target::Cidr(_) => "cidr",
            Target::Client(_) => "client",
        }
    }

    /// The address, network or id as text.
    pub fn value(&self) -> String {
        match self {
            Target::Ip(ip) => ip.to_string(),
            Target::Cidr(net) => net.to_string(),
            Target::Client(id) => id.to_string(),
        }
    }
}

/// Kind and value: what it is kept and ordered by.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind(), self.value())
    }
}

fn canonical(net: IpNet) -> Target {
    let net = match net {
        IpNet::V6(net) if net.prefix_len() >= 96 => {
            let mapped = net.network().to_ipv4_mapped();
            let mapped = mapped.and_then(|ip| IpNet::new(ip.into(), net.prefix_len() - 96).ok());
            mapped.unwrap_or(IpNet::V6(net))
        }
        net => net,
    };
    match net.prefix_len() == net.max_prefix_len() {
        true => Target::Ip(net.addr()),
        false => Target::Cidr(net.trunc()),
    }
}

/// A network as the map knows it: family, length, first address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Network {
    is_v6: bool,
    length: u8,
    first: u128,
}

impl Network {
    fn of(target: &Target) -> Option<Network> {
        match target {
            Target::Ip(ip) => Some(Network::around(*ip, if ip.is_ipv6() { 128 } else { 32 })),
            Target::Cidr(net) => Some(Network::around(net.addr(), net.prefix_len())),
            Target::Client(_) => None,
        }
    }

    /// The network of this length that an address is in.
    fn around(ip: IpAddr, length: u8) -> Network {
        let (is_v6, bits, width) = match ip {
            IpAddr::V4(ip) => (false, u128::from(u32::from(ip)), 32),
            IpAddr::V6(ip) => (true, u128::from(ip), 128),
        };
        let behind = width - u32::from(length).min(width);
        let first = bits.checked_shr(behind).and_then(|bits| bits.checked_shl(behind));
        Network { is_v6, length, first: first.unwrap_or(0) }
    }
}

/// Lengths a network's prefix can have, by family.
const V4_LENGTHS: usize = 33;
const V6_LENGTHS: usize = 129;

/// The networks that are blocked, each until a time.
pub(super) struct Networks {
    /// Milliseconds since 1970, `u64::MAX` for ever.
    ends: papaya::HashMap<Network, u64>,
    count: AtomicUsize,
    /// How many there are of each length.
    v4: [AtomicU32; V4_LENGTHS],
    v6: [AtomicU32; V6_LENGTHS],
}

impl Default for Networks {
    fn default() -> Networks {
        Networks {
            ends: papaya::HashMap::new(),
            count: AtomicUsize::new(0),
            v4: std::array::from_fn(|_| AtomicU32::new(0)),
            v6: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }
}

impl Networks {
    /// Whether an address, in canonical form, is in a network whose block has not ended.
    #[inline]
    pub(super) fn hold(&self, ip: IpAddr, now_ms: impl Fn() -> u64) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.find(ip, now_ms)
    }

    fn find(&self, ip: IpAddr, now_ms: impl Fn() -> u64) -> bool {
        let lengths: &[AtomicU32] = if ip.is_ipv6() { &self.v6 } else { &self.v4 };
        let ends = self.ends.pin();
        let mut used = (0_u8..).zip(lengths).filter(|(_, n)| n.load(Ordering::Acquire) > 0);
        used.any(|(length, _)| {
            let end = ends.get(&Network::around(ip, length));
            end.is_some_and(|&end| end == u64::MAX || now_ms() < end)
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Sets or takes back the block of an address or a network. Only one thread does.
    pub(super) fn set(&self, target: &Target, end_ms: Option<u64>) {
        let Some(network) = Network::of(target) else { return };
        let Some(of_length) = self.of_length(network) else { return };
        let ends = self.ends.pin();
        match end_ms {
            Some(end_ms) => {
                if ends.insert(network, end_ms).is_none() {
                    of_length.fetch_add(1, Ordering::AcqRel);
                }
            }
            None => {
                if ends.remove(&network).is_some() {
                    of_length.fetch_sub(1, Ordering::AcqRel);
                }
            }
        }
        self.count.store(ends.len(), Ordering::Release);
    }

    /// Takes back every block that is not of one of these.
    pub(super) fn keep_only(&self, targets: &HashSet<Target>) {
        let kept: HashSet<Network> = targets.iter().filter_map(Network::of).collect();
        let ends = self.ends.pin();
        let gone: Vec<Network> = ends.keys().filter(|net| !kept.contains(net)).copied().collect();
        for network in gone {
            ends.remove(&network);
            if let Some(of_length) = self.of_length(network) {
                of_length.fetch_sub(1, Ordering::AcqRel);
            }
        }
        self.count.store(ends.len(), Ordering::Release);
    }

    fn of_length(&self, network: Network) -> Option<&AtomicU32> {
        let lengths: &[AtomicU32] = if network.is_v6 { &self.v6 } else { &self.v4 };
        lengths.get(usize::from(network.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        Target::of_text(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn a_target_has_one_spelling() {
        let cases = [
            ("ip/203.0.113.7", "ip/203.0.113.7"),
            ("ip/::ffff:203.0.113.7", "ip/203.0.113.7"),
            ("ip/2001:DB8:0::1", "ip/2001:db8::1"),
            ("cidr/203.0.113.7/24", "cidr/203.0.113.0/24"),
            ("cidr/203.0.113.7/32", "ip/203.0.113.7"),
            ("cidr/::ffff:203.0.113.7/120", "cidr/203.0.113.0/24"),
            ("cidr/::ffff:203.0.113.7/128", "ip/203.0.113.7"),
            ("cidr/2001:db8::1/32", "cidr/2001:db8::/32"),
            ("cidr/2001:db8::1/128", "ip/2001:db8::1"),
            ("client/a/b", "client/a/b"),
        ];
        for (text, canonical) in cases {
            assert_eq!(target(text).to_string(), canonical, "{text}");
        }
        for bad in ["ip/a", "ip/1.2.3.4/8", "cidr/1.2.3.4", "cidr/1.2.3.4/33", "client/", "x/y"] {
            assert_eq!(Target::of_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_address_is_held_by_every_network_around_it_until_the_block_ends() {
        let networks = Networks::default();
        let is_held = |ip: &str, now| networks.hold(ip.parse().unwrap(), || now);
        assert!(!is_held("203.0.113.7", 0));
        networks.set(&target("ip/203.0.113.7"), Some(u64::MAX));
        networks.set(&target("cidr/10.0.0.0/8"), Some(100));
        networks.set(&target("cidr/2001:db8::/32"), Some(u64::MAX));
        assert!(is_held("203.0.113.7", u64::MAX));
        assert!(!is_held("203.0.113.8", 0));
        assert!(is_held("10.255.0.1", 99));
        assert!(!is_held("10.255.0.1", 100), "it has ended");
        assert!(!is_held("11.0.0.1", 0));
        assert!(is_held("2001:db8:ffff::1", 0));
        assert!(!is_held("2001:db9::1", 0));
        networks.set(&target("cidr/0.0.0.0/0"), Some(u64::MAX));
        assert!(is_held("11.0.0.1", 0));
        assert!(!is_held("2001:db9::1", 0), "all of IPv4 is nothing of IPv6");
        networks.set(&target("cidr/0.0.0.0/0"), None);
        networks.set(&target("cidr/0.0.0.0/0"), None);
        assert!(!is_held("11.0.0.1", 0));
        networks.set(&target("cidr/::/0"), Some(u64::MAX));
        assert!(is_held("2001:db9::1", 0) && !is_held("11.0.0.1", 0));
    }
}
