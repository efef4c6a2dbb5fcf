//! One decision of the limiter: hash the client's id, find its bucket, charge it.
//!
//! Both limiters are given a time that stands still, so neither pays for a clock: `governor`
//! its own `FakeRelativeClock`, which is one atomic load. Both admit every request, on a
//! limit of one token a nanosecond and a burst no run can exhaust. `governor` has the
//! defaults its users have: DashMap and the standard hasher, which is a keyed SipHash like
//! ours. A client id is 24 bytes in a `String`, which is what a header's value becomes in a map.
//!
//! The table is measured in memory and in a file, which lies where temporary files do.
//!
//! A million clients live in 2^22 slots, 64 MiB: a quarter full, as an operator with that
//! many would set it, so that hardly a set overflows.

use crate::comparison::{Bound, Ids, ROUNDS, compare_pair};
use criterion::{BatchSize, Criterion};
use governor::clock::{Clock, FakeRelativeClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use std::hint::black_box;
use std::num::NonZeroU32;
use tempfile::TempDir;
use tollgate::policy::meter::Meter;
use tollgate::policy::rate::{Period, Rate, TokenBucket};
use tollgate::store::key::{Digest, Key, KeyHasher, KeyKind};
use tollgate::store::limiter::{Demand, Limiter, Receipt, Verdict};
use tollgate::store::mapped::{self, Boot, Reading, Wanted};
use tollgate::store::table::{Class, Table};

pub(crate) const CLIENTS: usize = 1_000_000;
const SLOTS: usize = 1 << 22;
const NOW: u64 = 1_000_000_000;

type ClientId = String;
type Governor = RateLimiter<
    ClientId,
    DashMapStateStore<ClientId>,
    FakeRelativeClock,
    NoOpMiddleware<<FakeRelativeClock as Clock>::Instant>,
>;

pub(crate) fn client(number: usize) -> ClientId {
    format!("client-{number:017}")
}

/// A million clients in an order that no cache can guess.
pub(crate) fn clients() -> Vec<ClientId> {
    let mut numbers: Vec<usize> = (0..CLIENTS).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut numbers);
    numbers.into_iter().map(client).collect()
}

fn inexhaustible() -> TokenBucket {
    bucket(1_000_000_000, 4_000_000_000)
}

fn bucket(per_second: u64, burst: u64) -> TokenBucket {
    let rate = Rate { count: per_second, period: Period::Second };
    TokenBucket::new(rate, burst).expect("a rate of whole nanoseconds")
}

/// Our limiter with one policy, and the policies of a request that meets several.
struct Ours {
    limiter: Limiter,
    policies: [Digest; 3],
    bucket: TokenBucket,
    /// Where its file is, if it has one.
    _folder: Option<TempDir>,
}

impl Ours {
    fn new(slots: usize) -> Ours {
        Ours::over(Limiter::new(slots, KeyHasher::with_secret(b"sixteen bytes...")), None)
    }

    /// With its table in a file.
    fn mapped(slots: usize) -> Ours {
        let folder = tempfile::tempdir().expect("a folder");
        let wanted = Wanted {
            folder: folder.path(),
            slots,
            has_predecessor: false,
            boot: Boot::current().expect("this boot's name"),
            now: Reading { monotonic_ns: NOW, wall_ns: NOW },
        };
        let opened = mapped::open(&wanted).expect("a file that can be mapped");
        Ours::over(Limiter::in_file(opened.file), Some(folder))
    }

    fn over(limiter: Limiter, folder: Option<TempDir>) -> Ours {
        let policies = ["tier", "per-ip", "route:users"]
            .map(|name| limiter.digest(KeyKind::Policy, name.as_bytes()));
        Ours { limiter, policies, bucket: inexhaustible(), _folder: folder }
    }

    fn demand(&self, policy: usize, holder: Digest) -> Demand<'_> {
        let key = Key::new(self.policies[policy], holder);
        let meter = Meter::TokenBucket(&self.bucket);
        Demand { policy, key, class: Class::Unregistered, meter, cost: 1, since: 0 }
    }

    fn decide(&self, client: &ClientId) -> bool {
        let holder = self.limiter.digest(KeyKind::Header, client.as_bytes());
        self.decide_all(&[self.demand(0, holder)])
    }

    fn decide_several(&self, client: &ClientId) -> bool {
        let holder = self.limiter.digest(KeyKind::Header, client.as_bytes());
        let demands = [0, 1, 2].map(|policy| self.demand(policy, holder));
        self.decide_all(&demands)
    }

    fn decide_all(&self, demands: &[Demand<'_>]) -> bool {
        let mut receipt = Receipt::default();
        self.limiter.admit(demands, &self.bucket, &mut receipt, NOW, || NOW).is_ok()
    }

    /// The tokens that are left as well, which the headers of the answer tell.
    fn decide_and_tell(&self, client: &ClientId) -> bool {
        let holder = self.limiter.digest(KeyKind::Header, client.as_bytes());
        let (demands, mut receipt) = ([self.demand(0, holder)], Receipt::default());
        let verdict = self.limiter.decide(&demands, &self.bucket, &mut receipt, NOW, || NOW);
        matches!(verdict, Verdict::Admitted(Some(standing)) if black_box(standing.tokens) > 0)
    }
}

fn governor() -> Governor {
    let second = NonZeroU32::new(1_000_000_000).expect("not zero");
    let burst = NonZeroU32::new(4_000_000_000).expect("not zero");
    let quota = Quota::per_second(second).allow_burst(burst);
    RateLimiter::dashmap_with_clock(quota, FakeRelativeClock::default())
}

