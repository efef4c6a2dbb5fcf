//! The budget of waiting, on virtual time.

use crate::wire::pace::{GRACE, MinRate, Pace};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// 1 KiB per second: what 16 KiB are worth is 16 s.
fn rate() -> MinRate {
    MinRate::of(1 << 10).unwrap()
}

/// A client that sends `bytes` after each `pause`: how many times, before it is given up.
fn sends(bytes: usize, pause: Duration, most: u32) -> u32 {
    let (mut pace, mut now) = (Pace::new(), Instant::now());
    for times in 0..most {
        if pace.wait(|| now) < now + pause {
            return times;
        }
        now += pause;
        pace.moved(bytes, rate(), || now);
    }
    most
}

/// A client that reads `bytes` each second, of which the kernel tells only when `wake` have
/// gone: how many seconds it lasts.
fn reads(bytes: u64, wake: u64, most: u64) -> u64 {
    let (mut pace, mut now) = (Pace::new(), Instant::now());
    let start = now;
    for _ in 0..most {
        let due = pace.wait_for_reader(|| now);
        now = due.max(now);
        let seconds = now.duration_since(start).as_secs();
        if !pace.look(now, Some(seconds * bytes), rate()) {
            return seconds;
        }
        if wake > 0 && seconds > 0 && (seconds * bytes).is_multiple_of(wake) {
            pace.moved(wake as usize, rate(), || now);
        }
    }
    most
}

#[test]
fn silence_is_given_up_after_the_grace() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    assert_eq!(pace.wait(|| now), now + GRACE);
    assert_eq!(pace.wait(|| now + SECOND), now + GRACE, "it goes on waiting");
    assert_eq!(sends(1, GRACE, 9), 1, "one byte buys a millisecond");
    assert_eq!(sends(1, GRACE + SECOND, 9), 0);
}

#[test]
fn a_client_at_the_rate_lasts_for_ever_and_a_slower_one_does_not() {
    assert_eq!(sends(1_024, SECOND, 10_000), 10_000);
    assert_eq!(sends(5 * 1_024, 5 * SECOND, 10_000), 10_000, "pauses are its own affair");
    assert_eq!(sends(512, SECOND, 10_000), 19);
    assert_eq!(sends(1, SECOND, 10_000), 10);
}

#[test]
fn what_was_saved_by_being_fast_is_bounded() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    for _ in 0..1_000 {
        pace.moved(1 << 20, rate(), || now);
    }
    assert_eq!(pace.wait(|| now), now + GRACE + 16 * SECOND);
}

#[test]
fn only_waiting_for_the_client_is_spent() {
    let (mut pace, now) = (Pace::new(), Instant::now());
    pace.moved(1, rate(), || panic!("nobody waited, so no clock is read"));
    pace.wait(|| now);
    pace.moved(0, rate(), || now + 4 * SECOND);
    let later = now + 1_000 * SECOND;
    let left = pace.wait(|| later) - later;
    assert!(left >= 6 * SECOND && left < 7 * SECOND, "{left:?}");
    pace.rest();
    let later = later + 1_000 * SECOND;
    assert_eq!(pace.wait(|| later), later + left, "rest costs nothing");
}

#[test]
fn a_steady_reader_lasts_however_late_the_kernel_wakes() {
    assert_eq!(reads(1_024, 0, 10_000), 10_000);
    assert_eq!(reads(4_096, 1 << 20, 10_000), 10_000);
}

#[test]
fn a_reader_that_stalls_or_crawls_is_given_up() {
    assert_eq!(reads(0, 0, 10_000), 10);
    let crawling = reads(64, 0, 10_000);
    assert!((10..13).contains(&crawling), "{crawling}");
}

#[test]
fn a_rate_of_zero_is_none_and_the_highest_is_exact_enough() {
    assert_eq!(MinRate::of(0), None);
    let (mut pace, now) = (Pace::new(), Instant::now());
    let fast = MinRate::of(1 << 30).unwrap();
    pace.wait(|| now);
    pace.moved(0, fast, || now + 10 * SECOND);
    pace.moved(1 << 20, fast, || now);
    let left = pace.wait(|| now) - now;
    assert!(left > Duration::from_micros(970) && left < Duration::from_micros(980), "{left:?}");
}
