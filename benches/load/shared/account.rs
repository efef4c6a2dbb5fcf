//! Whether what was admitted is what a limit allows, judged from outside.
//!
//! When a gateway decided nobody outside knows, only that it was between the sending of a request
//! and its answer. So a request counts for a window of time only when both lie inside: what is
//! found to be too much then was too much, whatever the latencies were.

/// A limit as it is promised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Allowance {
    /// Tokens per second.
    pub(crate) rate: f64,
    /// Tokens of a full bucket.
    pub(crate) burst: f64,
}

/// An admitted request, in seconds since any instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Admission {
    pub(crate) sent: f64,
    pub(crate) answered: f64,
}

impl Allowance {
    /// By how many tokens the worst of all windows of all lengths exceeds burst + rate · t;
    /// negative: none does. Costs n · log n.
    ///
    /// For a window from the sending a to the answer b that is the number of requests with
    /// sent ≥ a and answered ≤ b, less rate · (b − a), less the burst. The answers are gone
    /// through in their order; for each, a tree holds the best a.
    pub(crate) fn most_over(self, admissions: &[Admission]) -> f64 {
        let mut sent: Vec<f64> = admissions.iter().map(|admission| admission.sent).collect();
        sent.sort_by(f64::total_cmp);
        let (Some(last), mut tree) = (sent.last().copied(), Tree::new(&sent, self.rate)) else {
            return -self.burst;
        };
        let mut by_answer = admissions.to_vec();
        by_answer.sort_by(|a, b| a.answered.total_cmp(&b.answered));
        let mut most = f64::NEG_INFINITY;
        for admission in by_answer {
            tree.count(sent.partition_point(|sent| *sent < admission.sent));
            most = most.max(tree.best() + self.rate * (last - admission.answered));
        }
        most - self.burst
    }

    /// How many of the requests sent at these times one bucket, full at first, lets pass.
    pub(crate) fn possible(self, sent: &[f64]) -> usize {
        let mut sent = sent.to_vec();
        sent.sort_by(f64::total_cmp);
        let mut tokens = self.burst;
        let mut before = sent.first().copied().unwrap_or_default();
        let mut passed = 0;
        for now in sent {
            tokens = (tokens + self.rate * (now - before)).min(self.burst);
            before = now;
            if tokens >= 1.0 {
                tokens -= 1.0;
                passed += 1;
            }
        }
        passed
    }
}

/// For each sending a of a request counted so far, how many of those were sent then or later, plus
/// rate · (a − the last sending); it gives the greatest of these sums.
///
/// Each place holds its own requests less rate · (the next sending − its own), so that the sums
/// are those of everything from a place to the end.
struct Tree {
    /// A complete binary tree, the root at 1: the sum of a node's places and the greatest sum of
    /// some of its last places, at least one.
    nodes: Vec<(f64, f64)>,
    leaves: usize,
}

impl Tree {
    fn new(sent: &[f64], rate: f64) -> Self {
        let leaves = sent.len().next_power_of_two().max(1);
        // Where nobody was counted, no window begins.
        let mut nodes = vec![(0.0, f64::NEG_INFINITY); 2 * leaves];
        for (place, now) in sent.iter().enumerate() {
            let next = sent.get(place + 1).unwrap_or(now);
            nodes[leaves + place].0 = -rate * (next - now);
        }
        let mut tree = Self { nodes, leaves };
        for node in (1..leaves).rev() {
            tree.join(node);
        }
        tree
    }

    /// Counts a request sent at this place.
    fn count(&mut self, place: usize) {
        let mut node = self.leaves + place;
        self.nodes[node].0 += 1.0;
        // From now on a window can begin here.
        self.nodes[node].1 = self.nodes[node].0;
        while node > 1 {
            node /= 2;
            self.join(node);
        }
    }

    fn join(&mut self, node: usize) {
        let (left, right) = (self.nodes[2 * node], self.nodes[2 * node + 1]);
        self.nodes[node] = (left.0 + right.0, right.1.max(right.0 + left.1));
    }

    fn best(&self) -> f64 {
        self.nodes[1].1
    }
}
