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

/// The state after `cost` tokens are given back that were taken `elapsed_ns` ago.
///
/// Where the state is still the one that the charge left behind, `elapsed_ns` is 0 and the
/// refund exact. Where somebody charged in between, it must be the time since: a bucket that
/// would have been full without our charge earned nothing while it was, and the next charge
/// moved its TAT up to its own now. To give those tokens back as well would be to earn them
/// twice. For how long the bucket would have been full nobody knows, but not for longer than
/// the time that has passed, so leaving that much out is enough.
pub fn refund(bucket: &TokenBucket, tat: Tat, cost: u32, elapsed_ns: u64) -> Tat {
    let price_ns = u64::from(cost) * bucket.emission_interval_ns();
    tat.saturating_sub(price_ns.saturating_sub(elapsed_ns))
}

/// Whether `tat` lies further ahead than this bucket could ever push it.
///
/// Only a limit that became smaller leaves such a state behind, and nobody has charged it since:
/// the caller cuts it to what an empty bucket under the new limit would be that began to fill when
/// the limit changed, or later. `now` must have been read *after* `tat`: every charge is stamped
/// with a time that had passed when the state was written, so a legitimate state can never look
/// like this.
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

#[cfg(test)]
mod tests {
    use super::super::rate::{MAX_CAPACITY_NS, Period, Rate};
    use super::*;
    use proptest::prelude::*;

    /// An hour into the clock's life, so that no test depends on a young clock.
    const START: u64 = 3_600_000_000_000;

    fn per_second(count: u64, burst: u64) -> TokenBucket {
        TokenBucket::new(Rate { count, period: Period::Second }, burst).unwrap()
    }

    /// A bucket and the time at hand, the way a caller would use the functions here.
    struct Held {
        bucket: TokenBucket,
        tat: Tat,
    }

    impl Held {
        fn full(bucket: TokenBucket) -> Held {
            Held { bucket, tat: 0 }
        }

        fn take(&mut self, cost: u32, now: u64) -> Answer {
            let answer = ask(&self.bucket, self.tat, cost, now);
            if let Answer::Admit(tat) = answer {
                self.tat = tat;
            }
            answer
        }

        fn is_admitted(&mut self, cost: u32, now: u64) -> bool {
            matches!(self.take(cost, now), Answer::Admit(_))
        }
    }

    #[test]
    fn a_full_bucket_gives_its_burst_and_then_one_token_an_interval() {
        let mut held = Held::full(per_second(20, 200));
        let interval = held.bucket.emission_interval_ns();
        assert_eq!((0..1_000).filter(|_| held.is_admitted(1, START)).count(), 200);
        for n in 1..=50 {
            assert!(!held.is_admitted(1, START + n * interval - 1), "token {n} came early");
            assert!(held.is_admitted(1, START + n * interval), "token {n} came late");
        }
    }

    #[test]
    fn the_wait_is_enough_and_one_nanosecond_less_is_not() {
        // Rates whose intervals are rounded, costs of one and of several tokens.
        for (rate, burst, cost) in [(1, 10, 1), (3, 7, 2), (7, 50, 50), (999_999_999, 5, 3)] {
            let mut held = Held::full(per_second(rate, burst));
            while held.is_admitted(cost, START) {}
            let Answer::Wait(wait_ns) = held.take(cost, START) else { panic!("not a wait") };
            let (bucket, tat) = (held.bucket, held.tat);
            assert!(matches!(ask(&bucket, tat, cost, START + wait_ns), Answer::Admit(_)));
            assert_eq!(ask(&bucket, tat, cost, START + wait_ns - 1), Answer::Wait(1));
        }
    }

    #[test]
    fn a_cost_above_the_burst_never_passes_and_the_burst_itself_does() {
        let bucket = per_second(5, 50);
        assert_eq!(ask(&bucket, 0, 51, START), Answer::Never);
        assert_eq!(ask(&bucket, 0, u32::MAX, START), Answer::Never);
        assert_eq!(ask(&bucket, 0, 50, START), Answer::Admit(START + bucket.capacity_ns()));
    }

    #[test]
    fn a_bucket_is_full_after_its_capacity_however_long_ago_it_was_used() {
        let mut held = Held::full(per_second(10, 30));
        assert!(held.is_admitted(30, START));
        for later in [held.bucket.capacity_ns(), 1 << 50] {
            let full = Level { tokens: 30, full_in_ns: 0 };
            assert_eq!(level(&held.bucket, held.tat, START + later), full);
        }
    }

    #[test]
    fn the_level_counts_whole_tokens_and_the_time_to_full() {
        let mut held = Held::full(per_second(10, 30));
        assert!(held.is_admitted(12, START));
        let interval = held.bucket.emission_interval_ns();
        let at = |now| level(&held.bucket, held.tat, now);
        assert_eq!(at(START), Level { tokens: 18, full_in_ns: 12 * interval });
        assert_eq!(at(START + 1), Level { tokens: 18, full_in_ns: 12 * interval - 1 });
        assert_eq!(at(START + interval), Level { tokens: 19, full_in_ns: 11 * interval });
        assert_eq!(at(START - 1).tokens, 17, "an older now sees the token as not there yet");
    }

