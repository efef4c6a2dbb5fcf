//! Within a request: what waits for too long is ended.

use super::alarm::Ring;
use super::answers::Ending;
use super::guard::{GuardedStream, Phase};
use super::socket::Socket;
use crate::clock;
use pingora_core::protocols::IO;
use std::io;
use std::task::{Context, Poll, ready};

impl GuardedStream {
    /// Fails once the upstream, or the client for its body, has been waited for too long.
    pub(super) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_sent = !matches!(&self.phase, Phase::Message { body, .. } if !body.is_done());
        let is_rated = self.bounds.min_body_rate.is_some();
        let alarm = self.alarm_mut();
        let overdue = alarm.due(is_sent, clock::now);
        let spent = (is_rated && !alarm.is_upstreams_turn(is_sent))
            .then(|| (alarm.pace.wait(clock::now), Ring::SlowClient));
        let due = match (overdue, spent) {
            (Some(overdue), Some(spent)) if spent.0 < overdue.0 => Some(spent),
            (overdue, spent) => overdue.or(spent),
        };
        let Some((due, ring)) = due else { return Poll::Pending };
        ready!(self.timer.poll(due, cx));
        self.ring_for(ring);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Takes note of bytes that came, of the head or the body.
    pub(super) fn note_read(&mut self, count: usize) {
        let rate = self.bounds.min_body_rate;
        let alarm = self.alarm_mut();
        alarm.read();
        if let Some(rate) = rate {
            alarm.pace.moved(count, rate, clock::now);
        }
    }

    /// Takes note of what came of writing, for the answer's reader as well; fails where the
    /// client has been waited for too long.
    pub(super) fn note_write(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(ends) = self.ends_mut() {
            ends.client.note_write(&written);
        }
        let rate = self.bounds.min_body_rate;
        let Poll::Ready(result) = &written else { return self.poll_reader(cx).map(Err) };
        let alarm = self.alarm_mut();
        alarm.written();
        if let (Ok(count), Some(rate)) = (result, rate) {
            alarm.pace.moved(*count, rate, clock::now);
        }
        written
    }

    /// Ready when the client has not read for too long.
    pub(super) fn poll_reader(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if *self.is_tunnel.get_mut() {
            // Pingora reads neither side meanwhile, so no bound on reading ends this.
            let due = self.alarm_mut().stuck(clock::now);
            ready!(self.timer.poll(due, cx));
            return Poll::Ready(self.give_up_reader());
        }
        let is_taken = *self.is_taken.get_mut();
        let Some(rate) = self.bounds.min_body_rate.filter(|_| is_taken) else {
            return Poll::Pending;
        };
        loop {
            let due = self.alarm_mut().pace.wait_for_reader(clock::now);
            ready!(self.timer.poll(due, cx));
            let acknowledged = self.socket().and_then(Socket::acknowledged);
            if self.alarm_mut().pace.look(clock::now(), acknowledged, rate) {
                continue;
            }
            self.ring_for(Ring::SlowClient);
            return Poll::Ready(self.give_up_reader());
        }
    }

    fn give_up_reader(&self) -> io::Error {
        if let Some(socket) = self.socket() {
            socket.forget_unsent();
        }
        io::ErrorKind::TimedOut.into()
    }

    fn ring_for(&mut self, ring: Ring) {
        let is_first = self.ring().is_none();
        self.alarm_mut().rang(ring);
        if is_first && ring == Ring::SlowClient {
            self.answers.ended(Ending::MinBodyRate);
        }
    }

    fn socket(&self) -> Option<&Socket> {
        IO::as_any(&*self.io).downcast_ref()
    }
}
