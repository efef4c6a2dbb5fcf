//! The retry budget: retries as a share of the requests to an upstream.
//!
//! Retries help against the failure of one server and multiply the load when all fail. The
//! budget bounds them: over the last ten seconds no more retries than the routes' share of
//! the requests of that time, or [`FLOOR`] where there are few requests. The larger of the
//! two and not their sum, so that under load the share is the whole truth.

use crate::policy::share::Share;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Retries that are allowed in the length of the window however few the requests.
pub const FLOOR: u64 = 10;

/// The window is this many parts of [`PART_NS`].
const PARTS: usize = 10;
/// One second.
const PART_NS: u64 = 1_000_000_000;
/// What one retry costs; a request earns its share of that.
const RETRY: u64 = 1_000;

/// The budget of one upstream.
#[derive(Debug, Default)]
pub struct RetryBudget {
    earned: Recent,
    /// A lock, so that two retries cannot both take the last token. Only failures take it.
    spent: Mutex<Recent>,
}

impl RetryBudget {
    /// Notes a request whose route may retry `share` of its requests. One atomic operation.
    pub fn earn(&self, share: Share, now_ns: u64) {
        self.earned.add(u64::from(share.millionths()) * RETRY / 1_000_000, now_ns);
    }

    /// Takes a retry out of the budget, if there is one in it.
    pub fn spend(&self, now_ns: u64) -> bool {
        let spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let allowed = self.earned.sum(now_ns).max(FLOOR * RETRY);
        let is_left = spent.sum(now_ns) + RETRY <= allowed;
        if is_left {
            spent.add(RETRY, now_ns);
        }
        is_left
    }
}

/// A sum over the last [`PARTS`] parts of time, the current one included.
///
/// Each word holds the number of its part in the upper half and the sum in the lower; a
/// part that comes round again starts from nothing.
#[derive(Debug, Default)]
struct Recent([AtomicU64; PARTS]);

impl Recent {
    fn add(&self, amount: u64, now_ns: u64) {
        let part = part_of(now_ns);
        let word = &self.0[part as usize % PARTS];
        // A late caller may find its part's place taken by a newer one; what it adds then
        // counts there, at most one window later than it should.
        let _ = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| {
            let is_current = old >> 32 >= u64::from(part);
            let sum = if is_current { old & u64::from(u32::MAX) } else { 0 };
            let part = if is_current { old >> 32 } else { u64::from(part) };
            Some(part << 32 | (sum + amount).min(u64::from(u32::MAX)))
        });
    }

    fn sum(&self, now_ns: u64) -> u64 {
        let now = u64::from(part_of(now_ns));
        let words = self.0.iter().map(|word| word.load(Ordering::Relaxed));
        let recent = words.filter(|word| (word >> 32) + PARTS as u64 > now);
        recent.map(|word| word & u64::from(u32::MAX)).sum()
    }
}

/// The number of the part of time, counted from one so that an untouched word is old.
fn part_of(now_ns: u64) -> u32 {
    (now_ns / PART_NS) as u32 + PARTS as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn retries(budget: &RetryBudget, at_most: usize, now_ns: u64) -> usize {
        (0..at_most).take_while(|_| budget.spend(now_ns)).count()
    }

    #[test]
    fn without_traffic_the_floor_is_allowed_in_each_window() {
        let budget = RetryBudget::default();
        assert_eq!(retries(&budget, 100, SECOND), FLOOR as usize);
        assert_eq!(retries(&budget, 100, 9 * SECOND), 0);
        assert_eq!(retries(&budget, 100, 11 * SECOND), FLOOR as usize);
    }

    #[test]
    fn under_load_retries_are_the_share_and_no_more() {
        let budget = RetryBudget::default();
        let mut retried = 0;
        for request in 0..10_000_u64 {
            let now_ns = request * SECOND / 1_000;
            budget.earn(Share::from_percent(20), now_ns);
            // Everything fails and asks for two retries.
            retried += retries(&budget, 2, now_ns);
        }
        assert!((1_990..=2_000).contains(&retried), "{retried}");
    }

    #[test]
    fn each_route_earns_its_own_share() {
        let budget = RetryBudget::default();
        for _ in 0..1_000 {
            budget.earn(Share::from_percent(10), SECOND);
            budget.earn(Share::NONE, SECOND);
        }
        assert_eq!(retries(&budget, 1_000, SECOND), 100);
    }

    #[test]
    fn what_was_earned_is_gone_after_the_window() {
        let budget = RetryBudget::default();
        (0..1_000).for_each(|_| budget.earn(Share::ALL, 5 * SECOND));
        assert_eq!(retries(&budget, 5_000, 14 * SECOND), 1_000);
        assert_eq!(retries(&budget, 5_000, 25 * SECOND), FLOOR as usize);
    }

    #[test]
    fn threads_never_spend_more_than_there_is() {
        let budget = RetryBudget::default();
        (0..5_000).for_each(|_| budget.earn(Share::from_percent(20), SECOND));
        let spent: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| retries(&budget, 5_000, SECOND))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(spent, 1_000);
    }
}
