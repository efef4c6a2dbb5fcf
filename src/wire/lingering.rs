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
pub const MAX_LINGERING: usize = 1_024;

static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// How many connections linger or are being turned away, about. Each has its answer or is about
/// to get it, which a process that ends now could take back; none is for longer than 2 seconds.
pub fn open() -> usize {
    LINGERING.load(Ordering::Acquire).min(MAX_LINGERING)
}

/// A place among those that linger.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let place = Place;
        (LINGERING.fetch_add(1, Ordering::AcqRel) < MAX_LINGERING).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        LINGERING.fetch_sub(1, Ordering::AcqRel);
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
    let place = Place::take();
    let write = async {
        io.write_all(answer).await?;
        io.flush().await
    };
    if let (Ok(Ok(())), Some(place)) = (timeout(LINGER_TIME, write).await, place) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::socket::Socket;
    use std::net::Ipv4Addr;
    use tokio::net::{TcpListener, TcpStream};

    #[tokio::test]
    async fn those_that_linger_are_counted_until_their_client_is_done() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        close(Box::new(Socket::new(stream, peer)));
        assert!(open() > 0, "from the moment on");
        drop(client);
        let gone = async {
            while open() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(10), gone).await.expect("none in the end");
    }
}
