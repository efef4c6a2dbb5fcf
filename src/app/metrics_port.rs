//! The metrics port: Pingora's Prometheus application behind the guard of the data port, with
//! bounds of its own.
//!
//! By itself the application waits for a head as long as a byte comes each minute, for readers
//! for ever, and takes any number of connections; each holds a page of metrics in memory.

use crate::decision::refusal::{Refusal, bare_response};
use crate::wire::answers::{Answers, Bounds, Ending};
use crate::wire::app::GuardedApp;
use crate::wire::connections::{Connections, Crowd, Quota};
use crate::wire::fault::Fault;
use crate::wire::guard::GuardedStream;
use crate::wire::head::HeadLimits;
use crate::wire::pace::MinRate;
use async_trait::async_trait;
use bytes::Bytes;
use pingora::server::ShutdownWatch;
use pingora_core::apps::{HttpServerApp, ReusedHttpStream};
use pingora_core::protocols::http::ServerSession;
use pingora_prometheus::{PrometheusServer, new_prometheus_server};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::yield_now;

/// Connections at a time; a few scrapers need one each, and some leave theirs open.
const MAX_CONNECTIONS: u32 = 256;
/// For a request's head, from its first byte.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// For the silence between requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes per second; slower readers of a page are given up after 10 seconds of waiting.
const MIN_RATE: u64 = 16 << 10;
const LIMITS: HeadLimits = HeadLimits { max_head: 16 << 10, max_headers: 100, max_uri: 8 << 10 };

/// What serves the metrics port.
pub(super) fn app() -> GuardedApp<MetricsApp> {
    let app = MetricsApp(Arc::new(new_prometheus_server()));
    GuardedApp::new(Arc::new(app), LIMITS, Arc::new(Turnstile), Arc::new(Connections::default()))
}

/// Tells the guard when a request is under way, from when on its client is held to the rate.
pub(super) struct MetricsApp(Arc<PrometheusServer>);

#[async_trait]
impl HttpServerApp for MetricsApp {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if let Some(guard) = session.stream().and_then(GuardedStream::of) {
            guard.take_request();
        }
        // Requests that came together would be answered in one go, and nobody else meanwhile.
        yield_now().await;
        self.0.process_new_http(session, shutdown).await
    }
}

/// Fixed bounds, and no account of what they end: the metrics are those of the data port.
struct Turnstile;

impl Answers for Turnstile {
    fn refuse(&self, fault: Fault, _peer: Option<IpAddr>) -> Bytes {
        Bytes::from(bare_response(&Refusal::Malformed(fault), ""))
    }

    fn turn_away(&self, crowd: Crowd) -> Bytes {
        Bytes::from(bare_response(&Refusal::TooManyConnections(crowd), ""))
    }

    fn parser_refused(&self) {}

    fn bounds(&self) -> Bounds {
        Bounds {
            header_timeout: HEADER_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            min_body_rate: MinRate::of(MIN_RATE),
            max_requests: None,
        }
    }

    fn quota(&self, _peer: Option<IpAddr>) -> Quota {
        Quota { max: MAX_CONNECTIONS, holder: None, max_of_holder: None }
    }

    fn is_draining(&self) -> bool {
        // The service's own shutdown says so.
        false
    }

    fn accepted(&self) {}

    fn ended(&self, why: Ending) {
        log::debug!("a connection to the metrics port was ended: {}", why.name());
    }
}
