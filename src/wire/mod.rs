//! Between the socket and Pingora: the bytes of requests, checked and framed before any
//! parser that is kinder than it should be sees them.

pub mod alarm;
pub mod answers;
pub mod app;
pub mod backpressure;
mod ballast;
pub mod body;
pub mod connections;
pub mod fault;
pub mod guard;
pub mod head;
pub mod lingering;
pub mod listening;
pub mod pace;
mod passthrough;
mod progress;
pub mod socket;
mod timer;
mod waiting;

#[cfg(test)]
mod tests;
