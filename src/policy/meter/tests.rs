//! All algorithms on virtual time: one table of cases, what every one of them promises, and each
//! against a plain account of what it means.

mod cases;
mod references;

use super::*;
use crate::policy::rate::Rate;
use cases::Expected::{Never, Pass, Wait};
use cases::*;
use proptest::prelude::*;

/// A limit and its state, the way a caller would use the functions here.
struct Held {
    algorithm: Algorithm,
    state: u64,
}

impl Held {
    fn new(algorithm: Algorithm) -> Held {
        Held { algorithm, state: 0 }
    }

    fn meter(&self, now: u64) -> Meter<'_> {
        self.algorithm.meter(now, |now| now)
    }

    fn ask(&self, cost: u32, now: u64) -> Answer {
        self.meter(now).ask(self.state, cost, now)
    }

    fn take(&mut self, cost: u32, now: u64) -> Answer {
        let answer = self.ask(cost, now);
        if let Answer::Admit(state) = answer {
            self.state = state;
        }
        answer
    }

    fn level(&self, now: u64) -> Level {
        self.meter(now).level(self.state, now)
    }

    fn delay_ns(&self, cost: u32, now: u64) -> u64 {
        match &self.algorithm {
            Algorithm::LeakyBucket(bucket) => leaky_bucket::delay_ns(bucket, self.state, cost, now),
            _ => 0,
        }
    }
}

/// Milliseconds since the start, tokens left, and milliseconds until all are back.
type Look = (u64, u64, u64);

#[test]
fn every_algorithm_does_what_its_case_says() {
    for (algorithm, steps) in cases() {
        let mut held = Held::new(algorithm);
        for &(at_ms, cost, expected) in steps {
            let now = START + at_ms * MS;
            let got = match held.take(cost, now) {
                Answer::Admit(_) => Pass(held.delay_ns(cost, now) / MS),
                Answer::Wait(wait_ns) => Wait(wait_ns / MS),
                Answer::Never => Never,
            };
            assert_eq!(got, expected, "{:?} at {at_ms} ms, cost {cost}", held.algorithm);
        }
    }
}

#[test]
fn levels_tell_what_is_left_and_when_all_is_back() {
    let second = Span::Period(Period::Second);
    // After three tokens at 300 ms.
    let cases: [(Algorithm, &[Look]); 4] = [
        (token_bucket(10, 5), &[(300, 2, 300), (400, 3, 200), (600, 5, 0)]),
        (fixed(second, 5), &[(300, 2, 700), (999, 2, 1), (1_000, 5, 0)]),
        (
            sliding(Period::Second, 5),
            &[(300, 2, 1_700), (1_000, 2, 1_000), (1_500, 3, 500), (2_000, 5, 0)],
        ),
        // The first leaves at once; two more would have to wait until they do.
        (leaky(10, 5, 400), &[(300, 2, 300), (400, 3, 200), (600, 5, 0)]),
    ];
    for (algorithm, levels) in cases {
        let mut held = Held::new(algorithm);
        assert_eq!(held.level(START), Level { tokens: 5, full_in_ns: 0 });
        assert!(matches!(held.take(3, START + 300 * MS), Answer::Admit(_)));
        for &(at_ms, tokens, full_in_ms) in levels {
            let level = Level { tokens, full_in_ns: full_in_ms * MS };
            assert_eq!(held.level(START + at_ms * MS), level, "{:?} {at_ms}", held.algorithm);
        }
    }
}

#[test]
fn what_does_not_fit_beside_the_time_is_refused_and_what_fits_works() {
    let periods = [Period::Second, Period::Minute, Period::Hour, Period::Day];
    let spans = periods.map(Span::Period).into_iter().chain([Span::Month]);
    for span in spans {
        let Err(WindowError::TooMany(_, _, most)) = FixedWindow::new(span, u64::MAX) else {
            panic!("{span:?} takes anything")
        };
        assert!(FixedWindow::new(span, most + 1).is_err() && FixedWindow::new(span, 0).is_err());
        fills_up(fixed(span, most), most);
    }
    for period in periods {
        let Err(WindowError::TooMany(_, _, most)) = SlidingWindow::new(period, u64::MAX) else {
            panic!("{period:?} takes anything")
        };
        assert!(SlidingWindow::new(period, most + 1).is_err());
        assert!(SlidingWindow::new(period, 0).is_err());
        fills_up(sliding(period, most), most);
    }
}

