//! The sliding window, from two counts: what this window has taken, and as much of what the
//! last one took as still lies within a window's length of now, if it was spread evenly.
//!
//! The state is one number. Its upper bits are the time at which both counts mean nothing any
//! more (the end of the window after this one), the lower ones the two counts. Read as a
//! plain number it is above `now` until then, and less than a window longer. Windows are
//! aligned to the limiter's clock, so the time tells which window the counts are of: rounding
//! it up to a grain of 2^bits nanoseconds moves it by less than a window.
//!
//! # How far it is off
//!
//! Against an exact log of what passed in the last window's length. Let `p` be the last
//! window's count and `e` the share of this window that has passed. The estimate counts
//! `p × (1 − e)` of the last window, in truth it may be anything from none to all of `p`. So
//! the estimate is at most `p × e` too low and at most `p × (1 − e)` too high, rounded up to a
//! whole token: no more than `tokens + p × e`, always less than twice the limit, pass in any
//! stretch of a window's length, and that only after a burst at the end of a window; a steady
//! client gets what the limit says. Of any two neighbouring windows at most twice the limit
//! pass, as with every limit.

use super::calendar::Span;
use super::fixed_window::WindowError;
use super::gcra::{Answer, Level};
use super::rate::Period;

/// So many tokens in any stretch of a period's length, by the estimate above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlidingWindow {
    period: Period,
    tokens: u64,
}

/// Bits of each count. Both together span no more time than a window lasts.
const fn count_bits(period: Period) -> u32 {
    match period {
        Period::Second => 14,
        Period::Minute => 17,
        Period::Hour => 20,
        Period::Day => 23,
    }
}

/// A state taken apart.
#[derive(Debug, Clone, Copy)]
struct Counts {
    /// The window's number: how many of its length there were before it.
    number: u64,
    previous: u64,
    current: u64,
}

impl SlidingWindow {
    /// A window of `tokens`: at most 16 383 a second, 131 071 a minute, 1 048 575 an hour,
    /// 8 388 607 a day.
    ///
    /// # Errors
    /// When there are none, or more than that.
    pub fn new(period: Period, tokens: u64) -> Result<SlidingWindow, WindowError> {
        let most = (1 << count_bits(period)) - 1;
        let name = Span::Period(period).name();
        match tokens {
            0 => Err(WindowError::Zero),
            _ if tokens > most => Err(WindowError::TooMany(tokens, name, most)),
            _ => Ok(SlidingWindow { period, tokens }),
        }
    }

    /// The window's length.
    pub fn period(&self) -> Period {
        self.period
    }

    /// Tokens in a window's length; at least 1.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    fn length_ns(&self) -> u64 {
        self.period.as_nanos()
    }

    fn unpack(&self, state: u64) -> Option<Counts> {
        let bits = count_bits(self.period);
        let count = (1 << bits) - 1;
        let over_ns = state >> (2 * bits) << (2 * bits);
        // Nothing that was packed is over before the second window's end.
        let number = (over_ns / self.length_ns()).checked_sub(2)?;
        Some(Counts { number, previous: state >> bits & count, current: state & count })
    }

    fn pack(&self, counts: Counts) -> u64 {
        if counts.previous == 0 && counts.current == 0 {
            return 0;
        }
        let bits = count_bits(self.period);
        let over_ns = (counts.number + 2) * self.length_ns();
        over_ns.div_ceil(1 << (2 * bits)) << (2 * bits) | counts.previous << bits | counts.current
    }

    /// The counts as they are at `now`. A caller whose `now` lies before the state's window is
    /// late and sees it as it was at its beginning.
    fn counts(&self, state: u64, now: u64) -> Counts {
        let number = now / self.length_ns();
        match self.unpack(state) {
            Some(counts) if counts.number >= number => counts,
            Some(counts) if counts.number + 1 == number => {
                Counts { number, previous: counts.current, current: 0 }
            }
            _ => Counts { number, previous: 0, current: 0 },
        }
    }

    /// Tokens counted at `now`, rounded up.
    fn used(&self, counts: Counts, now: u64) -> u64 {
        let passed_ns = now.saturating_sub(counts.number * self.length_ns());
        let left_ns = self.length_ns().saturating_sub(passed_ns);
        let weighted = u128::from(counts.previous) * u128::from(left_ns);
        // At most the previous count.
        counts.current + weighted.div_ceil(u128::from(self.length_ns())) as u64
    }

    /// How much of a window has to pass until of `previous` tokens no more than `room` count.
    fn wanes_in_ns(&self, previous: u64, room: u64) -> u64 {
        let length_ns = self.length_ns();
        let counted_ns = u128::from(room) * u128::from(length_ns) / u128::from(previous.max(1));
        // Within a window, since it is cut to one.
        length_ns - counted_ns.min(u128::from(length_ns)) as u64
    }
}

/// The state of a window at `now` of which so many tokens count, all of them as taken just now.
pub fn state(window: &SlidingWindow, now: u64, used: u64) -> u64 {
    let most = (1 << count_bits(window.period)) - 1;
    let number = now / window.length_ns();
    window.pack(Counts { number, previous: 0, current: used.min(most) })
}

/// Asks the window whose state is `state` for `cost` tokens at `now`.
pub fn ask(window: &SlidingWindow, state: u64, cost: u32, now: u64) -> Answer {
    let cost = u64::from(cost);
    if cost > window.tokens {
        return Answer::Never;
    }
    let counts = window.counts(state, now);
    if window.used(counts, now) + cost <= window.tokens {
        return Answer::Admit(window.pack(Counts { current: counts.current + cost, ..counts }));
    }
    let length_ns = window.length_ns();
    let at_ns = match window.tokens.checked_sub(counts.current + cost) {
        Some(room) => counts.number * length_ns + window.wanes_in_ns(counts.previous, room),
        None => {
            let room = window.tokens - cost;
            (counts.number + 1) * length_ns + window.wanes_in_ns(counts.current, room)
        }
    };
    Answer::Wait(at_ns.saturating_sub(now).max(1))
}

/// The state after `cost` tokens are given back; `charged` is the state that the charge left.
/// Exact: they are taken off the count they were added to, wherever it is by now.
pub fn refund(window: &SlidingWindow, state: u64, charged: u64, cost: u32) -> u64 {
    let (Some(mut counts), Some(paid)) = (window.unpack(state), window.unpack(charged)) else {
        return state;
    };
    if counts.number == paid.number {
        counts.current = counts.current.saturating_sub(u64::from(cost));
    } else if counts.number == paid.number + 1 {
        counts.previous = counts.previous.saturating_sub(u64::from(cost));
    } else {
        return state;
    }
    window.pack(counts)
}

/// Reads the level of the window whose state is `state`, changing nothing. It is full when
/// neither count weighs anything, up to two windows from now.
pub fn level(window: &SlidingWindow, state: u64, now: u64) -> Level {
    let counts = window.counts(state, now);
    let windows = match counts {
        Counts { current: 1.., .. } => 2,
        Counts { previous: 1.., .. } => 1,
        _ => 0,
    };
    let full_at_ns = (counts.number + windows) * window.length_ns();
    let full_in_ns = if windows == 0 { 0 } else { full_at_ns.saturating_sub(now) };
    Level { tokens: window.tokens.saturating_sub(window.used(counts, now)), full_in_ns }
}
