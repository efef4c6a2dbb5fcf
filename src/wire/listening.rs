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
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

/// How long nothing is accepted when that failed for want of something. Connections wait in
/// the kernel meanwhile.
const PAUSE: Duration = Duration::from_millis(100);
/// What the kernel keeps for a connection beyond what it has sent. Answers that fit need one
/// wait for the client at most; many slow readers of large ones cost this each.
const UNSENT_BYTES: u32 = 128 << 10;
/// Connections that are still taken from a kernel's queue when the service stops: as many as
/// may wait in one.
const MAX_QUEUED: usize = 65_535;
/// So many of them in a row, before other tasks have their turn.
const QUEUED_AT_ONCE: usize = 64;

/// Told of each failure to accept a connection, for want of descriptors or memory.
pub type OnFailure = Arc<dyn Fn(&io::Error) + Send + Sync>;

/// What became of the start of a service: nothing yet, connections are taken, or why they
/// cannot be.
pub type Started = Option<Result<(), String>>;

/// Waits for what becomes of it.
///
/// # Errors
/// Why no connection can be taken.
pub async fn until_started(started: &mut watch::Receiver<Started>) -> Result<(), String> {
    // The sender ends only with the service itself.
    let started = started.wait_for(Option::is_some).await;
    started.ok().and_then(|started| started.clone()).unwrap_or(Ok(()))
}

/// Listeners and what serves their connections, as a service of Pingora.
pub struct Listening<A> {
    name: &'static str,
    app: Arc<A>,
    threads: usize,
    listeners: Vec<(String, TcpListener)>,
    on_failure: OnFailure,
    started: watch::Sender<Started>,
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
        let (app, started) = (Arc::new(app), watch::channel(None).0);
        Listening { name, app, threads, listeners, on_failure, started }
    }

    /// What becomes of the start; see [`until_started`].
    pub fn started(&self) -> watch::Receiver<Started> {
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
        let prepared = self.listeners.drain(..).map(|(address, listener)| {
            prepare(listener).map_err(|error| format!("{address} cannot be served: {error}"))
        });
        let listeners: Vec<_> = match prepared.collect() {
            Ok(listeners) => listeners,
            Err(why) => {
                log::error!("{why}");
                self.started.send_replace(Some(Err(why)));
                return;
            }
        };
        let mut accepting = JoinSet::new();
        for listener in listeners {
            let (app, on_failure) = (self.app.clone(), self.on_failure.clone());
            accepting.spawn(accept_all(listener, app, shutdown.clone(), on_failure));
        }
        self.started.send_replace(Some(Ok(())));
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

/// Sets on the listener what its connections inherit, which spares a system call for each. They
/// are served without it where a sandbox's kernel does not know it.
fn prepare(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(&listener);
    for (option, set) in [
        ("TCP_NODELAY", socket.set_tcp_nodelay(true)),
        ("TCP_NOTSENT_LOWAT", socket.set_tcp_notsent_lowat(UNSENT_BYTES)),
    ] {
        if let Err(error) = set {
            log::warn!("the system does not take {option}: {error}");
        }
    }
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
            _ = shutdown.wait_for(|stops| *stops) => break,
        };
        match accepted {
            Ok((stream, peer)) => serve(stream, peer, &app, &shutdown),
            Err(error) if is_one_connections(&error) => {}
            Err(error) => {
                on_failure(&error);
                tokio::select! {
                    () = sleep(PAUSE) => {}
                    _ = shutdown.wait_for(|stops| *stops) => break,
                }
            }
        }
    }
    if let Err(error) = accept_queued(listener, &app, &shutdown).await {
        on_failure(&error);
    }
}

/// Takes the connections that the kernel has made already: closing the listener would reset
/// them, their requests with them. Where another process has the listener as well, this one
/// does some more of the work.
async fn accept_queued<A: ServerApp + Send + Sync + 'static>(
    listener: tokio::net::TcpListener,
    app: &Arc<A>,
    shutdown: &ShutdownWatch,
) -> io::Result<()> {
    // The runtime may not have heard of them yet, so the kernel is asked itself.
    let listener = listener.into_std()?;
    for count in 1..=MAX_QUEUED {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(true)?;
                serve(TcpStream::from_std(stream)?, peer, app, shutdown);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if is_one_connections(&error) => {}
            Err(error) => return Err(error),
        }
        if count.is_multiple_of(QUEUED_AT_ONCE) {
            yield_now().await;
        }
    }
    Ok(())
}

fn serve<A: ServerApp + Send + Sync + 'static>(
    stream: TcpStream,
    peer: SocketAddr,
    app: &Arc<A>,
    shutdown: &ShutdownWatch,
) {
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
    use pingora_core::protocols::Stream;
    use std::net::Ipv4Addr;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts connections and closes them.
    #[derive(Default)]
    struct Turnstile(AtomicUsize);

    #[async_trait]
    impl ServerApp for Turnstile {
        async fn process_new(self: &Arc<Self>, _: Stream, _: &ShutdownWatch) -> Option<Stream> {
            self.0.fetch_add(1, Ordering::Relaxed);
            None
        }
    }

    fn service(listeners: Vec<TcpListener>) -> Listening<Turnstile> {
        let listeners = listeners.into_iter().map(|listener| ("here".to_owned(), listener));
        let on_failure: OnFailure = Arc::new(|error| panic!("{error}"));
        Listening::new("test", Turnstile::default(), 1, listeners.collect(), on_failure)
    }

    fn listener() -> TcpListener {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
    }

    #[tokio::test]
    async fn connections_that_wait_when_the_service_stops_are_still_taken() {
        let listener = listener();
        let address = listener.local_addr().unwrap();
        // All of them fit into the queue that the standard library asks for.
        let connect = |_| std::net::TcpStream::connect(address).unwrap();
        let _clients: Vec<_> = (0..100).map(connect).collect();
        let mut service = service(vec![listener]);
        let stopped = watch::channel(true).1;
        service.start_service(None, stopped, 1).await;
        let app = service.app.clone();
        let all = async {
            while app.0.load(Ordering::Relaxed) < 100 {
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("all of them");
    }

    #[tokio::test]
    async fn a_listener_that_cannot_be_served_fails_the_start() {
        let no_socket = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let mut service = service(vec![listener(), TcpListener::from(no_socket)]);
        let mut started = service.started();
        service.start_service(None, watch::channel(true).1, 1).await;
        let why = until_started(&mut started).await.unwrap_err();
        assert!(why.starts_with("here cannot be served: "), "{why}");
        assert_eq!(service.app.0.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_start_that_succeeds_says_so() {
        let mut service = service(vec![listener()]);
        let mut started = service.started();
        service.start_service(None, watch::channel(true).1, 1).await;
        assert_eq!(until_started(&mut started).await, Ok(()));
    }

    #[tokio::test]
    async fn a_kernel_that_does_not_know_an_option_is_served_all_the_same() {
        // Such an option does not belong to a socket of this kind.
        let path = tempfile::tempdir().unwrap();
        let socket = std::os::unix::net::UnixListener::bind(path.path().join("socket")).unwrap();
        prepare(TcpListener::from(OwnedFd::from(socket))).unwrap();
    }

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
