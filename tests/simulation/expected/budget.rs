//! The retry budget, counted second by second.

use crate::tally::{Happening, Tally};
use std::collections::BTreeMap;
use std::sync::Arc;
use tollgate::policy::share::Share;
use tollgate::upstream::Upstream;
use tollgate::upstream::budget::FLOOR;

const SECOND: u64 = 1_000_000_000;
/// Seconds of the window, the current one included.
const WINDOW: u64 = 10;

/// The real budget and what was earned and spent in each second of the window.
pub(crate) struct Budget {
    upstream: Arc<Upstream>,
    /// Thousandths of a retry earned, and retries made, by second.
    seconds: BTreeMap<u64, (u64, u64)>,
}

impl Budget {
    pub(crate) fn new(upstream: Arc<Upstream>) -> Budget {
        Budget { upstream, seconds: BTreeMap::new() }
    }

    /// A request whose route may retry `share` of its requests.
    pub(crate) fn earn(&mut self, share: Share, now_ns: u64) {
        self.upstream.budget.earn(share, now_ns);
        self.seconds.entry(now_ns / SECOND).or_default().0 += u64::from(share.millionths()) / 1_000;
    }

    /// Asks for a retry. It is granted exactly as long as those of the window stay within the
    /// floor or the share of the window's requests, whichever is more.
    pub(crate) fn spend(&mut self, now_ns: u64, tally: &mut Tally) -> bool {
        let oldest = (now_ns / SECOND + 1).saturating_sub(WINDOW);
        self.seconds = self.seconds.split_off(&oldest);
        let earned: u64 = self.seconds.values().map(|(earned, _)| earned).sum();
        let spent: u64 = self.seconds.values().map(|(_, spent)| spent).sum();
        let allowed = FLOOR.max(earned / 1_000);
        let is_granted = self.upstream.budget.spend(now_ns);
        assert!(
            is_granted == (spent < allowed),
            "a retry was {} after {spent} in the window, of which {allowed} are allowed",
            if is_granted { "granted" } else { "refused" },
        );
        if is_granted {
            self.seconds.entry(now_ns / SECOND).or_default().1 += 1;
        } else {
            tally.note(Happening::RetryOverBudget);
        }
        is_granted
    }
}
