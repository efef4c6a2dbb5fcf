//! How the limiter's time goes on from one process to the next, and from one boot to the next.
//!
//! The times in a table are never rewritten. Instead the clock is one that outlives the boot:
//! the machine's monotonic clock plus a shift that the file keeps. Within a boot the shift stays,
//! and every process reads the same time. After a reboot the monotonic clock has begun anew, and
//! the shift is chosen so that the limiter's time continues where it was last seen, plus what the
//! wall clock says has passed since.
//!
//! The rejected alternative, to subtract a difference from every state, would have to know what
//! each state means, touch all of the table, and not be interrupted half-way.

/// The latest time there can be: 73 years. Buckets may be full as late as 2^62 beyond it.
const MAX_TIME_NS: u64 = 1 << 61;

/// What the machine's clocks say at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Nanoseconds on the clock that only goes forward and begins anew with each boot.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970 on the clock that can be set.
    pub wall_ns: u64,
}

/// Which boot of the machine this is: a random number that the kernel draws at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boot(pub(super) [u64; 2]);

impl Boot {
    /// The boot that a file such as `/proc/sys/kernel/random/boot_id` names.
    pub(super) fn parse(text: &str) -> Option<Boot> {
        let digits: String = text.trim().chars().filter(|character| *character != '-').collect();
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
        Some(Boot([(number >> 64) as u64, number as u64]))
    }
}

/// When and by which clocks the limiter's time was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) boot: Boot,
    /// What was added to the monotonic clock of that boot, modulo 2^64.
    pub(super) shift_ns: u64,
    /// The limiter's time.
    pub(super) time_ns: u64,
    /// The wall clock at that time.
    pub(super) wall_ns: u64,
}

/// How time goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuation {
    /// On the same clock.
    Same {
        /// What to add to the monotonic clock.
        shift_ns: u64,
    },
    /// On another clock, after so much time by the wall clock.
    Rebased {
        /// What to add to the monotonic clock, modulo 2^64.
        shift_ns: u64,
        /// How much later it is, for every bucket alike.
        passed_ns: u64,
    },
}

impl Mark {
    /// Whether it can be true.
    pub(super) fn is_sane(&self) -> bool {
        self.time_ns > 0 && self.time_ns <= MAX_TIME_NS
    }

    /// How time goes on at `now`, in `boot`.
    ///
    /// After a reboot the time a bucket still needs to be full shrinks by what the wall clock
    /// says has passed since the mark, and by nothing where that clock was set back: it never
    /// grows, and nobody waits longer than before. A boot that is the same with a clock that went
    /// back is another clock (a container in another time namespace, a machine that was copied),
    /// and treated as such.
    pub(super) fn resume(&self, boot: Boot, now: Reading) -> Continuation {
        let running_ns = now.monotonic_ns.wrapping_add(self.shift_ns);
        if self.boot == boot && (self.time_ns..=MAX_TIME_NS).contains(&running_ns) {
            return Continuation::Same { shift_ns: self.shift_ns };
        }
        let passed_ns = now.wall_ns.saturating_sub(self.wall_ns);
        let passed_ns = passed_ns.min(MAX_TIME_NS - self.time_ns.min(MAX_TIME_NS));
        let time_ns = self.time_ns + passed_ns;
        Continuation::Rebased { shift_ns: time_ns.wrapping_sub(now.monotonic_ns), passed_ns }
    }
}

