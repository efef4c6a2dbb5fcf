//! What goes on when the store does not answer: this gateway's share of each limit, from where the
//! store last said that the bucket stood.

use super::script::Answer;
use crate::policy::fixed_window;
use crate::policy::meter::Algorithm;
use crate::policy::sliding_window;

/// A gateway's share of a limit among `live`: as much less rate and burst, one token at least.
pub fn share_of(algorithm: &Algorithm, live: u32) -> Algorithm {
    match live {
        0 | 1 => algorithm.clone(),
        // What cannot be counted any more was next to nothing; one token is what is left of it.
        _ => algorithm.part(u64::from(live)).unwrap_or_else(|_| algorithm.clone()),
    }
}

/// The state of a local bucket that stands as the store said.
pub(super) fn state(algorithm: &Algorithm, answer: &Answer, now_ns: u64) -> u64 {
    match algorithm {
        Algorithm::TokenBucket(_) | Algorithm::LeakyBucket(_) => match answer.left_ns {
            0 => 0,
            left_ns => now_ns.saturating_add(left_ns),
        },
        Algorithm::FixedWindow(window) => {
            fixed_window::state(window, now_ns.saturating_add(answer.left_ns), answer.used)
        }
        Algorithm::SlidingWindow(window) => sliding_window::state(window, now_ns, answer.used),
    }
}
