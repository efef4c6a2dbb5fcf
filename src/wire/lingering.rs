//! Closing a connection under a client that is still sending.
//!
//! To close a socket with unread input resets the connection, and the reset may overtake
//! the answer that was just written. So the connection is closed for writing and read for
//! a little longer first.

use pingora_core::protocols::Stream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// How long, and for how many bytes, a client may go on sending before it is reset.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;
/// Connections that linger at once; beyond that they are reset.
const MAX_LINGERING: usize = 1_024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// A place among those that linger.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let place = Place;
        (LINGERING.fetch_add(1, Ordering::Relaxed) < MAX_LINGERING).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Closes `io` once its client has stopped sending, in the background; at once when too many
/// connections linger already or no runtime is left to do it.
pub(super) fn close(io: Stream) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if let Some(place) = Place::take() {
        runtime.spawn(linger(io, place));
    }
}

/// Answers a connection that is not served, and closes it likewise. Nothing was sent on it
/// yet, so the kernel takes the answer whether the client reads it or not.
pub(super) async fn answer(mut io: Stream, answer: &[u8]) {
    let write = async {
        io.write_all(answer).await?;
        io.flush().await
    };
    if let (Ok(Ok(())), Some(place)) = (timeout(LINGER_TIME, write).await, Place::take()) {
        linger(io, place).await;
    }
}

async fn linger(mut io: Stream, _place: Place) {
    let _ = timeout(LINGER_TIME, async {
        let _ = io.shutdown().await;
        tokio::io::copy(&mut (&mut io).take(LINGER_BYTES), &mut tokio::io::sink()).await
    })
    .await;
}
