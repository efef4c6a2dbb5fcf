//! The kit of the integration tests: the real binary on loopback ports, an
//! upstream that records every byte it is sent, and a client that sends exactly
//! the bytes a test writes. All three speak over plain sockets, because the
//! requests that matter most here are those no HTTP library would send.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "every test binary compiles the whole kit and uses a part of it"
)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a kit that fails a test does so by panicking, outside of the test function too"
)]

mod answer;
mod builder;
mod client;
pub mod fault;
mod gateway;
mod link;
mod port;
mod redis;
mod series;
mod upstream;
mod wait;
mod wire;

pub use answer::{Answer, Drops, Ending, Gate, ok};
pub use builder::GatewayBuilder;
pub use client::{Client, End, Reply};
pub use gateway::{Finished, Gateway, command, run_to_exit, signal_process};
pub use link::Link;
pub use port::free_addresses;
pub use redis::{RedisCluster, RedisSentinels, RedisServer, replica_of};
pub use series::Series;
pub use upstream::{Recorded, Upstream};
pub use wait::{DEADLINE, eventually, until};
pub use wire::{Head, Pattern};
