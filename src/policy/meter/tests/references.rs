//! Each algorithm against the plainest account of it: lists of what passed and when.

use super::*;
use std::collections::{HashMap, VecDeque};

/// Which month a time lies in, by counting days.
fn month_of(now: u64) -> u64 {
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut day, mut month) = (now / (86_400 * SECOND), 0);
    loop {
        let february = if is_leap(1970 + month / 12) { 29 } else { 28 };
        let days = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        match day.checked_sub(days[(month % 12) as usize]) {
            Some(rest) => (day, month) = (rest, month + 1),
            None => return month,
        }
    }
}

/// Everything that passed in the last stretch of time, one by one.
#[derive(Default)]
struct Log(VecDeque<(u64, u64)>);

impl Log {
    /// Tokens that passed after `now − length`.
    fn tokens(&mut self, now: u64, length: u64) -> u64 {
        while self.0.front().is_some_and(|(at, _)| at + length <= now) {
            self.0.pop_front();
        }
        self.0.iter().map(|(_, tokens)| tokens).sum()
    }
}

proptest! {
    #[test]
    fn a_fixed_window_is_a_count_for_each_window(
        span in prop::sample::select(vec![
            Span::Period(Period::Second),
            Span::Period(Period::Minute),
            Span::Month,
        ]),
        tokens in 1..9_u64,
        trace in trace(),
    ) {
        let mut held = Held::new(fixed(span, tokens));
        let mut counts: HashMap<u64, u64> = HashMap::new();
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            let window = match span {
                Span::Period(period) => now / period.as_nanos(),
                Span::Month => month_of(now),
            };
            let count = counts.entry(window).or_default();
            let may_pass = *count + u64::from(cost) <= tokens;
            if may_pass {
                *count += u64::from(cost);
            }
            let passed = matches!(held.take(cost, now), Answer::Admit(_));
            prop_assert_eq!(passed, may_pass, "{} of {}", count, tokens);
        }
    }

    /// The two-window estimate with fractions in floating point: identical but where those are
    /// too coarse to tell.
    #[test]
    fn a_sliding_window_is_this_count_and_a_share_of_the_last(
        period in prop::sample::select(vec![Period::Second, Period::Minute]),
        tokens in 1..12_u64,
        trace in trace(),
    ) {
        let mut held = Held::new(sliding(period, tokens));
        let mut counts: HashMap<u64, u64> = HashMap::new();
        let length = period.as_nanos();
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            let window = now / length;
            let of = |window| counts.get(&window).copied().unwrap_or(0);
            let share_left = 1.0 - (now % length) as f64 / length as f64;
            let estimate = of(window) as f64 + of(window - 1) as f64 * share_left;
            let room = tokens as f64 - estimate - f64::from(cost);
            let passed = matches!(held.take(cost, now), Answer::Admit(_));
            if room.abs() > 1e-6 {
                prop_assert_eq!(passed, room > 0.0, "room for {}", room);
            }
            if passed {
                *counts.entry(window).or_default() += u64::from(cost);
            }
        }
    }

    /// The bound that the module states, against a log of everything that passed.
    #[test]
    fn a_sliding_window_is_off_by_no_more_than_it_says(
        period in prop::sample::select(vec![Period::Second, Period::Minute]),
        tokens in 1..40_u64,
        trace in prop::collection::vec((0..150 * MS, 1..4_u32), 1..300),
        is_slow in any::<bool>(),
    ) {
        let mut held = Held::new(sliding(period, tokens));
        let length = period.as_nanos();
        let mut log = Log::default();
        let mut counts: HashMap<u64, u64> = HashMap::new();
        let mut now = START;
        for (pause, cost) in trace {
            now += if is_slow || period == Period::Minute { 20 * pause } else { pause };
            let (window, cost_tokens) = (now / length, u64::from(cost));
            let previous = counts.get(&(window - 1)).copied().unwrap_or(0) as f64;
            let passed_share = (now % length) as f64 / length as f64;
            let exact = (log.tokens(now, length) + cost_tokens) as f64;
            if matches!(held.take(cost, now), Answer::Admit(_)) {
                let most = tokens as f64 + previous * passed_share;
                prop_assert!(exact <= most + 1e-6, "{} passed of at most {}", exact, most);
                prop_assert!(exact < 2.0 * tokens as f64 || tokens == 1);
                log.0.push_back((now, cost_tokens));
                *counts.entry(window).or_default() += cost_tokens;
            } else {
                let least = tokens as f64 - previous * (1.0 - passed_share);
                prop_assert!(exact > least - 1e-6, "{} refused, {} may pass", exact, least);
            }
        }
    }

    /// A queue: everybody leaves a token's time after whoever is in front has paid.
    #[test]
    fn a_leaky_bucket_is_a_queue(
        rate in prop::sample::select(vec![1_u64, 4, 10, 50]),
        burst in 1..9_u64,
        max_delay_ms in 0..1_500_u64,
        trace in trace(),
    ) {
        let mut held = Held::new(leaky(rate, burst, max_delay_ms));
        let interval = SECOND / rate;
        // When each that was let in leaves, and how many tokens it is worth.
        let mut queue: Vec<(u64, u64)> = Vec::new();
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            let cost_tokens = u64::from(cost);
            let turn = queue.last().map_or(0, |(leaves, tokens)| leaves + tokens * interval);
            let leaves = turn.max(now);
            let is_in_time = leaves - now <= max_delay_ms * MS;
            let fits = leaves - now + cost_tokens * interval <= burst * interval;
            let passed = matches!(held.take(cost, now), Answer::Admit(_));
            prop_assert_eq!(passed, is_in_time && fits);
            if passed {
                prop_assert_eq!(now + held.delay_ns(cost, now), leaves);
                queue.push((leaves, cost_tokens));
            }
        }
        for pair in queue.windows(2) {
            prop_assert!(pair[0].0 + pair[0].1 * interval <= pair[1].0, "too close");
        }
    }
}
