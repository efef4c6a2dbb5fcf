//! Connections to upstreams that wait for their next request.
//!
//! Pingora's own pool watches each connection with a task, made when the connection comes back
//! and ended when it is used again; and it asks the kernel each time whether a connection leads
//! where it should. That made a forwarded request a twelfth dearer (docs/ARCHITECTURE.md). Here
//! a connection is looked at when it is taken again, and about once a second until then, so
//! that none stays open for long that its upstream has closed.

use super::connector::Line;
use std::collections::VecDeque;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Connections that are kept for one server; then the one that has waited longest goes.
pub const MAX_IDLE: usize = 512;
/// Parts with a lock each, so that servers seldom wait for one another.
const PARTS: usize = 16;

/// The connections. Each belongs to a key, which stands for a server.
#[derive(Default)]
pub struct Pool {
    parts: [Mutex<Part>; PARTS],
}

/// Few servers, in no order.
type Part = Vec<Shelf>;

/// What waits for one server, the most recently used last.
struct Shelf {
    key: u64,
    lines: VecDeque<Idle>,
}

struct Idle {
    line: Line,
    /// When it has waited long enough.
    until: Option<Instant>,
}

impl Idle {
    /// Whether a request may go over it at `now`.
    fn is_fit(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until) && self.line.is_quiet()
    }
}

impl Pool {
    /// Lays a connection aside that nothing is expected from, for as long as `patience`.
    pub(super) fn put(&self, key: u64, line: Line, patience: Option<Duration>, now: Instant) {
        let idle = Idle { line, until: patience.and_then(|patience| now.checked_add(patience)) };
        let mut part = self.part(key);
        let Some(Shelf { lines, .. }) = part.iter_mut().find(|shelf| shelf.key == key) else {
            part.push(Shelf { key, lines: VecDeque::from([idle]) });
            return;
        };
        lines.push_back(idle);
        let surplus = if lines.len() > MAX_IDLE { lines.pop_front() } else { None };
        // Not closed under the lock.
        drop(part);
        drop(surplus);
    }

    /// The connection to this server that was used last, if one is fit for another request.
    pub(super) fn take(&self, key: u64, now: Instant) -> Option<Line> {
        loop {
            let idle = {
                let mut part = self.part(key);
                part.iter_mut().find(|shelf| shelf.key == key)?.lines.pop_back()?
            };
            if idle.is_fit(now) {
                return Some(idle.line);
            }
        }
    }

    /// Closes what has waited for too long, and what its upstream has closed. It looks at each
    /// connection once, a part at a time.
    pub fn sweep(&self, now: Instant) {
        for part in &self.parts {
            let mut unfit = Vec::new();
            let mut part = lock(part);
            for shelf in &mut *part {
                for idle in mem::take(&mut shelf.lines) {
                    match idle.is_fit(now) {
                        true => shelf.lines.push_back(idle),
                        false => unfit.push(idle),
                    }
                }
            }
            part.retain(|shelf| !shelf.lines.is_empty());
            // Not closed under the lock.
            drop(part);
            drop(unfit);
        }
    }

