//! Tollgate: an API gateway for the network edge.
//!
//! A request pays a toll in tokens: who sends it decides how fast its bucket refills, and what
//! it asks for decides what it costs. The modules, from the ground up:
//!
//! - [`policy`] is pure: rates and buckets, GCRA, tiers, the router, the normal form of paths.
//! - [`config`] turns a file into checked types; after that nothing can be invalid.
//! - [`store`] keeps the buckets in a lock-free table; [`registry`] knows the clients;
//!   [`upstream`] the servers and whose turn it is; [`fleet`] what gateways have in common.
//! - [`gateway`] holds one generation of policy and the state that outlives it; [`reload`]
//!   replaces the generation, [`handover`] the process.
//! - [`decision`] says what becomes of a request before an upstream is asked: for the proxy, and
//!   for whoever wants to know beforehand; [`simulate`] asks it about a whole access log.
//! - [`wire`] lets only well-formed requests through to Pingora, one at a time; [`proxy`] is
//!   Pingora's phases over the policies; [`admin`] is the API to steer it by.
//! - [`metrics`], [`telemetry`], [`lifecycle`], [`clock`] and [`strict_json`] serve them all, and
//!   [`app`] puts everything together. [`demo`] is something to try, [`remote`] what the commands for a
//!   running gateway are made of, [`cli`] what the command line takes.
//!
//! What points where is in docs/ARCHITECTURE.md, and a test holds it.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decision;
pub mod demo;
pub mod fleet;
pub mod gateway;
pub mod handover;
pub mod lifecycle;
pub mod metrics;
pub mod policy;
pub mod proxy;
pub mod registry;
pub mod reload;
pub mod remote;
pub mod simulate;
pub mod store;
pub mod strict_json;
pub mod telemetry;
pub mod upstream;
pub mod wire;
