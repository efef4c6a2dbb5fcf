//! Pingora's proxy over connections to upstreams of our own making.
//!
//! A proxy with a connector of one's own comes inside a service of Pingora's, which hands it out
//! to nobody but the function that serves connections of the application's own protocol. What
//! serves here is another service, with an accept loop of ours (`wire::listening`); so before
//! anything else the first one is run until it has accepted one connection, from this process
//! itself, and is then thrown away. Whoever connects, nothing is read or written.

use crate::proxy::Proxy;
use crate::proxy::connector::UpstreamConnector;
use crate::proxy::pool::Pool;
use anyhow::{Context, bail};
use pingora::server::configuration::ServerConf;
use pingora_core::apps::HttpServerOptions;
use pingora_core::server::Fds;
use pingora_core::services::Service;
use pingora_proxy::{HttpProxy, ProcessCustomSession, ProxyServiceBuilder};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// The proxy of the data path.
pub(super) type DataProxy = HttpProxy<Proxy, UpstreamConnector>;

/// A connection within the machine takes no time; this is for one that stands still.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the proxy, whose connections to upstreams wait in `pool`. It takes a moment on this
/// thread, and nothing of it goes on.
///
/// # Errors
/// When no socket can be opened on the loopback address.
pub(super) fn build(
    conf: &Arc<ServerConf>,
    proxy: Proxy,
    pool: Arc<Pool>,
) -> anyhow::Result<Arc<DataProxy>> {
    let (hand_out, mut handed_out) = mpsc::channel(1);
    let serve: ProcessCustomSession<Proxy, UpstreamConnector> = Arc::new(move |proxy, _, _| {
        // One is enough, and there are more only if others connect.
        let _ = hand_out.try_send(proxy);
        Box::pin(std::future::ready(None))
    });
    let mut options = HttpServerOptions::default();
    options.force_custom = true;
    let mut service = ProxyServiceBuilder::new(conf, proxy)
        .custom(UpstreamConnector::new(pool), serve)
        .server_options(options)
        .build();
    let context = "the proxy cannot be set up on the loopback address";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(context)?;
    listener.set_nonblocking(true).context(context)?;
    let address = listener.local_addr().context(context)?;
    let _client = TcpStream::connect(address).context(context)?;
    service.add_tcp(&address.to_string());
    let mut sockets = Fds::new();
    // From here on it is the service's to close.
    sockets.add(address.to_string(), listener.into_raw_fd());
    let (_never_stops, shutdown) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let sockets = Arc::new(sockets.into());
        tokio::select! {
            Some(proxy) = handed_out.recv() => Ok(proxy),
            () = service.start_service(Some(sockets), shutdown, 1) => bail!(context),
            () = sleep(PATIENCE) => bail!(context),
        }
    })
}
