//! The listening sockets pass from one process to its successor, and no connection is refused.
//!
//! ```text
//! successor                              predecessor
//! waits at `upgrade_socket`
//!                      <- sockets ------ is told to (QUIT, USR2, POST /upgrade)
//! opens all else
//!                       -- release ---->
//!                                        closes what only one can have open: its estate
//!                      <- released -----
//! opens that, serves on the sockets
//!                       -- ready ------>
//!                                        tells its supervisor who the main process is
//!                      <- yours --------
//! is on its own                          drains and ends
//! ```
//!
//! Both accept between `ready` and `yours`, so there is no moment in which nobody does. Until
//! it has read `ready` the predecessor has given up nothing but its [`Estate`], and that it takes
//! back: when the successor goes away, says that it failed, or takes longer than
//! [`READY_WITHIN`], the predecessor goes on as if nothing had been. A successor that loses its predecessor before `yours` ends, for then that one
//! went on.
//!
//! Pingora has a hand-over of its own. It shuts the old process down whether or not anybody
//! has taken the sockets, and that is why this one exists.

mod channel;
mod estate;
mod place;
mod predecessor;
mod socket;
mod successor;
mod upgrader;

pub use estate::Estate;
pub use place::{arranged, meeting_point};
pub use predecessor::Failure;
pub use socket::{Role, Socket};
pub use successor::{Inheritance, Predecessor, Waiting};
pub use upgrader::{CommandLine, Upgrader};

use std::time::Duration;

/// How long the successor may take from its start, or from the sockets, until it serves.
pub const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long a successor that was started by hand waits to be given the sockets.
pub const GIVEN_WITHIN: Duration = Duration::from_secs(300);
/// How long a process that was told to hand over looks for a successor that should wait
/// already.
const FOUND_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
