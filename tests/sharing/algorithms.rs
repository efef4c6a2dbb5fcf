//! Every algorithm decides in Redis as it does in memory.

use crate::store::Store;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::{Cell, RefCell};
use tollgate::fleet::limits::script::{Ask, Verdict};
use tollgate::policy::calendar::Span;
use tollgate::policy::fixed_window::FixedWindow;
use tollgate::policy::gcra;
use tollgate::policy::leaky_bucket::{self, LeakyBucket};
use tollgate::policy::meter::Algorithm;
use tollgate::policy::rate::{Period, Rate, TokenBucket};
use tollgate::policy::sliding_window::SlidingWindow;

#[path = "../../src/policy/meter/tests/cases.rs"]
mod cases;

use cases::Expected::{Never, Pass, Wait};
use cases::{MS, SECOND, START, fixed, leaky, sliding, token_bucket};

#[test]
fn every_case_of_the_local_limiter_holds_in_redis() {
    let mut store = Store::start();
    for (number, (algorithm, steps)) in cases::cases().into_iter().enumerate() {
        let key = format!("case {number}");
        for &(at_ms, cost, expected) in steps {
            let answer = store.take(&key, &algorithm, cost, START + at_ms * MS);
            let got = match answer.verdict {
                Verdict::Taken => Pass(answer.wait_ns / MS),
                Verdict::Refused => Wait(answer.wait_ns / MS),
                Verdict::Never => Never,
                Verdict::Late => panic!("nothing is late"),
            };
            // A state of a bucket may lie in the future of a case that goes back in time.
            assert_eq!(got, expected, "{algorithm:?} at {at_ms} ms, cost {cost}");
        }
    }
}

/// The state in memory, and what it says.
struct Local {
    algorithm: Algorithm,
    state: u64,
}

impl Local {
    fn take(&mut self, cost: u32, now: u64) -> (Verdict, u64) {
        match self.algorithm.meter(now, |now| now).ask(self.state, cost, now) {
            gcra::Answer::Admit(state) => {
                self.state = state;
                let delay_ns = match &self.algorithm {
                    Algorithm::LeakyBucket(bucket) => {
                        leaky_bucket::delay_ns(bucket, state, cost, now)
                    }
                    _ => 0,
                };
                (Verdict::Taken, delay_ns)
            }
            gcra::Answer::Wait(wait_ns) => (Verdict::Refused, wait_ns),
            gcra::Answer::Never => (Verdict::Never, 0),
        }
    }
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    let periods =
        prop::sample::select(vec![Period::Second, Period::Minute, Period::Hour, Period::Day]);
    let rate = |(count, period)| Rate { count, period };
    let bucket = move |(count, period, burst)| TokenBucket::new(rate((count, period)), burst);
    let bucket = (1..2_000_u64, periods.clone(), 1..500_u64)
        .prop_filter_map("a bucket", move |figures| bucket(figures).ok());
    let span = prop_oneof![periods.clone().prop_map(Span::Period), Just(Span::Month)];
    prop_oneof![
        bucket.clone().prop_map(Algorithm::TokenBucket),
        (bucket, 0..3_000_u64).prop_map(|(drain, delay_ms)| {
            Algorithm::LeakyBucket(LeakyBucket::new(drain, delay_ms * MS))
        }),
        (span, 1..200_u64).prop_map(|(span, tokens)| fixed(span, tokens)),
        (periods, 1..200_u64).prop_map(|(period, tokens)| sliding(period, tokens)),
    ]
}

/// Pauses in microseconds, which is what Redis' clock tells, and costs.
fn trace() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let pause = prop_oneof![0..2_000_u64, 0..2_000_000_u64, 0..90_000_000_000_u64];
    prop::collection::vec((pause, 0..40_u32), 1..60)
}

