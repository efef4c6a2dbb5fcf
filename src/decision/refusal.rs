//! Everything Tollgate answers by itself, in one table: status, headers, body and metric.
//!
//! Bodies are problem details (RFC 9457). The `type` is a URN, so that software can tell
//! refusals of one status apart without parsing prose.

pub use super::cause::{Breach, Stage, Wait};
use crate::policy::path::PathFault;
use crate::store::limiter::Standing;
use crate::upstream::Upstream;
use crate::upstream::circuit::{Circuit, Refused};
use crate::wire::connections::Crowd;
use crate::wire::fault::Fault;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

static RETRY_AFTER: HeaderName = header::RETRY_AFTER;

/// Why a request is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its bytes or its framing.
    Malformed(Fault),
    /// Its path has no normal form.
    Path(PathFault),
    /// Its `Connection` header names a field that must not be removed.
    Connection,
    /// It has come through this gateway before.
    Loop,
    /// No route takes it.
    NoRoute,
    /// Routes take its path with other methods only.
    Method(Vec<Method>),
    /// Its body is larger than the route's `max_body`.
    BodyTooLarge {
        /// The bound in bytes.
        max_body: u64,
    },
    /// Its API key is not known.
    UnknownApiKey,
    /// The route needs an API key and it has none.
    ApiKeyRequired,
    /// An operator blocks its address or its client.
    Blocked,
    /// A limit refused it.
    RateLimited {
        /// The policy's name.
        policy: Arc<str>,
        /// How the policy stands.
        standing: Standing,
    },
    /// A leaky bucket would hold it back until its route's `timeout` is over.
    HeldTooLong {
        /// The policy's name.
        policy: Arc<str>,
        /// How long it would.
        delay_ns: u64,
    },
    /// The circuit in front of the upstream is open.
    CircuitOpen {
        /// The circuit's name.
        circuit: Arc<str>,
        /// When it may close.
        retry_after_ns: u64,
    },
    /// The client has as many requests in flight as its tier allows.
    ClientBusy {
        /// The tier's name.
        tier: Arc<str>,
        /// How many that are.
        max: u32,
    },
    /// Every place of the upstream was taken, and waiting for one was in vain.
    Saturated {
        /// The upstream's name.
        upstream: Arc<str>,
        /// Why waiting was in vain.
        wait: Wait,
    },
    /// No server of the upstream can be asked.
    NoServer {
        /// The upstream's name.
        upstream: Arc<str>,
    },
    /// The upstream did not do something in time.
    UpstreamTimeout(Stage),
    /// The upstream failed.
    UpstreamFailed(Breach),
    /// The client did not send its request's body within the route's time-out, or sent or read
    /// more slowly than `server.min_body_rate`.
    ClientTimeout,
    /// There is no room for its connection.
    TooManyConnections(Crowd),
    /// The gateway itself lacks file descriptors or memory for it.
    Exhausted,
    /// A fault of the gateway itself.
    Internal,
}

