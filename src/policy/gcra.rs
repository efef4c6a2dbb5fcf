//! The token bucket as GCRA: one number is the whole state.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A) keeps the *theoretical
//! arrival time* (TAT) of the next token: the instant at which the bucket is full
//! again if nothing more is taken. A bucket of `burst` tokens that earns one token
//! every `T` nanoseconds holds `burst − ⌈(TAT − now) / T⌉` whole tokens, so taking
//! `c` tokens moves the TAT `c × T` into the future and is allowed as long as the
//! TAT stays within `burst × T` of now.
//!
//! From this follow the properties the rest of the gateway leans on:
//!
//! - *Exact.* Over any span `t` no more than `burst + t / T` tokens pass, whatever
//!   the order in which threads reach the state.
//! - *Self-describing.* A TAT that is not in the future is a full bucket, whoever
//!   owns it and whatever its limit, so a slot can be reused without knowing whose
//!   it was.
//! - *Keeps over a change of limit.* The TAT is a time, not a count: when rate or
//!   burst change, the time until the bucket is full stays what it was, cut to the
//!   new limit's own (see [`is_beyond`]).
//!
//! Everything here is arithmetic on integers; `now` is an argument. Times are
//! nanoseconds on a clock that only goes forward and stay below 2^62, as does every
//! bucket's capacity, so no sum here can overflow.

use super::rate::TokenBucket;

/// Theoretical arrival time in nanoseconds. `0` is a bucket nobody has touched.
pub type Tat = u64;

/// What a bucket says to a request for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The tokens are there; storing this TAT takes them.
    Admit(Tat),
    /// Not yet: the tokens will be there in this many nanoseconds (at least one).
    Wait(u64),
    /// Never: the cost is above the burst, so no wait would help.
    Never,
}

/// Asks the bucket whose state is `tat` for `cost` tokens at `now`.
pub fn ask(bucket: &TokenBucket, tat: Tat, cost: u32, now: u64) -> Answer {
    if u64::from(cost) > bucket.burst() {
        return Answer::Never;
    }
    // Within the capacity, because the cost is within the burst.
    let price_ns = u64::from(cost) * bucket.emission_interval_ns();
    let next = tat.max(now) + price_ns;
    match next.checked_sub(now + bucket.capacity_ns()) {
        None | Some(0) => Answer::Admit(next),
        Some(wait_ns) => Answer::Wait(wait_ns),
    }
}

/// The state after `cost` tokens are given back.
///
/// Exact as long as the tokens were taken from the same bucket: whatever was charged
/// in between stays charged.
pub fn refund(bucket: &TokenBucket, tat: Tat, cost: u32) -> Tat {
    tat.saturating_sub(u64::from(cost) * bucket.emission_interval_ns())
}

/// Whether `tat` lies further ahead than this bucket could ever push it.
///
/// Only a limit that became smaller leaves such a state behind; the caller cuts it to
/// `now + capacity`, which is an empty bucket under the new limit. `now` must have been
/// read *after* `tat`: every charge is stamped with a time that had passed when the
/// state was written, so a legitimate state can never look like this.
pub fn is_beyond(bucket: &TokenBucket, tat: Tat, now: u64) -> bool {
    tat > now + bucket.capacity_ns()
}

/// How full a bucket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Whole tokens that could be taken now.
    pub tokens: u64,
    /// Nanoseconds until the bucket is full.
    pub full_in_ns: u64,
}

/// Reads the level of the bucket whose state is `tat` at `now`, changing nothing.
pub fn level(bucket: &TokenBucket, tat: Tat, now: u64) -> Level {
    let full_in_ns = tat.saturating_sub(now).min(bucket.capacity_ns());
    let tokens = (bucket.capacity_ns() - full_in_ns) / bucket.emission_interval_ns();
    Level { tokens, full_in_ns }
}

/// Nanoseconds until one token is there, `0` when one is there now.
pub fn next_token_in_ns(bucket: &TokenBucket, tat: Tat, now: u64) -> u64 {
    match ask(bucket, tat, 1, now) {
        Answer::Wait(ns) => ns,
        Answer::Admit(_) | Answer::Never => 0,
    }
}
