//! Takes connections from listening sockets.
//!
//! Pingora's own loop logs every failure to accept, and pauses for one kind of shortage
//! only; for the others it would spin, since the kernel keeps saying that somebody waits.

use super::socket::Socket;
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::server::{ListenFds, ShutdownWatch};
use pingora_core::services::Service;
use socket2::SockRef;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How long nothing is accepted when that failed for want of something. Connections wait in
/// the kernel meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// What the kernel keeps for a connection beyond what it has sent. Answers that fit need one
/// wait for the client at most; many slow readers of large ones cost this each.
const UNSENT_BYTES: u32 = 128 << 10;

/// Told of each failure to accept a connection, for want of descriptors or memory.
pub type OnFailure = Arc<dyn Fn(&io::Error) + Send + Sync>;

/// Listeners and what serves their connections, as a service of Pingora.
pub struct Listening<A> {
    name: &'static str,
    app: Arc<A>,
    threads: usize,
    listeners: Vec<(String, TcpListener)>,
    on_failure: OnFailure,
    /// Turns true when connections are taken.
    started: watch::Sender<bool>,
}

impl<A> Listening<A> {
    /// Serves what `listeners`, each with its address, accept.
    pub fn new(
        name: &'static str,
        app: A,
        threads: usize,
        listeners: Vec<(String, TcpListener)>,
        on_failure: OnFailure,
    ) -> Listening<A> {
        let (app, started) = (Arc::new(app), watch::channel(false).0);
        Listening { name, app, threads, listeners, on_failure, started }
    }

    /// Turns true when connections are taken.
    pub fn started(&self) -> watch::Receiver<bool> {
        self.started.subscribe()
    }
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> Service for Listening<A> {
    async fn start_service(
        &mut self,
        _fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        _listeners_per_fd: usize,
    ) {
        let mut accepting = JoinSet::new();
        for (address, listener) in self.listeners.drain(..) {
            match prepare(listener) {
                Ok(listener) => {
                    let (app, on_failure) = (self.app.clone(), self.on_failure.clone());
                    accepting.spawn(accept_all(listener, app, shutdown.clone(), on_failure));
                }
                Err(error) => log::error!("{address} cannot be served: {error}"),
            }
        }
        self.started.send_replace(true);
        while accepting.join_next().await.is_some() {}
        self.app.cleanup().await;
    }

    fn name(&self) -> &str {
        self.name
    }

    fn threads(&self) -> Option<usize> {
        Some(self.threads)
    }
}

/// Sets on the listener what its connections inherit, which spares a system call for each.
fn prepare(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(&listener);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT_BYTES)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn accept_all<A: ServerApp + Send + Sync + 'static>(
    listener: tokio::net::TcpListener,
    app: Arc<A>,
    mut shutdown: ShutdownWatch,
    on_failure: OnFailure,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = shutdown.wait_for(|stops| *stops) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (app, shutdown) = (app.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let socket = Box::new(Socket::new(stream, peer));
                    // What an application gives back is for more of the same.
                    let mut next = app.process_new(socket, &shutdown).await;
                    while let Some(stream) = next {
                        next = app.process_new(stream, &shutdown).await;
                    }
                });
            }
            Err(error) if is_one_connections(&error) => {}
            Err(error) => {
                on_failure(&error);
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    _ = shutdown.wait_for(|stops| *stops) => return,
                }
            }
        }
    }
}

/// Whether only the connection that was to be accepted is lost, so that the next may be fine.
fn is_one_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[tokio::test]
    async fn a_connection_inherits_what_its_listener_was_given() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listener = prepare(listener).unwrap();
        let address = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        assert!(stream.nodelay().unwrap());
        assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), UNSENT_BYTES);
    }

    #[test]
    fn a_shortage_is_nobodys_own() {
        for errno in [24, 23, 105, 12, 1] {
            assert!(!is_one_connections(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
        for errno in [103, 104, 4] {
            assert!(is_one_connections(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
    }
}