    fn part(&self, key: u64) -> MutexGuard<'_, Part> {
        lock(&self.parts[key as usize % PARTS])
    }
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::connector::UpstreamConnector;
    use super::*;
    use crate::clock;
    use crate::wire::socket::Socket;
    use pingora_core::connectors::http::Connector;
    use pingora_core::protocols::ALPN;
    use pingora_core::protocols::tls::CustomALPN;
    use pingora_core::upstreams::peer::HttpPeer;
    use pingora_http::RequestHeader;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const SECOND: Duration = Duration::from_secs(1);

    async fn line() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = Socket::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Line::new(near).unwrap(), far)
    }

    /// Until the runtime has heard of what came, or of an end; a byte of it is read.
    async fn heard(pool: &Pool, key: u64) {
        let is_quiet = || pool.part(key).iter().flat_map(|s| &s.lines).all(|i| i.line.is_quiet());
        while is_quiet() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_connection_that_was_used_last_is_taken_first_and_each_once() {
        let (pool, now) = (Pool::default(), clock::now());
        let (first, mut far_first) = line().await;
        let (second, _far_second) = line().await;
        pool.put(1, first, None, now);
        pool.put(1, second, None, now);
        assert!(pool.take(2, now).is_none());
        // By this the first one is told from the other.
        far_first.write_all(b"xyz").await.unwrap();
        heard(&pool, 1).await;
        assert!(pool.take(1, now).is_some());
        assert!(pool.take(1, now).is_none(), "nothing is expected from the first");
    }

    #[tokio::test]
    async fn one_that_has_waited_for_its_time_or_has_ended_is_not_taken() {
        let (pool, now) = (Pool::default(), clock::now());
        let (kept, _far) = line().await;
        let (ended, far) = line().await;
        drop(far);
        pool.put(1, kept, Some(SECOND), now);
        pool.put(1, ended, Some(SECOND), now);
        heard(&pool, 1).await;
        assert!(pool.take(1, now + SECOND / 2).is_some(), "the one that is open");
        assert!(pool.take(1, now).is_none(), "it has ended");
        let (late, _far) = line().await;
        pool.put(1, late, Some(SECOND), now);
        assert!(pool.take(1, now + SECOND).is_none());
    }

    #[tokio::test]
    async fn a_sweep_closes_what_nobody_will_take() {
        let (pool, now) = (Pool::default(), clock::now());
        let (late, mut far_late) = line().await;
        let (ended, far) = line().await;
        let (fit, _far_fit) = line().await;
        drop(far);
        pool.put(1, late, Some(SECOND), now);
        pool.put(1, ended, None, now);
        pool.put(17, fit, None, now);
        heard(&pool, 1).await;
        pool.sweep(now + SECOND);
        assert_eq!(far_late.read(&mut [0]).await.unwrap(), 0, "it is closed");
        assert!(pool.part(1).iter().all(|shelf| shelf.key != 1));
        assert!(pool.take(17, now + SECOND).is_some());
    }

    #[tokio::test]
    async fn beyond_the_most_that_are_kept_the_one_that_has_waited_longest_goes() {
        let (pool, now) = (Pool::default(), clock::now());
        let mut others = Vec::new();
        for _ in 0..=MAX_IDLE {
            let (line, far) = line().await;
            pool.put(1, line, None, now);
            others.push(far);
        }
        assert_eq!(others[0].read(&mut [0]).await.unwrap(), 0, "the first is closed");
        assert_eq!((0..=MAX_IDLE).filter(|_| pool.take(1, now).is_some()).count(), MAX_IDLE);
    }

    /// Answers requests that come in one piece.
    async fn answering() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    while stream.read(&mut [0; 1_024]).await.is_ok_and(|count| count > 0) {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        stream.write_all(answer).await.unwrap();
                    }
                });
            }
        });
        address
    }

    /// By a question of Pingora's that is no part of its interface.
    #[tokio::test]
    async fn pingora_lets_go_of_connections_that_then_wait_here() {
        let pool = Arc::new(Pool::default());
        let pingora = Connector::new_custom(None, UpstreamConnector::new(pool.clone()));
        let mut peer = HttpPeer::new(answering().await, false, String::new());
        peer.options.alpn = ALPN::Custom(CustomALPN::new("ours".into()));
        for _ in 0..3 {
            let (mut session, _) = pingora.get_http_session(&peer).await.unwrap();
            let request = RequestHeader::build("GET", b"/", None).unwrap();
            session.write_request_header(Box::new(request)).await.unwrap();
            session.read_response_header().await.unwrap();
            while session.read_response_body().await.unwrap().is_some() {}
            pingora.release_http_session(session, &peer, None).await;
            assert_eq!(pool.part(peer.group_key).iter().map(|s| s.lines.len()).sum::<usize>(), 1);
        }
    }
}
