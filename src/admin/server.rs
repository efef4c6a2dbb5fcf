//! The admin listener: HTTP/1.1 with a bound on everything a client can hold.

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

/// Connections served at a time; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 256;
/// The largest request head in bytes.
const MAX_HEAD: usize = 32 << 10;
/// A pause when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long a client may take for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For a request's head to arrive, and between the requests of a connection.
    pub(super) head: Duration,
    /// After this a connection ends with the answer it is about to get. Nothing else bounds
    /// a client that reads its answers slowly.
    pub(super) age: Duration,
    /// For a request that is on its way when the listener is told to end: closing a connection
    /// that was just accepted would lose it.
    pub(super) late: Duration,
    /// For a connection that was told to end.
    pub(super) close: Duration,
    /// How long what a client still sends is thrown away after the last answer. Closing with
    /// unread bytes would reset the connection, and the answer could be lost with it.
    pub(super) linger: Duration,
}

/// What [`serve`] allows.
pub(super) const PATIENCE: Patience = Patience {
    head: Duration::from_secs(10),
    age: Duration::from_secs(60),
    late: Duration::from_millis(50),
    close: Duration::from_secs(5),
    linger: Duration::from_secs(2),
};

/// Serves the admin API until `shutdown` turns true (or its sender is gone), then ends as
/// soon as the requests in flight are answered, after 5 seconds at the latest.
///
/// # Errors
/// When the listener cannot be used by the runtime.
pub async fn serve(
    listener: std::net::TcpListener,
    router: Router,
    shutdown: watch::Receiver<bool>,
) -> io::Result<()> {
    serve_patiently(listener, router, shutdown, PATIENCE).await
}

/// [`serve`] with other bounds than the usual ones.
pub(super) async fn serve_patiently(
    listener: std::net::TcpListener,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
    patience: Patience,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = told(&mut shutdown) => break,
            accepted = accept(&listener, &permits) => {
                if let Some((stream, permit)) = accepted {
                    let (router, shutdown) = (router.clone(), shutdown.clone());
                    connections.spawn(async move {
                        connection(stream, router, shutdown, patience).await;
                        drop(permit);
                    });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn told(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|told| *told).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            log::debug!("the admin listener could not accept: {error}");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    router: Router,
    mut shutdown: watch::Receiver<bool>,
    patience: Patience,
) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        Box::pin(router.clone().oneshot(request.map(Body::new)))
    });
    let mut http = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        ended = poll_fn(|cx| http.poll_without_shutdown(cx)) => Some(ended),
        () = told(&mut shutdown) => {
            let late = timeout(patience.late, poll_fn(|cx| http.poll_without_shutdown(cx)));
            late.await.ok()
        }
        () = sleep(patience.age) => None,
    };
    match ended {
        Some(Ok(())) => linger(http.into_parts().io.into_inner(), patience.linger).await,
        Some(Err(error)) => log::debug!("an admin connection ended: {error}"),
        None => {
            Pin::new(&mut http).graceful_shutdown();
            // Late or broken, the connection is dropped.
            let _ = timeout(patience.close, poll_fn(|cx| Pin::new(&mut http).poll(cx))).await;
        }
    }
}

async fn linger(mut stream: TcpStream, linger: Duration) {
    let mut discarded = [0; 4096];
    let drain = async {
        stream.shutdown().await?;
        while stream.read(&mut discarded).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(linger, drain).await;
}
