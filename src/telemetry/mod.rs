//! What the gateway writes down: the process's own log and the access log.

pub mod access_log;
pub mod logger;
pub mod tally;
