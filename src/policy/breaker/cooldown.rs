//! How long an open circuit stays open.

use super::BreakerPolicy;

/// The cooldown in nanoseconds of the opening that is the `streak`-th in a row, from 1.
///
/// The first is the policy's, to the nanosecond. It doubles with each opening in a row, up to
/// `max_cooldown_ns`: whoever did not recover in one cooldown needs longer, not another look
/// just as soon. Of what has grown up to a tenth is left out, by `random`, so that several
/// gateways whose upstream stays down do not all come back at the same moment; the first needs
/// none, for they did not open at the same moment. What the upstream asked for itself
/// (`retry_after_ns`, 0 for nothing) is waited for in full, up to the same bound.
pub(super) fn length_ns(
    policy: &BreakerPolicy,
    streak: u32,
    retry_after_ns: u64,
    random: u64,
) -> u64 {
    let doublings = 2_u64.saturating_pow(streak.saturating_sub(1));
    let grown_ns = policy.cooldown_ns.saturating_mul(doublings).min(policy.max_cooldown_ns);
    // Less than a tenth of a u64.
    let jitter_ns = ((u128::from(grown_ns / 10) * u128::from(random)) >> 64) as u64;
    let spread_ns = (grown_ns - jitter_ns).max(policy.cooldown_ns);
    spread_ns.max(retry_after_ns.min(policy.max_cooldown_ns))
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
    fn jitter_shortens_what_has_grown_by_up_to_a_tenth() {
        let lengths = |random| [1, 2, 3, 4].map(|streak| length_ns(&policy(), streak, 0, random));
        assert_eq!(lengths(u64::MAX / 2), [1_000, 1_901, 3_801, 5_701]);
        assert_eq!(lengths(u64::MAX), [1_000, 1_801, 3_601, 5_401]);
        let tight = BreakerPolicy { max_cooldown_ns: 1_050, ..policy() };
        assert_eq!(length_ns(&tight, 2, 0, u64::MAX), 1_000, "never below the first");
        assert_eq!(length_ns(&policy(), 4, 6_000, u64::MAX), 6_000, "never below what was asked");
    }

    #[test]
    fn what_the_upstream_asks_for_lengthens_but_never_shortens() {
        assert_eq!(length_ns(&policy(), 2, 1_999, 0), 2_000);
        assert_eq!(length_ns(&policy(), 2, 3_000, 0), 3_000);
        assert_eq!(length_ns(&policy(), 2, u64::MAX, u64::MAX), 6_000);
    }
}
