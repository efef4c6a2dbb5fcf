//! The only reader of clocks. Everything that decides takes the time as an argument.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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

/// How long the difference between the two clocks is taken to stay what it was.
const WALL_CLOCK_CHECK_NS: u64 = 1_000_000_000;

/// The wall clock's time when the limiter's was `ns`: nanoseconds of UTC since 1970. The two are
/// compared once a second, so that asking is cheap; a clock that is set is noticed by then.
pub fn utc_ns_at(ns: u64) -> u64 {
    static AHEAD_NS: AtomicU64 = AtomicU64::new(0);
    static NEXT_CHECK_NS: AtomicU64 = AtomicU64::new(0);
    if ns >= NEXT_CHECK_NS.load(Ordering::Acquire) {
        let utc = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let utc_ns = utc.as_secs() * 1_000_000_000 + u64::from(utc.subsec_nanos());
        let now_ns = now_ns();
        // Wraps and wraps back where the limiter's clock is the one ahead.
        AHEAD_NS.store(utc_ns.wrapping_sub(now_ns), Ordering::Relaxed);
        NEXT_CHECK_NS.store(now_ns + WALL_CLOCK_CHECK_NS, Ordering::Release);
    }
    ns.wrapping_add(AHEAD_NS.load(Ordering::Relaxed))
}