pub(crate) fn bench(criterion: &mut Criterion) {
    hot_key(criterion);
    million_keys(criterion);
    table(criterion);
}

fn hot_key(criterion: &mut Criterion) {
    let (ours, theirs, id) = (Ours::new(1 << 20), governor(), client(123));
    let mut group = criterion.benchmark_group("hot_key");
    group.bench_function("tollgate", |b| b.iter(|| ours.decide(black_box(&id))));
    group.bench_function("governor", |b| b.iter(|| theirs.check_key(black_box(&id)).is_ok()));
    let mapped = Ours::mapped(1 << 20);
    group.bench_function("tollgate_mapped", |b| b.iter(|| mapped.decide(black_box(&id))));
    group.bench_function("tollgate_three_limits", |b| {
        b.iter(|| ours.decide_several(black_box(&id)));
    });
    let spent = Ours { bucket: bucket(1, 1), ..Ours::new(1 << 20) };
    assert!(spent.decide(&id));
    group.bench_function("tollgate_refused", |b| b.iter(|| spent.decide(black_box(&id))));
    group.finish();
}

fn million_keys(criterion: &mut Criterion) {
    let clients = clients();
    let (ours, mapped, theirs) = (Ours::new(SLOTS), Ours::mapped(SLOTS), governor());
    // Clients come for the first time in another order than later on.
    for id in (0..CLIENTS).map(client) {
        assert!(ours.decide(&id) && mapped.decide(&id) && theirs.check_key(&id).is_ok());
    }
    // A set or two of a quarter million may be full all the same.
    assert!(ours.limiter.table().overflowed() < 100);
    let mut group = criterion.benchmark_group("million_keys");
    let mut order = clients.iter().cycle();
    group.bench_function("tollgate", |b| {
        b.iter(|| ours.decide(order.next().expect("a cycle")));
    });
    group.bench_function("tollgate_mapped", |b| {
        b.iter(|| mapped.decide(order.next().expect("a cycle")));
    });
    group.bench_function("governor", |b| {
        b.iter(|| theirs.check_key(order.next().expect("a cycle")).is_ok());
    });
    group.finish();
}

/// The table without hashing: what a newcomer and a full set cost.
fn table(criterion: &mut Criterion) {
    let hasher = KeyHasher::with_secret(b"sixteen bytes...");
    let policy = hasher.digest(KeyKind::Policy, b"tier");
    let keys: Vec<Key> = (0..10_000_u64)
        .map(|n| Key::new(policy, hasher.digest(KeyKind::Header, &n.to_le_bytes())))
        .collect();
    let slow = bucket(1, 1_000);
    let charge = |table: &Table, key: Key| {
        black_box(table.charge(key, Class::Unregistered, Meter::TokenBucket(&slow), &slow, 1, NOW));
    };
    let mut group = criterion.benchmark_group("table");
    group.throughput(criterion::Throughput::Elements(keys.len() as u64));
    group.bench_function("ten_thousand_new_keys", |b| {
        b.iter_batched_ref(
            || Table::new(1 << 17),
            |table| keys.iter().for_each(|&key| charge(table, key)),
            BatchSize::LargeInput,
        );
    });
    let full = Table::new(1 << 10);
    keys.iter().for_each(|&key| charge(&full, key));
    group.bench_function("ten_thousand_in_full_sets", |b| {
        b.iter(|| keys.iter().for_each(|&key| charge(&full, key)));
    });
    group.finish();
}

/// Prints what a decision costs beside `governor`'s and what it may cost; and, for which there is
/// no bound, what it costs in a file beside memory, and where the answer's headers shall tell how
/// many tokens are left, which `governor` is not asked.
pub(crate) fn compare() {
    // Another key in each round: where in memory a bucket lies happens to suit one limiter or the
    // other, and may cost half as much again. So few copies that they stay in the cache.
    let hot: Vec<Vec<ClientId>> = (0..ROUNDS).map(|number| vec![client(number); 1_000]).collect();
    let hot = Ids { of_rounds: hot.iter().map(Vec::as_slice).collect(), times: 100 };
    compare_on("hot key", ROUNDS, &hot, 1 << 20, 0.8);
    compare_on("1 000 000 keys", CLIENTS, &Ids::all(&clients()), SLOTS, 0.3);
}

fn compare_on(name: &str, known: usize, ids: &Ids<'_>, slots: usize, bound: f64) {
    let (heap, mapped, theirs) = (Ours::new(slots), Ours::mapped(slots), governor());
    let count = |ours: &Ours, ids: &[ClientId]| ids.iter().filter(|id| ours.decide(id)).count();
    let theirs = |ids: &[ClientId]| ids.iter().filter(|id| theirs.check_key(id).is_ok()).count();
    let told = |ids: &[ClientId]| ids.iter().filter(|id| heap.decide_and_tell(id)).count();
    let heap = |ids: &[ClientId]| count(&heap, ids);
    let mapped = |ids: &[ClientId]| count(&mapped, ids);
    let known: Vec<ClientId> = (0..known).map(client).collect();
    assert_eq!(heap(&known) + mapped(&known) + theirs(&known), 3 * known.len());
    compare_pair(name, ids, [&heap, &theirs], Bound::Ratio(bound));
    compare_pair(&format!("{name}, in a file"), ids, [&mapped, &theirs], Bound::Ratio(bound));
    compare_pair("  in a file beside memory", ids, [&mapped, &heap], Bound::None);
    compare_pair("  and how many tokens are left", ids, [&told, &theirs], Bound::None);
}
