//! `breaker` of an upstream or a route: when its circuit opens and how it closes again.

use std::time::Duration;

use super::growth::{self, End};
use super::keys;
use super::raw::{Field, Section};
use super::report::Report;
use super::value;
use crate::policy::breaker::{BreakerPolicy, SlowCalls};
use crate::policy::share::Share;

/// The largest number of failures in a row, and of requests that a window must hold.
const MAX_REQUESTS: u32 = 1_000_000;
/// The most probes.
const MAX_PROBES: u32 = 1_000;
/// The smallest ratio that can open a circuit.
const MIN_RATIO: Share = Share::from_percent(1);
/// Slow calls among all that open a circuit when only `slow_call` is written.
const SLOW_RATIO: Share = Share::from_percent(80);

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// The shortest cooldown.
const MIN_COOLDOWN: Duration = Duration::from_millis(100);
/// The longest that a cooldown grows to.
const MAX_COOLDOWN: Duration = Duration::from_secs(24 * 3_600);

/// Reads `breaker`; `none` is no breaker.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Option<BreakerPolicy> {
    let section = field.section_unless_none(report, &keys::BREAKER)?;
    let standard = BreakerPolicy::default();
    let (consecutive_failures, failure_ratio, slow_calls) = conditions(&section, report);
    let any = consecutive_failures.is_some() || failure_ratio.is_some() || slow_calls.is_some();
    let min_requests = number(&section, "min_requests", MAX_REQUESTS, report);
    let window_ns = section.value("window", report, "a duration such as 10s", |text| {
        value::nanos(text, SECOND..=HOUR)
    });
    let cooldown =
        End { key: "cooldown", default_ns: standard.cooldown_ns, range: MIN_COOLDOWN..=HOUR };
    let max_cooldown = End {
        key: "max_cooldown",
        default_ns: standard.max_cooldown_ns,
        range: MIN_COOLDOWN..=MAX_COOLDOWN,
    };
    let (cooldown_ns, max_cooldown_ns) = growth::read(&section, &cooldown, &max_cooldown, report);
    let probes = number(&section, "probes", MAX_PROBES, report);
    let ramp_ns = section.value("ramp", report, "a duration such as 5s", |text| {
        value::nanos(text, Duration::ZERO..=HOUR)
    });
    Some(BreakerPolicy {
        consecutive_failures: if any {
            consecutive_failures
        } else {
            standard.consecutive_failures
        },
        failure_ratio,
        slow_calls,
        min_requests: min_requests.unwrap_or(standard.min_requests),
        window_ns: window_ns.unwrap_or(standard.window_ns),
        cooldown_ns,
        max_cooldown_ns,
        probes: probes.unwrap_or(standard.probes),
        ramp_ns: ramp_ns.unwrap_or(standard.ramp_ns),
    })
}

/// What can open the circuit: only what is written.
fn conditions(
    section: &Section<'_>,
    report: &mut Report,
) -> (Option<u32>, Option<Share>, Option<SlowCalls>) {
    let consecutive_failures = number(section, "consecutive_failures", MAX_REQUESTS, report);
    let failure_ratio = ratio(section, "failure_ratio", report);
    let longer_than_ns = section.value("slow_call", report, "a duration such as 2s", |text| {
        value::nanos(text, value::MIN_TIMEOUT..=value::MAX_TIMEOUT)
    });
    let slow_ratio = ratio(section, "slow_ratio", report);
    if let (None, Some(field)) = (section.get("slow_call"), section.get("slow_ratio")) {
        let message = "there is no slow_call to say what is slow; write for example slow_call: 2s";
        field.error(report, message);
    }
    let ratio = slow_ratio.unwrap_or(SLOW_RATIO);
    let slow_calls = longer_than_ns.map(|longer_than_ns| SlowCalls { longer_than_ns, ratio });
    (consecutive_failures, failure_ratio, slow_calls)
}

fn number(section: &Section<'_>, key: &str, max: u32, report: &mut Report) -> Option<u32> {
    section.value(key, report, "a number", |text| value::count(text, 1..=max))
}

fn ratio(section: &Section<'_>, key: &str, report: &mut Report) -> Option<Share> {
    section.value(key, report, "a share such as 0.5 or 50%", |text| {
        value::share(text, MIN_RATIO..=Share::ALL)
    })
}
