//! A line a second about what happens too often for a line each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::sleep;

/// How long is counted before a line says how much there was.
const PERIOD: Duration = Duration::from_secs(1);

/// Counts events of one kind and warns of them at most once a second: the first one starts
/// the second, at whose end one line tells their number. An attacker who causes a million of
/// them causes one line.
#[derive(Debug, Clone)]
pub struct Tally(Arc<Kind>);

#[derive(Debug)]
struct Kind {
    what: &'static str,
    count: AtomicU64,
}

impl Tally {
    /// Events that a line describes as "417 `what`".
    pub fn of(what: &'static str) -> Tally {
        Tally(Arc::new(Kind { what, count: AtomicU64::new(0) }))
    }

    /// Counts one. Costs an atomic addition, and a task for the first of a second. Where no
    /// runtime is left to wait in, the line is written at once.
    pub fn note(&self) {
        if self.0.count.fetch_add(1, Ordering::Relaxed) > 0 {
            return;
        }
        let kind = self.0.clone();
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move {
                sleep(PERIOD).await;
                kind.report();
            })),
            Err(_) => kind.report(),
        }
    }
}

impl Kind {
    fn report(&self) {
        let count = self.count.swap(0, Ordering::Relaxed);
        log::warn!("{count} {} in the last second", self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn a_second_of_events_is_one_report_of_all_of_them() {
        let tally = Tally::of("things happened");
        for _ in 0..417 {
            tally.note();
        }
        tokio::task::yield_now().await;
        advance(PERIOD / 2).await;
        tally.note();
        assert_eq!(tally.0.count.load(Ordering::Relaxed), 418);
        assert_eq!(Arc::strong_count(&tally.0), 2, "one task waits");
        advance(PERIOD).await;
        tokio::task::yield_now().await;
        assert_eq!(tally.0.count.load(Ordering::Relaxed), 0, "reported");
        assert_eq!(Arc::strong_count(&tally.0), 1);
        tally.note();
        assert_eq!(Arc::strong_count(&tally.0), 2, "the next second begins");
    }
}
