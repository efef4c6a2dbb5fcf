//! Ten million invented keys.

use super::*;
use crate::store::table::BYTES_PER_SLOT;
use std::thread;

const KEYS: u64 = 10_000_000;
const THREADS: u64 = 2;
const SLOTS: usize = 65_536;

#[test]
fn ten_million_invented_keys_neither_grow_the_table_nor_free_a_limited_client() {
    // An hour to the token: nothing the flood does takes long enough for one to come back.
    let slow = TokenBucket::new(Rate { count: 24, period: Period::Day }, 10).unwrap();
    let (table, meter) = (Table::new(SLOTS), Meter::TokenBucket(&slow));
    let charge =
        |key, cost| is_taken(table.charge(key, Class::Unregistered, meter, &slow, cost, START));
    assert!(charge(key(u64::MAX), 10), "the client spends what it has");
    let policy = digest(KeyKind::Policy, "tier");
    let hasher = hasher();
    thread::scope(|scope| {
        for id in 0..THREADS {
            let (charge, hasher) = (&charge, &hasher);
            scope.spawn(move || {
                for client in (id..KEYS).step_by(THREADS as usize) {
                    let holder = hasher.digest(KeyKind::Header, &client.to_le_bytes());
                    charge(Key::new(policy, holder), 1);
                    if client % 10_000 == id {
                        assert!(!charge(key(u64::MAX), 1), "free after {client} keys");
                    }
                }
            });
        }
    });
    assert!(!charge(key(u64::MAX), 1));
    assert_eq!((table.slots(), BYTES_PER_SLOT), (SLOTS, 16));
    // Every set is full: 13 strangers in each.
    assert_eq!(table.used_slots(START), SLOTS / 16 * OPEN_SLOTS);
    let overflowed = table.overflowed();
    assert!(overflowed >= KEYS - table.used_slots(START) as u64, "{overflowed}");
}
