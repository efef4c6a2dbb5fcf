//! The only reader of clocks. Everything that decides takes the time as an argument.
//!
//! The limiter's time is the machine's monotonic clock and a shift. That clock is one for all
//! processes of a boot, so a successor counts on where its predecessor is, and what a killed
//! process left behind means the same to the next one. The shift is a second, so that no time is
//! zero (a zero state is an untouched bucket), or what the file of the buckets says.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The shift of buckets that began in this process.
pub const FIRST_SHIFT_NS: u64 = 1_000_000_000;

static SHIFT_NS: AtomicU64 = AtomicU64::new(FIRST_SHIFT_NS);

/// How often the anchor is read anew for one that was not interrupted.
const ANCHOR_TRIES: usize = 64;

/// The limiter's time: nanoseconds on a clock that only goes forward.
pub fn now_ns() -> u64 {
    ns_at(Instant::now())
}

/// The limiter's time at an instant that was read before.
pub fn ns_at(instant: Instant) -> u64 {
    anchor().monotonic_ns(instant).wrapping_add(SHIFT_NS.load(Ordering::Relaxed))
}

/// Makes the limiter's time the machine's monotonic clock plus this, modulo 2^64. To be called
/// before anybody has read it: a time that was taken before would be of another clock.
pub fn shift_by(shift_ns: u64) {
    SHIFT_NS.store(shift_ns, Ordering::Relaxed);
}

/// The machine's monotonic clock and its wall clock, in nanoseconds since its boot and since
/// 1970.
pub fn monotonic_and_wall_ns() -> (u64, u64) {
    let wall = jiff::Timestamp::now().as_nanosecond();
    (monotonic_ns(), u64::try_from(wall).unwrap_or(0))
}

fn monotonic_ns() -> u64 {
    nanos_of(clock_gettime(ClockId::Monotonic))
}

fn nanos_of(read: Timespec) -> u64 {
    // Linux starts the monotonic clock at zero with the machine.
    read.tv_sec as u64 * 1_000_000_000 + read.tv_nsec as u64
}

fn anchor() -> &'static Anchor {
    static ANCHOR: OnceLock<Anchor> = OnceLock::new();
    ANCHOR.get_or_init(Anchor::drop_here)
}

/// An instant and what the monotonic clock said at it. An [`Instant`] is a reading of that very
/// clock, but does not tell its number, and the hot path has one reading for everything.
struct Anchor {
    instant: Instant,
    monotonic_ns: u64,
}

impl Anchor {
    /// Reads the instant between two readings of the number, and takes the try at which these
    /// were closest: some tens of nanoseconds. By that much may processes differ; the number is
    /// the earlier one, so none of them is ahead of the clock.
    fn drop_here() -> Anchor {
        let read = |_| {
            let before = monotonic_ns();
            let instant = Instant::now();
            (monotonic_ns() - before, Anchor { instant, monotonic_ns: before })
        };
        let tries = (0..ANCHOR_TRIES).map(read);
        let best = tries.min_by_key(|(spread_ns, _)| *spread_ns);
        best.map_or_else(|| read(0).1, |(_, anchor)| anchor)
    }

    fn monotonic_ns(&self, instant: Instant) -> u64 {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.monotonic_ns + nanos(after),
            None => self.monotonic_ns.saturating_sub(nanos(self.instant - instant)),
        }
    }

    fn instant_at(&self, monotonic_ns: u64) -> Instant {
        match monotonic_ns.checked_sub(self.monotonic_ns) {
            Some(after) => self.instant + Duration::from_nanos(after),
            None => self.instant - Duration::from_nanos(self.monotonic_ns - monotonic_ns),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000_000 + u64::from(duration.subsec_nanos())
}

/// The same clock, for what is measured and for deadlines.
pub fn now() -> Instant {
    Instant::now()
}

/// The same clock as it was at the kernel's last tick: behind by ten milliseconds at most, and a
/// third of the cost of reading it. For bounds in seconds that nobody counts on to the tick.
pub fn recently() -> Instant {
    let read = clock_gettime(ClockId::MonotonicCoarse);
    anchor().instant_at(nanos_of(read))
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

/// Wall-clock time in milliseconds since 1970, for what must end at a time that outlives the
/// process.
pub fn unix_ms() -> u64 {
    u64::try_from(timestamp().as_millisecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limiters_time_is_the_machines_clock_and_a_second() {
        for _ in 0..100 {
            let before = monotonic_ns();
            let instant = now();
            let time = ns_at(instant) - FIRST_SHIFT_NS;
            let after = monotonic_ns();
            // The anchor may lie a reading of the clock too early.
            assert!(before <= time + 100_000 && time <= after, "{before} {time} {after}");
            assert_eq!(ns_at(instant + Duration::from_nanos(1_500)), ns_at(instant) + 1_500);
        }
    }

    #[test]
    fn an_instant_before_the_anchor_is_a_time_before_it() {
        let earlier = now().checked_sub(Duration::from_secs(5)).unwrap_or_else(now);
        assert!(ns_at(earlier) <= now_ns());
        let anchor = Anchor::drop_here();
        let before = anchor.instant - Duration::from_nanos(7);
        assert_eq!(anchor.monotonic_ns(before), anchor.monotonic_ns - 7);
        assert_eq!(anchor.instant_at(anchor.monotonic_ns - 7), before);
    }

    #[test]
    fn the_last_tick_is_not_long_ago_and_not_to_come() {
        // The slowest tick that Linux is built with, and what the anchor may lie off.
        let tick = Duration::from_millis(10) + Duration::from_micros(100);
        for _ in 0..100 {
            let before = now();
            let tick_before = recently();
            assert!(tick_before <= now());
            // Whoever was held up in between cannot tell.
            let is_prompt = before.elapsed() < Duration::from_millis(1);
            assert!(!is_prompt || before - tick_before < tick, "{:?}", before - tick_before);
        }
    }
}
