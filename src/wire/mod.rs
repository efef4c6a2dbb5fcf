//! Between the socket and Pingora: the bytes of requests, checked and framed before any
//! parser that is kinder than it should be sees them.

pub mod alarm;
pub mod app;
mod ballast;
pub mod body;
pub mod fault;
pub mod guard;
pub mod head;
mod keeping_pace;
mod lingering;
pub mod pace;
mod passthrough;

#[cfg(test)]
mod tests;
