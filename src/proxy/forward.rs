//! What the upstream is told: the request's headers, less what a client could forge, plus
//! what the gateway knows.

use super::context::Context;
use super::facts::Present;
use super::{hops, trace};
use crate::config::{Identifier, Server};
use crate::decision::client::is_within;
use crate::wire::guard::Peer;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use pingora_core::Result;
use pingora_http::RequestHeader;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Headers that [`prepare`] adds.
const ADDED_HEADERS: usize = 5;

/// Beginnings and whole names of headers by which a client could claim an identity towards
/// the upstream, as they read with `_` as `-`.
const IDENTITY_PREFIXES: [&str; 10] = [
    "x-forwarded-",
    "x-client-cert",
    "x-ssl-client-",
    "x-consumer-",
    "x-authenticated-",
    "x-gateway-",
    "x-auth-request-",
    "x-amzn-mtls-",
    "client-cert",
    "ssl-client-",
];
const IDENTITY_NAMES: [&str; 15] = [
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "x-remote-user",
    "x-original-url",
    "x-rewrite-url",
    "x-client-verify",
    "x-client-dn",
    "x-client-s-dn",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-arr-clientcert",
    "cf-connecting-ip",
];

/// The name under which this process signs `Via`.
pub struct Pseudonym {
    /// `1.1 tollgate (id)`; the id tells instances apart, so that one may stand behind
    /// another and only a real loop is refused.
    via: HeaderValue,
    comment: String,
}

impl Pseudonym {
    /// A name no other process has.
    pub fn random() -> Pseudonym {
        let comment = format!("({:08x})", fastrand::u32(..));
        let via = HeaderValue::try_from(format!("1.1 tollgate {comment}"))
            .unwrap_or_else(|_| HeaderValue::from_static("1.1 tollgate"));
        Pseudonym { via, comment }
    }

    /// Whether the request passed through this process before. A bare `tollgate` counts as
    /// ours: intermediaries may remove comments.
    pub fn has_signed(&self, request: &RequestHeader) -> bool {
        let signatures = request.headers.get_all(header::VIA).iter();
        let elements = signatures
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim);
        elements.filter_map(|element| element.split_once(' ')).any(|(_, received_by)| {
            let mut words = received_by.split_whitespace();
            words.next().is_some_and(|name| name.eq_ignore_ascii_case("tollgate"))
                && words.next().is_none_or(|comment| comment == self.comment)
        })
    }
}

/// What the gateway knows of a request and tells the upstream.
pub struct Origin<'a> {
    /// The connection's other end.
    pub peer: Option<Peer>,
    /// Whether that is a proxy whose word is taken.
    pub is_trusted: bool,
    /// How clients are named. A header that does so for some peers only is not passed on for others.
    pub identify: &'a [Identifier],
    /// The request's trace id.
    pub trace_id: &'a HeaderValue,
    /// Which headers of the request need a closer look.
    pub has: Present,
}

