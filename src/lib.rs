//! Tollgate: an API gateway for the network edge.

pub mod admin;
pub mod app;
pub mod clock;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod lifecycle;
pub mod metrics;
pub mod policy;
pub mod proxy;
pub mod registry;
pub mod store;
pub mod telemetry;
pub mod upstream;
pub mod wire;
