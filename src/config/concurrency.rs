//! `upstreams.X.concurrency`: how many requests an upstream may have at a time.

use std::time::Duration;

use super::keys;
use super::raw::Field;
use super::report::Report;
use super::value;

/// How many requests an upstream may have at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// Requests in flight, 1 to 1 000 000.
    pub max: u32,
    /// Requests that may wait for a place, 0 to 100 000.
    pub queue: u32,
    /// How long one may wait, 1 ms to 1 min.
    pub queue_timeout: Duration,
}

/// Requests in flight, of an upstream or of one client.
pub(super) const MAX_IN_FLIGHT: u32 = 1_000_000;
/// Requests that wait; each holds a connection of its client and the memory that belongs to it.
const MAX_QUEUE: u32 = 100_000;
/// The longest wait in the queue.
const MAX_QUEUE_TIMEOUT: Duration = Duration::from_secs(60);
/// The wait in the queue when the file does not say.
const QUEUE_TIMEOUT: Duration = Duration::from_millis(100);

/// Reads `concurrency`.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Option<Concurrency> {
    let section = field.section(report, &keys::CONCURRENCY)?;
    let max = section.require("max", report, "max: 200").and_then(|field| {
        field.read(report, "a number of requests", |t| value::count(t, 1..=MAX_IN_FLIGHT))
    });
    let queue = section
        .value("queue", report, "a number of requests", |text| value::count(text, 0..=MAX_QUEUE));
    let queue_timeout =
        section.value("queue_timeout", report, "a duration such as 100ms", |text| {
            value::duration(text, value::MIN_TIMEOUT..=MAX_QUEUE_TIMEOUT)
        });
    let queue = queue.unwrap_or(0);
    if let (0, Some(field)) = (queue, section.get("queue_timeout")) {
        field.warn(report, "has no effect while queue is 0: a request without a place is refused");
    }
    Some(Concurrency { max: max?, queue, queue_timeout: queue_timeout.unwrap_or(QUEUE_TIMEOUT) })
}
