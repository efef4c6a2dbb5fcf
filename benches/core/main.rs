//! What the parts of a request's path cost: the limiter beside `governor`'s keyed one, the
//! registry beside a map, the router, the checks of heads and paths.
//!
//!     cargo bench --bench core [-- FILTER]
//!
//! Ends with the ratios against `governor` and the map, from rounds that take turns, so that whatever
//! the machine does besides meets both alike.

#![allow(clippy::print_stdout)] // it talks to the person who started it
#![allow(clippy::expect_used)] // a benchmark that cannot be set up has nothing to say

mod comparison;
mod limiter;
mod registry;
mod requests;

use criterion::Criterion;
use std::time::Duration;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    requests::bench(&mut criterion);
    limiter::bench(&mut criterion);
    registry::bench(&mut criterion);
    criterion.final_summary();
    // Whoever asks for benchmarks by name, or runs them as tests, wants no comparison.
    if std::env::args().skip(1).all(|argument| argument == "--bench") {
        comparison::print_head();
        limiter::compare();
        registry::compare();
    }
}
