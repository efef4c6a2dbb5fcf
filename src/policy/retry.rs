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
