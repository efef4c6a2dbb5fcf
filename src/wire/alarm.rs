//! What ends a request's wait for its upstream.
//!
//! Pingora can bound single reads from an upstream, and that bound starts anew with every
//! byte; nothing in it bounds an attempt or a request. But while it waits for an upstream it
//! keeps reading from the client, to notice when that goes away. So the time-out lives on
//! this side: when it is due, the client's connection reads as failed, Pingora gives up the
//! attempt, and the proxy, which can tell the alarm from a client that left, answers or
//! tries again.

use super::pace::Pace;
use std::time::{Duration, Instant};

/// How long either side of an upgraded connection may be silent, or not read.
pub const UPGRADED_IDLE: Duration = Duration::from_secs(3_600);

/// What an attempt may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Patience {
    /// The longest silence of the upstream; the client's, while its body is on the way, does
    /// not count.
    pub silence: Option<Duration>,
    /// When it must be over, whoever is slow.
    pub until: Option<Instant>,
    /// The client sends its body only after the upstream said `100 Continue`, so silence
    /// before that is the upstream's.
    pub awaits_continue: bool,
}

/// What was too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// The upstream's silence.
    Silence,
    /// The whole of it, while the upstream had the whole request.
    Overdue,
    /// The whole of it, while the client had not sent its body yet.
    OverdueByClient,
    /// The client neither sent nor read as fast as it must.
    SlowClient,
}

/// The bounds of the request under way. The connection's timer rings for it.
#[derive(Default)]
pub(super) struct Alarm {
    patience: Patience,
    /// When the silence becomes too long.
    silent_until: Option<Instant>,
    /// Something moved since `silent_until` was reckoned.
    has_moved: bool,
    ring: Option<Ring>,
    /// The waiting for the client that the request may spend.
    pub(super) pace: Pace,
    /// Since when an upgraded connection's client takes nothing.
    stuck_since: Option<Instant>,
}

impl Alarm {
    /// Starts over with other bounds.
    pub(super) fn set(&mut self, patience: Patience) {
        self.patience = patience;
        self.has_moved = true;
        self.ring = None;
        self.pace.rest();
    }

    /// More of the request's body has come: silence is the client's until it is whole.
    pub(super) fn read(&mut self) {
        self.has_moved = true;
        self.patience.awaits_continue = false;
    }

    /// More of the answer has gone out: the silence begins anew. The first of it is the
    /// upstream's word on whether it wants the body, so the client waits for nothing more.
    pub(super) fn written(&mut self) {
        self.has_moved = true;
        self.patience.awaits_continue = false;
        self.stuck_since = None;
    }

    /// The client of an upgraded connection takes nothing. Returns when that has been too long.
    pub(super) fn stuck(&mut self, now: impl FnOnce() -> Instant) -> Instant {
        *self.stuck_since.get_or_insert_with(now) + UPGRADED_IDLE
    }

    /// Why it ended the wait, if it did since it was set.
    pub(super) fn ring(&self) -> Option<Ring> {
        self.ring
    }

    /// The wait was ended.
    pub(super) fn rang(&mut self, ring: Ring) {
        self.ring = Some(ring);
    }

    /// Whether silence is the upstream's. `is_sent`: the request has come whole.
    pub(super) fn is_upstreams_turn(&self, is_sent: bool) -> bool {
        is_sent || self.patience.awaits_continue
    }

    /// When the wait has been too long, and what is too long then.
    pub(super) fn due(
        &mut self,
        is_sent: bool,
        now: impl FnOnce() -> Instant,
    ) -> Option<(Instant, Ring)> {
        if std::mem::take(&mut self.has_moved) {
            self.silent_until = self.patience.silence.map(|silence| now() + silence);
        }
        let is_upstreams_turn = self.is_upstreams_turn(is_sent);
        let silence = self.silent_until.filter(|_| is_upstreams_turn);
        let silence = silence.map(|until| (until, Ring::Silence));
        let ring = if is_upstreams_turn { Ring::Overdue } else { Ring::OverdueByClient };
        let overdue = self.patience.until.map(|until| (until, ring));
        match (silence, overdue) {
            (Some(silence), Some(overdue)) if overdue.0 < silence.0 => Some(overdue),
            (silence, overdue) => silence.or(overdue),
        }
    }
}
