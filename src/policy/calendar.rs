//! Windows of time as people count them: aligned to UTC, where every day begins at midnight and
//! every month on its first day.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::rate::Period;

/// Nanoseconds in a second.
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How long a window is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    /// A second, a minute, an hour or a day.
    Period(Period),
    /// A calendar month, 28 to 31 days.
    Month,
}

impl Span {
    /// The shortest that such a window can be, in nanoseconds. Leap seconds do not exist in the
    /// time that computers keep.
    pub const fn shortest_ns(self) -> u64 {
        match self {
            Span::Period(period) => period.as_nanos(),
            Span::Month => 28 * Period::Day.as_nanos(),
        }
    }

    /// The longest that such a window can be, in seconds.
    pub const fn longest_seconds(self) -> u64 {
        match self {
            Span::Period(period) => period.as_seconds(),
            Span::Month => 31 * Period::Day.as_seconds(),
        }
    }

    /// Its name in the configuration: `day`.
    pub const fn name(self) -> &'static str {
        match self {
            Span::Period(Period::Second) => "second",
            Span::Period(Period::Minute) => "minute",
            Span::Period(Period::Hour) => "hour",
            Span::Period(Period::Day) => "day",
            Span::Month => "month",
        }
    }

    /// How it is written behind a rate: `d`.
    pub const fn symbol(self) -> &'static str {
        match self {
            Span::Period(Period::Second) => "s",
            Span::Period(Period::Minute) => "m",
            Span::Period(Period::Hour) => "h",
            Span::Period(Period::Day) => "d",
            Span::Month => "month",
        }
    }

    /// Nanoseconds from `utc_ns` (since 1970) to the end of the window it lies in; at least 1.
    /// A few nanoseconds of arithmetic, some tens for a month.
    pub fn left_ns(self, utc_ns: u64) -> u64 {
        match self {
            Span::Period(period) => period.as_nanos() - utc_ns % period.as_nanos(),
            Span::Month => left_of_month_ns(utc_ns),
        }
    }
}

fn left_of_month_ns(utc_ns: u64) -> u64 {
    let seconds = utc_ns / NANOS_PER_SECOND;
    let ends_at = i64::try_from(seconds).ok().and_then(|seconds| {
        let now = Timestamp::from_second(seconds).ok()?;
        let last = TimeZone::UTC.to_datetime(now).date().last_of_month();
        let next = last.tomorrow().ok()?.to_zoned(TimeZone::UTC).ok()?;
        u64::try_from(next.timestamp().as_second()).ok()
    });
    // Beyond the year 9999 there are no more months, only a longest one.
    let ends_at = ends_at.unwrap_or(seconds + Span::Month.longest_seconds());
    ends_at * NANOS_PER_SECOND - utc_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc_ns(time: &str) -> u64 {
        u64::try_from(time.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
    }

    #[test]
    fn windows_end_where_the_calendar_says() {
        let cases = [
            (Span::Period(Period::Second), "2026-02-28T23:59:59.25Z", "2026-03-01T00:00:00Z"),
            (Span::Period(Period::Minute), "2026-02-28T23:58:00Z", "2026-02-28T23:59:00Z"),
            (Span::Period(Period::Hour), "2026-02-28T22:59:59Z", "2026-02-28T23:00:00Z"),
            (Span::Period(Period::Day), "2026-02-28T23:59:59.999999999Z", "2026-03-01T00:00:00Z"),
            (Span::Period(Period::Day), "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z"),
            (Span::Month, "2026-02-28T23:59:59.5Z", "2026-03-01T00:00:00Z"),
            (Span::Month, "2028-02-28T23:59:59Z", "2028-03-01T00:00:00Z"),
            (Span::Month, "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"),
            (Span::Month, "1970-01-01T00:00:00Z", "1970-02-01T00:00:00Z"),
        ];
        for (span, now, end) in cases {
            assert_eq!(span.left_ns(utc_ns(now)), utc_ns(end) - utc_ns(now), "{span:?} {now}");
        }
    }

    #[test]
    fn no_month_is_shorter_or_longer_than_it_says() {
        let mut now = utc_ns("1999-12-01T00:00:00Z");
        for _ in 0..400 {
            let length = Span::Month.left_ns(now);
            assert!(length >= Span::Month.shortest_ns());
            assert!(length <= Span::Month.longest_seconds() * NANOS_PER_SECOND);
            now += length;
        }
        assert_eq!(now, utc_ns("2033-04-01T00:00:00Z"));
    }
}
