//! Whether a new configuration made a route fail.
//!
//! Two counts are compared: what a route answered in the window before the swap, and what it
//! has answered since. The share of 5xx may grow by a factor; a share before that is below
//! [`BASELINE_FLOOR`] counts as that much, so that two failures after none are no infinite rise.
//!
//! One unlucky request must not take a configuration back, and a route whose upstream is gone
//! must not wait for the end of the window. So the verdict is given as soon as it is beyond
//! chance: when the lower bound of the Wilson score interval (E. B. Wilson, 1927) of the share
//! after the swap, at three standard deviations, lies above what is allowed. Where nothing
//! failed before and twice that is allowed, 5 failures of 5 requests are beyond chance, and so
//! are 5 of 60; 5 of 100 are not yet, and neither is any number at the allowed share itself.
//!
//! Failures come in bursts, which the interval knows nothing of: a server that restarts fails
//! ten requests at once and none after. So what is evident has to be evident still some time
//! later, and the answers since the look before have to be failing too.

/// When a configuration that was taken is taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchPolicy {
    /// How long it is watched, in nanoseconds; also how far back it is compared.
    pub window_ns: u64,
    /// How many times the share of 5xx before the swap is allowed after it, in thousandths.
    pub max_error_ratio_thousandths: u32,
}

impl Default for WatchPolicy {
    fn default() -> Self {
        Self { window_ns: 30_000_000_000, max_error_ratio_thousandths: 2_000 }
    }
}

/// A share of 5xx below this one counts as this one.
pub const BASELINE_FLOOR: f64 = 0.01;
/// Fewer 5xx than these prove nothing.
pub const MIN_FAILURES: u64 = 5;
/// How long what is evident has to go on.
pub const CONFIRMATION_NS: u64 = 500_000_000;
/// Standard deviations that are left to chance.
const DEVIATIONS: f64 = 3.0;

/// What requests to one route were answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// With any status; those whose client had gone are not among them.
    pub all: u64,
    /// With a 5xx.
    pub failed: u64,
}

impl Answers {
    /// The share of 5xx, from 0 to 1; 0 where there were no answers.
    pub fn share(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.failed as f64 / self.all as f64 }
    }

    /// What was answered since it was `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Answers) -> Answers {
        Answers {
            all: self.all.saturating_sub(earlier.all),
            failed: self.failed.saturating_sub(earlier.failed),
        }
    }

    /// These and `others` together.
    #[must_use]
    pub const fn and(self, others: Answers) -> Answers {
        Answers { all: self.all + others.all, failed: self.failed + others.failed }
    }

    /// The lower bound of the Wilson score interval of the share.
    fn least_share(self) -> f64 {
        if self.all == 0 {
            return 0.0;
        }
        // The counts are read one after the other, while requests go on.
        let (n, share) = (self.all as f64, self.share().min(1.0));
        let z2 = DEVIATIONS * DEVIATIONS;
        let centre = share + z2 / (2.0 * n);
        let spread = DEVIATIONS * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
        (centre - spread) / (1.0 + z2 / n)
    }
}

impl WatchPolicy {
    /// The share of 5xx that is allowed after answers as `before`. From 1 on nothing is ever
    /// taken back: what fails this often cannot fail this much more.
    pub fn allowed(&self, before: Answers) -> f64 {
        before.share().max(BASELINE_FLOOR) * self.max_error_ratio()
    }

    /// How many times the share before is allowed.
    pub fn max_error_ratio(&self) -> f64 {
        f64::from(self.max_error_ratio_thousandths) / 1e3
    }

    fn is_evident(&self, before: Answers, after: Answers) -> bool {
        after.failed >= MIN_FAILURES && after.least_share() > self.allowed(before)
    }
}

/// One route under watch. Looked at every now and then; the rest of its state is the counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteWatch {
    /// Since when it is evident without a break.
    evident_since_ns: Option<u64>,
    /// The answers at the last look.
    seen: Answers,
}

