//! How long an open circuit stays open.

use super::BreakerPolicy;

/// The cooldown in nanoseconds of the opening that is the `streak`-th in a row, from 1.
///
/// It doubles with each opening in a row: whoever did not recover in one cooldown needs
/// longer, not another look just as soon. What the upstream asked for itself
/// (`retry_after_ns`, 0 for nothing) lengthens it. On top come up to 10 %, by `random`, so
/// that several gateways do not come back at the same moment. All of it is bounded by the
/// policy's `max_cooldown_ns`; at the bound there is no jitter left.
pub(super) fn length_ns(
    policy: &BreakerPolicy,
    streak: u32,
    retry_after_ns: u64,
    random: u64,
) -> u64 {
    let doublings = 2_u64.saturating_pow(streak.saturating_sub(1));
    let asked_ns = policy.cooldown_ns.saturating_mul(doublings).max(retry_after_ns);
    let base_ns = asked_ns.min(policy.max_cooldown_ns);
    let jitter_ns = (u128::from(base_ns / 10) * u128::from(random)) >> 64;
    // Less than a tenth of a u64.
    base_ns.saturating_add(jitter_ns as u64).min(policy.max_cooldown_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> BreakerPolicy {
        BreakerPolicy { cooldown_ns: 1_000, max_cooldown_ns: 6_000, ..BreakerPolicy::default() }
    }

    #[test]
    fn the_cooldown_doubles_up_to_its_bound() {
        let lengths: Vec<u64> =
            [1, 2, 3, 4, 5, 64, 65, u32::MAX].map(|n| length_ns(&policy(), n, 0, 0)).into();
        assert_eq!(lengths, [1_000, 2_000, 4_000, 6_000, 6_000, 6_000, 6_000, 6_000]);
    }

    #[test]
    fn jitter_adds_up_to_a_tenth_and_stays_within_the_bound() {
        assert_eq!(length_ns(&policy(), 1, 0, u64::MAX / 2), 1_049);
        assert_eq!(length_ns(&policy(), 1, 0, u64::MAX), 1_099);
        assert_eq!(length_ns(&policy(), 4, 0, u64::MAX), 6_000);
        let tight = BreakerPolicy { max_cooldown_ns: 1_050, ..policy() };
        assert_eq!(length_ns(&tight, 1, 0, u64::MAX), 1_050);
    }

    #[test]
    fn what_the_upstream_asks_for_lengthens_but_never_shortens() {
        assert_eq!(length_ns(&policy(), 2, 1_999, 0), 2_000);
        assert_eq!(length_ns(&policy(), 2, 3_000, 0), 3_000);
        assert_eq!(length_ns(&policy(), 2, u64::MAX, u64::MAX), 6_000);
    }
}
