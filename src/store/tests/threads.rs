//! Real threads on real tables. A count that must be exact is asked for exactly.

use super::super::limiter::{Demand, Limiter, Receipt, Verdict};
use super::super::table::Payment;
use super::*;
use crate::clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;

const THREADS: usize = 4;

/// Runs `work` in every thread at once and adds up what it returns.
pub(super) fn in_threads(work: impl Fn(usize) -> u64 + Sync) -> u64 {
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        let run = |id| {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(id)
            })
        };
        let threads: Vec<_> = (0..THREADS).map(run).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

#[test]
fn one_key_at_a_frozen_time_gives_exactly_its_burst() {
    let set = OneSet::new(40_000, 40_000);
    let admitted =
        in_threads(|_| (0..20_000).filter(|_| is_taken(set.charge(1, 1, START))).count() as u64);
    assert_eq!(admitted, 40_000);
    assert_eq!(set.table.overflowed(), 0);
}

#[test]
fn new_keys_that_all_threads_meet_at_once_get_one_bucket_each() {
    // Many small tables, so that every key is new and none overflows.
    let sets: Vec<OneSet> = (0..1_500).map(|_| OneSet::new(3, 3)).collect();
    let clients = 12;
    let admitted: Vec<AtomicU64> = (0..sets.len() * clients).map(|_| 0.into()).collect();
    in_threads(|_| {
        for (number, set) in sets.iter().enumerate() {
            for client in (0..clients).cycle().take(2 * clients) {
                let charge = set.charge(client as u64, 1, START);
                assert_eq!(place_of(charge), Place::Own);
                if is_taken(charge) {
                    admitted[number * clients + client].fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        0
    });
    assert!(admitted.iter().all(|count| count.load(Ordering::Relaxed) == 3));
}

#[test]
fn a_real_clock_gives_burst_and_rate_and_not_a_token_more() {
    let set = OneSet::new(100, 100);
    let from = clock::now_ns();
    let admitted = in_threads(|_| {
        (0..20_000).filter(|_| is_taken(set.charge(1, 1, clock::now_ns()))).count() as u64
    });
    let elapsed = clock::now_ns() - from;
    assert!((100..=100 + elapsed / TICK).contains(&admitted), "{admitted} in {elapsed} ns");
}

#[test]
fn requests_under_several_limits_leak_no_token_at_a_frozen_time() {
    let limiter = Limiter::new(64, hasher());
    let buckets = [bucket(700), bucket(1_000)];
    let demands = |client: u64| -> [Demand<'_>; 2] {
        std::array::from_fn(|policy| Demand {
            policy,
            key: Key::new(
                digest(KeyKind::Policy, ["tier", "all"][policy]),
                hasher().digest(KeyKind::Header, &(client * (1 - policy as u64)).to_le_bytes()),
            ),
            class: Class::Unregistered,
            meter: Meter::TokenBucket(&buckets[policy]),
            cost: 1,
            since: 0,
        })
    };
    let clients = [demands(1), demands(2)];
    let is_admitted = |client: usize| {
        let verdict =
            limiter.decide(&clients[client], &buckets[0], &mut Receipt::default(), START, || START);
        matches!(verdict, Verdict::Admitted(_))
    };
    let by_client = [AtomicU64::new(0), AtomicU64::new(0)];
    in_threads(|id| {
        for _ in 0..3_000 {
            by_client[id % 2].fetch_add(u64::from(is_admitted(id % 2)), Ordering::Relaxed);
        }
        0
    });
    // A refusal may make a neighbour be refused for an instant, so the rest is asked for
    // again in peace.
    for client in [0, 1] {
        while is_admitted(client) {
            by_client[client].fetch_add(1, Ordering::Relaxed);
        }
    }
    let [one, two] = by_client.map(AtomicU64::into_inner);
    assert_eq!(one + two, 1_000, "the limit over both");
    for (demands, admitted) in clients.iter().zip([one, two]) {
        assert_eq!(limiter.peek(&demands[0], START).tokens, 700 - admitted);
    }
    assert_eq!(limiter.peek(&clients[0][1], START).tokens, 0);
}

/// A clock that threads push forward, and that each of them may have read a while ago.
struct Episode {
    table: Table,
    bucket: TokenBucket,
    clock: AtomicU64,
    /// What was admitted and not refunded: by each client's own bucket, by each overflow bucket.
    own: Vec<Mutex<Vec<Admitted>>>,
    overflow: Vec<Mutex<Vec<Admitted>>>,
}

/// Tokens that passed at some time between two.
struct Admitted {
    not_before: u64,
    not_after: u64,
    tokens: u64,
}

const CLIENTS: u64 = 24;
const BURST: u64 = 4;

impl Episode {
    fn new(slots: usize) -> Episode {
        let logs = |n: usize| (0..n).map(|_| Mutex::default()).collect();
        Episode {
            table: Table::new(slots),
            bucket: bucket(BURST),
            clock: AtomicU64::new(START),
            own: logs(CLIENTS as usize),
            overflow: logs(slots / 16),
        }
    }

    fn now(&self) -> u64 {
        self.clock.load(Ordering::SeqCst)
    }

    fn log(&self, client: u64, place: Place) -> &Mutex<Vec<Admitted>> {
        match place {
            Place::Own => &self.own[client as usize],
            Place::Overflow => &self.overflow[key(client).set() & (self.overflow.len() - 1)],
        }
    }

    /// One charge, which every third time is taken back a while later.
    fn charge(&self, random: &mut fastrand::Rng, now: u64) {
        // A few clients send most of the requests.
        let client = random.u64(..CLIENTS).min(random.u64(..CLIENTS));
        let cost = random.u32(1..=2);
        let class = if client < 2 { Class::Registered } else { Class::Unregistered };
        let meter = Meter::TokenBucket(&self.bucket);
        let charge = self.table.charge(key(client), class, meter, &self.bucket, cost, now);
        let Charge::Taken { state, place } = charge else { return };
        if random.u8(..3) > 0 {
            let admitted =
                Admitted { not_before: now, not_after: self.now(), tokens: u64::from(cost) };
            self.log(client, place).lock().unwrap().push(admitted);
            return;
        }
        self.clock.fetch_add(random.u64(..2 * TICK), Ordering::SeqCst);
        thread::yield_now();
        let payment = Payment { place, state, cost, at: now };
        self.table.refund(key(client), Meter::TokenBucket(&self.bucket), &payment, || self.now());
    }

    fn run(&self, seed: u64) {
        in_threads(|id| {
            let mut random = fastrand::Rng::with_seed(seed * 64 + id as u64);
            for _ in 0..60 {
                let now = self.now();
                for _ in 0..random.u8(1..4) {
                    self.charge(&mut random, now);
                }
                self.clock.fetch_add(random.u64(..TICK / 8), Ordering::SeqCst);
            }
            0
        });
    }

    /// The largest share of what burst and rate allow that passed in any window.
    fn fullest_window(&self) -> f64 {
        let mut fullest = 0.0_f64;
        for log in self.own.iter().chain(&self.overflow) {
            let mut log = log.lock().unwrap();
            log.sort_unstable_by_key(|admitted| admitted.not_after);
            for from in log.iter().map(|admitted| admitted.not_before) {
                let mut tokens = 0;
                for admitted in log.iter().filter(|admitted| admitted.not_before >= from) {
                    tokens += admitted.tokens;
                    let allowed = BURST + (admitted.not_after - from) / TICK;
                    fullest = fullest.max(tokens as f64 / allowed as f64);
                }
            }
        }
        fullest
    }
}

#[test]
fn crowded_tables_and_late_threads_admit_nobody_too_many() {
    let mut exhausted = 0;
    for seed in 0..300 {
        let episode = Episode::new([16, 32, 64][seed as usize % 3]);
        episode.run(seed);
        let fullest = episode.fullest_window();
        assert!(fullest <= 1.0, "{fullest} of what is allowed (seed {seed})");
        exhausted += u32::from(fullest == 1.0);
    }
    // Were the limits never reached, the test would say nothing.
    assert!(exhausted > 100, "{exhausted} episodes reached a limit");
}
