//! All algorithms of the limiter behind one question: is there room for this request?
//!
//! Each is a pure function of a state of 64 bits, its limit, a cost and the time. What they
//! agree on is what lets them share a table:
//!
//! - a state is a time in its upper bits: once it is not above `now` as a plain number, its
//!   bucket is full, or its window over, and the slot is free, whoever owned it;
//! - the highest bit is never set;
//! - a state of 0 is one that nobody has touched.
//!
//! The set is closed, so it is an enum. Where most requests pass, its users look for the token
//! bucket first and ask that themselves; the others are behind a call.

use super::calendar::Span;
use super::fixed_window::{self, FixedWindow, WindowError};
use super::gcra::{self, Answer, Level};
use super::leaky_bucket::{self, LeakyBucket};
use super::rate::{BucketError, Period, TokenBucket};
use super::sliding_window::{self, SlidingWindow};
use thiserror::Error;

/// Why figures do not make a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotRepresentable {
    /// As a bucket.
    #[error(transparent)]
    Bucket(#[from] BucketError),
    /// As a window.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// How a limit decides, with its figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Algorithm {
    /// Tokens that come back one by one.
    TokenBucket(TokenBucket),
    /// So many tokens between two borders of the calendar.
    FixedWindow(FixedWindow),
    /// So many tokens in any stretch of a window's length.
    SlidingWindow(SlidingWindow),
    /// An even pace, which requests are held back for.
    LeakyBucket(LeakyBucket),
}

/// An algorithm at work: what a state is asked with.
#[derive(Debug, Clone, Copy)]
pub enum Meter<'a> {
    /// See [`gcra`].
    TokenBucket(&'a TokenBucket),
    /// See [`fixed_window`]; the window that is open ends at this time of the limiter's clock.
    FixedWindow(&'a FixedWindow, u64),
    /// See [`sliding_window`].
    SlidingWindow(&'a SlidingWindow),
    /// See [`leaky_bucket`].
    LeakyBucket(&'a LeakyBucket),
}

impl Algorithm {
    /// The algorithm as it is at `now`. `utc_ns` is asked for the wall clock's time at `now`,
    /// by those that count by the calendar only.
    pub fn meter(&self, now: u64, utc_ns: impl FnOnce(u64) -> u64) -> Meter<'_> {
        match self {
            Algorithm::TokenBucket(bucket) => Meter::TokenBucket(bucket),
            Algorithm::FixedWindow(window) => {
                Meter::FixedWindow(window, now + window.span().left_ns(utc_ns(now)))
            }
            Algorithm::SlidingWindow(window) => Meter::SlidingWindow(window),
            Algorithm::LeakyBucket(bucket) => Meter::LeakyBucket(bucket),
        }
    }

    /// The same with so many times the rate and the burst.
    ///
    /// # Errors
    /// When that is beyond what the algorithm can count.
    pub fn times(&self, times: u64) -> Result<Algorithm, NotRepresentable> {
        Ok(match self {
            Algorithm::TokenBucket(bucket) => Algorithm::TokenBucket(bucket.times(times)?),
            Algorithm::LeakyBucket(bucket) => {
                let drain = bucket.drain().times(times)?;
                Algorithm::LeakyBucket(LeakyBucket::new(drain, bucket.max_delay_ns()))
            }
            Algorithm::FixedWindow(window) => {
                let tokens = window.tokens().saturating_mul(times);
                Algorithm::FixedWindow(FixedWindow::new(window.span(), tokens)?)
            }
            Algorithm::SlidingWindow(window) => {
                let tokens = window.tokens().saturating_mul(times);
                Algorithm::SlidingWindow(SlidingWindow::new(window.period(), tokens)?)
            }
        })
    }

    /// One of so many parts of it: as much less rate and burst, but one token at least.
    ///
    /// # Errors
    /// When that is so slow that the algorithm cannot count it.
    pub fn part(&self, parts: u64) -> Result<Algorithm, NotRepresentable> {
        let part = |tokens: u64| (tokens / parts.max(1)).max(1);
        Ok(match self {
            Algorithm::TokenBucket(bucket) => Algorithm::TokenBucket(bucket.part(parts)?),
            Algorithm::LeakyBucket(bucket) => {
                let drain = bucket.drain().part(parts)?;
                Algorithm::LeakyBucket(LeakyBucket::new(drain, bucket.max_delay_ns()))
            }
            Algorithm::FixedWindow(window) => {
                Algorithm::FixedWindow(FixedWindow::new(window.span(), part(window.tokens()))?)
            }
            Algorithm::SlidingWindow(window) => {
                let tokens = part(window.tokens());
                Algorithm::SlidingWindow(SlidingWindow::new(window.period(), tokens)?)
            }
        })
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Algorithm::TokenBucket(_) => "token_bucket",
            Algorithm::FixedWindow(_) => "fixed_window",
            Algorithm::SlidingWindow(_) => "sliding_window",
            Algorithm::LeakyBucket(_) => "leaky_bucket",
        }
    }

    /// What its states can be read as: those of one family mean the same whatever the
    /// figures. Part of a bucket's key, so that a state is never read as another's.
    pub fn family(&self) -> &'static str {
        match self {
            Algorithm::TokenBucket(_) => "",
            Algorithm::LeakyBucket(_) => "leaky",
            Algorithm::FixedWindow(window) => match window.span() {
                Span::Period(Period::Second) => "fixed:s",
                Span::Period(Period::Minute) => "fixed:m",
                Span::Period(Period::Hour) => "fixed:h",
                Span::Period(Period::Day) => "fixed:d",
                Span::Month => "fixed:month",
            },
            Algorithm::SlidingWindow(window) => match window.period() {
                Period::Second => "sliding:s",
                Period::Minute => "sliding:m",
                Period::Hour => "sliding:h",
                Period::Day => "sliding:d",
            },
        }
    }

    /// The most tokens that pass at once; at least 1.
    pub fn burst(&self) -> u64 {
        // The time means nothing to how much there is.
        self.meter(0, |now| now).burst()
    }

    /// The window that RateLimit-Policy names; see [`Meter::window_seconds`].
    pub fn window_seconds(&self) -> u64 {
        self.meter(0, |now| now).window_seconds()
    }

    /// The rate as people wrote it: `100/m`.
    pub fn rate_text(&self) -> String {
        match self {
            Algorithm::TokenBucket(bucket) => bucket.rate_text(),
            Algorithm::LeakyBucket(bucket) => bucket.drain().rate_text(),
            Algorithm::FixedWindow(window) => {
                format!("{}/{}", window.tokens(), window.span().symbol())
            }
            Algorithm::SlidingWindow(window) => {
                format!("{}/{}", window.tokens(), Span::Period(window.period()).symbol())
            }
        }
    }

    /// Tokens a second on the average; of a month, of the longest.
    pub fn rate_per_second(&self) -> f64 {
        match self {
            Algorithm::TokenBucket(bucket) => bucket.rate_per_second(),
            Algorithm::LeakyBucket(bucket) => bucket.drain().rate_per_second(),
            Algorithm::FixedWindow(_) | Algorithm::SlidingWindow(_) => {
                self.burst() as f64 / self.window_seconds() as f64
            }
        }
    }
}

