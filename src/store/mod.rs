//! Where limiter state lives: the table of buckets, the keys into it, and the decision
//! over all limits of a request.

pub mod key;
pub mod limiter;
mod set;
pub mod table;

#[cfg(test)]
mod tests;
