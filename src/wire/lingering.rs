//! Closing a connection under a client that is still sending.
//!
//! To close a socket with unread input resets the connection, and the reset may overtake
//! the answer that was just written. So the connection is closed for writing and read for
//! a little longer first.

use pingora_core::protocols::Stream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// How long, and for how many bytes, a client may go on sending before it is reset.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 1 << 20;
/// Connections that linger at once; beyond that they are reset.
const MAX_LINGERING: usize = 1_024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Closes `io` once its client has stopped sending, in the background; at once when too many
/// connections linger already or no runtime is left to do it.
pub(super) fn close(io: Stream) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if LINGERING.fetch_add(1, Ordering::Relaxed) >= MAX_LINGERING {
        LINGERING.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    runtime.spawn(linger(io));
}

async fn linger(mut io: Stream) {
    let _ = tokio::time::timeout(LINGER_TIME, async {
        io.shutdown().await;
        tokio::io::copy(&mut (&mut io).take(LINGER_BYTES), &mut tokio::io::sink()).await
    })
    .await;
    LINGERING.fetch_sub(1, Ordering::Relaxed);
}