/// Takes all there is, twice, and leaves the time in the state as it is.
fn fills_up(algorithm: Algorithm, most: u64) {
    let mut held = Held::new(algorithm);
    let mut now = START + 1;
    for _ in 0..2 {
        let mut left = most;
        while left > 0 {
            let cost = u32::try_from(left).unwrap_or(u32::MAX);
            assert!(matches!(held.take(cost, now), Answer::Admit(_)), "{:?}", held.algorithm);
            left -= u64::from(cost);
        }
        let level = held.level(now);
        assert_eq!(level.tokens, 0, "{:?}", held.algorithm);
        assert!(level.full_in_ns <= 62 * 86_400 * SECOND);
        now += level.full_in_ns;
        assert_eq!(held.level(now).tokens, most);
    }
}

#[test]
fn a_limit_that_shrank_refuses_until_its_window_is_over() {
    for (large, small) in [
        (fixed(Span::Period(Period::Second), 100), fixed(Span::Period(Period::Second), 5)),
        (sliding(Period::Second, 100), sliding(Period::Second, 5)),
    ] {
        let mut held = Held::new(large);
        assert!(matches!(held.take(80, START), Answer::Admit(_)));
        held.algorithm = small;
        let level = held.level(START);
        assert_eq!(level.tokens, 0);
        let Answer::Wait(wait_ns) = held.ask(1, START) else { panic!("admitted") };
        assert!(wait_ns <= level.full_in_ns);
        assert!(matches!(held.ask(1, START + wait_ns), Answer::Admit(_)));
    }
}

/// The wall clock is a number of nanoseconds ahead of the limiter's, and is set.
#[test]
fn a_fixed_window_follows_a_wall_clock_that_is_set() {
    let hour = FixedWindow::new(Span::Period(Period::Hour), 10).unwrap();
    let algorithm = Algorithm::FixedWindow(hour);
    let minute = 60 * SECOND;
    let at = START + 30 * minute;
    let take = |state: u64, now: u64, ahead_ns: i64| {
        algorithm.meter(now, |now| now.saturating_add_signed(ahead_ns)).ask(state, 10, now)
    };
    let Answer::Admit(spent) = take(0, at, 0) else { panic!("refused") };
    let minutes = |count: i64| count * 60 * SECOND as i64;
    // A little forth or back: the same window, which ends when the calendar says.
    assert_eq!(take(spent, at, minutes(10)), Answer::Wait(20 * minute));
    assert_eq!(take(spent, at, minutes(-10)), Answer::Wait(40 * minute));
    // From ten to the hour to five past: the next window.
    let Answer::Admit(spent) = take(0, START + 50 * minute, 0) else { panic!("refused") };
    assert!(matches!(take(spent, START + 50 * minute, minutes(15)), Answer::Admit(_)));
    // And back into the hour before: what was spent counts until its own window is over.
    let Answer::Admit(spent) = take(0, START + 5 * minute, 0) else { panic!("refused") };
    let Answer::Wait(wait_ns) = take(spent, START + 5 * minute, minutes(-15)) else {
        panic!("freed")
    };
    assert!((55 * minute..56 * minute).contains(&wait_ns), "{wait_ns}");
    assert!(matches!(take(spent, START + 5 * minute + wait_ns, minutes(-15)), Answer::Admit(_)));
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    let period = prop::sample::select(vec![Period::Second, Period::Minute]);
    let spans = vec![Span::Period(Period::Second), Span::Period(Period::Minute), Span::Month];
    let span = prop::sample::select(spans);
    prop_oneof![
        (1..40_u64, 1..9_u64).prop_map(|(count, burst)| token_bucket(count, burst)),
        (span, 1..9_u64).prop_map(|(span, tokens)| fixed(span, tokens)),
        (period, 1..9_u64).prop_map(|(period, tokens)| sliding(period, tokens)),
        (1..40_u64, 1..9_u64, 0..900_u64)
            .prop_map(|(count, burst, delay_ms)| leaky(count, burst, delay_ms)),
    ]
}

/// Pauses in all sizes that matter to a second, a minute and a month, and costs.
fn trace() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let pause = prop_oneof![
        3 => Just(0),
        4 => 0..300 * MS,
        4 => 0..2 * SECOND,
        2 => 0..90 * SECOND,
        1 => 0..40 * 86_400 * SECOND,
    ];
    prop::collection::vec((pause, 1..4_u32), 1..80)
}