impl Refusal {
    /// The table: status, the end of the problem's type, and its title.
    fn row(&self) -> (StatusCode, &'static str, &'static str) {
        use StatusCode as S;
        match self {
            Self::Malformed(Fault::TargetTooLong) => {
                (S::URI_TOO_LONG, "target-too-long", "URI too long")
            }
            Self::Malformed(Fault::TooManyHeaders | Fault::HeadTooLarge) => (
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head-too-large",
                "Request header fields too large",
            ),
            Self::Malformed(Fault::HeadTimeout) => {
                (S::REQUEST_TIMEOUT, "header-timeout", "Request timeout")
            }
            Self::Malformed(Fault::Connect) | Self::Method(_) => {
                (S::METHOD_NOT_ALLOWED, "method-not-allowed", "Method not allowed")
            }
            Self::Malformed(_) | Self::Connection => {
                (S::BAD_REQUEST, "malformed-request", "Malformed request")
            }
            Self::Path(_) => (S::BAD_REQUEST, "ambiguous-path", "Ambiguous path"),
            Self::Loop => (S::LOOP_DETECTED, "loop", "Loop detected"),
            Self::NoRoute => (S::NOT_FOUND, "no-route", "Not found"),
            Self::BodyTooLarge { .. } => (S::PAYLOAD_TOO_LARGE, "body-too-large", "Body too large"),
            Self::UnknownApiKey => (S::UNAUTHORIZED, "unknown-api-key", "Unauthorized"),
            Self::ApiKeyRequired => (S::UNAUTHORIZED, "api-key-required", "Unauthorized"),
            Self::Blocked => (S::FORBIDDEN, "blocked", "Forbidden"),
            Self::RateLimited { .. } => (S::TOO_MANY_REQUESTS, "rate-limited", "Too many requests"),
            // As the time-out that it would come to; but the upstream has no part in it.
            Self::HeldTooLong { .. } => (S::GATEWAY_TIMEOUT, "held-too-long", "Gateway timeout"),
            Self::CircuitOpen { .. } => unavailable("circuit-open"),
            Self::ClientBusy { .. } => unavailable("client-concurrency"),
            Self::Saturated { .. } => unavailable("upstream-saturated"),
            Self::NoServer { .. } => unavailable("no-server"),
            Self::TooManyConnections(_) => unavailable("too-many-connections"),
            Self::Exhausted => unavailable("gateway-exhausted"),
            Self::UpstreamTimeout(stage) => (
                S::GATEWAY_TIMEOUT,
                match stage {
                    Stage::Connect => "connect-timeout",
                    Stage::Read => "read-timeout",
                    Stage::Write => "write-timeout",
                    Stage::Attempt => "attempt-timeout",
                    Stage::Request => "request-timeout",
                },
                "Gateway timeout",
            ),
            Self::UpstreamFailed(breach) => (
                S::BAD_GATEWAY,
                match breach {
                    Breach::Connect => "connect-failed",
                    Breach::Reset => "upstream-reset",
                    Breach::Invalid => "upstream-invalid",
                },
                "Bad gateway",
            ),
            Self::ClientTimeout => (S::REQUEST_TIMEOUT, "client-timeout", "Request timeout"),
            Self::Internal => (S::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }

    /// What it says of this request.
    fn detail(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Malformed(fault) => return fault.to_string().into(),
            Self::Path(fault) => return fault.to_string().into(),
            Self::BodyTooLarge { max_body } => {
                return format!("the route takes bodies of at most {max_body} bytes").into();
            }
            Self::Connection => "the Connection header names a field that must not be removed",
            Self::Loop => "the request has passed through this gateway already",
            Self::NoRoute => "no route takes this host and path",
            Self::Method(_) => "a route takes this path, with the methods in Allow only",
            Self::UnknownApiKey => "the API key is unknown or was revoked",
            Self::ApiKeyRequired => "this route needs an API key",
            Self::Blocked => "this client is blocked",
            Self::RateLimited { standing, .. } if standing.wait_ns.is_some() => {
                "the client has used up what this policy allows; retry after the time given"
            }
            Self::RateLimited { .. } => {
                "the request costs more than this policy's burst, so waiting does not help"
            }
            Self::HeldTooLong { policy, delay_ns } => {
                let seconds = *delay_ns as f64 / 1e9;
                return format!(
                    "the limit {policy} would hold the request back for {seconds:.3} s, and by then \
                     its route's timeout is over"
                )
                .into();
            }
            Self::ClientBusy { max, .. } => {
                return format!(
                    "the client has {max} requests in flight, as many as its tier allows"
                )
                .into();
            }
            Self::CircuitOpen { .. } => {
                "the circuit is open: the upstream was failing, or an operator opened it"
            }
            Self::Saturated { wait, .. } => wait.detail(),
            Self::NoServer { .. } => "the upstream has no server to ask",
            Self::UpstreamTimeout(stage) => stage.detail(),
            Self::UpstreamFailed(breach) => breach.detail(),
            Self::ClientTimeout => "the request's body did not arrive in time",
            Self::TooManyConnections(Crowd::All) => {
                "the gateway has as many connections as it takes"
            }
            Self::TooManyConnections(Crowd::Peer) => {
                "the gateway has as many connections from this address as it takes"
            }
            Self::Exhausted => "the gateway is out of file descriptors or memory",
            Self::Internal => "the gateway failed to handle the request",
        })
    }

