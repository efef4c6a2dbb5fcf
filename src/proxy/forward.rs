//! What the upstream is told: the request's headers, less what a client could forge, plus
//! what the gateway knows.

use super::context::Context;
use super::trace;
use http::{HeaderName, HeaderValue, Version, header};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use std::fmt::Write;
use std::net::IpAddr;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Beginnings and whole names of headers by which a client could claim an identity towards
/// the upstream, as they read with `_` as `-`.
const IDENTITY_PREFIXES: [&str; 8] = [
    "x-forwarded-",
    "x-client-cert",
    "x-ssl-client-",
    "x-consumer-",
    "x-authenticated-",
    "x-gateway-",
    "client-cert",
    "ssl-client-",
];
const IDENTITY_NAMES: [&str; 8] = [
    "forwarded",
    "x-forwarded",
    "x-real-ip",
    "x-original-forwarded-for",
    "true-client-ip",
    "x-remote-user",
    "x-original-url",
    "x-rewrite-url",
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

/// Writes the upstream's request: the forwarded target, the sender's address, the trace id.
///
/// # Errors
/// When a header cannot be built, which its checked parts rule out.
pub fn prepare(
    request: &mut RequestHeader,
    original: &RequestHeader,
    ctx: &Context,
    peer: Option<IpAddr>,
    server: &crate::config::Server,
    pseudonym: &Pseudonym,
) -> Result<()> {
    if let Some(target) = &ctx.target {
        request.set_raw_path(target.as_bytes())?;
    }
    strip(request, ctx.is_from_trusted_proxy, &server.strip_headers);
    if let Some(peer) = peer {
        append(request, &X_FORWARDED_FOR, peer)?;
    }
    if !request.headers.contains_key(&X_FORWARDED_PROTO) {
        request.insert_header(&X_FORWARDED_PROTO, HeaderValue::from_static("http"))?;
    }
    match original.headers.get(header::HOST) {
        Some(host) if !request.headers.contains_key(&X_FORWARDED_HOST) => {
            request.insert_header(&X_FORWARDED_HOST, host)?;
        }
        Some(_) => {}
        None => {
            // HTTP/1.0 without Host; the upstream is spoken to in HTTP/1.1.
            let name = ctx.attempt.server.map(|server| server.to_string()).unwrap_or_default();
            request.insert_header(header::HOST, name)?;
        }
    }
    request.append_header(header::VIA, &pseudonym.via)?;
    request.insert_header(&trace::TRACE_ID, &ctx.trace_id)?;
    if wants_trailers(original) && !request.headers.contains_key(header::UPGRADE) {
        request.insert_header(header::TE, HeaderValue::from_static("trailers"))?;
        request.insert_header(header::CONNECTION, HeaderValue::from_static("te"))?;
    }
    Ok(())
}

fn strip(request: &mut RequestHeader, is_trusted: bool, others: &[HeaderName]) {
    if !is_trusted {
        let claims: Vec<HeaderName> =
            request.headers.keys().filter(|name| claims_identity(name.as_str())).cloned().collect();
        for name in claims {
            request.remove_header(&name);
        }
    }
    for name in others {
        request.remove_header(name);
    }
}

/// Whether a header of this lower-case name claims an identity, however its words are joined.
fn claims_identity(name: &str) -> bool {
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

/// Appends an address to a list; the only value unless a trusted proxy sent others.
fn append(request: &mut RequestHeader, name: &HeaderName, address: IpAddr) -> Result<()> {
    let mut list = String::with_capacity(48);
    for value in request.headers.get_all(name) {
        if let Ok(value) = value.to_str() {
            list.push_str(value);
            list.push_str(", ");
        }
    }
    // Writing to a string cannot fail.
    let _ = write!(list, "{address}");
    request.insert_header(name, list)
}

fn wants_trailers(request: &RequestHeader) -> bool {
    let values = request.headers.get_all(header::TE).iter().filter_map(|te| te.to_str().ok());
    values.flat_map(|te| te.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Removes what concerns only the connection to the upstream, and what the client's
/// protocol version does not know.
pub fn clean_response(response: &mut ResponseHeader, version: Version) {
    let nominated: Vec<HeaderName> = response
        .headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| {
            !matches!(*name, header::UPGRADE | header::CONTENT_LENGTH | header::TRANSFER_ENCODING)
        })
        .collect();
    for name in nominated {
        response.remove_header(&name);
    }
    response.remove_header("proxy-connection");
    response.remove_header("keep-alive");
    if version == Version::HTTP_10 {
        // The end of the connection ends the body.
        response.remove_header(&header::TRANSFER_ENCODING);
    }
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
