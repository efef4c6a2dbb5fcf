//! The supervisor's watchdog, fed only while the data path answers.
//!
//! A timer of its own would feed it even while every worker hangs. So each time a request goes
//! through the data port, over a connection like any client's, to a path only this process
//! knows; any answer will do, also one that says the gateway is full or drains.

use super::systemd;
use crate::gateway::Gateway;
use crate::lifecycle::Stage;
use async_trait::async_trait;
use pingora::server::ShutdownWatch;
use pingora_core::services::background::BackgroundService;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How many times within the supervisor's patience it is fed; one may be lost.
const FEEDS: u32 = 3;

/// Feeds the watchdog, as a service with a thread of its own.
pub(super) struct Watchdog {
    gateway: Arc<Gateway>,
    /// How long the supervisor waits.
    patience: Duration,
    /// The data port.
    address: SocketAddr,
    /// Where the request goes.
    path: String,
}

impl Watchdog {
    /// For the listener at `address`; none where nobody watches.
    pub(super) fn wanted(
        gateway: &Arc<Gateway>,
        address: Option<SocketAddr>,
    ) -> io::Result<Option<Watchdog>> {
        let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero());
        let (Some(patience), Some(address)) = (patience, address) else { return Ok(None) };
        let secret = getrandom::u64().map_err(io::Error::from)?;
        let path = format!("/.tollgate-watchdog-{secret:016x}");
        let gateway = gateway.clone();
        Ok(Some(Watchdog { gateway, patience, address: reachable(address), path }))
    }

    /// The path that must be answered outside of limits and logs.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    async fn ask(&self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address).await?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.path, self.address
        );
        stream.write_all(request.as_bytes()).await?;
        let mut beginning = [0; 7];
        stream.read_exact(&mut beginning).await?;
        if &beginning == b"HTTP/1." { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

#[async_trait]
impl BackgroundService for Watchdog {
    /// A gateway that drains is watched as well, but takes no connections any more; its end
    /// is bounded by the grace period instead.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let step = self.patience / FEEDS;
        let mut ticks = interval(step);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.gateway.lifecycle.stage() {
                // Until its predecessor has named it, nobody listens to a successor.
                Stage::Starting => continue,
                Stage::Draining => {
                    systemd::alive();
                    continue;
                }
                Stage::Ready => {}
            }
            match timeout(step, self.ask()).await {
                Ok(Ok(())) => systemd::alive(),
                Ok(Err(error)) => {
                    log::warn!("the data port did not answer the watchdog's request: {error}");
                }
                Err(_) => log::warn!("the data port did not answer the watchdog within {step:?}"),
            }
        }
    }
}

/// Where a listener on every address can be reached from here.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
