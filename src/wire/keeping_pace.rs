//! How a guarded connection keeps pace with its request's other end.

use super::guard::GuardedStream;
use super::pace::Ends;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, ReadBuf};

impl GuardedStream {
    /// From here on bodies are read as fast as the other end takes them.
    pub fn keep_pace(&self, ends: &Arc<Ends>) {
        ends.begin();
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner) = Some(ends.clone());
    }

    pub(super) fn ends_mut(&mut self) -> &mut Option<Arc<Ends>> {
        self.ends.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the alarm that the answer moves, and its reader whether it does.
    pub(super) fn note_write(&mut self, written: &Poll<io::Result<usize>>) {
        if let Some(ends) = self.ends_mut() {
            ends.client.note_write(written);
        }
        if written.is_ready() {
            self.alarm_mut().written();
        }
    }

    /// Tells the answer's reader whether it moves: behind this stream is a buffer, which takes a
    /// little where the connection takes nothing.
    pub(super) fn note_flush(&mut self, flushed: &Poll<io::Result<()>>) {
        if let Some(ends) = self.ends_mut() {
            ends.client.note_write(flushed);
        }
    }

    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let ends = self.ends.get_mut().unwrap_or_else(PoisonError::into_inner);
        match ends {
            Some(ends) => self.pace.poll_read(&mut self.io, &ends.upstream, cx, buf),
            None => Pin::new(&mut self.io).poll_read(cx, buf),
        }
    }
}
