//! Tollgate: an API gateway for the network edge.

pub mod admin;
pub mod clock;
pub mod config;
pub mod gateway;
pub mod lifecycle;
pub mod metrics;
pub mod policy;
pub mod registry;
pub mod store;
pub mod upstream;
