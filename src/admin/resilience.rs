//! What a route does about a failing upstream, as `/routes` shows it.

use crate::policy::breaker::BreakerPolicy;
use crate::policy::retry::{RetryOn, RetryPolicy};
use crate::policy::share::Share;
use serde::Serialize;
use utoipa::ToSchema;

/// When a failed attempt is followed by another.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Retry {
    /// Attempts after the first.
    attempts: u32,
    /// The longest one attempt may take until its answer begins; null: no bound of its own.
    per_try_timeout_seconds: Option<f64>,
    backoff: Backoff,
    /// What is tried again: `connect`, `timeout`, `reset`, and statuses.
    #[schema(example = json!(["connect", "timeout", 502]))]
    when: Vec<Condition>,
    /// Retries as a share of the upstream's requests.
    #[schema(example = 0.2)]
    budget: f64,
}

/// The bounds of the wait before another attempt; what is waited is random below them.
#[derive(Debug, Serialize, ToSchema)]
struct Backoff {
    base_seconds: f64,
    max_seconds: f64,
}

/// One failure that is tried again.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Condition {
    Word(&'static str),
    Status(u16),
}

/// When a circuit opens and how it closes again; conditions that are null never open it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Breaker {
    consecutive_failures: Option<u32>,
    failure_ratio: Option<f64>,
    slow_call_seconds: Option<f64>,
    slow_ratio: Option<f64>,
    min_requests: u32,
    window_seconds: f64,
    cooldown_seconds: f64,
    max_cooldown_seconds: f64,
    probes: u32,
    ramp_seconds: f64,
}

impl From<&RetryPolicy> for Retry {
    fn from(policy: &RetryPolicy) -> Retry {
        Retry {
            attempts: policy.attempts,
            per_try_timeout_seconds: policy.per_try_timeout_ns.map(seconds),
            backoff: Backoff {
                base_seconds: seconds(policy.backoff.base_ns),
                max_seconds: seconds(policy.backoff.max_ns),
            },
            when: conditions(&policy.when),
            budget: policy.budget.fraction(),
        }
    }
}

impl From<&BreakerPolicy> for Breaker {
    fn from(policy: &BreakerPolicy) -> Breaker {
        Breaker {
            consecutive_failures: policy.consecutive_failures,
            failure_ratio: policy.failure_ratio.map(Share::fraction),
            slow_call_seconds: policy.slow_calls.map(|slow| seconds(slow.longer_than_ns)),
            slow_ratio: policy.slow_calls.map(|slow| slow.ratio.fraction()),
            min_requests: policy.min_requests,
            window_seconds: seconds(policy.window_ns),
            cooldown_seconds: seconds(policy.cooldown_ns),
            max_cooldown_seconds: seconds(policy.max_cooldown_ns),
            probes: policy.probes,
            ramp_seconds: seconds(policy.ramp_ns),
        }
    }
}

fn conditions(when: &RetryOn) -> Vec<Condition> {
    let words = [("connect", when.connect), ("timeout", when.timeout), ("reset", when.reset)];
    let words = words.into_iter().filter(|(_, is_listed)| *is_listed);
    let words = words.map(|(word, _)| Condition::Word(word));
    words.chain(when.statuses.iter().copied().map(Condition::Status)).collect()
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
