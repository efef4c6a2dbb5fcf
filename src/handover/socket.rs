//! A listening socket and what it is for.

use serde::{Deserialize, Serialize};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// What a listening socket serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Requests.
    Data,
    /// The admin API.
    Admin,
    /// Prometheus.
    Metrics,
}

/// A listening socket.
#[derive(Debug)]
pub struct Socket {
    /// What it serves; none: whoever gave it did not say.
    pub role: Option<Role>,
    /// Its address as the configuration has it, which with port 0 is not the one it got.
    pub address: SocketAddr,
    /// The socket.
    pub listener: TcpListener,
}

impl Socket {
    /// Another hold on the same socket.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn share(&self) -> io::Result<Socket> {
        let listener = self.listener.try_clone()?;
        Ok(Socket { listener, ..*self })
    }

    /// Whether it can serve `role` at `address`.
    ///
    /// A socket on `[::]` takes IPv4 connections too, so it can stand for one on `0.0.0.0`:
    /// systemd binds the former where a unit says nothing but a port.
    pub fn fits(&self, role: Role, address: SocketAddr) -> bool {
        let is_same_role = self.role.is_none_or(|own| own == role);
        let stands_for = self.address == address
            || self.address.port() == address.port()
                && self.address.is_ipv6()
                && self.address.ip().is_unspecified()
                && address.ip().is_unspecified();
        is_same_role && stands_for
    }
}
