//! What is going to happen, and when.

use fastrand::Rng;
use std::collections::BTreeMap;

/// Something that happens to a run, at a time of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    /// A request arrives.
    Arrival,
    /// A request that waits for a place gets its turn to look.
    Turn { request: u64 },
    /// An attempt ends in the way that was drawn for it.
    AttemptEnd { request: u64, attempt: u32 },
    /// The wait before another attempt is over.
    RetryDue { request: u64, attempt: u32 },
    /// The client goes away, or the request's task is lost, wherever it stands.
    Gone { request: u64 },
    /// Servers change how they behave.
    Mood,
    /// A server's health is checked.
    Check { server: u64 },
    /// An operator does something.
    Operator,
    /// A name is looked up.
    Lookup,
    /// The process stands still, and everything that was due meanwhile comes late.
    Stall,
    /// Whether the end of the calm has come.
    CalmEnd,
}

/// Events in the order of their times; what falls on the same instant comes in any order.
#[derive(Default)]
pub(crate) struct Agenda(BTreeMap<(u64, u64), Event>);

impl Agenda {
    /// Notes that something happens at `at_ns`.
    pub(crate) fn put(&mut self, at_ns: u64, event: Event, rng: &mut Rng) {
        self.0.insert((at_ns, rng.u64(..)), event);
    }

    /// The next event and its time.
    pub(crate) fn next(&mut self) -> Option<(u64, Event)> {
        self.0.pop_first().map(|((at_ns, _), event)| (at_ns, event))
    }
}
