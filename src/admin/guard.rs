//! Who may use the admin API: the bearer token, and the checks that keep web pages out.
//!
//! A browser on an administrator's machine can reach a loopback port. Two checks keep other
//! sites' pages from writing through it: the request's `Origin`, where there is one, must be
//! this listener's own, and its `Host` must be the listener's address or a loopback name, so
//! that a name whose address an attacker changes to ours (DNS rebinding) is of no use.

use super::AdminState;
use super::problem::Problem;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::Authority;
use http::{HeaderMap, Method, StatusCode, header};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// Paths that never need the token: what orchestrators and scrapers ask for.
const PUBLIC_PATHS: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Whether `path` is answered without the token.
pub(super) fn is_public(path: &str) -> bool {
    PUBLIC_PATHS.contains(&path)
}

/// What requests are checked against.
pub(super) struct Guard {
    listen: SocketAddr,
    /// The SHA-256 of the token.
    token: Option<[u8; 32]>,
}

impl Guard {
    pub(super) fn new(state: &AdminState) -> Guard {
        let token = state.token.as_ref();
        Guard {
            listen: state.listen,
            token: token.map(|token| Sha256::digest(token.expose().as_bytes()).into()),
        }
    }

    fn check(&self, request: &Request) -> Result<(), Problem> {
        if !is_public(request.uri().path()) && !self.is_authorized(request.headers()) {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "send the admin token as Authorization: Bearer TOKEN",
            ));
        }
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let host = self.own_host(request).ok_or_else(|| {
            forbidden(
                "send changes to the listener's own address or a loopback name; Host is another",
            )
        })?;
        match self.is_own_origin(request.headers(), &host) {
            true => Ok(()),
            false => Err(forbidden("a web page of another origin asked for this change")),
        }
    }

    /// Both sides are hashed first, so that neither the time nor the length of a comparison
    /// tells anything about the token.
    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.token else { return true };
        let Some(presented) = single(headers, header::AUTHORIZATION).and_then(bearer) else {
            return false;
        };
        let presented: [u8; 32] = Sha256::digest(presented).into();
        presented.ct_eq(expected).into()
    }

    /// The host a request was sent to, when it is ours.
    fn own_host(&self, request: &Request) -> Option<Authority> {
        let host = authority(single(request.headers(), header::HOST)?)?;
        let target = request.uri().authority();
        (self.is_own(&host) && target.is_none_or(|target| self.is_own(target))).then_some(host)
    }

    /// The port does not matter: rebinding changes the address of a name, and a port may be
    /// mapped on the way. A listener on every address is reached by any of them, so there
    /// every literal address is its own; a literal cannot be rebound.
    fn is_own(&self, authority: &Authority) -> bool {
        let host = authority.host();
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(ip) => {
                let own = self.listen.ip();
                ip.to_canonical().is_loopback()
                    || own.is_unspecified()
                    || ip.to_canonical() == own.to_canonical()
            }
            Err(_) => host.eq_ignore_ascii_case("localhost"),
        }
    }

    /// A loopback page of another port is another origin.
    fn is_own_origin(&self, headers: &HeaderMap, host: &Authority) -> bool {
        if !headers.contains_key(header::ORIGIN) {
            return true;
        }
        let origin = single(headers, header::ORIGIN).and_then(|origin| {
            let scheme = origin.strip_prefix(b"http://").or(origin.strip_prefix(b"https://"))?;
            authority(scheme)
        });
        origin.is_some_and(|origin| {
            origin == *host || self.is_own(&origin) && origin.port_u16() == Some(self.listen.port())
        })
    }
}

/// Lets a request through to its handler, or refuses it.
pub(super) async fn check(
    State(guard): State<Arc<Guard>>,
    request: Request,
    next: Next,
) -> Response {
    match guard.check(&request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn forbidden(detail: &str) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, detail)
}

/// The value of a header that occurs exactly once.
fn single(headers: &HeaderMap, name: header::HeaderName) -> Option<&[u8]> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.as_bytes())
}

/// The token of `Bearer TOKEN`; the scheme in any case.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// A host, alone or with a port. User information has no place in either header.
fn authority(value: &[u8]) -> Option<Authority> {
    let authority = Authority::try_from(value).ok()?;
    let is_host_alone = authority.as_str() == authority.host();
    let has_user = authority.as_str().contains('@');
    (is_host_alone || authority.port_u16().is_some() && !has_user).then_some(authority)
}