/// Turns a request's headers into those every attempt forwards: without what a client could
/// forge, with the sender's address and the trace id.
///
/// This is done once, on the request as Pingora holds it, and without Pingora's second map
/// of header spellings: names go on in lower case (the commonest in title case), and each
/// attempt copies one map instead of two. `Transfer-Encoding` stays, for Pingora frames the
/// body by it.
pub fn prepare(
    request: &mut RequestHeader,
    origin: Origin<'_>,
    server: &Server,
    pseudonym: &Pseudonym,
) {
    let nothing = RequestHeader::from(http::Request::new(()).into_parts().0);
    let mut parts: http::request::Parts = std::mem::replace(request, nothing).into();
    let headers = &mut parts.headers;
    headers.reserve(ADDED_HEADERS);
    hops::strip_request(headers, origin.has, parts.version);
    if parts.version == Version::HTTP_10 {
        // Such a client knows no 100 Continue, and cannot mean to wait for one.
        headers.remove(header::EXPECT);
    }
    strip(headers, origin.has.claims && !origin.is_trusted, &server.strip_headers);
    strip_assertions(headers, &origin);
    if let Some(peer) = origin.peer {
        let chain = forwarded_for(headers, origin.is_trusted, peer);
        headers.insert(&X_FORWARDED_FOR, chain);
    }
    if !origin.is_trusted || !headers.contains_key(&X_FORWARDED_PROTO) {
        headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if (!origin.is_trusted || !headers.contains_key(&X_FORWARDED_HOST))
        && let Some(host) = headers.get(header::HOST).cloned()
    {
        headers.insert(&X_FORWARDED_HOST, host);
    }
    headers.append(header::VIA, pseudonym.via.clone());
    headers.insert(&trace::TRACE_ID, origin.trace_id.clone());
    *request = parts.into();
}

/// Finishes one attempt's request: its target, and a host where the client named none.
///
/// # Errors
/// When a header cannot be built, which its checked parts rule out.
pub fn finish(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    if let Some(target) = &ctx.target {
        request.set_raw_path(target.as_bytes())?;
    }
    if !ctx.has_host {
        // HTTP/1.0 without Host; the upstream is spoken to in HTTP/1.1.
        let server = ctx.attempts.server.as_ref();
        request.insert_header("Host", server.map_or("", |server| &*server.name))?;
    }
    Ok(())
}

fn strip(headers: &mut HeaderMap, has_claims: bool, others: &[HeaderName]) {
    if has_claims {
        let claims: Vec<HeaderName> =
            headers.keys().filter(|name| claims_identity(name.as_str())).cloned().collect();
        for name in claims {
            headers.remove(name);
        }
    }
    for name in others {
        headers.remove(name);
    }
}

/// Removes the headers that name clients, but not when this peer sends them.
fn strip_assertions(headers: &mut HeaderMap, origin: &Origin<'_>) {
    for identifier in origin.identify {
        let Identifier::Header { name, from } = identifier else { continue };
        let may_assert = |peer: &Peer| is_within(peer.address, from);
        if from.is_empty() || origin.peer.as_ref().is_some_and(may_assert) {
            continue;
        }
        headers.remove(name);
        // Software behind may read an underscore as a dash.
        let is_it = |other: &HeaderName| other.as_str().replace('_', "-") == name.as_str();
        let spelled: Vec<HeaderName> = headers
            .keys()
            .filter(|other| other.as_str().contains('_') && is_it(other))
            .cloned()
            .collect();
        for other in spelled {
            headers.remove(other);
        }
    }
}

/// Whether a header of this lower-case name claims an identity, however its words are joined.
pub(super) fn claims_identity(name: &str) -> bool {
    // All of them begin with one of these; most headers do not.
    if !matches!(name.as_bytes().first(), Some(b'x' | b'f' | b'c' | b's' | b't')) {
        return false;
    }
    let dashed;
    let name = if name.contains('_') {
        dashed = name.replace('_', "-");
        &dashed
    } else {
        name
    };
    IDENTITY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || IDENTITY_NAMES.contains(&name)
}

/// The peer's address, behind what a trusted proxy already wrote.
fn forwarded_for(headers: &HeaderMap, is_trusted: bool, peer: Peer) -> HeaderValue {
    if !is_trusted {
        return peer.text;
    }
    let mut chain = Vec::with_capacity(64);
    for value in headers.get_all(&X_FORWARDED_FOR) {
        chain.extend_from_slice(value.as_bytes());
        chain.extend_from_slice(b", ");
    }
    chain.extend_from_slice(peer.text.as_bytes());
    // Values joined by a comma are a value.
    HeaderValue::from_maybe_shared(Bytes::from(chain)).unwrap_or(peer.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_that_claim_an_identity_are_known_in_every_spelling() {
        for name in [
            "x-forwarded-for",
            "x_forwarded_for",
            "x-forwarded_host",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "x-client-cert",
            "x-client-cert-chain",
            "client-cert",
            "client-cert-chain",
            "x-ssl-client-cert",
            "x-consumer-id",
            "x_consumer_groups",
            "x-authenticated-userid",
            "x-gateway-anything",
            "x-client-verify",
            "x_client_dn",
            "cf-connecting-ip",
        ] {
            assert!(claims_identity(name), "{name}");
        }
        for name in ["x-client-id", "x-request-id", "accept", "cookie", "x-trace-id", "te", "from"]
        {
            assert!(!claims_identity(name), "{name}");
        }
    }

    #[test]
    fn only_a_request_that_was_here_before_is_a_loop() {
        let pseudonym =
            Pseudonym { via: HeaderValue::from_static("x"), comment: "(00c0ffee)".into() };
        let cases = [
            ("1.1 tollgate (00c0ffee)", true),
            ("1.0 fred, 1.1 tollgate (00c0ffee), 1.1 p.example", true),
            ("1.1 tollgate", true),
            ("1.1 tollgate (12345678)", false),
            ("1.1 tollgate-two", false),
            ("1.1 fred", false),
            ("tollgate", false),
        ];
        for (via, is_loop) in cases {
            let mut request = RequestHeader::build("GET", b"/", None).unwrap();
            request.append_header(header::VIA, via).unwrap();
            assert_eq!(pseudonym.has_signed(&request), is_loop, "{via}");
        }
    }
}
