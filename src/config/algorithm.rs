//! How a limit decides: `algorithm` with its figures, and `quota`.

use std::time::Duration;

use super::keys;
use super::limits::{rate, token_bucket, tokens};
use super::raw::{Field, Section, word};
use super::report::Report;
use super::value;
use crate::policy::calendar::Span;
use crate::policy::fixed_window::FixedWindow;
use crate::policy::leaky_bucket::LeakyBucket;
use crate::policy::limit::LimitKey;
use crate::policy::meter::Algorithm;
use crate::policy::rate::{Period, Rate};
use crate::policy::sliding_window::SlidingWindow;

/// How long a leaky bucket holds a request back when the file does not say.
const DEFAULT_MAX_DELAY_NS: u64 = 1_000_000_000;
/// The longest that it may: a client that waits longer has mostly gone.
const LONGEST_MAX_DELAY: Duration = Duration::from_secs(60);

/// As many networks of 64 bits as one of 48 has.
const MOST_ESCALATED: u64 = 65_536;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    TokenBucket,
    FixedWindow,
    SlidingWindow,
    LeakyBucket,
}

const KINDS: [(&str, Kind); 4] = [
    ("token_bucket", Kind::TokenBucket),
    ("fixed_window", Kind::FixedWindow),
    ("sliding_window", Kind::SlidingWindow),
    ("leaky_bucket", Kind::LeakyBucket),
];

/// Reads `algorithm`, `rate`, `burst` and `max_delay`.
pub(super) fn read(section: &Section<'_>, report: &mut Report) -> Option<Algorithm> {
    let expected = "token_bucket, fixed_window, sliding_window or leaky_bucket";
    let kind = section.value("algorithm", report, expected, |text| word(text, &KINDS, &[]));
    // One that is wrong leaves unsaid what the other keys would have to be.
    if section.get("algorithm").is_some() && kind.is_none() {
        return None;
    }
    let kind = kind.unwrap_or(Kind::TokenBucket);
    let max_delay_ns = max_delay(section, kind, report);
    let rate = rate(section, report);
    let burst_field = match kind {
        Kind::TokenBucket => section.require("burst", report, "burst: 100"),
        _ => section.get("burst"),
    };
    let burst = burst_field.and_then(|field| tokens(field, report));
    if burst_field.is_some() && burst.is_none() {
        return None;
    }
    let rate = rate?;
    let culprit = burst_field.or_else(|| section.get("rate"));
    match kind {
        Kind::TokenBucket => {
            token_bucket(section, rate, burst?, report).map(Algorithm::TokenBucket)
        }
        Kind::FixedWindow => {
            let window = FixedWindow::new(Span::Period(rate.period), burst.unwrap_or(rate.count));
            fits(window, culprit, report).map(Algorithm::FixedWindow)
        }
        Kind::SlidingWindow => {
            let window = SlidingWindow::new(rate.period, burst.unwrap_or(rate.count));
            fits(window, culprit, report).map(Algorithm::SlidingWindow)
        }
        Kind::LeakyBucket => {
            let burst = burst.unwrap_or_else(|| held(rate, max_delay_ns));
            let drain = token_bucket(section, rate, burst, report)?;
            Some(Algorithm::LeakyBucket(LeakyBucket::new(drain, max_delay_ns)))
        }
    }
}

fn max_delay(section: &Section<'_>, kind: Kind, report: &mut Report) -> u64 {
    if let Some(field) = section.get("max_delay")
        && kind != Kind::LeakyBucket
    {
        field.error(
            report,
            "only a leaky_bucket delays requests; add algorithm: leaky_bucket or remove the key",
        );
    }
    let range = Duration::from_millis(1)..=LONGEST_MAX_DELAY;
    let read = |text: &str| value::nanos(text, range);
    section.value("max_delay", report, "a time such as 1s", read).unwrap_or(DEFAULT_MAX_DELAY_NS)
}

/// How many requests of one token a leaky bucket delays by no more than this.
fn held(rate: Rate, max_delay_ns: u64) -> u64 {
    // A rate of nothing is refused with the bucket.
    let interval_ns = rate.period.as_nanos().div_ceil(rate.count.max(1)).max(1);
    max_delay_ns / interval_ns + 1
}

/// Reads `quota`.
pub(super) fn read_quota(field: &Field<'_>, report: &mut Report) -> Option<Algorithm> {
    let section = field.section(report, &keys::QUOTA)?;
    let limit_field = section.require("limit", report, "limit: 1000000");
    let limit = limit_field.and_then(|field| tokens(field, report));
    let spans = [("day", Span::Period(Period::Day)), ("month", Span::Month)];
    let per = section.require("per", report, "per: month");
    let span =
        per.and_then(|field| field.read(report, "day or month", |text| word(text, &spans, &[])));
    let window = FixedWindow::new(span?, limit?);
    fits(window, limit_field, report).map(Algorithm::FixedWindow)
}

/// Reads `ipv6_escalation`: what the addresses of one network have together.
pub(super) fn read_escalation(
    section: &Section<'_>,
    key: &LimitKey,
    algorithm: Option<&Algorithm>,
    report: &mut Report,
) -> Option<Algorithm> {
    let field = section.get("ipv6_escalation")?;
    if *key != LimitKey::Ip {
        field.error(report, "only a limit by address has networks; add key: ip or remove the key");
        return None;
    }
    let times = field.read(report, "how many times the limit", |text| {
        value::integer(text, 2..=MOST_ESCALATED)
    })?;
    let escalated = algorithm?.times(times);
    fits(escalated, Some(field), report)
}

/// Reports what does not fit at the key that says it.
fn fits<T, E: ToString>(
    checked: Result<T, E>,
    culprit: Option<&Field<'_>>,
    report: &mut Report,
) -> Option<T> {
    match checked {
        Ok(checked) => Some(checked),
        Err(error) => {
            culprit?.error(report, error.to_string());
            None
        }
    }
}
