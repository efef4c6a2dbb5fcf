//! What one generation's requests to a route came to.

use crate::policy::reload_watch::Answers;
use std::sync::atomic::{AtomicU64, Ordering};

/// The status of a request whose client went away; it says nothing about the route.
const CLIENT_GONE: u16 = 499;

/// Counts of a route's answers in one generation. Unlike the route's metrics they begin anew
/// with each: a request that an earlier configuration decided must not be held against the one
/// that serves when it ends.
#[derive(Debug, Default)]
pub struct Outcomes {
    all: AtomicU64,
    failed: AtomicU64,
}

impl Outcomes {
    /// Counts a request that was answered with `status`.
    pub fn count(&self, status: u16) {
        if status == CLIENT_GONE {
            return;
        }
        self.all.fetch_add(1, Ordering::Relaxed);
        if status >= 500 {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts so far.
    pub fn answers(&self) -> Answers {
        // In this order a failure counted in between makes the share smaller, not larger.
        let failed = self.failed.load(Ordering::Relaxed);
        Answers { all: self.all.load(Ordering::Relaxed), failed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_counts_but_those_nobody_waited_for() {
        let outcomes = Outcomes::default();
        for status in [200, 404, 429, 499, 500, 503, 599] {
            outcomes.count(status);
        }
        assert_eq!(outcomes.answers(), Answers { all: 6, failed: 3 });
    }
}
