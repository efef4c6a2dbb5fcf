//! Who a bucket belongs to: a client by API key, by header or by address.

use super::Standing;
use crate::store::key::KeyKind;
use std::net::IpAddr;

/// A request's client, as far as limits are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// How it was named.
    pub kind: KeyKind,
    /// Its name: the client id, or the address (IPv6: the first of its prefix).
    pub name: Box<str>,
    /// How it stands.
    pub standing: Standing,
}

/// The part of an address that makes one client: an IPv4 address whole, also when it is
/// mapped into IPv6; an IPv6 address with all but its first `ipv6_prefix` bits cleared.
pub fn client_ip(ip: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(ip) & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_client_is_its_prefix_and_an_ipv4_client_its_address() {
        let cases = [
            ("203.0.113.7", 64, "203.0.113.7"),
            ("::ffff:203.0.113.7", 64, "203.0.113.7"),
            ("2001:db8:1:2:3:4:5:6", 64, "2001:db8:1:2::"),
            ("2001:db8:1:2:3:4:5:6", 48, "2001:db8:1::"),
            ("2001:db8:1:2:3:4:5:6", 128, "2001:db8:1:2:3:4:5:6"),
            ("2001:db8::1", 1, "::"),
        ];
        for (ip, prefix, client) in cases {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(client_ip(ip, prefix), client.parse::<IpAddr>().unwrap(), "{ip}/{prefix}");
        }
    }
}
