//! Where limiter state lives: the table of buckets, the keys into it, and the decision
//! over all limits of a request.

mod carry;
pub mod key;
pub mod limiter;
pub mod mapped;
mod set;
mod standing;
pub mod table;

/// Memory for whoever else has a table that is read at random.
pub mod lines {
    pub use crate::store::mapped::{Line, Lines};
}

#[cfg(test)]
mod tests;
