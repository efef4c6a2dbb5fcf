//! Lines in the order their requests began; a log has them in the order they ended.

use super::line::Line;
use std::collections::BTreeMap;

/// Lines that are held back to be put in order.
const HELD: usize = 16_384;

/// Puts lines in order, as far as the next [`HELD`] of them tell.
#[derive(Default)]
pub(super) struct Ordered {
    held: BTreeMap<(u64, u64), Line>,
    pushed: u64,
    passed_ns: u64,
    late: u64,
}

impl Ordered {
    /// Adds a line; the first one, once so many are held that it need not wait for others.
    pub(super) fn push(&mut self, line: Line) -> Option<Line> {
        let began_ns = line.began_ns();
        self.late += u64::from(began_ns < self.passed_ns);
        self.pushed += 1;
        self.held.insert((began_ns, self.pushed), line);
        if self.held.len() > HELD { self.pop() } else { None }
    }

    /// The first line.
    pub(super) fn pop(&mut self) -> Option<Line> {
        let ((began_ns, _), line) = self.held.pop_first()?;
        self.passed_ns = self.passed_ns.max(began_ns);
        Some(line)
    }

    /// Lines that came when others that began later had gone on.
    pub(super) fn late(&self) -> u64 {
        self.late
    }
}