impl RouteWatch {
    /// Whether the route fails too much, given the answers `before` the swap and `after` it.
    pub fn look(
        &mut self,
        policy: &WatchPolicy,
        before: Answers,
        after: Answers,
        now_ns: u64,
    ) -> bool {
        let latest = after.since(self.seen);
        self.seen = after;
        if !policy.is_evident(before, after) {
            self.evident_since_ns = None;
            return false;
        }
        let since_ns = *self.evident_since_ns.get_or_insert(now_ns);
        let goes_on = latest.failed > 0 && latest.share() > policy.allowed(before);
        goes_on && now_ns.saturating_sub(since_ns) >= CONFIRMATION_NS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    const MS: u64 = 1_000_000;
    const QUIET: Answers = Answers { all: 3_000, failed: 0 };

    /// When the route is given up, in milliseconds after the swap: requests come at `rate` a
    /// second, `fails` says of each whether it fails, and looks are 250 ms apart.
    fn given_up(before: Answers, rate: u64, fails: impl Fn(u64) -> bool) -> Option<u64> {
        let policy = WatchPolicy::default();
        let mut watch = RouteWatch::default();
        let looks = iter::successors(Some(250), |ms| Some(ms + 250));
        let in_window = looks.take_while(|ms| ms * MS <= policy.window_ns);
        let mut after = Answers::default();
        in_window.into_iter().find(|ms| {
            while after.all < rate * ms / 1_000 {
                after.failed += u64::from(fails(after.all));
                after.all += 1;
            }
            watch.look(&policy, before, after, ms * MS)
        })
    }

    #[test]
    fn a_route_whose_upstream_is_gone_is_given_up_soon_at_any_traffic() {
        let cases = [(1, 6_000), (2, 3_250), (10, 1_250), (100, 1_000), (10_000, 750)];
        for (rate, at_most_ms) in cases {
            let ms = given_up(QUIET, rate, |_| true).expect("it is given up");
            assert!(ms <= at_most_ms, "{rate}/s: {ms} ms");
        }
        let never_asked = given_up(Answers::default(), 10, |_| true);
        assert!(never_asked.is_some_and(|ms| ms <= 1_250), "one that is new: {never_asked:?}");
    }

    #[test]
    fn chance_takes_nothing_back() {
        for rate in [1, 10, 100, 1_000] {
            assert_eq!(given_up(QUIET, rate, |_| false), None);
            assert_eq!(given_up(QUIET, rate, |n| n == 0), None, "the first request");
            assert_eq!(given_up(QUIET, rate, |n| n < 4), None, "the first four");
            assert_eq!(given_up(QUIET, rate, |n| n % 100 == 0), None, "the floor itself");
            assert_eq!(given_up(QUIET, rate, |n| n % 50 == 49), None, "what is allowed");
            let as_before = Answers { all: 300, failed: 30 };
            assert_eq!(given_up(as_before, rate, |n| n % 10 == 0), None, "as before");
        }
    }

    #[test]
    fn a_burst_that_is_over_takes_nothing_back() {
        assert_eq!(given_up(QUIET, 10, |n| n < 6), None);
        assert_eq!(given_up(QUIET, 100, |n| n < 40), None);
        assert_eq!(given_up(QUIET, 1_000, |n| (3_000..3_200).contains(&n)), None);
    }

    #[test]
    fn a_rise_is_noticed_before_the_window_ends() {
        // A third of the requests fails, a tenth, and three in a hundred.
        for (rate, every) in [(3, 3), (10, 10), (200, 33)] {
            let ms = given_up(QUIET, rate, |n| n % every == 0);
            assert!(ms.is_some(), "one of {every} at {rate}/s");
        }
        let some = Answers { all: 1_000, failed: 100 };
        assert_eq!(given_up(some, 100, |n| n % 6 == 0), None, "from 10 % to 17 %");
        assert!(given_up(some, 100, |n| n % 3 == 0).is_some(), "from 10 % to 33 %");
    }

    #[test]
    fn what_failed_half_the_time_may_fail_all_the_time() {
        let half = Answers { all: 1_000, failed: 500 };
        assert_eq!(given_up(half, 1_000, |_| true), None);
        let third = Answers { all: 900, failed: 300 };
        assert!(given_up(third, 10, |_| true).is_some(), "twice a third is less than all");
    }

    #[test]
    fn a_larger_factor_allows_more() {
        let policy = WatchPolicy { max_error_ratio_thousandths: 50_500, ..Default::default() };
        let after = |failed| Answers { all: 1_000, failed };
        assert!((policy.allowed(QUIET) - 0.505).abs() < 1e-9);
        assert!(!policy.is_evident(QUIET, after(505)));
        assert!(policy.is_evident(QUIET, after(600)));
    }

    #[test]
    fn counts_that_were_read_at_odds_do_no_harm() {
        // A failure counted between the two reads.
        let after = Answers { all: 5, failed: 6 };
        let mut watch = RouteWatch::default();
        let policy = WatchPolicy::default();
        assert!(!watch.look(&policy, QUIET, after, 0));
        assert!(!watch.look(&policy, QUIET, Answers { all: 4, failed: 5 }, CONFIRMATION_NS));
        assert_eq!(Answers::default().since(after), Answers::default());
    }
}