impl Continuation {
    pub(super) fn shift_ns(self) -> u64 {
        match self {
            Continuation::Same { shift_ns } | Continuation::Rebased { shift_ns, .. } => shift_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600 * SECOND;
    const BOOT: Boot = Boot([1, 2]);
    const NEXT: Boot = Boot([1, 3]);

    /// Seen an hour after boot, at noon of some day.
    fn mark() -> Mark {
        Mark { boot: BOOT, shift_ns: SECOND, time_ns: HOUR + SECOND, wall_ns: 1_000 * HOUR }
    }

    fn reading(monotonic_ns: u64, wall_ns: u64) -> Reading {
        Reading { monotonic_ns, wall_ns }
    }

    /// The limiter's time at `now`, and whether it is on another clock.
    fn time(boot: Boot, now: Reading) -> (u64, bool) {
        let continuation = mark().resume(boot, now);
        let time_ns = now.monotonic_ns.wrapping_add(continuation.shift_ns());
        (time_ns, matches!(continuation, Continuation::Rebased { .. }))
    }

    #[test]
    fn within_a_boot_the_clock_is_the_same_whatever_the_wall_clock_says() {
        for wall_ns in [0, 999 * HOUR, 1_001 * HOUR, u64::MAX] {
            assert_eq!(time(BOOT, reading(2 * HOUR, wall_ns)), (2 * HOUR + SECOND, false));
        }
        assert_eq!(time(BOOT, reading(HOUR, 0)), (HOUR + SECOND, false), "at that very moment");
    }

    #[test]
    fn after_a_reboot_as_much_has_passed_as_the_wall_clock_says() {
        // Off for a minute and up for five seconds.
        let now = reading(5 * SECOND, 1_000 * HOUR + 65 * SECOND);
        assert_eq!(time(NEXT, now), (HOUR + 66 * SECOND, true));
        // Up for longer than the whole boot before.
        let now = reading(9 * HOUR, 1_010 * HOUR);
        assert_eq!(time(NEXT, now), (11 * HOUR + SECOND, true));
    }

    #[test]
    fn a_wall_clock_that_went_back_is_no_time_at_all() {
        for wall_ns in [0, 1, 999 * HOUR, 1_000 * HOUR] {
            for monotonic_ns in [0, SECOND, 50 * HOUR] {
                let now = reading(monotonic_ns, wall_ns);
                assert_eq!(time(NEXT, now), (HOUR + SECOND, true));
            }
        }
    }

    #[test]
    fn a_monotonic_clock_that_went_back_is_another_clock() {
        let now = reading(HOUR - 1, 1_000 * HOUR + 7);
        assert_eq!(time(BOOT, now), (HOUR + SECOND + 7, true));
    }

    #[test]
    fn a_wall_clock_far_in_the_future_leaves_the_arithmetic_its_room() {
        let (time_ns, _) = time(NEXT, reading(SECOND, u64::MAX));
        assert_eq!(time_ns, MAX_TIME_NS);
        assert!(!Mark { time_ns: MAX_TIME_NS + 1, ..mark() }.is_sane());
        assert!(!Mark { time_ns: 0, ..mark() }.is_sane() && mark().is_sane());
    }

    #[test]
    fn a_boot_is_thirty_two_digits() {
        let text = "01020304-0506-0708-090a-0b0c0d0e0f10\n";
        assert_eq!(Boot::parse(text), Some(Boot([0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10])));
        for text in ["", "0102", "x1020304-0506-0708-090a-0b0c0d0e0f10"] {
            assert_eq!(Boot::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_a_bucket_still_needs_shrinks_by_the_wall_time_that_passed_at_the_most(
            time_ns in 1..1_u64 << 60,
            wall_ns in 0..1_u64 << 61,
            left_ns in 0..1_u64 << 40,
            monotonic_ns in 0..1_u64 << 50,
            later_wall_ns in 0..1_u64 << 61,
        ) {
            let mark = Mark { boot: BOOT, shift_ns: 3, time_ns, wall_ns };
            let full_at = time_ns + left_ns;
            let continuation = mark.resume(NEXT, reading(monotonic_ns, later_wall_ns));
            let now = monotonic_ns.wrapping_add(continuation.shift_ns());
            let still = full_at.saturating_sub(now);
            prop_assert!(still <= left_ns);
            prop_assert!(left_ns - still <= later_wall_ns.saturating_sub(wall_ns));
            prop_assert!(now >= time_ns && now <= MAX_TIME_NS);
        }
    }
}
