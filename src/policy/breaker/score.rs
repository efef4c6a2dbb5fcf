//! Whether a share of calls is really that high, or only looks so for want of calls.
//!
//! Three failures of five are 60 %, and luck. So what is held against the policy's ratio is
//! not the share observed but the lower bound of its Wilson score interval (E. B. Wilson,
//! "Probable Inference, the Law of Succession, and Statistical Inference", Journal of the
//! American Statistical Association 22, 1927), one-sided at 95 %, `z` = 1.645. That interval
//! holds exactly those ratios that the score test does not reject. The bound of `k` bad
//! calls of `n` therefore reaches `r` if and only if
//!
//! ```text
//! k ≥ n·r   and   (k − n·r)² ≥ z²·n·r·(1 − r)
//! ```
//!
//! In this form there is neither root nor quotient, so integers do: with `r` and `z²` in
//! millionths the answer is exact, and the same on every machine. A floating-point bound
//! would decide the border cases by its rounding.

use crate::policy::share::Share;

/// 1.645² in millionths.
const Z_SQUARED_MILLIONTHS: u128 = 2_706_025;

/// Whether the lower bound of the share `bad` of `calls` reaches `ratio`.
///
/// The bound of any number of calls stays below 1, so a ratio near 1 would be out of its
/// reach; if every single call was bad, that is enough for any ratio.
pub(super) fn is_reached(bad: u32, calls: u32, ratio: Share) -> bool {
    if bad == 0 || bad >= calls {
        return bad > 0;
    }
    let (bad, calls) = (u128::from(bad), u128::from(calls));
    let (ratio, all) = (u128::from(ratio.millionths()), u128::from(Share::ALL.millionths()));
    // Below 2^52 for counts of 32 bits; the largest product is below 2^124.
    let Some(excess) = (bad * all).checked_sub(calls * ratio) else { return false };
    excess * excess * all >= Z_SQUARED_MILLIONTHS * calls * ratio * (all - ratio)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The bound as Wilson gives it.
    fn lower_bound(bad: u32, calls: u32) -> f64 {
        let (z, n) = (1.645, f64::from(calls));
        let share = f64::from(bad) / n;
        let middle = share + z * z / (2.0 * n);
        let margin = z * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
        (middle - margin) / (1.0 + z * z / n)
    }

    #[test]
    fn a_few_calls_do_not_prove_what_many_do() {
        let half = Share::from_percent(50);
        // The least number of failures that proves a half, worked out from the formula.
        for (calls, least) in [(5, 5), (10, 8), (20, 14), (100, 59), (1_000, 527)] {
            assert!(is_reached(least, calls, half), "{least} of {calls}");
            assert!(!is_reached(least - 1, calls, half), "{} of {calls}", least - 1);
        }
    }

    #[test]
    fn if_every_call_was_bad_any_ratio_is_reached() {
        for calls in [1, 2, 20, u32::MAX] {
            assert!(is_reached(calls, calls, Share::ALL));
            assert!(is_reached(calls, calls, Share::from_percent(99)));
        }
        assert!(!is_reached(999_999, 1_000_000, Share::ALL));
    }

    #[test]
    fn without_a_bad_call_none_is_reached() {
        assert!(!is_reached(0, 20, Share::NONE));
        assert!(!is_reached(0, 0, Share::NONE));
        assert!(is_reached(1, 20, Share::NONE));
    }

    #[test]
    fn the_largest_counts_fit_the_arithmetic() {
        assert!(is_reached(u32::MAX - 1, u32::MAX, Share::from_percent(99)));
        assert!(is_reached(u32::MAX - 1, u32::MAX, Share::from_millionths(1)));
        assert!(!is_reached(1, u32::MAX, Share::from_percent(50)));
    }

    proptest! {
        #[test]
        fn the_test_agrees_with_the_bound(
            calls in 1..5_000_u32,
            part in 0.0..1.0_f64,
            ratio in 1..1_000_000_u32,
        ) {
            let bad = (f64::from(calls) * part) as u32;
            let bound = lower_bound(bad, calls);
            let ratio = Share::from_millionths(ratio);
            prop_assume!((bound - ratio.fraction()).abs() > 1e-9);
            prop_assert_eq!(is_reached(bad, calls, ratio), bad > 0 && bound > ratio.fraction());
        }
    }
}
