//! A share of a whole: of requests that may be retried, of calls that may fail.

use std::fmt;

/// A share from 0 to 1, kept in millionths so that policies can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Nothing.
    pub const NONE: Share = Share(0);
    /// All of it.
    pub const ALL: Share = Share(1_000_000);

    /// So many millionths; more than all is all.
    pub const fn from_millionths(millionths: u32) -> Share {
        if millionths > Self::ALL.0 { Self::ALL } else { Share(millionths) }
    }

    /// So many hundredths; more than all is all.
    pub const fn from_percent(percent: u32) -> Share {
        Self::from_millionths(percent.saturating_mul(10_000))
    }

    /// In millionths.
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// As a fraction from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Share {
    /// As a fraction, such as `0.5`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fraction())
    }
}
