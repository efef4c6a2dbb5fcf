//! What a circuit shows of itself.

use super::Totals;
use crate::policy::share::Share;
use std::fmt;

/// The state as users know it, with its number in the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Calls pass; after an opening at first not all of them.
    Closed = 0,
    /// Calls are refused.
    Open = 1,
    /// A few calls at a time probe the upstream.
    HalfOpen = 2,
}

impl State {
    /// Its name in JSON and in the metrics' labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Why a circuit is not closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// So many calls failed in a row.
    ConsecutiveFailures(u32),
    /// Too large a share of the window's calls failed.
    FailureRatio(Totals),
    /// Too large a share of the window's calls was slow.
    SlowCalls(Totals),
    /// A probe failed.
    ProbeFailed,
    /// An operator opened it.
    Forced,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConsecutiveFailures(failures) => write!(f, "{failures} failures in a row"),
            Self::FailureRatio(Totals { calls, failures, .. }) => {
                write!(f, "{failures} of {calls} calls failed")
            }
            Self::SlowCalls(Totals { calls, slow, .. }) => {
                write!(f, "{slow} of {calls} calls were slow")
            }
            Self::ProbeFailed => f.write_str("a probe failed"),
            Self::Forced => f.write_str("opened by an operator"),
        }
    }
}

/// A circuit at one instant. Times are on the clock of the caller's `now_ns`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its state.
    pub state: State,
    /// When the state that an operator forced ends; `None`: nothing is forced.
    pub forced_until_ns: Option<u64>,
    /// Why it is not closed; `None` while it is.
    pub reason: Option<Reason>,
    /// When it opened last; `None` while it is closed. What a failed probe opens again has
    /// opened then.
    pub opened_at_ns: Option<u64>,
    /// What a call that is refused now is told, in nanoseconds, at least 1; `None` while none
    /// is refused for certain.
    pub retry_after_ns: Option<u64>,
    /// Nanoseconds until a probe can pass, at the latest; 0 when one can now, `None` when none
    /// is due.
    pub next_probe_in_ns: Option<u64>,
    /// Probes on their way whose lease is not over.
    pub probes_out: u32,
    /// Probes that succeeded since it became half-open.
    pub probes_succeeded: u32,
    /// Failures in a row; while it is not closed, those from before it opened.
    pub failures: u32,
    /// The sliding window; while it is not closed, as it was when it opened.
    pub window: Totals,
    /// Openings in a row, which the cooldown grows with; 0 once it has stayed closed.
    pub openings: u32,
    /// The share of the load that passes after closing; `None` when not on the ramp.
    pub ramp: Option<Share>,
    /// Until when fewer failures open it, because another gateway opened its own; `None`: as many
    /// as the policy says.
    pub hinted_until_ns: Option<u64>,
}
