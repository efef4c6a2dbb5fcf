//! The fixed window: so many tokens between two borders of the calendar.
//!
//! The state is one number, like a token bucket's: the upper bits are the time at which the
//! window is over, the lower ones how many tokens were taken in it. Read as a plain number it
//! is above `now` for as long as the window lasts and up to two grains longer, so that anybody
//! can tell a slot in use from a free one without knowing the limit. A grain is 2^bits
//! nanoseconds, as many as the count needs; the window itself ends on the nanosecond,
//! because whoever asks knows where it ends (see [`Span::left_ns`]).
//!
//! What is exact: between two borders no more than the window's tokens pass. Across a border
//! up to twice as many can pass in a short time; who minds takes the sliding window.
//!
//! # When the wall clock is set
//!
//! Borders follow UTC, states the limiter's clock, which only goes forward. A window that was
//! open when the wall clock jumped is known by its end, give or take half a window. Set by
//! less than that, the open window goes on, or the next one begins where a border was
//! crossed. Set further, what was taken may count once less, or until the window it was taken
//! in would have ended; never for longer.

use thiserror::Error;

use super::calendar::Span;
use super::gcra::{Answer, Level};
use super::rate::Period;

/// So many tokens in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FixedWindow {
    span: Span,
    tokens: u64,
}

/// Why a count and a window do not make a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum WindowError {
    /// Nothing would ever pass.
    #[error("a window of no tokens lets nothing pass; it must be at least 1")]
    Zero,
    /// The count does not fit beside the time.
    #[error("{0} tokens a {1} are more than the limiter can count; at most {2} fit")]
    TooMany(u64, &'static str, u64),
}

/// Bits of the state that count tokens.
const fn count_bits(span: Span) -> u32 {
    match span {
        Span::Period(Period::Second) => 24,
        Span::Period(Period::Minute) => 28,
        Span::Period(Period::Hour) => 32,
        Span::Period(Period::Day) => 36,
        Span::Month => 40,
    }
}

/// A state taken apart.
#[derive(Clone, Copy)]
struct Count {
    /// When the window is over, in grains, rounded up.
    over: u64,
    used: u64,
}

impl FixedWindow {
    /// A window of `tokens`: at most 2^24 − 1 a second, 2^28 − 1 a minute, 2^32 − 1 an hour,
    /// 2^36 − 1 a day, 2^40 − 1 a month.
    ///
    /// # Errors
    /// When there are none, or more than that.
    pub fn new(span: Span, tokens: u64) -> Result<FixedWindow, WindowError> {
        let most = (1 << count_bits(span)) - 1;
        match tokens {
            0 => Err(WindowError::Zero),
            _ if tokens > most => Err(WindowError::TooMany(tokens, span.name(), most)),
            _ => Ok(FixedWindow { span, tokens }),
        }
    }

    /// How long each window is.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Tokens in each window; at least 1.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    fn bits(&self) -> u32 {
        count_bits(self.span)
    }

    fn unpack(&self, state: u64) -> Count {
        Count { over: state >> self.bits(), used: state & ((1 << self.bits()) - 1) }
    }

    fn pack(&self, count: Count) -> u64 {
        if count.used == 0 { 0 } else { count.over << self.bits() | count.used }
    }

    /// What was taken in the window that ends at `end_ns`. Another window's state is over.
    fn count(&self, state: u64, end_ns: u64, now: u64) -> Count {
        let count = self.unpack(state);
        let over_ns = count.over << self.bits();
        // The window before ended a whole window earlier, give or take a grain and what the
        // wall clock was moved.
        let is_open = over_ns > now.max(end_ns.saturating_sub(self.span.shortest_ns() / 2));
        let over = end_ns.div_ceil(1 << self.bits());
        match is_open {
            true => Count { over: count.over.max(over), used: count.used },
            false => Count { over, used: 0 },
        }
    }

    /// When the tokens of the window that ends at `end_ns` are there again.
    fn ends_in_ns(&self, count: Count, end_ns: u64, now: u64) -> u64 {
        let over_ns = count.over << self.bits();
        // Far beyond the end lies only a window that was opened before the wall clock was set
        // back; it will be the open one when the calendar gets there.
        let is_ahead = over_ns > end_ns + self.span.shortest_ns() / 2;
        let end_ns = if is_ahead { over_ns } else { end_ns };
        end_ns.saturating_sub(now).max(1)
    }
}

/// The state of a window that ends at `end_ns` and of which so many tokens were taken.
pub fn state(window: &FixedWindow, end_ns: u64, used: u64) -> u64 {
    let most = (1 << window.bits()) - 1;
    window.pack(Count { over: end_ns.div_ceil(1 << window.bits()), used: used.min(most) })
}

/// Asks the window that ends at `end_ns` and whose state is `state` for `cost` tokens at `now`.
pub fn ask(window: &FixedWindow, end_ns: u64, state: u64, cost: u32, now: u64) -> Answer {
    let cost = u64::from(cost);
    if cost > window.tokens {
        return Answer::Never;
    }
    let end_ns = end_after(window, end_ns, now);
    let count = window.count(state, end_ns, now);
    match count.used + cost <= window.tokens {
        true => Answer::Admit(window.pack(Count { used: count.used + cost, ..count })),
        false => Answer::Wait(window.ends_in_ns(count, end_ns, now)),
    }
}

/// A caller whose `now` is newer than the window it was given has been late; its window is the
/// one after.
fn end_after(window: &FixedWindow, end_ns: u64, now: u64) -> u64 {
    match now.checked_sub(end_ns) {
        None => end_ns,
        Some(late_ns) => {
            let length = window.span.shortest_ns();
            end_ns + length * (1 + late_ns / length)
        }
    }
}

/// The state after `cost` tokens are given back; `charged` is the state that the charge left.
/// Exact: where that window is over there is nothing to give back, else they are taken off its
/// count.
pub fn refund(window: &FixedWindow, state: u64, charged: u64, cost: u32) -> u64 {
    let (count, paid) = (window.unpack(state), window.unpack(charged));
    let apart_ns = count.over.abs_diff(paid.over) << window.bits();
    if apart_ns > window.span.shortest_ns() / 2 {
        return state;
    }
    window.pack(Count { used: count.used.saturating_sub(u64::from(cost)), ..count })
}

/// Reads the level of the window that ends at `end_ns`, changing nothing.
pub fn level(window: &FixedWindow, end_ns: u64, state: u64, now: u64) -> Level {
    let end_ns = end_after(window, end_ns, now);
    let count = window.count(state, end_ns, now);
    let full_in_ns = match count.used {
        0 => 0,
        _ => window.ends_in_ns(count, end_ns, now),
    };
    Level { tokens: window.tokens.saturating_sub(count.used), full_in_ns }
}