impl Meter<'_> {
    /// Asks the bucket whose state is `state` for `cost` tokens at `now`.
    pub fn ask(self, state: u64, cost: u32, now: u64) -> Answer {
        match self {
            Meter::TokenBucket(bucket) => gcra::ask(bucket, state, cost, now),
            Meter::FixedWindow(window, end_ns) => {
                fixed_window::ask(window, end_ns, state, cost, now)
            }
            Meter::SlidingWindow(window) => sliding_window::ask(window, state, cost, now),
            Meter::LeakyBucket(bucket) => leaky_bucket::ask(bucket, state, cost, now),
        }
    }

    /// The state after `cost` tokens are given back. `charged` is the state that their charge
    /// left behind, `elapsed_ns` what [`gcra::refund`] wants to know.
    pub fn refund(self, state: u64, charged: u64, cost: u32, elapsed_ns: u64) -> u64 {
        match self {
            Meter::TokenBucket(bucket) => gcra::refund(bucket, state, cost, elapsed_ns),
            Meter::FixedWindow(window, _) => fixed_window::refund(window, state, charged, cost),
            Meter::SlidingWindow(window) => sliding_window::refund(window, state, charged, cost),
            Meter::LeakyBucket(bucket) => leaky_bucket::refund(bucket, state, charged, cost),
        }
    }

    /// What a state that a larger limit left behind becomes under this one, which has been in
    /// force `since`; none where it is within it (see [`gcra::is_beyond`]). Windows have no such
    /// states: a count above the limit is over with its window.
    pub fn cut(self, state: u64, since: u64, now: u64) -> Option<u64> {
        let bucket = match self {
            Meter::TokenBucket(bucket) => bucket,
            Meter::LeakyBucket(bucket) => bucket.drain(),
            Meter::FixedWindow(..) | Meter::SlidingWindow(_) => return None,
        };
        gcra::is_beyond(bucket, state, now).then(|| since.min(now) + bucket.capacity_ns())
    }

    /// Reads the level of the bucket whose state is `state`, changing nothing.
    pub fn level(self, state: u64, now: u64) -> Level {
        match self {
            Meter::TokenBucket(bucket) => gcra::level(bucket, state, now),
            Meter::FixedWindow(window, end_ns) => fixed_window::level(window, end_ns, state, now),
            Meter::SlidingWindow(window) => sliding_window::level(window, state, now),
            Meter::LeakyBucket(bucket) => leaky_bucket::level(bucket, state, now),
        }
    }

    /// The most tokens that pass at once; at least 1.
    pub fn burst(self) -> u64 {
        match self {
            Meter::TokenBucket(bucket) => bucket.burst(),
            Meter::FixedWindow(window, _) => window.tokens(),
            Meter::SlidingWindow(window) => window.tokens(),
            Meter::LeakyBucket(bucket) => bucket.drain().burst(),
        }
    }

    /// The window that RateLimit-Policy names: of a bucket the time it takes to fill (see
    /// [`TokenBucket::window_seconds`]), else the window's length; of a month, the longest's.
    pub fn window_seconds(self) -> u64 {
        match self {
            Meter::TokenBucket(bucket) => bucket.window_seconds(),
            Meter::FixedWindow(window, _) => window.span().longest_seconds(),
            Meter::SlidingWindow(window) => Span::Period(window.period()).longest_seconds(),
            Meter::LeakyBucket(bucket) => bucket.drain().window_seconds(),
        }
    }

    /// The most seconds that the bucket can be from full. The rounded emission interval may put
    /// it a hair beyond its window; a sliding window looks back over two.
    pub fn max_reset_seconds(self) -> u64 {
        match self {
            Meter::SlidingWindow(_) => 2 * self.window_seconds(),
            _ => self.window_seconds(),
        }
    }
}

#[cfg(test)]
mod tests;
