//! How long a request waits for its client.
//!
//! A rate over time would blame a client for the pauses of its upstream, and a time-out for
//! each read would let one byte a minute pass. So a request has a budget of waiting instead:
//! it is spent only while the client is waited for, in whichever direction, and every byte
//! that moves gives some of it back. No clock is read here; whoever asks tells the time.

use std::time::{Duration, Instant};

/// The waiting that a request may spend before a byte has moved.
pub const GRACE: Duration = Duration::from_secs(10);
/// The bytes whose worth may be saved up beyond that. More would let a client that was fast
/// once be silent for long.
const SAVED_BYTES: u64 = 16 << 10;
/// How often a write that waits asks the kernel what the client has taken.
const LOOK: Duration = Duration::from_secs(1);

/// The slowest that bytes may move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRate {
    /// What moving 1 KiB gives back. A byte's worth would round to nothing at high rates.
    ns_per_kib: u64,
}

impl MinRate {
    /// A rate in bytes per second, up to 1 GiB; none for 0.
    pub fn of(bytes_per_second: u64) -> Option<MinRate> {
        let ns_per_kib = (1_024 * 1_000_000_000_u64).checked_div(bytes_per_second)?;
        Some(MinRate { ns_per_kib })
    }

    fn worth_ns(self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.ns_per_kib) >> 10
    }
}

/// The waiting that is left to one request.
#[derive(Debug)]
pub(super) struct Pace {
    left_ns: u64,
    /// Since when the client is waited for.
    since: Option<Instant>,
    /// When the kernel is asked next, while a write waits.
    look_at: Option<Instant>,
    /// What the client had acknowledged when it was asked last.
    acked: Option<u64>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace::new()
    }
}

impl Pace {
    /// A request at its beginning.
    pub(super) fn new() -> Pace {
        Pace { left_ns: GRACE.as_nanos() as u64, since: None, look_at: None, acked: None }
    }

    /// The client is waited for. Returns when nothing will be left.
    pub(super) fn wait(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        let since = *self.since.get_or_insert_with(now);
        since + Duration::from_nanos(self.left_ns)
    }

    /// The client is waited for to read. Returns when to [`look`](Pace::look).
    pub(super) fn wait_for_reader(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        let spent = self.wait(now);
        let look_at = self.look_at.or_else(|| self.since.map(|since| since + LOOK));
        self.look_at = look_at;
        look_at.map_or(spent, |look_at| look_at.min(spent))
    }

    /// Takes note of what the client has acknowledged by now in all; `false` when nothing is
    /// left. The kernel wakes a writer only when a good part of its buffer is free, which at
    /// a low rate is later than a slow but steady reader should be given up.
    pub(super) fn look(&mut self, now: Instant, acked: Option<u64>, rate: MinRate) -> bool {
        self.settle(now);
        self.since = Some(now);
        self.look_at = Some(now + LOOK);
        if let (Some(before), Some(acked)) = (self.acked, acked) {
            self.earn(acked.saturating_sub(before), rate);
        }
        self.acked = acked;
        self.left_ns > 0
    }

    /// Nobody is waited for any more, although nothing moved.
    pub(super) fn rest(&mut self) {
        (self.since, self.look_at) = (None, None);
    }

    /// Bytes moved. `now` is asked only when they were waited for.
    pub(super) fn moved(&mut self, bytes: usize, rate: MinRate, now: impl FnOnce() -> Instant) {
        if self.since.is_some() {
            self.settle(now());
            self.acked = None;
        }
        if bytes > 0 {
            self.earn(bytes as u64, rate);
        }
    }

    fn settle(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            let waited = now.saturating_duration_since(since).as_nanos();
            self.left_ns = self.left_ns.saturating_sub(u64::try_from(waited).unwrap_or(u64::MAX));
        }
        self.look_at = None;
    }

    fn earn(&mut self, bytes: u64, rate: MinRate) {
        let most = GRACE.as_nanos() as u64 + rate.worth_ns(SAVED_BYTES);
        self.left_ns = self.left_ns.saturating_add(rate.worth_ns(bytes)).min(most);
    }
}
