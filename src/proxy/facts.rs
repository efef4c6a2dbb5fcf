//! What a request's headers say to the gateway, gathered in one pass.
//!
//! Each look-up in a header map hashes a name; a dozen of them a request cost more than the
//! limiter. One walk over the headers finds everything, and most requests turn out to have
//! nothing that needs a closer look.

use super::forward::claims_identity;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The headers of a request as far as the gateway reads them itself.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    /// `Host`.
    pub host: Option<&'a HeaderValue>,
    /// `X-Trace-ID`.
    pub trace_id: Option<&'a HeaderValue>,
    /// `traceparent`.
    pub traceparent: Option<&'a HeaderValue>,
    /// `Content-Length`.
    pub content_length: Option<&'a HeaderValue>,
    /// Which others are there.
    pub has: Present,
}

/// Headers that are rare and need a closer look where they are there.
#[derive(Debug, Default, Clone, Copy)]
pub struct Present {
    /// `Via`: the request may have been here before.
    pub via: bool,
    /// `Connection`: names headers for this connection only.
    pub connection: bool,
    /// `TE`.
    pub te: bool,
    /// `Upgrade`.
    pub upgrade: bool,
    /// Another header that concerns this connection only; see [`is_hop_by_hop`].
    pub hop_by_hop: bool,
    /// `Transfer-Encoding`: a body follows.
    pub transfer_encoding: bool,
    /// `Expect`: the client may send its body only when told to.
    pub expect: bool,
    /// A header that claims an identity towards the upstream.
    pub claims: bool,
}

impl<'a> Facts<'a> {
    /// Walks over the headers of a request.
    pub fn gather(headers: &'a HeaderMap) -> Facts<'a> {
        let mut facts = Facts::default();
        for (name, value) in headers {
            match name.as_str() {
                "host" => facts.host = Some(value),
                "content-length" => facts.content_length = Some(value),
                "connection" => facts.has.connection = true,
                "x-trace-id" => facts.trace_id = Some(value),
                "traceparent" => facts.traceparent = Some(value),
                "via" => facts.has.via = true,
                "te" => facts.has.te = true,
                "upgrade" => facts.has.upgrade = true,
                "transfer-encoding" => facts.has.transfer_encoding = true,
                "expect" => facts.has.expect = true,
                other => {
                    facts.has.hop_by_hop |= is_hop_by_hop(name);
                    facts.has.claims |= claims_identity(other);
                }
            }
        }
        facts
    }
}

/// Whether a header is for one connection only, whatever `Connection` says; `Connection`,
/// `TE` and `Upgrade` apart. `Transfer-Encoding` is not one here: Pingora frames by it.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "trailer"
            | "http2-settings"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_walk_finds_what_the_gateway_reads() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "a.test"),
            ("content-length", "3"),
            ("x-trace-id", "t"),
            ("keep-alive", "5"),
            ("x_real_ip", "1.1.1.1"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let facts = Facts::gather(&headers);
        assert_eq!(facts.host.unwrap(), "a.test");
        assert_eq!(facts.trace_id.unwrap(), "t");
        assert!(facts.has.hop_by_hop && facts.has.claims);
        assert!(!facts.has.via && !facts.has.connection && !facts.has.te && !facts.has.upgrade);
    }
}
