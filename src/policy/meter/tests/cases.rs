//! The table of cases for all algorithms: what each says to these requests at these times.
//!
//! It is asked of the local limiter and, by tests/sharing, of the script that decides in Redis.

use super::{Algorithm, FixedWindow, LeakyBucket, Period, Rate, SlidingWindow, Span, TokenBucket};

/// Midnight of a first of January, with both clocks the same: far enough from zero that a late
/// caller has somewhere to be late.
pub(super) const START: u64 = 946_684_800 * SECOND;
pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const MS: u64 = 1_000_000;

pub(super) fn token_bucket(count: u64, burst: u64) -> Algorithm {
    Algorithm::TokenBucket(drain(count, burst))
}

pub(super) fn drain(count: u64, burst: u64) -> TokenBucket {
    TokenBucket::new(Rate { count, period: Period::Second }, burst).unwrap()
}

pub(super) fn fixed(span: Span, tokens: u64) -> Algorithm {
    Algorithm::FixedWindow(FixedWindow::new(span, tokens).unwrap())
}

pub(super) fn sliding(period: Period, tokens: u64) -> Algorithm {
    Algorithm::SlidingWindow(SlidingWindow::new(period, tokens).unwrap())
}

pub(super) fn leaky(count: u64, burst: u64, max_delay_ms: u64) -> Algorithm {
    Algorithm::LeakyBucket(LeakyBucket::new(drain(count, burst), max_delay_ms * MS))
}

/// What a case expects of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// It passes, so many milliseconds later.
    Pass(u64),
    /// It would pass so many milliseconds later.
    Wait(u64),
    Never,
}

/// Milliseconds since the start, cost, and what comes of it.
pub(super) type Step = (u64, u32, Expected);
use Expected::{Never, Pass, Wait};

/// The table.
pub(super) fn cases() -> [(Algorithm, &'static [Step]); 7] {
    let second = Span::Period(Period::Second);
    [
        (
            token_bucket(10, 2),
            &[
                (0, 1, Pass(0)),
                (0, 1, Pass(0)),
                (0, 1, Wait(100)),
                (50, 2, Wait(150)),
                (100, 1, Pass(0)),
                (0, 3, Never),
            ],
        ),
        (
            fixed(second, 2),
            &[
                (300, 1, Pass(0)),
                (999, 1, Pass(0)),
                (999, 1, Wait(1)),
                (1_000, 2, Pass(0)),
                (1_400, 1, Wait(600)),
                (7_900, 2, Pass(0)),
                (7_900, 3, Never),
            ],
        ),
        (
            fixed(Span::Month, 2),
            &[
                (0, 2, Pass(0)),
                (1, 1, Wait(31 * 86_400_000 - 1)),
                (31 * 86_400_000 - 1, 1, Wait(1)),
                (31 * 86_400_000, 1, Pass(0)),
                (59 * 86_400_000, 2, Wait(86_400_000)),
                (60 * 86_400_000, 2, Pass(0)),
            ],
        ),
        (
            // All four of the first second still weigh three at a quarter of the next.
            sliding(Period::Second, 4),
            &[
                (900, 4, Pass(0)),
                (900, 1, Wait(350)),
                (1_000, 1, Wait(250)),
                (1_250, 1, Pass(0)),
                (1_250, 1, Wait(250)),
                (2_000, 2, Pass(0)),
                (2_000, 4, Wait(2_000)),
                (2_000, 5, Never),
            ],
        ),
        (
            // What was taken two windows ago weighs nothing.
            sliding(Period::Minute, 3),
            &[
                (59_000, 3, Pass(0)),
                (119_999, 2, Pass(0)),
                (120_000, 1, Pass(0)),
                (240_000, 3, Pass(0)),
            ],
        ),
        (
            leaky(10, 5, 200),
            &[
                (0, 1, Pass(0)),
                (0, 1, Pass(100)),
                (0, 1, Pass(200)),
                (0, 1, Wait(100)),
                (100, 1, Pass(200)),
                (1_000, 2, Pass(0)),
                (1_000, 3, Pass(200)),
                (1_000, 1, Wait(300)),
                (1_000, 6, Never),
            ],
        ),
        (
            // The burst bounds the queue where the delay would not.
            leaky(10, 2, 60_000),
            &[(0, 1, Pass(0)), (0, 1, Pass(100)), (0, 1, Wait(100)), (0, 2, Wait(200))],
        ),
    ]
}
