//! Weighted round robin, spread evenly.
//!
//! The order of one full round is laid out beforehand by the smooth algorithm nginx uses:
//! at each turn every server gains its weight, the richest is chosen and pays the sum. A
//! request then costs one counter increment, and over a round each server is chosen
//! exactly as often as its weight says.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Turns among servers in proportion to their weights.
#[derive(Debug)]
pub(super) struct RoundRobin {
    round: Box<[u16]>,
    turn: AtomicUsize,
}

impl RoundRobin {
    /// Lays out a round. Its length is the sum of the weights divided by their greatest
    /// common divisor; the configuration bounds both.
    pub(super) fn new(weights: &[u32]) -> RoundRobin {
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
        let sum: i64 = weights.iter().sum();
        let mut credit = vec![0; weights.len()];
        let round = (0..sum).filter_map(|_| {
            for (credit, weight) in credit.iter_mut().zip(&weights) {
                *credit += weight;
            }
            // The first of the richest.
            let chosen = (0..credit.len()).rev().max_by_key(|&server| credit[server])?;
            credit[chosen] -= sum;
            u16::try_from(chosen).ok()
        });
        RoundRobin { round: round.collect(), turn: AtomicUsize::new(0) }
    }

    /// The index of the server whose turn it is.
    pub(super) fn next(&self) -> Option<usize> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let index = turn.checked_rem(self.round.len())?;
        self.round.get(index).map(|&server| usize::from(server))
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[u32], count: usize) -> Vec<usize> {
        let turns = RoundRobin::new(weights);
        (0..count).filter_map(|_| turns.next()).collect()
    }

    #[test]
    fn each_server_gets_its_share_spread_over_the_round() {
        assert_eq!(turns(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[1, 1], 4), [0, 1, 0, 1]);
        assert_eq!(turns(&[20, 10], 6), [0, 1, 0, 0, 1, 0]);
        assert_eq!(turns(&[7], 3), [0, 0, 0]);
    }

    #[test]
    fn without_servers_there_is_no_turn() {
        assert!(turns(&[], 1).is_empty());
    }
}
