//! Pure policy: plain data and the decisions made from it. Nothing in here does I/O, reads a
//! clock, takes a lock or knows how the configuration is written.

pub mod balance;
pub mod breaker;
pub mod calendar;
pub mod ejection;
pub mod fixed_window;
pub mod gcra;
pub mod health;
pub mod leaky_bucket;
pub mod lease;
pub mod limit;
pub mod line;
pub mod meter;
pub mod path;
pub mod precedence;
pub mod rate;
pub mod reload_watch;
pub mod retry;
pub mod route;
pub mod router;
pub mod share;
pub mod sliding_window;
pub mod tier;
pub mod version;
