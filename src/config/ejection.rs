//! `upstreams.X.ejection`: when one failing server is taken out of balancing.

use std::time::Duration;

use super::growth::{self, End};
use super::keys;
use super::raw::Field;
use super::report::Report;
use super::value;
use crate::policy::ejection::EjectionPolicy;

/// The largest number of failures in a row.
const MAX_FAILURES: u32 = 1_000_000;
/// The shortest time that a server stays out.
const MIN_TIME: Duration = Duration::from_millis(100);
/// The longest time that a server stays out at first.
const MAX_BASE: Duration = Duration::from_secs(3_600);
/// The longest time that a server stays out at all.
const MAX_TIME: Duration = Duration::from_secs(24 * 3_600);

/// Reads `ejection`; `none` is no ejection.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Option<EjectionPolicy> {
    let section = field.section_unless_none(report, &keys::EJECTION)?;
    let standard = EjectionPolicy::default();
    let failures = section.value("consecutive_failures", report, "a number", |text| {
        value::count(text, 1..=MAX_FAILURES)
    });
    let base = End { key: "base", default_ns: standard.base_ns, range: MIN_TIME..=MAX_BASE };
    let max = End { key: "max", default_ns: standard.max_ns, range: MIN_TIME..=MAX_TIME };
    let (base_ns, max_ns) = growth::read(&section, &base, &max, report);
    Some(EjectionPolicy {
        consecutive_failures: failures.unwrap_or(standard.consecutive_failures),
        base_ns,
        max_ns,
    })
}
