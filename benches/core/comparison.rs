//! Ours beside somebody else's, in rounds that take turns.

use std::time::{Duration, Instant};

/// What ours may cost.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    /// So much of what the other costs.
    Ratio(f64),
    /// So many nanoseconds; what that means depends on the machine, and on whether it is quiet.
    Nanoseconds(f64),
    /// It is only told.
    None,
}

/// Does something with each of these ids, and says with how many it worked.
pub(crate) type Work<'a> = &'a dyn Fn(&[String]) -> usize;

/// The columns of [`compare_pair`].
pub(crate) fn print_head() {
    println!("\nnanoseconds                       tollgate    beside  ratio  at most");
}

/// Prints what the first of a pair costs for each id beside the second.
pub(crate) fn compare_pair(name: &str, ids: &[String], pair: [Work<'_>; 2], bound: Bound) {
    const ROUNDS: usize = 15;
    let run = |work: Work<'_>| {
        let start = Instant::now();
        assert_eq!(work(ids), ids.len(), "it works with every id");
        start.elapsed()
    };
    let mut rounds: Vec<(Duration, Duration)> =
        (0..ROUNDS).map(|_| (run(pair[0]), run(pair[1]))).collect();
    let nanoseconds = |time: Duration| time.as_secs_f64() * 1e9 / ids.len() as f64;
    let ratio = |(ours, theirs): &(Duration, Duration)| ours.as_secs_f64() / theirs.as_secs_f64();
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let median = rounds[ROUNDS / 2];
    let ratio = ratio(&median);
    let (ours, theirs) = (nanoseconds(median.0), nanoseconds(median.1));
    let missed = |is_missed| if is_missed { "  MISSED" } else { "" };
    let verdict = match bound {
        Bound::Ratio(most) => format!("{most:>7.1}{}", missed(ratio > most)),
        Bound::Nanoseconds(most) => format!("{most:>4.0} ns{}", missed(ours > most)),
        Bound::None => String::new(),
    };
    println!("{name:<33} {ours:>8.1}  {theirs:>8.1}  {ratio:>5.2}  {verdict}");
}
