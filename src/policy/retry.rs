//! Retries: when another attempt may be made, and after how long.

use super::share::Share;

/// When a failed attempt is followed by another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first, 0 to [`MAX_RETRIES`].
    pub attempts: u32,
    /// The longest one attempt may take until its answer begins, in nanoseconds.
    pub per_try_timeout_ns: Option<u64>,
    /// The wait before another attempt.
    pub backoff: Backoff,
    /// What is tried again.
    pub when: RetryOn,
    /// Retries at the upstream as a share of the requests to it.
    pub budget: Share,
}

/// The most attempts after the first that a route may ask for.
pub const MAX_RETRIES: u32 = 10;

/// Exponential backoff: doubles from `base` to `max`, and a random part of that is waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The upper bound of the first wait, in nanoseconds.
    pub base_ns: u64,
    /// The upper bound of every wait, in nanoseconds; not below `base_ns`.
    pub max_ns: u64,
}

/// Which failures are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryOn {
    /// No connection was made.
    pub connect: bool,
    /// No answer came in time.
    pub timeout: bool,
    /// The connection broke before an answer.
    pub reset: bool,
    /// Answers with one of these statuses, each 400 to 599.
    pub statuses: Vec<u16>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout_ns: None,
            backoff: Backoff { base_ns: 25_000_000, max_ns: 250_000_000 },
            when: RetryOn {
                connect: true,
                timeout: true,
                reset: false,
                statuses: vec![502, 503, 504],
            },
            budget: Share::from_percent(20),
        }
    }
}

/// How an attempt failed, as far as another one is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No connection was made, so nothing was sent.
    Connect,
    /// No answer came in time.
    Timeout,
    /// The connection broke before an answer.
    Reset,
    /// An answer of this status.
    Status(u16),
}

/// What decides whether a failed attempt may be followed by another.
#[derive(Debug, Clone, Copy)]
pub struct Tried {
    /// How the last attempt failed.
    pub failure: Failure,
    /// Attempts made so far, the first included.
    pub attempts: u32,
    /// Whether the request may arrive twice without harm: its method is idempotent
    /// (RFC 9110, section 9.2.2) or it carries an `Idempotency-Key`.
    pub is_repeatable: bool,
    /// Whether the whole request can be sent again: its body is not too large to have been
    /// kept.
    pub is_kept: bool,
    /// Whether anything of an answer has gone to the client.
    pub is_answer_begun: bool,
}

impl RetryPolicy {
    /// Whether the route asks for another attempt and the request allows it. Budget, circuit
    /// and the time left are asked separately.
    pub fn allows(&self, tried: &Tried) -> bool {
        // What was never sent cannot have been acted upon.
        let is_safe = tried.is_repeatable || tried.failure == Failure::Connect;
        let is_meant = match tried.failure {
            Failure::Connect => self.when.connect,
            Failure::Timeout => self.when.timeout,
            Failure::Reset => self.when.reset,
            Failure::Status(status) => self.when.statuses.contains(&status),
        };
        is_meant
            && is_safe
            && tried.is_kept
            && !tried.is_answer_begun
            && tried.attempts <= self.attempts
    }
}

impl Backoff {
    /// How long to wait before retry number `retry`, the first being 1: full jitter, a random
    /// part of a bound that doubles each time (Brooker, "Exponential Backoff And Jitter", AWS
    /// Architecture Blog, 2015). `random` is drawn evenly from 0 to 1.
    pub fn wait_ns(&self, retry: u32, random: f64) -> u64 {
        let doubled = 1_u64.checked_shl(retry.saturating_sub(1)).unwrap_or(u64::MAX);
        let bound = self.base_ns.saturating_mul(doubled).min(self.max_ns);
        (bound as f64 * random.clamp(0.0, 1.0)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMED_OUT: Tried = Tried {
        failure: Failure::Timeout,
        attempts: 1,
        is_repeatable: true,
        is_kept: true,
        is_answer_begun: false,
    };

    #[test]
    fn what_the_route_names_is_tried_again() {
        let policy = RetryPolicy::default();
        for (failure, is_allowed) in [
            (Failure::Connect, true),
            (Failure::Timeout, true),
            (Failure::Reset, false),
            (Failure::Status(503), true),
            (Failure::Status(500), false),
            (Failure::Status(429), false),
        ] {
            assert_eq!(policy.allows(&Tried { failure, ..TIMED_OUT }), is_allowed, "{failure:?}");
        }
    }

    #[test]
    fn only_what_is_safe_is_tried_again() {
        let policy = RetryPolicy::default();
        assert!(!policy.allows(&Tried { is_repeatable: false, ..TIMED_OUT }));
        assert!(!policy.allows(&Tried { is_kept: false, ..TIMED_OUT }));
        assert!(!policy.allows(&Tried { is_answer_begun: true, ..TIMED_OUT }));
        let unsent = Tried { failure: Failure::Connect, is_repeatable: false, ..TIMED_OUT };
        assert!(policy.allows(&unsent), "nothing was sent, so any method may go again");
    }

    #[test]
    fn attempts_count_after_the_first() {
        let policy = RetryPolicy::default();
        assert!(policy.allows(&Tried { attempts: 2, ..TIMED_OUT }));
        assert!(!policy.allows(&Tried { attempts: 3, ..TIMED_OUT }));
        let never = RetryPolicy { attempts: 0, ..policy };
        assert!(!never.allows(&TIMED_OUT));
    }

    #[test]
    fn the_wait_is_a_random_part_of_a_doubling_bound() {
        let backoff = Backoff { base_ns: 100, max_ns: 350 };
        let longest: Vec<u64> = (1..=4).map(|retry| backoff.wait_ns(retry, 1.0)).collect();
        assert_eq!(longest, [100, 200, 350, 350]);
        assert_eq!(backoff.wait_ns(2, 0.5), 100);
        assert_eq!(backoff.wait_ns(3, 0.0), 0);
        assert_eq!(backoff.wait_ns(u32::MAX, 1.0), 350);
    }
}
