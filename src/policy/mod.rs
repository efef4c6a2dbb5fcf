//! Pure policy: plain data and the decisions made from it. Nothing in here does I/O, reads a
//! clock, takes a lock or knows how the configuration is written.

pub mod gcra;
pub mod limit;
pub mod path;
pub mod rate;
pub mod route;
pub mod router;
pub mod tier;
