//! How one client of a million is found: hash its id, look, say how it stands.
//!
//! Beside it a `HashMap` of the standard library by the id itself, with the hasher it comes with,
//! which nobody could change while requests read it. Ids come in an order that no cache can guess.
//! And beside it the least that any table can take: one word at an unknown place of as much memory,
//! on the same kind of pages, whose address follows from the word before.

use crate::comparison::{Bound, Ids, compare_pair};
use crate::limiter::{CLIENTS, client, clients};
use criterion::Criterion;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::Ordering;
use tollgate::policy::tier::Tiers;
use tollgate::registry::{Change, KnownClients, Record, Registry, Standing};
use tollgate::store::lines::Lines;

/// Registered clients, and what their standing is read with.
struct Registered {
    registry: Registry,
    known: KnownClients,
    tiers: Tiers,
}

impl Registered {
    fn new() -> Registered {
        let registry = Registry::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let record = Record { tier: Some("premium".into()), own_limit: None };
        let numbers: Vec<usize> = (0..CLIENTS).collect();
        for chunk in numbers.chunks(500) {
            let rows = chunk.iter().map(|&number| (client(number).into(), record.clone()));
            let made = runtime.block_on(registry.change(Change::Import(rows.collect())));
            made.expect("room for a million clients");
        }
        Registered { registry, known: KnownClients::default(), tiers: Tiers::standard() }
    }

    fn standing(&self, id: &str) -> Standing {
        self.registry.standing(id, &self.known, &self.tiers)
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let (registered, clients) = (Registered::new(), clients());
    let mut group = criterion.benchmark_group("registry");
    let mut order = clients.iter().cycle();
    group.bench_function("one_of_a_million", |b| {
        b.iter(|| registered.standing(order.next().expect("a cycle")));
    });
    group.bench_function("a_stranger", |b| b.iter(|| registered.standing("a stranger")));
    group.finish();
}

/// Prints what a look at the registry costs beside one into a map.
pub(crate) fn compare() {
    let (ours, ids) = (Registered::new(), clients());
    let ids = Ids::all(&ids);
    let map: HashMap<String, Standing> =
        (0..CLIENTS).map(client).map(|id| (id.clone(), ours.standing(&id))).collect();
    let ours = |ids: &[String]| ids.iter().filter(|id| ours.standing(id).is_registered).count();
    let theirs = |ids: &[String]| {
        ids.iter().filter_map(|id| map.get(id).cloned()).filter(|found| found.is_registered).count()
    };
    compare_pair(
        "a client of 1 000 000, std's map",
        &ids,
        [&ours, &theirs],
        Bound::Nanoseconds(150.0),
    );
    let walk = Walk::new();
    compare_pair("  beside one wait for memory", &ids, [&ours, &|ids| walk.go(ids)], Bound::None);
}

/// As much memory as the clients' table takes, each line of which names the next one to be read.
struct Walk(Lines);

impl Walk {
    fn new() -> Walk {
        // Three clients to a line, and the lines four ninths full.
        let lines = Lines::new(CLIENTS * 9 / 4 / 3);
        let mut order: Vec<usize> = (0..lines.len()).collect();
        fastrand::Rng::with_seed(2).shuffle(&mut order);
        for (at, next) in order.iter().zip(order.iter().cycle().skip(1)) {
            lines[*at].0[0].store(*next as u64, Ordering::Relaxed);
        }
        Walk(lines)
    }

    /// A step for each id.
    fn go(&self, ids: &[String]) -> usize {
        let step = |at: u64, _| self.0[at as usize].0[0].load(Ordering::Relaxed);
        black_box(ids.iter().fold(0, step));
        ids.len()
    }
}
