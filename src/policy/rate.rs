//! Rates and token buckets in the integer arithmetic the limiter works in.
//!
//! A bucket is enforced as GCRA: one token is worth one *emission interval* of time, and a full
//! bucket is `burst` intervals. Both are whole nanoseconds, rounded up, so that what rounding
//! takes, it takes from the client and never from the limit.

use std::fmt;

use thiserror::Error;

/// Nanoseconds in a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The longest time to full a bucket may have, in nanoseconds: 2^62, about 146 years. The limiter
/// keeps times in 64 bits and needs the room above this for `now` itself.
pub const MAX_CAPACITY_NS: u64 = 1 << 62;

/// The unit of time a rate is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    /// `s`
    Second,
    /// `m`, 60 seconds
    Minute,
    /// `h`, 3 600 seconds
    Hour,
    /// `d`, 86 400 seconds
    Day,
}

impl Period {
    /// The period's length in nanoseconds.
    pub const fn as_nanos(self) -> u64 {
        self.as_seconds() * NANOS_PER_SECOND
    }

    /// The period's length in seconds.
    pub const fn as_seconds(self) -> u64 {
        match self {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3_600,
            Period::Day => 86_400,
        }
    }

    const fn letter(self) -> char {
        match self {
            Period::Second => 's',
            Period::Minute => 'm',
            Period::Hour => 'h',
            Period::Day => 'd',
        }
    }
}

/// A sustained rate as it is written: `count` tokens per `period`, shown as `100/m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per period.
    pub count: u64,
    /// The period.
    pub period: Period,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.period.letter())
    }
}

/// Where a bucket's rate came from. Kept beside the interval because the interval is rounded:
/// people want to read back the rate they gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Written(Rate),
    /// Bits of a finite, positive `f64`; as bits because a policy must be `Eq`.
    PerSecond(u64),
}

impl Source {
    /// See [`TokenBucket::window_seconds`].
    fn window_seconds(self, burst: u64) -> u64 {
        let seconds = match self {
            Source::Written(rate) => {
                let tokens_seconds = u128::from(burst) * u128::from(rate.period.as_seconds());
                // At most the capacity in seconds, rounded up, hence within 64 bits.
                tokens_seconds.div_ceil(u128::from(rate.count)) as u64
            }
            Source::PerSecond(bits) => (burst as f64 / f64::from_bits(bits)).ceil() as u64,
        };
        seconds.max(1)
    }
}

/// A token bucket that the limiter can enforce: rate and burst are positive and its time to full
/// is at most [`MAX_CAPACITY_NS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    source: Source,
    burst: u64,
    emission_interval_ns: u64,
    /// Every decision reports it and it takes a division to find, so it is found once.
    window_seconds: u64,
}

/// Why a rate and a burst do not make a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BucketError {
    /// No token would ever come back.
    #[error("the rate is zero; it must be positive")]
    ZeroRate,
    /// One token would be worth less than the limiter's tick.
    #[error("the rate is not representable: at most 1 token per nanosecond (1000000000/s)")]
    RateTooHigh,
    /// Not a number, infinite or below zero.
    #[error("the rate must be a finite, positive number of tokens per second")]
    NotARate,
    /// Nothing would ever pass.
    #[error("the burst is zero; it must be at least 1")]
    ZeroBurst,
    /// The time to full does not fit the limiter's clock.
    #[error("the bucket would take more than 146 years to fill; raise the rate or cut the burst")]
    TooSlow,
}

impl TokenBucket {
    /// A bucket of `burst` tokens that refills at `rate`.
    ///
    /// # Errors
    /// When rate or burst is zero or the result is beyond what [`BucketError`] allows.
    pub fn new(rate: Rate, burst: u64) -> Result<Self, BucketError> {
        if rate.count == 0 {
            return Err(BucketError::ZeroRate);
        }
        if rate.count > rate.period.as_nanos() {
            return Err(BucketError::RateTooHigh);
        }
        let interval = rate.period.as_nanos().div_ceil(rate.count);
        Self::checked(Source::Written(rate), interval, burst)
    }

    /// A bucket of `burst` tokens that refills at `tokens_per_second`, for limits set at run time.
    ///
    /// # Errors
    /// As for [`TokenBucket::new`], and when the rate is not finite or is negative.
    pub fn from_rate_per_second(tokens_per_second: f64, burst: u64) -> Result<Self, BucketError> {
        if !tokens_per_second.is_finite() || tokens_per_second < 0.0 {
            return Err(BucketError::NotARate);
        }
        if tokens_per_second == 0.0 {
            return Err(BucketError::ZeroRate);
        }
        if tokens_per_second > NANOS_PER_SECOND as f64 {
            return Err(BucketError::RateTooHigh);
        }
        // The cast saturates, so a rate near zero ends as TooSlow below rather than wrapping.
        let interval = (NANOS_PER_SECOND as f64 / tokens_per_second).ceil() as u64;
        Self::checked(Source::PerSecond(tokens_per_second.to_bits()), interval, burst)
    }

    /// A bucket of so many times the rate and the burst; it takes as long to fill.
    ///
    /// # Errors
    /// When that is beyond what [`BucketError`] allows.
    pub fn times(&self, times: u64) -> Result<Self, BucketError> {
        let burst = self.burst.saturating_mul(times);
        match self.source {
            Source::Written(rate) => {
                let count = rate.count.saturating_mul(times);
                Self::new(Rate { count, ..rate }, burst)
            }
            Source::PerSecond(bits) => {
                Self::from_rate_per_second(f64::from_bits(bits) * times as f64, burst)
            }
        }
    }

