//! Pure policy: plain data and the decisions made from it. Nothing in here does I/O, reads a
//! clock, takes a lock or knows how the configuration is written.

pub mod limit;
pub mod rate;
pub mod tier;
