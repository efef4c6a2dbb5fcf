//! The keys of `server` that bound what a connection may cost: how many there are, how long one
//! may wait, how slow its bytes may come.

use std::time::Duration;

use super::raw::Section;
use super::report::Report;
use super::value;

/// What clients may do with their connections. All of it changes with a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    /// The longest a request's head may take from its first byte, 1 ms to 1 h.
    pub header_timeout: Duration,
    /// The longest silence between requests, 1 ms to 24 h.
    pub idle_timeout: Duration,
    /// Bytes per second below which a body is too slow, in either direction, up to 1 GiB; 0 is no
    /// bound.
    pub min_body_rate: u64,
    /// Connections at a time, 1 to 1 000 000.
    pub max: u32,
    /// Connections at a time from one address (IPv6: prefix), 1 to 1 000 000; none is no bound.
    pub max_per_ip: Option<u32>,
    /// Requests of one connection, 1 to 1 000 000 000; none is no bound.
    pub max_requests: Option<u32>,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            min_body_rate: 1 << 10,
            max: 65_536,
            max_per_ip: None,
            max_requests: None,
        }
    }
}

/// The longest time for a head: beyond that it bounds nothing.
const MAX_HEADER_TIMEOUT: Duration = Duration::from_secs(3_600);
/// The highest rate that can be asked for.
const MAX_BODY_RATE: u64 = 1 << 30;
/// Connections of one process; each takes a descriptor and some kilobytes.
const MAX_CONNECTIONS: u32 = 1_000_000;
/// Requests of one connection.
const MAX_REQUESTS: u32 = 1_000_000_000;

/// Reads these keys out of `server`.
pub(super) fn read(section: &Section<'_>, report: &mut Report) -> Connections {
    let defaults = Connections::default();
    let time = |key: &str, longest: Duration, report: &mut Report| {
        section.value(key, report, "a duration such as 10s", |text| {
            value::duration(text, value::MIN_TIMEOUT..=longest)
        })
    };
    let number = |key: &str, most: u32, report: &mut Report| {
        section.value(key, report, "a number", |text| value::count(text, 1..=most))
    };
    let header_timeout = time("header_timeout", MAX_HEADER_TIMEOUT, report);
    let idle_timeout = time("idle_timeout", value::MAX_TIMEOUT, report);
    let min_body_rate = section.value("min_body_rate", report, "a size such as 1KiB", |text| {
        value::size(text, 0..=MAX_BODY_RATE)
    });
    Connections {
        header_timeout: header_timeout.unwrap_or(defaults.header_timeout),
        idle_timeout: idle_timeout.unwrap_or(defaults.idle_timeout),
        min_body_rate: min_body_rate.unwrap_or(defaults.min_body_rate),
        max: number("max_connections", MAX_CONNECTIONS, report).unwrap_or(defaults.max),
        max_per_ip: number("max_connections_per_ip", MAX_CONNECTIONS, report),
        max_requests: number("max_requests_per_connection", MAX_REQUESTS, report),
    }
}