    /// One of so many parts of it: as much less rate and burst, but one token at least.
    ///
    /// # Errors
    /// When that is beyond what [`BucketError`] allows.
    pub fn part(&self, parts: u64) -> Result<Self, BucketError> {
        let parts = parts.max(1);
        let rate = self.rate_per_second() / parts as f64;
        Self::from_rate_per_second(rate, (self.burst / parts).max(1))
    }

    fn checked(source: Source, emission_interval_ns: u64, burst: u64) -> Result<Self, BucketError> {
        if burst == 0 {
            return Err(BucketError::ZeroBurst);
        }
        match emission_interval_ns.checked_mul(burst) {
            Some(capacity) if capacity <= MAX_CAPACITY_NS => {
                let window_seconds = source.window_seconds(burst);
                Ok(Self { source, burst, emission_interval_ns, window_seconds })
            }
            _ => Err(BucketError::TooSlow),
        }
    }

    /// Tokens in a full bucket; at least 1.
    pub fn burst(&self) -> u64 {
        self.burst
    }

    /// The time one token takes to come back, in nanoseconds, rounded up; at least 1.
    pub fn emission_interval_ns(&self) -> u64 {
        self.emission_interval_ns
    }

    /// The time an empty bucket takes to fill, in nanoseconds; at most [`MAX_CAPACITY_NS`].
    pub fn capacity_ns(&self) -> u64 {
        self.emission_interval_ns * self.burst
    }

    /// The rate as given, in tokens per second.
    pub fn rate_per_second(&self) -> f64 {
        match self.source {
            Source::Written(rate) => rate.count as f64 / rate.period.as_seconds() as f64,
            Source::PerSecond(bits) => f64::from_bits(bits),
        }
    }

    /// The rate as people wrote it: `100/m`, or `2.5/s` when it was set at run time.
    pub fn rate_text(&self) -> String {
        match self.source {
            Source::Written(rate) => rate.to_string(),
            Source::PerSecond(bits) => format!("{}/s", f64::from_bits(bits)),
        }
    }

    /// The window that RateLimit-Policy names: burst ÷ rate in whole seconds, rounded up, at
    /// least 1. It comes from the rate as given, not from the rounded interval, so that `20/s`
    /// with a burst of 200 says 10 and not 11.
    pub fn window_seconds(&self) -> u64 {
        self.window_seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u64, period: Period) -> Rate {
        Rate { count, period }
    }

    #[test]
    fn the_interval_rounds_up_and_the_window_comes_from_the_rate() {
        // (count, period, burst) → (interval, window)
        let cases = [
            ((1, Period::Second, 10), (1_000_000_000, 10)),
            ((20, Period::Second, 200), (50_000_000, 10)),
            ((3, Period::Second, 3), (333_333_334, 1)),
            ((7, Period::Minute, 70), (8_571_428_572, 600)),
            ((100, Period::Second, 1), (10_000_000, 1)),
            ((1, Period::Day, 2), (86_400_000_000_000, 172_800)),
            ((1_000_000_000, Period::Second, 1), (1, 1)),
        ];
        for ((count, period, burst), (interval, window)) in cases {
            let bucket = TokenBucket::new(rate(count, period), burst).unwrap();
            assert_eq!(bucket.emission_interval_ns(), interval, "{}", bucket.rate_text());
            assert_eq!(bucket.window_seconds(), window, "{}", bucket.rate_text());
            assert_eq!(bucket.capacity_ns(), interval * burst);
        }
    }

    #[test]
    fn what_the_limiter_cannot_represent_is_refused() {
        let cases = [
            (rate(0, Period::Second), 1, BucketError::ZeroRate),
            (rate(1_000_000_001, Period::Second), 1, BucketError::RateTooHigh),
            (rate(1, Period::Second), 0, BucketError::ZeroBurst),
            (rate(1, Period::Second), u64::MAX, BucketError::TooSlow),
            (rate(1, Period::Second), 4_611_686_019, BucketError::TooSlow),
        ];
        for (rate, burst, error) in cases {
            assert_eq!(TokenBucket::new(rate, burst), Err(error), "{rate} {burst}");
        }
        assert!(TokenBucket::new(rate(1, Period::Second), 4_611_686_018).is_ok());
    }

    #[test]
    fn a_rate_set_at_run_time_may_be_a_fraction_but_must_be_a_rate() {
        let bucket = TokenBucket::from_rate_per_second(10.0, 50).unwrap();
        assert_eq!(bucket.emission_interval_ns(), 100_000_000);
        assert_eq!(bucket.window_seconds(), 5);
        assert_eq!(bucket.rate_text(), "10/s");
        assert_eq!(TokenBucket::from_rate_per_second(0.5, 1).unwrap().window_seconds(), 2);

        let cases = [
            (f64::NAN, BucketError::NotARate),
            (f64::INFINITY, BucketError::NotARate),
            (-1.0, BucketError::NotARate),
            (0.0, BucketError::ZeroRate),
            (1.1e9, BucketError::RateTooHigh),
            (1e-300, BucketError::TooSlow),
        ];
        for (tokens_per_second, error) in cases {
            let result = TokenBucket::from_rate_per_second(tokens_per_second, 10);
            assert_eq!(result, Err(error), "{tokens_per_second}");
        }
    }
}
