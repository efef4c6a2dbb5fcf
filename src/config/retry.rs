//! `routes[].retry`: when a failed attempt is followed by another.

use std::time::Duration;

use super::growth::{self, End};
use super::keys;
use super::raw::{Field, Section, Unique};
use super::report::{Report, did_you_mean, quote};
use super::value;
use crate::policy::retry::{Backoff, MAX_RETRIES, RetryOn, RetryPolicy};
use crate::policy::share::Share;

/// The longest wait before another attempt.
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// Conditions of a route: three words and every status that may be tried again.
const MAX_CONDITIONS: usize = 3 + 200;

/// Reads `retry`; `none` is no retry.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Option<RetryPolicy> {
    let section = field.section_unless_none(report, &keys::RETRY)?;
    let standard = RetryPolicy::default();
    let attempts = section.value("attempts", report, "a number of attempts", |text| {
        value::count(text, 0..=MAX_RETRIES)
    });
    let per_try_timeout_ns =
        section.value("per_try_timeout", report, "a duration such as 1s", |text| {
            value::nanos(text, value::MIN_TIMEOUT..=value::MAX_TIMEOUT)
        });
    let backoff = section.get("backoff").and_then(|f| f.section(report, &keys::BACKOFF));
    let backoff = backoff.map(|section| read_backoff(&section, standard.backoff, report));
    let when = section.get("when").and_then(|field| conditions(field, report));
    let budget = section.value("budget", report, "a share such as 20%", |text| {
        value::share(text, Share::NONE..=Share::ALL)
    });
    Some(RetryPolicy {
        attempts: attempts.unwrap_or(standard.attempts),
        per_try_timeout_ns,
        backoff: backoff.unwrap_or(standard.backoff),
        when: when.unwrap_or(standard.when),
        budget: budget.unwrap_or(standard.budget),
    })
}

fn read_backoff(section: &Section<'_>, standard: Backoff, report: &mut Report) -> Backoff {
    let range = value::MIN_TIMEOUT..=MAX_BACKOFF;
    let base = End { key: "base", default_ns: standard.base_ns, range: range.clone() };
    let max = End { key: "max", default_ns: standard.max_ns, range };
    let (base_ns, max_ns) = growth::read(section, &base, &max, report);
    Backoff { base_ns, max_ns }
}

/// One entry of `when`.
enum Condition {
    Connect,
    Timeout,
    Reset,
    Status(u16),
}

fn conditions(field: &Field<'_>, report: &mut Report) -> Option<RetryOn> {
    if field.is_empty_list() {
        field.error(report, "nothing is ever tried again; write retry: none to say so");
        return None;
    }
    let mut when = RetryOn { connect: false, timeout: false, reset: false, statuses: Vec::new() };
    let mut unique = Unique::default();
    for field in field.one_or_list(report, MAX_CONDITIONS) {
        let Some(condition) = field.read(report, "a condition such as timeout or 503", condition)
        else {
            continue;
        };
        unique.claim("the condition", field.scalar().unwrap_or_default(), &field, report);
        match condition {
            Condition::Connect => when.connect = true,
            Condition::Timeout => when.timeout = true,
            Condition::Reset => when.reset = true,
            Condition::Status(status) => when.statuses.push(status),
        }
    }
    // Two files that say the same are the same, whatever order they say it in.
    when.statuses.sort_unstable();
    Some(when)
}

fn condition(text: &str) -> Result<Condition, String> {
    match text {
        "connect" => Ok(Condition::Connect),
        "timeout" => Ok(Condition::Timeout),
        "reset" => Ok(Condition::Reset),
        _ => {
            // Three digits, so that 0502 is not another way to write 502.
            let status = text.parse().ok().filter(|status| (400..=599).contains(status));
            status.filter(|_| text.len() == 3).map(Condition::Status).ok_or_else(|| {
                let suggestion = did_you_mean(text, ["connect", "timeout", "reset"]);
                let known = "connect, timeout, reset or a status from 400 to 599";
                format!("{} is not one of {known}{suggestion}", quote(text))
            })
        }
    }
}
