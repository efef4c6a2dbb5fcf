//! Breaker, ejection, retry budget, balancing and queue driven together, on virtual time.
//!
//! A run is a gateway in miniature: the real types of `upstream` and `policy`, and around them
//! requests that behave as the proxy does, servers of changing moods, operators, lookups and
//! checks, all drawn from one seed. After each step everything that can be seen is compared
//! with what is expected of it ([`expected`]); a broken invariant ends the run and tells how to
//! see it again.
//!
//! `cargo nextest run` makes short runs, `make simulate` long ones. `TOLLGATE_SEED` picks one
//! run, `TOLLGATE_SEEDS` says how many there are, `TOLLGATE_STEPS` how long they are.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken invariant ends a run by panicking"
)]

mod agenda;
mod disturbances;
mod expected;
mod requests;
mod run;
mod setup;
mod tally;
mod weather;

use run::Run;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Instant;
use tally::Tally;

/// Runs, unless the environment says otherwise.
const SEEDS: u64 = 100;
/// Steps of a run, unless the environment says otherwise.
const STEPS: u64 = 10_000;
/// In so many steps, everything that can happen does.
const ENOUGH_STEPS: u64 = 500_000;

#[test]
fn every_invariant_holds_after_every_step_of_every_seed() {
    let steps = number("TOLLGATE_STEPS").unwrap_or(STEPS);
    let seeds = match number("TOLLGATE_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("TOLLGATE_SEEDS").unwrap_or(SEEDS),
    };
    let started = Instant::now();
    let (tally, broken) = run_all(seeds.clone(), steps);
    let count = seeds.count() as u64;
    println!("{count} × {steps} steps in {:.1?}: {tally}", started.elapsed());
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
    let missing = tally.missing();
    let is_enough = count * steps >= ENOUGH_STEPS;
    assert!(!is_enough || missing.is_empty(), "none of this was simulated: {missing:?}");
}

#[test]
fn a_seed_replays_exactly() {
    for seed in [1, 2, 3] {
        let [one, other] = [(); 2].map(|()| {
            let mut run = Run::new(seed);
            (0..3_000).for_each(|_| run.step());
            run.finish();
            (run.digest, run.now_ns, run.tally.to_string())
        });
        assert_eq!(one, other, "seed {seed}");
    }
}

/// Makes the runs of these seeds on all cores; what happened in them, and what each that broke
/// an invariant has to say.
fn run_all(seeds: RangeInclusive<u64>, steps: u64) -> (Tally, Vec<String>) {
    let next = AtomicU64::new(*seeds.start());
    let results = Mutex::new((Tally::default(), Vec::new()));
    let threads = available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let seed = next.fetch_add(1, Ordering::Relaxed)
                    && seeds.contains(&seed)
                {
                    let (tally, broken) = run_one(seed, steps);
                    let mut results = results.lock().unwrap();
                    results.0.add(&tally);
                    results.1.extend(broken);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// Makes the run of a seed. The panic that ends it has told what was broken.
fn run_one(seed: u64, steps: u64) -> (Tally, Option<String>) {
    let mut run = Run::new(seed);
    let result = catch_unwind(AssertUnwindSafe(|| {
        (0..steps).for_each(|_| run.step());
        run.finish();
    }));
    let broken = result.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or(panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
        let recent = run.recent.iter().map(|(at_ns, event)| format!("\n    {at_ns} {event:?}"));
        format!(
            "seed {seed} broke an invariant in step {} of {steps}; to see it again: \
             TOLLGATE_SEED={seed} TOLLGATE_STEPS={steps} cargo test --test simulation\n  {}{}",
            run.step,
            text.unwrap_or_default(),
            recent.collect::<String>(),
        )
    });
    (run.tally, broken)
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no whole number")))
}
