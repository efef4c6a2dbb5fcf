//! Picking one of several servers: in turn, or the less loaded of two drawn at random.
//!
//! Servers are numbers from 0; who may be picked is a predicate, whose turn it is and what
//! is drawn are arguments. Nothing here allocates once a [`Rotation`] stands.

use std::collections::HashMap;

/// The order of turns among servers, in proportion to their weights and evenly spread.
///
/// A full round is laid out beforehand, so a turn costs one look into it. Servers of equal
/// weight `w` share `w × m` turns among `m` of them; these lie at equal distances over the
/// round, and the servers take them in turn. The turns of all weights are then merged by
/// position. That spreads as evenly as nginx' smooth round robin and costs a sort, where
/// laying out a smooth round would cost turns × servers.
#[derive(Debug)]
pub struct Rotation {
    round: Box<[u16]>,
    servers: usize,
}

/// The longest round, unless there are more servers than that; 128 KiB.
const MAX_ROUND: u32 = 1 << 16;
/// Turns that are given up before the servers are walked in order.
const MAX_TURNS: usize = 64;
/// Draws that are given up before the servers are walked in order.
const MAX_DRAWS: usize = 16;

impl Rotation {
    /// Lays out a round among servers of these weights, of which the first 65 536 count.
    ///
    /// Proportions are exact while the weights, divided by their greatest common divisor, add
    /// up to no more than 65 536; beyond that they are rounded (see [`scale`]).
    pub fn new(weights: &[u32]) -> Rotation {
        let weights = scale(weights, MAX_ROUND);
        let mut alike: HashMap<u32, (u32, u32)> = HashMap::new();
        for &weight in &weights {
            alike.entry(weight).or_default().0 += 1;
        }
        let mut turns = Vec::with_capacity(weights.iter().map(|&weight| weight as usize).sum());
        for (server, &weight) in (0..=u16::MAX).zip(&weights) {
            let (count, nth) = alike.entry(weight).or_default();
            // The middle of the server's part of each turn, as a part of the round.
            let within = (f64::from(*nth) + 0.5) / f64::from((*count).max(1));
            *nth += 1;
            let position = |turn: u32| (f64::from(turn) + within) / f64::from(weight);
            turns.extend((0..weight).map(|turn| (position(turn), server)));
        }
        turns.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Rotation {
            round: turns.into_iter().map(|(_, server)| server).collect(),
            servers: weights.len(),
        }
    }

    /// The server whose turn number `turn` is; `None` without servers.
    fn at(&self, turn: usize) -> Option<usize> {
        let index = turn.checked_rem(self.round.len())?;
        self.round.get(index).map(|&server| usize::from(server))
    }

    /// The next usable server in turn.
    ///
    /// A turn that falls to a server which cannot be used is given up and the next one taken,
    /// so the others keep their proportions exactly. After 64 turns in vain the servers are
    /// walked in order: the usable ones are then few or of little weight, and to be found at
    /// all is worth more to them than their proportions.
    pub fn in_turn(
        &self,
        mut take_turn: impl FnMut() -> usize,
        is_usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        for _ in 0..self.round.len().min(MAX_TURNS) {
            let server = self.at(take_turn())?;
            if is_usable(server) {
                return Some(server);
            }
        }
        walk(self.servers, take_turn(), is_usable)
    }

    /// The less loaded of two usable servers drawn at random in proportion to weight; the
    /// only one where there is but one.
    ///
    /// Two choices come near the least loaded of all (Mitzenmacher, "The Power of Two Choices
    /// in Randomized Load Balancing", 2001) and do not send everybody to the same server, as
    /// looking for the least would while the loads one sees lag behind.
    ///
    /// `draw(n)` is a random number below `n`.
    pub fn less_loaded(
        &self,
        mut draw: impl FnMut(usize) -> usize,
        is_usable: impl Fn(usize) -> bool,
        load: impl Fn(usize) -> Load,
    ) -> Option<usize> {
        let one = self.drawn(&mut draw, &is_usable)?;
        let Some(other) = self.drawn(&mut draw, |server| server != one && is_usable(server)) else {
            return Some(one);
        };
        Some(if load(other).is_below(load(one)) { other } else { one })
    }

    fn drawn(
        &self,
        draw: &mut impl FnMut(usize) -> usize,
        is_usable: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if self.round.is_empty() {
            return None;
        }
        for _ in 0..MAX_DRAWS {
            let server = self.at(draw(self.round.len()))?;
            if is_usable(server) {
                return Some(server);
            }
        }
        walk(self.servers, draw(self.servers), is_usable)
    }
}

