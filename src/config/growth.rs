//! Waits that begin short and grow up to a bound: cooldowns, ejections, backoff.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::raw::Section;
use super::report::{Report, quote};
use super::value;

/// One end of a wait that grows: its key and what may stand there.
#[derive(Debug)]
pub(super) struct End {
    pub(super) key: &'static str,
    /// Its value when the file does not say, in nanoseconds.
    pub(super) default_ns: u64,
    pub(super) range: RangeInclusive<Duration>,
}

/// Reads the first wait and the longest, in nanoseconds, the second never below the first.
///
/// When only the first is written and above the default of the longest, the longest follows it; a
/// longest wait that is written below the first is an error.
pub(super) fn read(
    section: &Section<'_>,
    first: &End,
    longest: &End,
    report: &mut Report,
) -> (u64, u64) {
    let written = section.get(first.key);
    let read_first = first.read(section, report);
    // What was refused says nothing that the other end could be compared with.
    let refused = written.is_some() && read_first.is_none();
    let first_ns = read_first.unwrap_or(first.default_ns);
    let Some(longest_ns) = longest.read(section, report) else {
        return (first_ns, longest.default_ns.max(first_ns));
    };
    if let Some(field) = section.get(longest.key).filter(|_| !refused && longest_ns < first_ns) {
        let text = quote(field.scalar().unwrap_or_default());
        let at_least = value::duration_text(Duration::from_nanos(first_ns));
        field.error(report, format!("{text} is shorter than {}, which is {at_least}", first.key));
    }
    (first_ns, longest_ns.max(first_ns))
}

impl End {
    fn read(&self, section: &Section<'_>, report: &mut Report) -> Option<u64> {
        let parse = |text: &str| value::nanos(text, self.range.clone());
        section.value(self.key, report, "a duration such as 30s", parse)
    }
}
