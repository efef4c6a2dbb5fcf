//! What clients notice of trouble: of an upstream that fails or is overloaded, of reloads and
//! upgrades, and of other clients that are hostile. The servers are the benchmark's own, whose
//! capacity is known, under a load that does not wait for answers.

pub(crate) mod black_hole;
pub(crate) mod findings;
pub(crate) mod hostile;
pub(crate) mod origin;
pub(crate) mod overload;
pub(crate) mod reloads;
mod slow_clients;
pub(crate) mod slow_peers;
mod steady;
pub(crate) mod successions;
