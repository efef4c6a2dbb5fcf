//! Taking one failing server out of balancing for a while.
//!
//! Failures in a row take a server out; it comes back by itself, and each time in a row it
//! stays out twice as long. An upstream never spares more than half of its servers
//! ([`most_out`]): where most of them fail, the fault is not one server's, and what is left
//! would only be crushed; the circuit of the whole upstream is there for that.
//!
//! A server's state fits into one 64-bit word, so it can be kept in an atomic and changed
//! by compare-and-swap around the functions here. Times are nanoseconds on a clock that only
//! goes forward.

/// When a server is taken out and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectionPolicy {
    /// Failures in a row that take a server out; at least 1.
    pub consecutive_failures: u32,
    /// How long it stays out the first time, in nanoseconds; it grows with each time in a row.
    pub base_ns: u64,
    /// The longest it stays out, in nanoseconds; not below `base_ns`.
    pub max_ns: u64,
}

impl Default for EjectionPolicy {
    fn default() -> Self {
        Self { consecutive_failures: 5, base_ns: 10_000_000_000, max_ns: 300_000_000_000 }
    }
}

impl EjectionPolicy {
    /// How long a server stays out for the `times`-th time in a row.
    fn length_ns(&self, times: u32) -> u64 {
        let doublings = times.saturating_sub(1).min(63);
        self.base_ns.saturating_mul(1 << doublings).min(self.max_ns.max(self.base_ns))
    }
}

/// How many of `servers` may be out at a time.
pub const fn most_out(servers: usize) -> usize {
    servers / 2
}

/// Failures in a row are counted up to here. A policy that asks for more gets this many.
const MAX_FAILURES: u32 = (1 << 16) - 1;
/// Ejections in a row are counted up to here: more doublings than a 64-bit time can hold.
const MAX_TIMES: u32 = (1 << 6) - 1;
/// 139 years.
const MAX_MS: u64 = (1 << 42) - 1;
const MS: u64 = 1_000_000;

/// How one server stands: in, with a run of failures, or out until some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ejection {
    /// In a row, since it was last out.
    failures: u32,
    /// Ejections in a row, the last one included.
    times: u32,
    /// When the last ejection ends, in whole milliseconds; 0: there was none.
    until_ms: u64,
}

impl Ejection {
    /// Whether the server is out.
    pub const fn is_out(self, now_ns: u64) -> bool {
        self.out_for_ns(now_ns) > 0
    }

    /// How much longer it is out, in nanoseconds; 0 when it is in.
    pub const fn out_for_ns(self, now_ns: u64) -> u64 {
        (self.until_ms * MS).saturating_sub(now_ns)
    }

    /// Whether the last answer was a failure, so that a success would change something.
    pub const fn has_failures(self) -> bool {
        self.failures > 0
    }

    /// After a success. One that comes in while the server is out was asked before, or for
    /// want of a better server; it does not end the ejection.
    #[must_use]
    pub const fn succeeded(self) -> Ejection {
        Ejection { failures: 0, ..self }
    }

    /// After a failure. One that comes in while the server is out changes nothing.
    #[must_use]
    pub fn failed(self, now_ns: u64) -> Ejection {
        if self.is_out(now_ns) {
            return self;
        }
        Ejection { failures: (self.failures + 1).min(MAX_FAILURES), ..self }
    }

    /// Whether it has failed often enough to be taken out.
    pub fn is_due(self, policy: &EjectionPolicy, now_ns: u64) -> bool {
        let enough = policy.consecutive_failures.clamp(1, MAX_FAILURES);
        self.failures >= enough && !self.is_out(now_ns)
    }

    /// Takes it out from now on.
    #[must_use]
    pub fn eject(self, policy: &EjectionPolicy, now_ns: u64) -> Ejection {
        let before = self.times_remembered(policy, now_ns);
        let is_longest = before > 0 && policy.length_ns(before) == policy.length_ns(before + 1);
        // Beyond the longest there is nothing to count; it would only be remembered longer.
        let times = if is_longest { before } else { (before + 1).min(MAX_TIMES) };
        let until_ns = now_ns.saturating_add(policy.length_ns(times));
        Ejection { failures: 0, times, until_ms: until_ns.div_ceil(MS).min(MAX_MS) }
    }

    /// Leaves it in although it was due, because too many others are out. It must fail as
    /// often again before it is looked at again.
    #[must_use]
    pub const fn spare(self) -> Ejection {
        Ejection { failures: 0, ..self }
    }

    /// Brings it back before its time.
    #[must_use]
    pub fn restore(self, now_ns: u64) -> Ejection {
        Ejection { until_ms: self.until_ms.min(now_ns / MS), ..self }
    }

    /// Ejections in a row that still count: one is forgotten for each time that the server
    /// has been back as long as it was out.
    fn times_remembered(self, policy: &EjectionPolicy, now_ns: u64) -> u32 {
        let quiet_ns = now_ns.saturating_sub(self.until_ms * MS);
        let forgotten = quiet_ns / policy.length_ns(self.times).max(1);
        self.times.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }

    /// As one word: 42 bits of time, 6 of ejections, 16 of failures. 0 is a server that never
    /// failed.
    pub const fn to_bits(self) -> u64 {
        self.until_ms << 22 | (self.times as u64) << 16 | self.failures as u64
    }

