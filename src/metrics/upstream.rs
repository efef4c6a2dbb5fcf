//! What is measured of upstreams: attempts, circuits, places and servers.

use super::{Names, add};
use crate::policy::breaker::State;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// What came of one attempt at an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// An answer below 500, or 501.
    Ok,
    /// An answer of 500 and above, 501 excepted.
    Status5xx,
    /// No connection.
    Connect,
    /// No answer in time.
    Timeout,
    /// The connection broke, or what came was not HTTP.
    Reset,
    /// The client went away or sent what could not be forwarded, or the attempt never had a
    /// fair share of its request's time.
    Cancelled,
}

impl AttemptOutcome {
    const ALL: [AttemptOutcome; 6] =
        [Self::Ok, Self::Status5xx, Self::Connect, Self::Timeout, Self::Reset, Self::Cancelled];

    /// The value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Status5xx => "status_5xx",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Cancelled => "cancelled",
        }
    }
}

/// In the order of their numbers.
const CIRCUIT_STATES: [State; 3] = [State::Closed, State::Open, State::HalfOpen];

/// The families of everything that belongs to an upstream.
pub(super) struct UpstreamFamilies {
    attempts: IntCounterVec,
    circuit_state: IntGaugeVec,
    circuit_transitions: IntCounterVec,
    places_used: IntGaugeVec,
    waiting: IntGaugeVec,
    healthy: IntGaugeVec,
    ejected: IntGaugeVec,
}

impl UpstreamFamilies {
    pub(super) fn register(registry: &Registry) -> prometheus::Result<UpstreamFamilies> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).and_then(|vec| add(registry, vec))
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            IntGaugeVec::new(Opts::new(name, help), labels).and_then(|vec| add(registry, vec))
        };
        Ok(UpstreamFamilies {
            attempts: counter(
                "gateway_upstream_attempts_total",
                "Attempts at an upstream, by outcome",
                &["upstream", "outcome"],
            )?,
            circuit_state: gauge(
                "gateway_circuit_state",
                "State of a circuit: 0 closed, 1 open, 2 half-open",
                &["circuit"],
            )?,
            circuit_transitions: counter(
                "gateway_circuit_transitions_total",
                "Changes of a circuit's state, by the state it changed to",
                &["circuit", "to"],
            )?,
            places_used: gauge(
                "gateway_upstream_concurrency",
                "Requests that hold one of an upstream's places",
                &["upstream"],
            )?,
            waiting: gauge(
                "gateway_upstream_queued",
                "Requests that wait for one of an upstream's places",
                &["upstream"],
            )?,
            healthy: gauge(
                "gateway_upstream_healthy",
                "Servers of an upstream that are resolved, healthy and not drained",
                &["upstream"],
            )?,
            ejected: gauge(
                "gateway_upstream_ejected",
                "Servers of an upstream that are out of balancing for failing",
                &["upstream"],
            )?,
        })
    }

    pub(super) fn attempts(&self, upstream: &str) -> AttemptMetrics {
        AttemptMetrics(
            AttemptOutcome::ALL
                .map(|outcome| self.attempts.with_label_values(&[upstream, outcome.label()])),
        )
    }

    pub(super) fn circuit(&self, name: &str) -> CircuitMetrics {
        CircuitMetrics {
            state: self.circuit_state.with_label_values(&[name]),
            transitions: CIRCUIT_STATES
                .map(|to| self.circuit_transitions.with_label_values(&[name, to.label()])),
        }
    }

    pub(super) fn concurrency(&self, upstream: &str) -> ConcurrencyMetrics {
        ConcurrencyMetrics {
            used: self.places_used.with_label_values(&[upstream]),
            waiting: self.waiting.with_label_values(&[upstream]),
        }
    }

    pub(super) fn servers(&self, upstream: &str) -> ServerMetrics {
        ServerMetrics {
            healthy: self.healthy.with_label_values(&[upstream]),
            ejected: self.ejected.with_label_values(&[upstream]),
        }
    }

    /// Takes away all series of these names.
    pub(super) fn remove(&self, gone: &Names<'_>) {
        // Those it does not have are gone as well.
        for upstream in &gone.upstreams {
            for outcome in AttemptOutcome::ALL {
                let _ = self.attempts.remove_label_values(&[*upstream, outcome.label()]);
            }
            let _ = self.healthy.remove_label_values(&[upstream]);
            let _ = self.ejected.remove_label_values(&[upstream]);
        }
        for upstream in &gone.bounded {
            let _ = self.places_used.remove_label_values(&[upstream]);
            let _ = self.waiting.remove_label_values(&[upstream]);
        }
        for circuit in &gone.circuits {
            for to in CIRCUIT_STATES {
                let _ = self.circuit_transitions.remove_label_values(&[*circuit, to.label()]);
            }
            let _ = self.circuit_state.remove_label_values(&[circuit]);
        }
    }
}

/// Counters by [`AttemptOutcome`].
pub struct AttemptMetrics([IntCounter; 6]);

impl AttemptMetrics {
    /// Counts one attempt.
    pub fn count(&self, outcome: AttemptOutcome) {
        self.0[outcome as usize].inc();
    }
}

/// One circuit's state and its changes.
pub struct CircuitMetrics {
    state: IntGauge,
    transitions: [IntCounter; 3],
}

impl CircuitMetrics {
    /// Tells that the circuit is closed from its beginning; another of its name may have been
    /// open before.
    pub fn begin(&self) {
        self.state.set(State::Closed as i64);
    }

    /// Tells that the circuit changed to `state`.
    pub fn change(&self, state: State) {
        self.state.set(state as i64);
        self.transitions[state as usize].inc();
    }
}

/// One upstream's places and queue.
pub struct ConcurrencyMetrics {
    /// Requests that hold a place.
    pub used: IntGauge,
    /// Requests that wait for one.
    pub waiting: IntGauge,
}

/// One upstream's servers.
pub struct ServerMetrics {
    /// Servers that are resolved, healthy and not drained.
    pub healthy: IntGauge,
    /// Servers that are out of balancing for failing.
    pub ejected: IntGauge,
}
