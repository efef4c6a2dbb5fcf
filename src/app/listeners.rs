//! The listening sockets: opened here, or given by whoever held them before.

use crate::config::Config;
use crate::handover::{Role, Socket};
use anyhow::{Context, anyhow};
use listenfd::ListenFd;
use socket2::{Domain, Protocol, Type};
use std::net::{SocketAddr, TcpListener};

/// Connections that wait to be accepted; the kernel cuts it to `net.core.somaxconn`. Bursts and
/// the moments of a restart wait here instead of being refused.
const BACKLOG: i32 = 65_535;

/// Every socket, opened before anything is started: Pingora itself would try a taken port
/// for half a minute and then panic.
pub(super) struct Listeners {
    pub(super) data: Vec<(String, TcpListener)>,
    pub(super) metrics: Vec<(String, TcpListener)>,
    pub(super) admin: TcpListener,
}

impl Listeners {
    /// The sockets `config` asks for: those of `given` that fit, the others new.
    pub(super) fn open(config: &Config, mut given: Vec<Socket>) -> anyhow::Result<Listeners> {
        let mut open = |role, address: SocketAddr| match given
            .iter()
            .position(|socket| socket.fits(role, address))
        {
            Some(index) => {
                let listener = given.swap_remove(index).listener;
                listener.set_nonblocking(true)?;
                Ok(listener)
            }
            None => bind(address),
        };
        let mut data = Vec::new();
        for &address in &config.server.listen {
            let listener = open(Role::Data, address).context("server.listen")?;
            data.push((address.to_string(), listener));
        }
        let metrics = open(Role::Metrics, config.metrics.listen).context("metrics.listen")?;
        let admin = open(Role::Admin, config.admin.listen).context("admin.listen")?;
        for left in given {
            log::warn!(
                "the socket on {} that was passed in is none the configuration names, and is closed",
                left.address
            );
        }
        Ok(Listeners { data, metrics: vec![(config.metrics.listen.to_string(), metrics)], admin })
    }

    /// Another hold on each of them, to hand over later.
    pub(super) fn share(&self, config: &Config) -> std::io::Result<Vec<Socket>> {
        let data = self.data.iter().zip(&config.server.listen);
        let data = data.map(|((_, listener), &address)| (Role::Data, address, listener));
        let metrics = self.metrics.iter();
        let metrics = metrics.map(|(_, listener)| (Role::Metrics, config.metrics.listen, listener));
        let admin = std::iter::once((Role::Admin, config.admin.listen, &self.admin));
        let all = data.chain(metrics).chain(admin);
        all.map(|(role, address, listener)| {
            Ok(Socket { role: Some(role), address, listener: listener.try_clone()? })
        })
        .collect()
    }
}

/// The sockets that systemd holds for the service (`LISTEN_FDS`); connections to them wait
/// while the service restarts.
pub(super) fn from_systemd() -> Vec<Socket> {
    let mut passed = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..passed.len() {
        let taken = passed.take_tcp_listener(index).and_then(|listener| {
            listener.map(|listener| Ok((listener.local_addr()?, listener))).transpose()
        });
        match taken {
            Ok(Some((address, listener))) => {
                sockets.push(Socket { role: None, address, listener });
            }
            Ok(None) => {}
            Err(error) => log::warn!("socket {index} that was passed in is not used: {error}"),
        }
    }
    sockets
}

/// Opens a listening socket.
///
/// # Errors
/// When the address is taken or not this machine's; the error names it.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow!("{address} is in use by another process; stop that, or choose another address")
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    })
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process before this one may still be in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
