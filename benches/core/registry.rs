//! How one client of a million is found: hash its id, look, say how it stands.
//!
//! Beside it a `HashMap` of the standard library by the id itself, with the hasher it comes with,
//! which nobody could change while requests read it. Ids come in an order that no cache can guess.

use crate::comparison::{Bound, compare_pair};
use crate::limiter::{CLIENTS, client, clients};
use criterion::Criterion;
use std::collections::HashMap;
use tollgate::policy::tier::Tiers;
use tollgate::registry::{Change, KnownClients, Record, Registry, Standing};

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
}
