//! What the guard of the data port is told and what becomes of its reports: the
//! configuration's bounds on one side; refusals, metrics and log on the other.

use crate::config::Connections as Limits;
use crate::gateway::Gateway;
use crate::lifecycle::Stage;
use crate::proxy::client::is_trusted;
use crate::proxy::refusal::{Refusal, bare_response};
use crate::proxy::trace;
use crate::registry::identity::client_ip;
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::telemetry::tally::Tally;
use crate::wire::answers::{Answers, Bounds, Ending};
use crate::wire::connections::{Crowd, Quota};
use crate::wire::fault::Fault;
use crate::wire::pace::MinRate;
use bytes::Bytes;
use http::StatusCode;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Answers and accounts for connections, and for heads that never became a request.
pub(super) struct Refuser {
    gateway: Arc<Gateway>,
    access_log: Option<AccessLog>,
    /// The whole answers to connections there is no room for: under attack nothing is made
    /// anew for each, not even a trace id, which would lead nowhere.
    too_many: [Bytes; 2],
    tallies: Tallies,
}

/// What an attacker can cause as often as he likes.
struct Tallies {
    slow_heads: Tally,
    slow_bodies: Tally,
    too_many: Tally,
    too_many_of_one: Tally,
    not_accepted: Tally,
}

impl Refuser {
    pub(super) fn new(gateway: Arc<Gateway>, access_log: Option<AccessLog>) -> Refuser {
        let answer = |crowd| Bytes::from(bare_response(&Refusal::TooManyConnections(crowd), ""));
        Refuser {
            gateway,
            access_log,
            too_many: [answer(Crowd::All), answer(Crowd::Peer)],
            tallies: Tallies {
                slow_heads: Tally::of("requests refused (server.header_timeout)"),
                slow_bodies: Tally::of("requests cut off (server.min_body_rate)"),
                too_many: Tally::of("connections refused (server.max_connections)"),
                too_many_of_one: Tally::of("connections refused (server.max_connections_per_ip)"),
                not_accepted: Tally::of(
                    "failures to accept connections, for want of file descriptors or memory,",
                ),
            },
        }
    }

    /// A connection could not be accepted, for want of descriptors or memory.
    pub(super) fn could_not_accept(&self, error: &io::Error) {
        log::debug!("a connection could not be accepted: {error}");
        self.gateway.metrics.connections.accept_failures.inc();
        self.tallies.not_accepted.note();
    }

    fn limits(&self) -> Limits {
        self.gateway.glance().config.server.connections
    }

    fn account(
        &self,
        status: StatusCode,
        trace_id: &str,
        client_ip: Option<IpAddr>,
        refusal: Option<&'static str>,
    ) {
        self.gateway.generation().no_route.count(status.as_u16());
        if let Some(log) = &self.access_log {
            let client_ip = client_ip.map(|ip| ip.to_string());
            let client_ip = client_ip.as_deref();
            log.record(&Entry::unread(trace_id, client_ip, status.as_u16(), refusal));
        }
    }
}

impl Answers for Refuser {
    fn refuse(&self, fault: Fault, peer: Option<IpAddr>) -> Bytes {
        let refusal = Refusal::Malformed(fault);
        let trace_id = trace::new();
        let response = bare_response(&refusal, trace::text(&trace_id));
        self.account(refusal.status(), trace::text(&trace_id), peer, Some(refusal.name()));
        Bytes::from(response)
    }

    fn turn_away(&self, crowd: Crowd) -> Bytes {
        let [all, peer] = &self.too_many;
        match crowd {
            Crowd::All => all.clone(),
            Crowd::Peer => peer.clone(),
        }
    }

    fn parser_refused(&self) {
        self.account(StatusCode::BAD_REQUEST, "", None, None);
    }

    fn bounds(&self) -> Bounds {
        let limits = self.limits();
        Bounds {
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            min_body_rate: MinRate::of(limits.min_body_rate),
            max_requests: limits.max_requests,
        }
    }

    fn quota(&self, peer: Option<IpAddr>) -> Quota {
        let generation = self.gateway.glance();
        let (server, clients) = (&generation.config.server, &generation.config.clients);
        let is_exempt = peer.is_some_and(|peer| is_trusted(peer, server));
        Quota {
            max: server.connections.max,
            // The exempt are counted too: a reload may change who they are.
            holder: peer.map(|peer| client_ip(peer, clients.ipv6_prefix)),
            max_of_holder: server.connections.max_per_ip.filter(|_| !is_exempt),
        }
    }

    fn is_draining(&self) -> bool {
        self.gateway.lifecycle.stage() == Stage::Draining
    }

    fn accepted(&self) {
        self.gateway.metrics.connections.accepted.inc();
    }

    fn ended(&self, why: Ending) {
        self.gateway.metrics.connections.closed(why.name());
        match why {
            Ending::HeaderTimeout => self.tallies.slow_heads.note(),
            Ending::MinBodyRate => self.tallies.slow_bodies.note(),
            Ending::MaxConnections => self.tallies.too_many.note(),
            Ending::MaxConnectionsPerIp => self.tallies.too_many_of_one.note(),
            // Everyday ends.
            Ending::IdleTimeout | Ending::MaxRequests | Ending::Drain => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::metrics::{CLOSED_REASONS, Metrics};
    use crate::store::key::KeyHasher;
    use prometheus::Registry;

    fn refuser(server: &str) -> Refuser {
        let text = format!(
            "server: {server}\nupstreams: {{u: {{servers: [127.0.0.1:9]}}}}\n\
             routes: [{{name: r, path: /, upstream: u}}]"
        );
        let (config, _) = config::parse(&text, &|_| None).unwrap();
        let metrics = Arc::new(Metrics::register(&Registry::new()).unwrap());
        let gateway = Gateway::new(config, KeyHasher::from_os().unwrap(), metrics);
        Refuser::new(Arc::new(gateway), None)
    }

    #[test]
    fn a_connection_counts_for_its_address_or_its_prefix() {
        let refuser = refuser(
            "{max_connections: 9, max_connections_per_ip: 5, trusted_proxies: [10.0.0.0/8, '2001:db8:9::/48']}",
        );
        for (peer, holder, max_of_holder) in [
            ("203.0.113.7", "203.0.113.7", Some(5)),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", Some(5)),
            ("10.1.2.3", "10.1.2.3", None),
            ("2001:db8:9:2::1", "2001:db8:9:2::", None),
        ] {
            let quota = refuser.quota(Some(peer.parse().unwrap()));
            let holder = Some(holder.parse().unwrap());
            assert_eq!(quota, Quota { max: 9, holder, max_of_holder }, "{peer}");
        }
    }

    #[test]
    fn every_ending_has_its_metric_from_the_start() {
        assert_eq!(Ending::ALL.map(Ending::name), CLOSED_REASONS);
    }

    #[test]
    fn the_answer_to_a_connection_too_many_is_a_small_problem_document() {
        for crowd in [Crowd::All, Crowd::Peer] {
            let answer = bare_response(&Refusal::TooManyConnections(crowd), "");
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{head}");
            assert!(head.contains("\r\nConnection: close"), "{head}");
            assert!(head.contains("\r\nretry-after: 1"), "{head}");
            assert!(!head.contains("X-Trace-ID"), "{head}");
            let body: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(body["status"], 503);
            assert_eq!(body.get("trace_id"), None);
            assert!(answer.len() < 600, "{}", answer.len());
        }
    }
}
