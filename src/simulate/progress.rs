//! How far a replay is, on standard error.

use crate::clock;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// How often a terminal's line is written anew, and how often another reader gets one.
const ON_TERMINAL: Duration = Duration::from_millis(250);
const ELSEWHERE: Duration = Duration::from_secs(5);
/// Lines between two looks at the clock.
const LINES: u64 = 4_096;

/// Tells how far a long replay is. A short one it says nothing about.
pub struct Progress {
    all: Option<u64>,
    is_terminal: bool,
    next: Instant,
    has_shown: bool,
}

impl Progress {
    /// The progress through so many bytes, where that is known.
    pub fn new(bytes: Option<u64>, is_terminal: bool) -> Progress {
        let next = clock::now() + if is_terminal { ON_TERMINAL } else { ELSEWHERE };
        Progress { all: bytes.filter(|bytes| *bytes > 0), is_terminal, next, has_shown: false }
    }

    /// So much has been read.
    pub(super) fn show(&mut self, bytes: u64, lines: u64) {
        if !lines.is_multiple_of(LINES) || clock::now() < self.next {
            return;
        }
        self.next = clock::now() + if self.is_terminal { ON_TERMINAL } else { ELSEWHERE };
        self.has_shown = true;
        let share = self.all.map(|all| format!(", {:.0} %", 100.0 * bytes as f64 / all as f64));
        let text = format!("{lines} lines{}", share.unwrap_or_default());
        // Where standard error is closed there is nobody to tell.
        let _ = match self.is_terminal {
            true => write!(std::io::stderr(), "\r\x1b[K{text}"),
            false => writeln!(std::io::stderr(), "{text}"),
        };
    }

    /// It is through.
    pub(super) fn end(&self) {
        if self.has_shown && self.is_terminal {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
