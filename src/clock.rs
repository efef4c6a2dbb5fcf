//! The only reader of clocks. Everything that decides takes the time as an argument.

use std::sync::OnceLock;
use std::time::Instant;

/// The limiter's time: nanoseconds on a clock that only goes forward.
///
/// It counts from the first call in this process, plus one second so that no time is
/// zero: a zero state means an untouched bucket.
pub fn now_ns() -> u64 {
    ns_at(Instant::now())
}

/// The limiter's time at an instant that was read before.
pub fn ns_at(instant: Instant) -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = *START.get_or_init(|| instant);
    let elapsed = instant.saturating_duration_since(start);
    1_000_000_000 + elapsed.as_secs() * 1_000_000_000 + u64::from(elapsed.subsec_nanos())
}

/// The same clock, for what is measured and for deadlines.
pub fn now() -> Instant {
    Instant::now()
}

/// Wall-clock time, for logs.
pub fn timestamp() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Wall-clock time in milliseconds since 1970, for what must end at a time that outlives the
/// process.
pub fn unix_ms() -> u64 {
    u64::try_from(timestamp().as_millisecond()).unwrap_or(0)
}
