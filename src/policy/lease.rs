//! How many tokens a gateway withdraws at a time from a limit that it shares with others.
//!
//! A lease spares most requests the way to the store: what was withdrawn is spent in memory. It
//! has a price, for tokens that lie at one gateway are missing at the others. So a lease is made
//! for [`AHEAD`] of the gateway's own demand, and all gateways together never hold more than a
//! twentieth of a bucket. Where that is too little to be worth a call, every request asks.

use std::time::Duration;

/// How much of its own demand a gateway withdraws ahead.
pub const AHEAD: Duration = Duration::from_millis(60);
/// How long a gateway may hold what it has withdrawn.
pub const LENGTH: Duration = Duration::from_millis(250);
/// A lease that has not been renewed so long before its end is renewed or handed back.
pub const MARGIN: Duration = Duration::from_millis(75);
/// The share of a bucket that all gateways together may hold: one part in so many.
const SHARE: u64 = 20;
/// Fewer tokens than that are not worth a lease.
const WORTH: u64 = 4;
/// The shortest time that demand is measured over.
const SHORTEST: Duration = Duration::from_millis(10);

/// The most tokens that one of `live` gateways may hold of a bucket of `burst`; 0 where that is
/// too little for a lease.
pub fn ceiling(burst: u64, live: u32) -> u64 {
    let ceiling = burst / (SHARE * u64::from(live.max(1)));
    if ceiling < WORTH { 0 } else { ceiling }
}

/// How many tokens a gateway should hold that has spent `spent` in `elapsed`.
pub fn target(spent: u64, elapsed: Duration, ceiling: u64) -> u64 {
    let elapsed = elapsed.max(SHORTEST).as_nanos();
    // Far below 2^128: tokens and nanoseconds are both below 2^64.
    let ahead = u128::from(spent) * AHEAD.as_nanos() / elapsed;
    let target = u64::try_from(ahead).unwrap_or(u64::MAX).min(ceiling);
    if target < WORTH { 0 } else { target }
}

/// What is left of a lease of `target` tokens when it is time to withdraw more: a quarter.
pub fn refill_at(target: u64) -> u64 {
    target / 4
}

/// How many tokens a gateway withdraws that holds `kept` and should hold `target`: all of them when
/// it is time for more, so that the last quarter is there to be spent meanwhile.
pub fn want(kept: u64, target: u64) -> u64 {
    match kept <= refill_at(target) {
        true => target,
        false => target.saturating_sub(kept),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn all_gateways_together_hold_a_twentieth_at_most() {
        // (burst, gateways, ceiling)
        let cases = [(20_000, 4, 250), (20_000, 1, 1_000), (1_000, 4, 12), (200, 4, 0), (79, 1, 0)];
        for (burst, live, expected) in cases {
            assert_eq!(ceiling(burst, live), expected, "{burst} {live}");
            assert!(ceiling(burst, live) * u64::from(live) * 20 <= burst);
        }
        assert_eq!(ceiling(80, 0), 4);
    }

    #[test]
    fn a_lease_follows_demand_up_to_the_ceiling() {
        // (spent, in ms, ceiling, target)
        let cases = [
            (2_500, 1_000, 250, 150),
            (10_000, 1_000, 250, 250),
            (125, 50, 1_000, 150),
            (1, 1, 1_000, 6),
            (1, 100, 1_000, 0),
            (0, 10, 1_000, 0),
            (100, 10, 0, 0),
            (u64::MAX, 10, u64::MAX, u64::MAX),
        ];
        for (spent, ms, ceiling, expected) in cases {
            assert_eq!(target(spent, MS * ms, ceiling), expected, "{spent} in {ms} ms");
        }
    }

    #[test]
    fn more_is_withdrawn_at_a_quarter_left_and_before_that_only_what_is_missing() {
        for (kept, target, expected) in
            [(0, 100, 100), (25, 100, 100), (26, 100, 74), (120, 100, 0)]
        {
            assert_eq!(want(kept, target), expected, "{kept} of {target}");
        }
    }

    #[test]
    fn demand_of_an_instant_is_no_demand_for_ever() {
        assert_eq!(target(2, Duration::ZERO, 1_000_000), 12);
    }
}