    #[test]
    fn the_next_token_is_there_at_once_or_when_the_level_says_so() {
        let mut held = Held::full(per_second(10, 2));
        assert_eq!(next_token_in_ns(&held.bucket, held.tat, START), 0);
        assert!(held.is_admitted(2, START));
        let interval = held.bucket.emission_interval_ns();
        assert_eq!(next_token_in_ns(&held.bucket, held.tat, START + 1), interval - 1);
        assert_eq!(next_token_in_ns(&held.bucket, held.tat, START + interval), 0);
    }

    #[test]
    fn a_refund_of_an_untouched_charge_restores_the_bucket() {
        let mut held = Held::full(per_second(10, 30));
        assert!(held.is_admitted(7, START));
        let before = held.tat;
        assert!(held.is_admitted(5, START + 1));
        assert_eq!(refund(&held.bucket, held.tat, 5, 0), before);
        assert_eq!(refund(&held.bucket, 0, 5, 0), 0, "there is nothing below a full bucket");
    }

    #[test]
    fn a_late_refund_keeps_back_what_time_has_refilled() {
        let mut held = Held::full(per_second(10, 3));
        let interval = held.bucket.emission_interval_ns();
        assert!(held.is_admitted(1, START));
        // Three intervals later the bucket is full with or without that token.
        let later = START + 3 * interval;
        assert!(held.is_admitted(3, later));
        held.tat = refund(&held.bucket, held.tat, 1, later - START);
        assert!(!held.is_admitted(1, later), "a fourth token of three");
        // What cannot have been refilled yet comes back in full measure.
        assert_eq!(refund(&held.bucket, held.tat, 2, interval), held.tat - interval);
    }

    #[test]
    fn a_changed_limit_keeps_the_time_until_the_bucket_is_full() {
        let (slow, fast) = (per_second(10, 100), per_second(100, 1_000));
        let mut held = Held::full(slow);
        assert!(held.is_admitted(50, START));
        let before = level(&slow, held.tat, START);
        assert_eq!(before.full_in_ns, 5_000_000_000);
        let after = level(&fast, held.tat, START);
        assert_eq!(after, Level { tokens: 500, full_in_ns: before.full_in_ns });
    }

    #[test]
    fn a_smaller_limit_makes_of_a_distant_state_an_empty_bucket() {
        let (large, small) = (per_second(1, 1_000), per_second(10, 10));
        let mut held = Held::full(large);
        assert!(held.is_admitted(600, START));
        assert!(is_beyond(&small, held.tat, START));
        assert_eq!(level(&small, held.tat, START), Level { tokens: 0, full_in_ns: 1_000_000_000 });
        let cut = START + small.capacity_ns();
        assert!(!is_beyond(&small, cut, START));
        assert_eq!(ask(&small, cut, 1, START), Answer::Wait(small.emission_interval_ns()));
    }

    #[test]
    fn an_old_now_never_gives_tokens() {
        let mut held = Held::full(per_second(10, 10));
        assert!(held.is_admitted(10, START));
        for late_ns in [1, 1_000, 1_000_000_000, START] {
            let (now, interval) = (START - late_ns, held.bucket.emission_interval_ns());
            assert_eq!(held.take(1, now), Answer::Wait(interval + late_ns));
        }
    }

    #[test]
    fn the_longest_bucket_and_the_latest_time_fit_the_arithmetic() {
        let day = Rate { count: 1, period: Period::Day };
        let bucket = TokenBucket::new(day, MAX_CAPACITY_NS / day.period.as_nanos()).unwrap();
        let now = MAX_CAPACITY_NS;
        let cost = u32::try_from(bucket.burst()).unwrap();
        let Answer::Admit(tat) = ask(&bucket, 0, cost, now) else { panic!("a full bucket") };
        assert!(tat < 1 << 63, "the highest bit belongs to the table");
        assert_eq!(ask(&bucket, tat, cost, now), Answer::Wait(bucket.capacity_ns()));
    }

    /// A trace: how long after the last event, how many tokens, and how late the caller is
    /// with its `now`.
    fn trace() -> impl Strategy<Value = Vec<(u64, u32, u64)>> {
        let late = prop_oneof![4 => Just(0), 1 => 0..3_000_u64];
        prop::collection::vec((0..2_500_u64, 1..4_u32, late), 1..60)
    }

    proptest! {
        #[test]
        fn no_window_holds_more_than_burst_and_rate_allow(
            trace in trace(),
            rate in 300_000..3_000_000_u64,
            burst in 1..12_u64,
        ) {
            let mut held = Held::full(per_second(rate, burst));
            let mut now = START;
            let mut admitted = Vec::new();
            for (step, cost, late) in trace {
                now += step;
                if held.is_admitted(cost, now - late) {
                    admitted.push((now - late, u64::from(cost)));
                }
            }
            let interval = held.bucket.emission_interval_ns();
            for (from, _) in &admitted {
                for (to, _) in admitted.iter().filter(|(to, _)| to >= from) {
                    let window = admitted.iter().filter(|(at, _)| (from..=to).contains(&at));
                    let tokens: u64 = window.map(|(_, cost)| cost).sum();
                    prop_assert!(tokens <= burst + (to - from) / interval, "{from}..={to}");
                }
            }
        }

        #[test]
        fn level_and_question_agree(used in 0..40_000_u64, burst in 1..12_u64, cost in 1..14_u32) {
            let bucket = per_second(300_000, burst);
            let tat = START + used.min(bucket.capacity_ns());
            let is_there = u64::from(cost) <= level(&bucket, tat, START).tokens;
            prop_assert_eq!(is_there, matches!(ask(&bucket, tat, cost, START), Answer::Admit(_)));
        }
    }
}
