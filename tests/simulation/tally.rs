//! How often what happened, so that a simulation in which nothing happens is noticed.

use std::fmt;

macro_rules! happenings {
    ($($name:ident)*) => {
        /// Something that a simulation of some length has to come across.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Happening { $($name),* }

        const ALL: &[Happening] = &[$(Happening::$name),*];
    };
}

happenings! {
    // Requests and how they ended.
    Request Answered Failed RefusedByLimit NoServer
    GoneInLine GoneWithPlaceUnread GoneInAttempt GoneInBackoff
    // The circuit.
    OpenedByRow OpenedByFailures OpenedBySlowCalls OpenedByProbe OpenedForLonger Closed Forced
    Hinted OpenedSooner
    RefusedByOpenCircuit RefusedForProbes RefusedOnRamp PassedOnRamp
    ProbeGivenBack ProbeOverdue LateSuccess LateFailure ToldToLaterGeneration
    // Servers.
    Ejected Spared BackForSmallerSet AskedTriedAgain AskedEjected SetChanged Unhealthy Drained
    // Places.
    Queued ServedFromLine Displaced LineFull TimedOutInLine
    // Retries.
    Retry RetryOverBudget RetryIntoOpenCircuit
    // The world around.
    Stall Calm
}

/// Counts by [`Happening`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Tally([u64; ALL.len()]);

impl Default for Tally {
    fn default() -> Self {
        Tally([0; ALL.len()])
    }
}

impl Tally {
    pub(crate) fn note(&mut self, happening: Happening) {
        self.0[happening as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// What never happened.
    pub(crate) fn missing(&self) -> Vec<Happening> {
        ALL.iter().copied().filter(|&happening| self.0[happening as usize] == 0).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (happening, count) in ALL.iter().zip(self.0) {
            write!(f, "{separator}{happening:?} {count}")?;
            separator = ", ";
        }
        Ok(())
    }
}
