//! What ends a request's wait for its upstream.
//!
//! Pingora can bound single reads from an upstream, and that bound starts anew with every
//! byte; nothing in it bounds an attempt or a request. But while it waits for an upstream it
//! keeps reading from the client, to notice when that goes away. So the time-out lives on
//! this side: when it is due, the client's connection reads as failed, Pingora gives up the
//! attempt, and the proxy, which can tell the alarm from a client that left, answers or
//! tries again. One timer a connection serves all its requests, and it is only moved when it
//! would ring too late.

use crate::clock;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::time::{Sleep, sleep_until};

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
}

/// A timer for the request under way.
#[derive(Default)]
pub(super) struct Alarm {
    patience: Patience,
    /// When the silence becomes too long.
    silent_until: Option<Instant>,
    /// Something moved since `silent_until` was reckoned.
    has_moved: bool,
    ring: Option<Ring>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Starts over with other bounds.
    pub(super) fn set(&mut self, patience: Patience) {
        self.patience = patience;
        self.has_moved = true;
        self.ring = None;
    }

    /// More of the request's body has come: silence is the client's until it is whole.
    pub(super) fn read(&mut self) {
        self.has_moved = true;
        self.patience.awaits_continue = false;
    }

    /// More of the answer has gone out: the silence begins anew.
    pub(super) fn written(&mut self) {
        self.has_moved = true;
    }

    /// Why it ended the wait, if it did since it was set.
    pub(super) fn ring(&self) -> Option<Ring> {
        self.ring
    }

    /// Ready when the wait has been too long. `is_sent`: the request has come whole, so that
    /// silence is the upstream's.
    pub(super) fn poll(&mut self, is_sent: bool, cx: &mut Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.has_moved) {
            self.silent_until = self.patience.silence.map(|silence| clock::now() + silence);
        }
        let is_upstreams_turn = is_sent || self.patience.awaits_continue;
        let silent_until = self.silent_until.filter(|_| is_upstreams_turn);
        let Some(due) = earlier(silent_until, self.patience.until) else { return Poll::Pending };
        loop {
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due.into())));
            if timer.deadline() > due.into() {
                timer.as_mut().reset(due.into());
            }
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= due.into() {
                self.ring = Some(match (silent_until == Some(due), is_upstreams_turn) {
                    (true, _) => Ring::Silence,
                    (false, true) => Ring::Overdue,
                    (false, false) => Ring::OverdueByClient,
                });
                return Poll::Ready(());
            }
            // It was set for an earlier moment, which has passed without meaning.
            timer.as_mut().reset(due.into());
        }
    }
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}
