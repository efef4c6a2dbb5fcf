//! Ours beside somebody else's, in rounds that take turns.

use std::time::Instant;

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

/// The ids that the work of a pair is done with.
pub(crate) struct Ids<'a> {
    /// Those of each round; where there are fewer than rounds, they begin anew.
    pub(crate) of_rounds: Vec<&'a [String]>,
    /// How often a round goes through them.
    pub(crate) times: usize,
}

impl<'a> Ids<'a> {
    /// All of these once in every round.
    pub(crate) fn all(ids: &'a [String]) -> Ids<'a> {
        Ids { of_rounds: vec![ids], times: 1 }
    }
}

/// The columns of [`compare_pair`].
pub(crate) fn print_head() {
    println!("\nnanoseconds                       tollgate    beside  ratio  at most");
}

/// Rounds of a comparison.
pub(crate) const ROUNDS: usize = 15;

/// Prints what the first of a pair costs for each id beside the second.
pub(crate) fn compare_pair(name: &str, ids: &Ids<'_>, pair: [Work<'_>; 2], bound: Bound) {
    let run = |work: Work<'_>, ids: &[String], times: usize| {
        let start = Instant::now();
        for _ in 0..times {
            assert_eq!(work(ids), ids.len(), "it works with every id");
        }
        start.elapsed().as_secs_f64() * 1e9 / (ids.len() * times) as f64
    };
    let round = |of_round: &&[String]| {
        (run(pair[0], of_round, ids.times), run(pair[1], of_round, ids.times))
    };
    let mut rounds: Vec<(f64, f64)> =
        ids.of_rounds.iter().cycle().take(ROUNDS).map(round).collect();
    let ratio = |(ours, theirs): &(f64, f64)| ours / theirs;
    rounds.sort_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let median = rounds[ROUNDS / 2];
    let ratio = ratio(&median);
    let (ours, theirs) = median;
    let missed = |is_missed| if is_missed { "  MISSED" } else { "" };
    let verdict = match bound {
        Bound::Ratio(most) => format!("{most:>7.1}{}", missed(ratio > most)),
        Bound::Nanoseconds(most) => format!("{most:>4.0} ns{}", missed(ours > most)),
        Bound::None => String::new(),
    };
    println!("{name:<33} {ours:>8.1}  {theirs:>8.1}  {ratio:>5.2}  {verdict}");
}
