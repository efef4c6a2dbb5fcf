//! What goes on in the background about accounts.

use super::account::Account;
use super::{AT_A_TIME, SharedLimits};
use crate::clock;
use crate::policy::lease;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

/// How often accounts are looked through for leases that end and debts to be paid.
const ROUND: Duration = Duration::from_millis(25);
/// Rounds between two in which idle accounts are closed and figures told: four a second.
const TIDY_EVERY: u32 = 10;

impl SharedLimits {
    /// Renews leases that are in demand and hands back those that are not, pays debts, and closes
    /// accounts nobody uses. From `shutdown` on everything is handed back, and what the last
    /// requests need they ask for. Runs until it is dropped.
    pub async fn attend(&self, shutdown: watch::Receiver<bool>) {
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in (0..TIDY_EVERY).cycle() {
            round.tick().await;
            if number == 0 {
                self.tidy();
            }
            if self.link.is_up() {
                let is_last = *shutdown.borrow();
                self.look_through(is_last).await;
            }
        }
    }

    async fn look_through(&self, is_last: bool) {
        let due = self.due(|account, now_ns| {
            account.is_running_out(now_ns)
                || account.is_in_debt()
                || is_last && account.stranded(now_ns) > 0
        });
        let ceiling = |account: &Account| match is_last {
            true => 0,
            false => lease::ceiling(account.algorithm().burst(), self.live()),
        };
        let due: Vec<_> =
            due.into_iter().map(|account| (account.clone(), ceiling(&account))).collect();
        for accounts in due.chunks(AT_A_TIME) {
            self.speak(accounts).await;
        }
    }

    fn due(&self, is_due: impl Fn(&Account, u64) -> bool) -> Vec<Arc<Account>> {
        let now_ns = clock::now_ns();
        let accounts = self.accounts.pin();
        accounts.values().filter(|account| is_due(account, now_ns)).cloned().collect()
    }

    fn tidy(&self) {
        let now_ns = clock::now_ns();
        let accounts = self.accounts.pin();
        accounts.retain(|_, account| !account.close_if_idle(now_ns));
        let stranded = accounts.values().map(|account| account.stranded(now_ns)).sum::<u64>();
        self.metrics.stranded.set(i64::try_from(stranded).unwrap_or(i64::MAX));
    }
}
