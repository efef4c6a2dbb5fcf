//! What is expected of each part: the same rules as the program's, written down a second time
//! as plainly as they can be said, and compared with it after every step.
//!
//! Each of these holds the real thing and stands in front of it, so that nothing reaches the
//! one without being told to the other.

mod breaker;
mod budget;
mod circuit;
mod places;
mod servers;
mod window;

pub(crate) use budget::Budget;
pub(crate) use circuit::{Leave, WatchedCircuit};
pub(crate) use places::{Arrival, Waiting, WatchedPlaces};
pub(crate) use servers::WatchedServers;
