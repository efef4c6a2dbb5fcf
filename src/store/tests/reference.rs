//! The table against one plain bucket for each key, as long as no set overflows.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// A token bucket as one would explain it: an amount of time that is missing, and when it was
/// looked at last.
#[derive(Debug, Clone, Copy, Default)]
struct Plain {
    missing_ns: u64,
    at: u64,
}

impl Plain {
    /// Takes `cost` of `burst` tokens, or says how long to wait.
    fn take(&mut self, burst: u64, cost: u64, now: u64) -> Result<u64, Option<u64>> {
        let missing_ns = self.missing_ns.saturating_sub(now - self.at);
        let there_ns = burst * TICK - missing_ns;
        if cost > burst {
            return Err(None);
        }
        if there_ns < cost * TICK {
            return Err(Some(cost * TICK - there_ns));
        }
        *self = Plain { missing_ns: missing_ns + cost * TICK, at: now };
        Ok(now + self.missing_ns)
    }
}

/// `(client, cost, time since the last one)`; twelve clients fit any one set.
fn requests() -> impl Strategy<Value = Vec<(u64, u32, u64)>> {
    let pause = prop_oneof![3 => 0..TICK, 2 => 0..6 * TICK, 1 => 0..40 * TICK];
    prop::collection::vec((0..12_u64, 1..8_u32, pause), 1..200)
}

proptest! {
    #[test]
    fn a_table_decides_as_one_plain_bucket_for_each_key(
        requests in requests(),
        burst in 1..7_u64,
        slots in prop::sample::select(vec![16_usize, 32, 64]),
    ) {
        let (table, limit, overflow) = (Table::new(slots), bucket(burst), bucket(1));
        let meter = Meter::TokenBucket(&limit);
        let mut plain: HashMap<u64, Plain> = HashMap::new();
        let mut now = START;
        for (client, cost, pause) in requests {
            now += pause;
            let expected = plain.entry(client).or_default().take(burst, u64::from(cost), now);
            let charge = table.charge(key(client), Class::Unregistered, meter, &overflow, cost, now);
            let answer = match charge {
                Charge::Taken { state, place: Place::Own } => Ok(state),
                Charge::Refused { wait_ns, place: Place::Own, .. } => Err(wait_ns),
                other => return Err(TestCaseError::fail(format!("overflow: {other:?}"))),
            };
            prop_assert_eq!(answer, expected);
        }
        prop_assert_eq!(table.overflowed(), 0);
        let used = plain.values().filter(|plain| plain.at + plain.missing_ns > now).count();
        prop_assert_eq!(table.used_slots(now), used);
    }

    /// A set that overflows all the time, and threads that are late: own buckets and the
    /// overflow bucket keep to their limits all the same.
    #[test]
    fn no_bucket_of_a_crowded_set_gives_more_than_its_limit(
        requests in prop::collection::vec((0..40_u64, 1..4_u32, 0..TICK, 0..4 * TICK), 1..300),
        burst in 1..5_u64,
    ) {
        let set = OneSet::new(burst, burst);
        let mut now = START;
        let mut own = HashMap::<u64, u64>::new();
        let mut shared = 0;
        for (client, cost, pause, late) in requests {
            now += pause;
            let class = if client < 2 { Class::Registered } else { Class::Unregistered };
            match set.charge_as(class, client, cost, now - late) {
                Charge::Taken { place: Place::Own, .. } => {
                    *own.entry(client).or_default() += u64::from(cost);
                }
                Charge::Taken { place: Place::Overflow, .. } => shared += u64::from(cost),
                Charge::Refused { .. } => {}
            }
            // The earliest a request could have been dated.
            let most = burst + (now + 4 * TICK - START) / TICK;
            prop_assert!(own.values().all(|&tokens| tokens <= most) && shared <= most);
        }
    }
}