/// The first usable of `servers` servers in order, from number `start` (modulo) around.
pub fn walk(servers: usize, start: usize, is_usable: impl Fn(usize) -> bool) -> Option<usize> {
    let start = start.checked_rem(servers)?;
    (start..servers).chain(0..start).find(|&server| is_usable(server))
}

/// How loaded a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Requests it is working on.
    pub in_flight: u32,
    /// Its average latency in nanoseconds; 0: not known.
    pub latency_ns: u64,
    /// Its weight; at least 1.
    pub weight: u32,
}

impl Load {
    /// Whether one more request would be done sooner here than at `other`: requests in flight
    /// and that one, times what each takes, over the weight.
    ///
    /// A server of unknown latency counts as fast as the one it is compared with, so that
    /// requests in flight decide. As the fastest, every server that is new or back would be
    /// flooded until its first answer; as the slowest it would never get to answer.
    fn is_below(self, other: Load) -> bool {
        let knows_both = self.latency_ns > 0 && other.latency_ns > 0;
        let latency = |load: Load| if knows_both { u128::from(load.latency_ns) } else { 1 };
        let work = |load: Load| (u128::from(load.in_flight) + 1) * latency(load);
        // Multiplied crosswise in place of divided. The factors stay below 2^33, 2^64 and 2^32 and
        // their product, by what each can at most be, below 2^128.
        work(self) * u128::from(other.weight) < work(other) * u128::from(self.weight)
    }
}

