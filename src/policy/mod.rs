//! Pure policy: plain data and the decisions made from it. Nothing in here does I/O, reads a
//! clock, takes a lock or knows how the configuration is written.

pub mod balance;
pub mod breaker;
pub mod ejection;
pub mod gcra;
pub mod health;
pub mod limit;
pub mod line;
pub mod path;
pub mod rate;
pub mod reload_watch;
pub mod retry;
pub mod route;
pub mod router;
pub mod share;
pub mod tier;
