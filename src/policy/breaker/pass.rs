//! What is asked of a breaker and told to it.

use super::half_open::Lease;

/// The answer to a call that wants to pass.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may; the pass is to be told what came of it, or given back.
    Pass(Pass),
    /// Not now.
    Refuse {
        /// When to ask again, in nanoseconds from now; at least 1.
        retry_after_ns: u64,
    },
}

/// The right to make one call. It cannot be copied, so no call is told twice.
#[derive(Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Pass {
    /// The breaker's generation when the pass was given.
    pub(super) generation: u32,
    pub(super) kind: PassKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PassKind {
    /// Through a closed circuit: nobody waits for it.
    Plain,
    /// Counted as in flight on the ramp.
    Ramp,
    /// A probe.
    Probe(Lease),
}

impl Pass {
    /// A pass through a closed circuit that does not ramp, as [`Breaker::ask`] gives it. It
    /// is for those who know from [`Breaker::plain_generation`] that this is its answer.
    ///
    /// [`Breaker::ask`]: super::Breaker::ask
    /// [`Breaker::plain_generation`]: super::Breaker::plain_generation
    pub fn plain(generation: u32) -> Pass {
        Pass { generation, kind: PassKind::Plain }
    }

    /// The generation of a [`Pass::plain`]; `None` when the pass is another.
    pub fn plain_generation(&self) -> Option<u32> {
        (self.kind == PassKind::Plain).then_some(self.generation)
    }
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// It did not.
    Failure {
        /// How long the upstream asked to be left alone, in nanoseconds.
        retry_after_ns: Option<u64>,
    },
}

/// What an operator wants of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ForceTo {
    /// Refuse everything. After that the circuit is half-open: it is the upstream's turn to
    /// show that it is well. Where nothing but an operator opens the circuit, it is closed.
    Open {
        /// When to end it, on the clock of `now_ns`.
        until_ns: u64,
    },
    /// Let everything through, whatever comes of it. After that it is closed with a fresh
    /// window.
    Closed {
        /// When to end it, on the clock of `now_ns`.
        until_ns: u64,
    },
    /// End what was forced; a circuit that is not forced stays as it is.
    Auto,
}
