//! Tollgate: an API gateway for the network edge.

pub mod config;
pub mod policy;
