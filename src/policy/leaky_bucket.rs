//! The leaky bucket: a queue that lets requests out at an even pace.
//!
//! The state is the instant at which everything that was let in has leaked out; the next
//! request leaves then, or at once if that has passed. It is the theoretical arrival time of a
//! token bucket read the other way: there it says how many tokens are missing, here how long
//! the queue is. Whoever is admitted is told how long to wait, and because each charge moves
//! the instant further, requests leave in the order in which they were charged.
//!
//! A request that would have to wait longer than the delay allows, or that would make the
//! bucket overflow its burst, is refused instead.

use super::gcra::{self, Answer, Level};
use super::rate::TokenBucket;

/// A pace, and how long a request may be held back for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeakyBucket {
    drain: TokenBucket,
    max_delay_ns: u64,
}

impl LeakyBucket {
    /// A bucket that leaks at the rate of `drain`, holds its burst of tokens (those of waiting
    /// requests and of the one that left last), and delays by `max_delay_ns` at the most.
    pub fn new(drain: TokenBucket, max_delay_ns: u64) -> LeakyBucket {
        LeakyBucket { drain, max_delay_ns }
    }

    /// Rate and burst.
    pub fn drain(&self) -> &TokenBucket {
        &self.drain
    }

    /// The longest a request waits, in nanoseconds.
    pub fn max_delay_ns(&self) -> u64 {
        self.max_delay_ns
    }
}

/// Asks the bucket whose state is `state` for `cost` tokens at `now`.
pub fn ask(bucket: &LeakyBucket, state: u64, cost: u32, now: u64) -> Answer {
    let too_long_ns = state.saturating_sub(now).saturating_sub(bucket.max_delay_ns);
    match gcra::ask(&bucket.drain, state, cost, now) {
        Answer::Admit(_) if too_long_ns > 0 => Answer::Wait(too_long_ns),
        Answer::Wait(wait_ns) => Answer::Wait(wait_ns.max(too_long_ns)),
        answer => answer,
    }
}

/// How long a request waits that was charged `cost` tokens at `now` and left `charged` behind.
pub fn delay_ns(bucket: &LeakyBucket, charged: u64, cost: u32, now: u64) -> u64 {
    let price_ns = u64::from(cost) * bucket.drain.emission_interval_ns();
    charged.saturating_sub(price_ns).saturating_sub(now)
}

/// The state after `cost` tokens are given back; `charged` is the state that the charge left.
///
/// Exact where nobody has queued behind, and nothing otherwise: those behind have been told
/// when to leave, and to let somebody in between would be two at one time. Then the turn of
/// whoever gave up passes unused.
pub fn refund(bucket: &LeakyBucket, state: u64, charged: u64, cost: u32) -> u64 {
    match state == charged {
        true => gcra::refund(&bucket.drain, state, cost, 0),
        false => state,
    }
}

/// Reads the level of the bucket whose state is `state`, changing nothing: how many tokens it
/// would let in now, one by one.
pub fn level(bucket: &LeakyBucket, state: u64, now: u64) -> Level {
    let level = gcra::level(&bucket.drain, state, now);
    let interval_ns = bucket.drain.emission_interval_ns();
    let in_time = match bucket.max_delay_ns.checked_sub(state.saturating_sub(now)) {
        Some(left_ns) => left_ns / interval_ns + 1,
        None => 0,
    };
    Level { tokens: level.tokens.min(in_time), ..level }
}
