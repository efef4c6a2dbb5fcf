//! The sliding window: what came of the calls of the last while.
//!
//! It counts in ten sub-windows and drops the oldest as time goes on, so it holds nine
//! tenths of its length and the part of the tenth that has passed. An average that decays
//! would need less memory, but "of the last 10 s" could not be said of it, nor could it say
//! how many calls it rests on, which the score test has to know.

/// Parts the window moves on by.
pub(super) const SUB_WINDOWS: usize = 10;

/// Calls and what came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Totals {
    /// Calls that ended, saturating as all counts here.
    pub calls: u32,
    /// Those of them that failed.
    pub failures: u32,
    /// Those of them, failed or not, that were slow.
    pub slow: u32,
}

impl Totals {
    fn add(&mut self, other: Totals) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failures = self.failures.saturating_add(other.failures);
        self.slow = self.slow.saturating_add(other.slow);
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct SubWindow {
    totals: Totals,
    /// The latest time that a failure asked to be left alone until; 0: none did.
    retry_at_ns: u64,
}

/// The window itself, 248 bytes. Sub-windows are numbered by
/// [`BreakerPolicy::tick`](super::BreakerPolicy::tick).
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Window {
    subs: [SubWindow; SUB_WINDOWS],
    /// The newest sub-window.
    tick: u64,
}

impl Window {
    /// Drops what is too old at `tick`.
    pub(super) fn move_to(&mut self, tick: u64) {
        let steps = tick.saturating_sub(self.tick).min(SUB_WINDOWS as u64);
        for _ in 0..steps {
            self.tick += 1;
            *self.sub(self.tick) = SubWindow::default();
        }
        self.tick = self.tick.max(tick);
    }

    /// Counts calls that ended in sub-window `tick`; one that has been dropped counts nothing.
    pub(super) fn count(&mut self, tick: u64, totals: Totals, retry_at_ns: u64) {
        self.move_to(tick);
        if self.tick - tick < SUB_WINDOWS as u64 {
            let sub = self.sub(tick);
            sub.totals.add(totals);
            sub.retry_at_ns = sub.retry_at_ns.max(retry_at_ns);
        }
    }

    /// What the whole window holds.
    pub(super) fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        self.subs.iter().for_each(|sub| sum.add(sub.totals));
        sum
    }

    /// The latest time that a failure in the window asked to be left alone until.
    pub(super) fn retry_at_ns(&self) -> u64 {
        self.subs.iter().map(|sub| sub.retry_at_ns).max().unwrap_or(0)
    }

    fn sub(&mut self, tick: u64) -> &mut SubWindow {
        &mut self.subs[(tick % SUB_WINDOWS as u64) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FAILURE: Totals = Totals { calls: 1, failures: 1, slow: 0 };

    #[test]
    fn a_call_is_held_for_ten_sub_windows() {
        let mut window = Window::default();
        window.count(1_000, FAILURE, 77);
        window.move_to(1_009);
        assert_eq!((window.totals(), window.retry_at_ns()), (FAILURE, 77));
        window.move_to(1_010);
        assert_eq!((window.totals(), window.retry_at_ns()), (Totals::default(), 0));
    }

    #[test]
    fn calls_told_late_count_where_they_belong_or_not_at_all() {
        let mut window = Window::default();
        window.move_to(1_009);
        window.count(1_000, FAILURE, 0);
        window.count(999, FAILURE, 0);
        assert_eq!(window.totals(), FAILURE);
        window.move_to(1_010);
        assert_eq!(window.totals(), Totals::default());
    }

    proptest! {
        #[test]
        fn the_totals_are_those_of_the_last_ten_ticks(
            calls in prop::collection::vec((0..15_u64, 0..12_u64), 1..60),
        ) {
            let (mut window, mut now, mut told) = (Window::default(), 100, Vec::new());
            for (step, late) in calls {
                now += step;
                window.move_to(now);
                window.count(now - late, FAILURE, 0);
                told.push((now, now - late));
                let held = told.iter().filter(|(_, tick)| now - tick < 10).count();
                prop_assert_eq!(window.totals().failures as usize, held);
            }
        }
    }
}
