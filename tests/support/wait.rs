//! Waiting for something to become true, always with an end.

use std::thread;
use std::time::{Duration, Instant};

/// How long anything in a test may take before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// The pause between two looks: short beside what is waited for, long enough
/// not to take the processor away from the gateway under test.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks `probe` until it answers or `deadline` has passed.
pub fn eventually<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(PAUSE);
    }
}

/// Like [`eventually`] with [`DEADLINE`], and fails the test saying `what` was
/// waited for.
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match eventually(DEADLINE, probe) {
        Some(found) => found,
        None => panic!("waited {DEADLINE:?} in vain until {what}"),
    }
}