    /// What [`to_bits`](Self::to_bits) made a word of.
    pub const fn from_bits(bits: u64) -> Ejection {
        Ejection {
            failures: bits as u32 & MAX_FAILURES,
            times: (bits >> 16) as u32 & MAX_TIMES,
            until_ms: bits >> 22,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;
    const START: u64 = 1_000 * SECOND;

    fn policy() -> EjectionPolicy {
        EjectionPolicy { consecutive_failures: 3, base_ns: 10 * SECOND, max_ns: 60 * SECOND }
    }

    fn failed(mut state: Ejection, times: u32, now: u64) -> Ejection {
        for _ in 0..times {
            state = state.failed(now);
        }
        state
    }

    #[test]
    fn so_many_failures_in_a_row_are_due_and_a_success_begins_anew() {
        let two = failed(Ejection::default(), 2, START);
        assert!(!two.is_due(&policy(), START));
        assert!(two.failed(START).is_due(&policy(), START));
        let after_success = failed(two.succeeded(), 2, START);
        assert!(!after_success.is_due(&policy(), START));
        assert!(!two.succeeded().has_failures());
    }

    #[test]
    fn it_stays_out_for_the_base_to_the_millisecond() {
        let out = failed(Ejection::default(), 3, START).eject(&policy(), START);
        assert!(out.is_out(START));
        assert!(out.is_out(START + 10 * SECOND - 1));
        assert!(!out.is_out(START + 10 * SECOND));
        assert_eq!(out.out_for_ns(START + SECOND), 9 * SECOND);
        let odd = Ejection::default().eject(&policy(), START + 1);
        assert!(odd.is_out(START + 10 * SECOND), "rounded up");
    }

    #[test]
    fn while_it_is_out_nothing_is_counted() {
        let out = Ejection::default().eject(&policy(), START);
        let told = failed(out, 9, START + SECOND).succeeded();
        assert_eq!(told, out);
        let back = START + 10 * SECOND;
        assert!(!failed(told, 2, back).is_due(&policy(), back));
        assert!(failed(told, 3, back).is_due(&policy(), back));
    }

    #[test]
    fn each_time_in_a_row_is_twice_as_long_up_to_the_longest() {
        let (mut state, mut now) = (Ejection::default(), START);
        for seconds in [10, 20, 40, 60, 60, 60] {
            state = state.eject(&policy(), now);
            assert_eq!(state.out_for_ns(now), seconds * SECOND);
            now += seconds * SECOND;
        }
    }

    #[test]
    fn a_quiet_time_as_long_as_the_last_ejection_takes_one_time_back() {
        let first = Ejection::default().eject(&policy(), START);
        let second = first.eject(&policy(), START + 10 * SECOND);
        let back = START + 30 * SECOND;
        let again = |quiet: u64| second.eject(&policy(), back + quiet).out_for_ns(back + quiet);
        assert_eq!(again(0), 40 * SECOND);
        assert_eq!(again(20 * SECOND - MS), 40 * SECOND);
        assert_eq!(again(20 * SECOND), 20 * SECOND);
        assert_eq!(again(40 * SECOND), 10 * SECOND);
        assert_eq!(again(1_000_000 * SECOND), 10 * SECOND);
    }

    #[test]
    fn the_longest_is_forgotten_as_fast_as_if_it_had_been_reached_once() {
        let (mut state, mut now) = (Ejection::default(), START);
        for _ in 0..50 {
            state = state.eject(&policy(), now);
            now += state.out_for_ns(now);
        }
        // 10, 20, 40, 60: four times. After three quiet times it is the second again.
        let quiet = 3 * 60 * SECOND;
        assert_eq!(state.eject(&policy(), now + quiet).out_for_ns(now + quiet), 20 * SECOND);
    }

    #[test]
    fn what_was_spared_or_restored_is_in() {
        let due = failed(Ejection::default(), 3, START);
        assert!(!due.spare().is_due(&policy(), START));
        let out = due.eject(&policy(), START);
        let restored = out.restore(START + SECOND);
        assert!(!restored.is_out(START + SECOND));
        // It was out nevertheless: the next time is the second in a row.
        assert_eq!(
            restored.eject(&policy(), START + 2 * SECOND).out_for_ns(START + 2 * SECOND),
            20 * SECOND
        );
    }

    #[test]
    fn extreme_policies_overflow_nothing() {
        let longest =
            EjectionPolicy { consecutive_failures: u32::MAX, base_ns: u64::MAX, max_ns: u64::MAX };
        let mut state = failed(Ejection::default(), 70_000, START);
        assert!(state.is_due(&longest, START));
        for _ in 0..200 {
            state = state.eject(&longest, START);
            assert_eq!(Ejection::from_bits(state.to_bits()), state);
        }
        let nothing = EjectionPolicy { consecutive_failures: 0, base_ns: 0, max_ns: 0 };
        assert!(!Ejection::default().is_due(&nothing, START), "a server that never failed");
        assert!(!Ejection::default().eject(&nothing, START).is_out(START));
    }

    proptest! {
        #[test]
        fn a_word_holds_the_whole_state(
            failures in 0..=MAX_FAILURES, times in 0..=MAX_TIMES, until_ms in 0..=MAX_MS,
        ) {
            let state = Ejection { failures, times, until_ms };
            prop_assert_eq!(Ejection::from_bits(state.to_bits()), state);
        }

        #[test]
        fn an_ejection_lasts_between_base_and_longest(
            gaps in prop::collection::vec(0..200 * SECOND, 1..30),
        ) {
            let (mut state, mut now) = (Ejection::default(), START);
            for gap in gaps {
                state = state.eject(&policy(), now);
                let out_ns = state.out_for_ns(now);
                prop_assert!((10 * SECOND..=60 * SECOND + MS).contains(&out_ns), "{out_ns}");
                now += out_ns + gap;
            }
        }
    }
}