#[test]
fn redis_decides_any_trace_as_memory_does() {
    let store = RefCell::new(Store::start());
    let number = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 300, ..Config::default() });
    let strategy = (algorithms(), 0..40_000_000_000_000_u64, trace());
    let checked = runner.run(&strategy, |(algorithm, start_us, trace)| {
        number.set(number.get() + 1);
        let key = format!("trace {}", number.get());
        let mut local = Local { algorithm: algorithm.clone(), state: 0 };
        let mut now = START + start_us * 1_000;
        for (pause_us, cost) in trace {
            now += pause_us * 1_000;
            let answer = store.borrow_mut().take(&key, &algorithm, cost, now);
            let (verdict, wait_ns) = match cost {
                0 => (Verdict::Taken, answer.wait_ns),
                _ => local.take(cost, now),
            };
            prop_assert_eq!(answer.verdict, verdict);
            prop_assert_eq!(answer.wait_ns, wait_ns);
            let level = algorithm.meter(now, |now| now).level(local.state, now);
            if let Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) = algorithm {
                prop_assert_eq!(answer.left_ns, level.full_in_ns);
            } else {
                prop_assert_eq!(
                    algorithm.burst() - answer.used.min(algorithm.burst()),
                    level.tokens
                );
            }
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn figures_at_the_edge_of_what_can_be_counted_stay_exact() {
    let mut store = Store::start();
    let rate = |count, period| Rate { count, period };
    let edges = [
        TokenBucket::new(rate(1_000_000_000, Period::Second), (1 << 53) - 1).unwrap(),
        TokenBucket::new(rate(7, Period::Second), (1 << 32) - 1).unwrap(),
        TokenBucket::new(rate(1, Period::Day), 53_000).unwrap(),
    ];
    for (number, bucket) in edges.into_iter().enumerate() {
        let algorithm = Algorithm::TokenBucket(bucket);
        let mut local = Local { algorithm: algorithm.clone(), state: 0 };
        for cost in [1, 7, u32::MAX, 40_000, u32::MAX, 13] {
            let answer = store.take(&format!("edge {number}"), &algorithm, cost, START);
            let (verdict, wait_ns) = local.take(cost, START);
            assert_eq!(
                (answer.verdict, answer.wait_ns),
                (verdict, wait_ns),
                "{algorithm:?} {cost}"
            );
        }
    }
}

#[test]
fn nothing_is_charged_unless_all_limits_of_a_request_pass() {
    let mut store = Store::start();
    let (wide, narrow) = (token_bucket(1, 100), token_bucket(1, 2));
    let ask = |algorithm| Ask { algorithm, cost: 1, statement: None, back: None };
    for round in 0..5 {
        let reply = store.call("a", START, &[("wide", ask(&wide)), ("narrow", ask(&narrow))]);
        let passes = reply.answers.iter().all(|answer| answer.verdict == Verdict::Taken);
        assert_eq!(passes, round < 2);
    }
    let left = store.take("wide", &wide, 0, START).left_ns;
    assert_eq!(left, 2 * SECOND, "two were charged");
}

#[test]
fn a_clock_that_is_set_back_frees_nobody_and_locks_nobody_out() {
    let mut store = Store::start();
    let bucket = token_bucket(10, 10);
    assert_eq!(store.take("bucket", &bucket, 10, START + 3_600 * SECOND).verdict, Verdict::Taken);
    let back = store.take("bucket", &bucket, 1, START);
    assert_eq!((back.verdict, back.wait_ns), (Verdict::Refused, 100 * MS), "it stands as it stood");
    assert_eq!(store.take("bucket", &bucket, 1, START + 100 * MS).verdict, Verdict::Taken);
    assert_eq!(store.take("bucket", &bucket, 1, START + 100 * MS).verdict, Verdict::Refused);
    let window = fixed(Span::Period(Period::Minute), 2);
    assert_eq!(store.take("window", &window, 2, START + 3_600 * SECOND).verdict, Verdict::Taken);
    let back = store.take("window", &window, 1, START + 5 * SECOND);
    assert_eq!((back.verdict, back.wait_ns), (Verdict::Refused, 55 * SECOND));
    assert_eq!(store.take("window", &window, 2, START + 60 * SECOND).verdict, Verdict::Taken);
}

#[test]
fn what_is_given_back_can_be_taken_again_and_no_more() {
    let mut store = Store::start();
    let algorithms =
        [token_bucket(10, 5), fixed(Span::Period(Period::Hour), 5), sliding(Period::Hour, 5)];
    for (number, algorithm) in algorithms.iter().enumerate() {
        let key = format!("back {number}");
        let ask = |cost, back| Ask { algorithm, cost, statement: None, back };
        let charged = store.call("a", START, &[(&key, ask(5, None))]);
        assert_eq!(charged.answers[0].verdict, Verdict::Taken);
        store.call("a", START, &[(&key, ask(0, Some((3, charged.now))))]);
        assert_eq!(store.take(&key, algorithm, 3, START).verdict, Verdict::Taken);
        assert_eq!(store.take(&key, algorithm, 1, START).verdict, Verdict::Refused);
    }
    // What a leaky bucket has promised to those behind cannot be taken back.
    let shaper = leaky(10, 5, 10_000);
    let charged = store.call(
        "a",
        START,
        &[("leaky", Ask { algorithm: &shaper, cost: 5, statement: None, back: None })],
    );
    let back = Some((5, charged.now));
    store.call(
        "a",
        START,
        &[("leaky", Ask { algorithm: &shaper, cost: 0, statement: None, back })],
    );
    assert_eq!(store.take("leaky", &shaper, 1, START).verdict, Verdict::Refused);
}

#[test]
fn a_bucket_is_forgotten_a_little_after_it_is_full() {
    let mut store = Store::start();
    store.take("short", &token_bucket(10, 10), 5, START);
    let ttl: i64 = redis::cmd("PTTL").arg("short").query(store.connection()).unwrap();
    assert!((501..=1_500).contains(&ttl), "{ttl} ms");
}