    /// The refusal of a circuit.
    pub fn circuit(circuit: &Circuit, refused: Refused) -> Refusal {
        let Refused { retry_after_ns } = refused;
        Refusal::CircuitOpen { circuit: circuit.name().clone(), retry_after_ns }
    }

    /// The refusal where an upstream has no place.
    pub fn saturated(upstream: &Upstream, wait: Wait) -> Refusal {
        Refusal::Saturated { upstream: upstream.name.clone(), wait }
    }

    /// What in the configuration refused it, as the problem document names it: the member and
    /// its value. Every 429 and 503 has one, but where the gateway itself lacks something.
    pub fn policy(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::RateLimited { policy, .. } | Self::HeldTooLong { policy, .. } => {
                Some(("policy", policy))
            }
            Self::CircuitOpen { circuit, .. } => Some(("circuit", circuit)),
            Self::ClientBusy { tier, .. } => Some(("tier", tier)),
            Self::Saturated { upstream, .. } | Self::NoServer { upstream } => {
                Some(("upstream", upstream))
            }
            Self::TooManyConnections(Crowd::All) => Some(("policy", "server.max_connections")),
            Self::TooManyConnections(Crowd::Peer) => {
                Some(("policy", "server.max_connections_per_ip"))
            }
            _ => None,
        }
    }

    /// Its name: the end of its problem's type, and its reason in the access log.
    pub fn name(&self) -> &'static str {
        self.row().1
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// Whether the connection must end, because where the next request begins is in doubt.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::Malformed(_)
                | Self::Path(_)
                | Self::Connection
                | Self::Loop
                | Self::ClientTimeout
        )
    }

    /// Whether it counts as blocked in the summary: a 429 or 503 of our own.
    pub fn is_blocking(&self) -> bool {
        matches!(self.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
    }

    /// Whole seconds after which to try again, at least 1, where waiting helps.
    pub fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::RateLimited { standing, .. } => {
                standing.wait_ns.map(|ns| ns.div_ceil(1_000_000_000).max(1))
            }
            Self::CircuitOpen { retry_after_ns, .. } => {
                Some(retry_after_ns.div_ceil(1_000_000_000).max(1))
            }
            Self::NoServer { .. }
            | Self::ClientBusy { .. }
            | Self::Saturated { .. }
            | Self::TooManyConnections(_)
            | Self::Exhausted => Some(1),
            _ => None,
        }
    }

    /// Headers of its own, besides those of every answer.
    pub fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
        let retry = self.retry_after_seconds().map(|s| (RETRY_AFTER.clone(), HeaderValue::from(s)));
        let extra = match self {
            Self::Method(methods) => Some((header::ALLOW, allow(methods))),
            Self::Malformed(Fault::Connect) => Some((
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            )),
            Self::UnknownApiKey | Self::ApiKeyRequired => Some((
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"tollgate\""),
            )),
            _ => None,
        };
        retry.into_iter().chain(extra)
    }

    /// The problem document. Put together from its pieces: under attack this is the text
    /// the gateway writes most.
    pub fn body(&self, trace_id: &str) -> String {
        // Every string here is our own, a checked name or a checked trace id: none holds a
        // quote or a backslash.
        let (status, kind, title) = self.row();
        let mut body = String::with_capacity(320);
        body.push_str("{\"type\":\"urn:tollgate:problem:");
        body.push_str(kind);
        body.push_str("\",\"title\":\"");
        body.push_str(title);
        body.push_str("\",\"status\":");
        body.push_str(status.as_str());
        body.push_str(",\"detail\":\"");
        body.push_str(&self.detail());
        body.push('"');
        if !trace_id.is_empty() {
            body.push_str(",\"trace_id\":\"");
            body.push_str(trace_id);
            body.push('"');
        }
        if let Some((member, name)) = self.policy() {
            body.push_str(",\"");
            body.push_str(member);
            body.push_str("\":\"");
            body.push_str(name);
            body.push('"');
        }
        if let Some(seconds) = self.retry_after_seconds() {
            body.push_str(",\"retry_after_seconds\":");
            body.push_str(itoa::Buffer::new().format(seconds));
        }
        body.push_str("}\n");
        body
    }
}