proptest! {
    #[test]
    fn anybody_can_tell_a_free_slot_from_the_state_alone(
        algorithm in algorithms(),
        trace in trace(),
    ) {
        let mut held = Held::new(algorithm);
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            prop_assert!(held.level(now).full_in_ns == 0 || held.state > now, "in use and looks free");
            let _ = held.take(cost, now);
            prop_assert!(held.state < 1 << 63, "the highest bit belongs to the table");
            // Not for long after it is full: the time is rounded up, and a sliding window that
            // holds nothing any more stays for one window longer.
            let full_in_ns = held.level(now).full_in_ns;
            let slack_ns = match held.algorithm.window_seconds() {
                0..=60 => 60 * SECOND,
                _ => 40 * 60 * SECOND,
            };
            prop_assert!(held.state <= now + full_in_ns + slack_ns);
        }
    }

    #[test]
    fn the_wait_is_enough_and_one_nanosecond_less_is_not(
        algorithm in algorithms(),
        trace in trace(),
    ) {
        let mut held = Held::new(algorithm);
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            match held.take(cost, now) {
                Answer::Admit(_) => {}
                Answer::Never => prop_assert!(u64::from(cost) > held.algorithm.burst()),
                Answer::Wait(wait_ns) => {
                    prop_assert!(wait_ns > 0);
                    let early = held.ask(cost, now + wait_ns - 1);
                    prop_assert_eq!(early, Answer::Wait(1));
                    let in_time = held.ask(cost, now + wait_ns);
                    prop_assert!(matches!(in_time, Answer::Admit(_)), "{:?}", in_time);
                }
            }
        }
    }

    #[test]
    fn level_and_question_agree(algorithm in algorithms(), trace in trace()) {
        let mut held = Held::new(algorithm);
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            let tokens = held.level(now).tokens;
            let is_admitted = |cost| matches!(held.ask(cost, now), Answer::Admit(_));
            prop_assert_eq!(is_admitted(1), tokens > 0);
            if !matches!(held.algorithm, Algorithm::LeakyBucket(_)) {
                prop_assert_eq!(is_admitted(cost), tokens >= u64::from(cost));
            }
            let _ = held.take(cost, now);
        }
    }

    #[test]
    fn a_late_caller_never_gets_more_than_one_in_time(
        algorithm in algorithms(),
        trace in trace(),
        late_ns in 0..3 * SECOND,
    ) {
        let mut held = Held::new(algorithm);
        let mut now = START + 10 * SECOND;
        for (pause, cost) in trace {
            now += pause;
            if held.state > now && matches!(held.ask(cost, now), Answer::Wait(_)) {
                let late = held.ask(cost, now - late_ns);
                prop_assert!(!matches!(late, Answer::Admit(_)));
            }
            let _ = held.take(cost, now);
        }
    }

    /// What is given back at once was as good as never taken; what others did in between
    /// stays, whatever the algorithm.
    #[test]
    fn what_is_given_back_counts_no_more(
        algorithm in algorithms(),
        trace in trace(),
        others in 0..3_u32,
    ) {
        let mut held = Held::new(algorithm);
        let mut now = START;
        for (pause, cost) in trace {
            now += pause;
            let (before, state) = (held.level(now), held.state);
            if !matches!(held.take(cost, now), Answer::Admit(_)) {
                continue;
            }
            let charged = held.state;
            let between = (0..others).filter(|_| matches!(held.take(1, now), Answer::Admit(_)));
            let between = between.count() as u64;
            held.state = held.meter(now).refund(held.state, charged, cost, 0);
            let is_queue = matches!(held.algorithm, Algorithm::LeakyBucket(_));
            let after = held.level(now);
            match between {
                0 => prop_assert_eq!(after, before),
                _ if is_queue => prop_assert!(after.tokens + between <= before.tokens),
                _ => prop_assert_eq!(after.tokens + between, before.tokens),
            }
            // Half of them pass for good.
            if cost % 2 == 0 && between == 0 {
                held.state = charged;
            } else if between == 0 && matches!(held.algorithm, Algorithm::TokenBucket(_)) {
                prop_assert_eq!(held.state.max(now), state.max(now));
            }
        }
    }
}
