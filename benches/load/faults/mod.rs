//! What clients notice of an upstream that fails or is overloaded: servers of the
//! benchmark's own, whose capacity is known, under a load that does not wait for answers.

pub(crate) mod black_hole;
pub(crate) mod findings;
pub(crate) mod origin;
pub(crate) mod overload;
pub(crate) mod reloads;
mod steady;
pub(crate) mod successions;