fn unavailable(name: &'static str) -> (StatusCode, &'static str, &'static str) {
    (StatusCode::SERVICE_UNAVAILABLE, name, "Service unavailable")
}

fn allow(methods: &[Method]) -> HeaderValue {
    let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    // Method names are tokens, so the list is a valid value.
    HeaderValue::try_from(names.join(", ")).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// A whole response to a request that never became one: no route, no client, and the
/// connection ends. Without a trace id it names none.
pub fn bare_response(refusal: &Refusal, trace_id: &str) -> String {
    let body = refusal.body(trace_id);
    let status = refusal.status();
    let mut response = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or_default(),
        body.len(),
    );
    if !trace_id.is_empty() {
        let _ = write!(response, "X-Trace-ID: {trace_id}\r\n");
    }
    for (name, value) in refusal.headers() {
        let _ = write!(response, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    response.push_str("Connection: close\r\n\r\n");
    response.push_str(&body);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(wait_ns: Option<u64>) -> Refusal {
        let standing = Standing {
            policy: 0,
            burst: 10,
            window_seconds: 10,
            tokens: 0,
            full_in_seconds: 10,
            wait_ns,
        };
        Refusal::RateLimited { policy: "tier".into(), standing }
    }

    #[test]
    fn a_refusal_is_a_problem_document_of_its_status() {
        let cases = [
            (Refusal::NoRoute, 404),
            (Refusal::Method(vec![Method::GET]), 405),
            (Refusal::Malformed(Fault::Connect), 405),
            (Refusal::Malformed(Fault::Chunk), 400),
            (Refusal::Malformed(Fault::TargetTooLong), 414),
            (Refusal::Malformed(Fault::HeadTooLarge), 431),
            (Refusal::Path(PathFault::DotSegment), 400),
            (Refusal::BodyTooLarge { max_body: 7 }, 413),
            (Refusal::UnknownApiKey, 401),
            (Refusal::Blocked, 403),
            (Refusal::Loop, 508),
            (limited(Some(1)), 429),
            (Refusal::HeldTooLong { policy: "p".into(), delay_ns: 1 }, 504),
            (Refusal::CircuitOpen { circuit: "c".into(), retry_after_ns: 1 }, 503),
            (Refusal::ClientBusy { tier: "t".into(), max: 3 }, 503),
            (Refusal::Saturated { upstream: "u".into(), wait: Wait::Displaced }, 503),
            (Refusal::NoServer { upstream: "u".into() }, 503),
            (Refusal::UpstreamTimeout(Stage::Read), 504),
            (Refusal::UpstreamFailed(Breach::Reset), 502),
            (Refusal::ClientTimeout, 408),
            (Refusal::Malformed(Fault::HeadTimeout), 408),
            (Refusal::TooManyConnections(Crowd::All), 503),
            (Refusal::Exhausted, 503),
        ];
        for (refusal, status) in cases {
            let body: serde_json::Value = serde_json::from_str(&refusal.body("abc")).unwrap();
            assert_eq!(refusal.status().as_u16(), status, "{refusal:?}");
            assert_eq!((&body["status"], &body["trace_id"]), (&status.into(), &"abc".into()));
            if refusal.is_blocking() && refusal != Refusal::Exhausted {
                let (member, name) = refusal.policy().unwrap();
                assert_eq!(body[member], name, "{refusal:?}");
            }
            for member in ["type", "title", "detail"] {
                assert!(!body[member].as_str().unwrap().is_empty(), "{refusal:?} {member}");
            }
        }
    }

    #[test]
    fn the_wait_is_rounded_up_and_never_zero() {
        let cases = [(1, 1), (1_000_000_000, 1), (1_000_000_001, 2)];
        for (wait_ns, seconds) in cases {
            assert_eq!(limited(Some(wait_ns)).retry_after_seconds(), Some(seconds));
            let body = limited(Some(wait_ns)).body("t");
            assert!(body.contains(&format!("\"retry_after_seconds\":{seconds}}}")), "{body}");
        }
        assert_eq!(limited(None).retry_after_seconds(), None);
        assert!(limited(None).body("t").contains("waiting does not help"));
    }
}