/// Weights in the same proportion that add up to no more than `limit`, if that can be:
/// divided by their greatest common divisor, and if that is not enough, scaled and rounded.
///
/// Every weight stays at least 1, so with many servers, or a few very light ones, the sum may
/// exceed `limit` by the number of servers, and the light ones get more than their share: up
/// to one `limit`-th of the whole each. A weight that is scaled to `w` is off by at most
/// half of one `w`-th.
pub fn scale(weights: &[u32], limit: u32) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
    let sum: u64 = weights.iter().map(|&weight| u64::from(weight / divisor)).sum();
    let scaled = |weight: u32| {
        let weight = u64::from(weight / divisor);
        let exact = sum <= u64::from(limit);
        let weight = if exact { weight } else { (weight * u64::from(limit) + sum / 2) / sum };
        u32::try_from(weight).unwrap_or(u32::MAX).max(1)
    };
    weights.iter().map(|&weight| scaled(weight)).collect()
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cell::Cell;

    /// Who gets each of `count` requests when the servers in `out` cannot be used.
    fn turns(weights: &[u32], out: &[usize], count: usize) -> Vec<usize> {
        let rotation = Rotation::new(weights);
        let turn = Cell::new(0);
        let pick = || rotation.in_turn(|| turn.replace(turn.get() + 1), |s| !out.contains(&s));
        (0..count).filter_map(|_| pick()).collect()
    }

    fn counts(servers: &[usize], of: usize) -> Vec<usize> {
        (0..of).map(|server| servers.iter().filter(|&&s| s == server).count()).collect()
    }

    #[test]
    fn each_server_gets_its_share_spread_over_the_round() {
        assert_eq!(turns(&[5, 1, 1], &[], 7), [0, 1, 0, 0, 0, 2, 0]);
        assert_eq!(turns(&[1, 1], &[], 4), [0, 1, 0, 1]);
        assert_eq!(turns(&[20, 10], &[], 6), [0, 1, 0, 0, 1, 0]);
        assert_eq!(turns(&[7], &[], 3), [0, 0, 0]);
        assert_eq!(turns(&[3, 3, 3], &[], 4), [0, 1, 2, 0]);
    }

    #[test]
    fn without_servers_there_is_no_turn() {
        assert!(turns(&[], &[], 1).is_empty());
        let nobody = Rotation::new(&[]);
        assert_eq!(nobody.less_loaded(|_| 0, |_| true, |_| unloaded(1)), None);
    }

    #[test]
    fn when_some_are_out_the_others_keep_their_proportion_exactly() {
        let weights = [5, 1, 2, 4];
        let of_the_rest = counts(&turns(&weights, &[0], 7 * 50), 4);
        assert_eq!(of_the_rest, [0, 50, 100, 200]);
        assert_eq!(counts(&turns(&weights, &[3, 1], 7 * 50), 4), [250, 0, 100, 0]);
        assert_eq!(
            counts(&turns(&[1; 10], &[2, 3, 7], 700), 10),
            [100, 100, 0, 0, 100, 100, 100, 0, 100, 100]
        );
    }

    #[test]
    fn when_all_are_out_nobody_is_picked_and_a_light_one_is_found() {
        assert!(turns(&[2, 1], &[0, 1], 1).is_empty());
        assert_eq!(turns(&[1_000, 1, 999], &[0, 2], 3), [1, 1, 1]);
    }

    #[test]
    fn scaled_weights_keep_their_proportion() {
        assert_eq!(scale(&[20, 10], 100), [2, 1]);
        assert_eq!(scale(&[1_000, 500, 3], 100), [67, 33, 1]);
        assert_eq!(scale(&[u32::MAX, 1], 10), [10, 1]);
        assert_eq!(scale(&[1; 20], 10), [1; 20]);
        assert!(scale(&[], 10).is_empty());
    }

    #[test]
    fn a_round_is_bounded() {
        let heavy: Vec<u32> = (0..4_096).map(|server| 997 + server % 4).collect();
        let rotation = Rotation::new(&heavy);
        assert!(rotation.round.len() <= (1 << 16) + 4_096, "{}", rotation.round.len());
    }

    fn unloaded(weight: u32) -> Load {
        Load { in_flight: 0, latency_ns: 0, weight }
    }

    /// How often each server is picked when the loads stay as they are.
    fn drawn(loads: &[Load], out: &[usize]) -> Vec<usize> {
        let weights: Vec<u32> = loads.iter().map(|load| load.weight).collect();
        let rotation = Rotation::new(&weights);
        let mut random = fastrand::Rng::with_seed(7);
        let picks: Vec<usize> = (0..10_000)
            .filter_map(|_| {
                rotation.less_loaded(|n| random.usize(..n), |s| !out.contains(&s), |s| loads[s])
            })
            .collect();
        counts(&picks, loads.len())
    }

    #[test]
    fn the_idle_one_of_two_is_always_picked() {
        let busy = Load { in_flight: 4, ..unloaded(1) };
        assert_eq!(drawn(&[busy, unloaded(1)], &[]), [0, 10_000]);
        assert_eq!(drawn(&[busy, unloaded(1)], &[1]), [10_000, 0]);
        // The busiest of three loses against both, wherever it is drawn.
        let picks = drawn(&[busy, unloaded(1), unloaded(1)], &[]);
        assert_eq!(picks[0], 0, "{picks:?}");
    }

    #[test]
    fn equal_loads_are_picked_by_weight() {
        let picks = drawn(&[unloaded(1); 4], &[]);
        assert!(picks.iter().all(|&count| (2_300..2_700).contains(&count)), "{picks:?}");
        let picks = drawn(&[unloaded(1), unloaded(3)], &[]);
        assert!(picks[1] > 7_000, "{picks:?}");
    }

    #[test]
    fn load_is_requests_times_latency_over_weight() {
        let load = |in_flight, latency_ns, weight| Load { in_flight, latency_ns, weight };
        assert!(load(1, 100, 1).is_below(load(0, 201, 1)));
        assert!(!load(1, 100, 1).is_below(load(0, 200, 1)));
        assert!(load(3, 100, 4).is_below(load(1, 100, 1)));
        assert!(load(0, 0, 1).is_below(load(1, 1, 1)), "unknown is as fast as the other");
        assert!(!load(1, 0, 1).is_below(load(0, u64::MAX, 1)), "and no faster");
        let most = load(u32::MAX, u64::MAX, 1_000);
        assert!(!most.is_below(most));
    }

    #[test]
    fn even_a_rare_usable_server_is_found_by_drawing() {
        let mut loads = [unloaded(1_000); 50];
        loads[49] = unloaded(1);
        let out: Vec<usize> = (0..49).collect();
        assert_eq!(drawn(&loads, &out)[49], 10_000);
    }

    proptest! {
        #[test]
        fn a_round_gives_each_exactly_its_weight(weights in prop::collection::vec(1..40_u32, 1..20)) {
            let divisor = weights.iter().copied().fold(0, greatest_common_divisor);
            let sum: u32 = weights.iter().sum();
            let all = counts(&turns(&weights, &[], (sum / divisor) as usize), weights.len());
            let expected: Vec<usize> = weights.iter().map(|w| (w / divisor) as usize).collect();
            prop_assert_eq!(all, expected);
        }

        #[test]
        fn at_every_moment_each_is_within_two_requests_of_its_share(
            weights in prop::collection::vec(1..40_u32, 1..8),
        ) {
            let sum: u32 = weights.iter().sum();
            let picks = turns(&weights, &[], sum as usize);
            for passed in 1..=picks.len() {
                for (server, count) in counts(&picks[..passed], weights.len()).into_iter().enumerate() {
                    let share = passed as f64 * f64::from(weights[server]) / f64::from(sum);
                    prop_assert!((count as f64 - share).abs() < 2.0, "{server} at {passed}: {count}, {share}");
                }
            }
        }
    }
}
