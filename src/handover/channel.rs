//! What the two processes say to one another: lines of JSON over a Unix socket, the first of
//! which carries the listening sockets.

use super::socket::Role;
use crate::clock;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// What is said here and how. Processes of another version do not understand one another.
pub(super) const PROTOCOL: u32 = 2;
/// Sockets that can be passed: 16 of `server.listen`, one for the admin API, one for metrics,
/// and room.
const MAX_SOCKETS: usize = 32;
/// Bytes of one message.
const MAX_MESSAGE: usize = 8_192;

/// One line.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Message {
    /// The predecessor's sockets; the descriptors come with it, in this order.
    Sockets { protocol: u32, sockets: Vec<Named> },
    /// The successor asks for what only one of the two can have open.
    Release,
    /// The predecessor has closed it.
    Released,
    /// The successor serves.
    Ready,
    /// The successor cannot, and says why.
    Failed { why: String },
    /// The sockets are the successor's alone.
    Yours,
}

/// What a descriptor is.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Named {
    pub(super) role: Role,
    pub(super) address: SocketAddr,
}

/// A connection between the two.
#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    /// Read and not yet understood.
    unread: Vec<u8>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> io::Result<Channel> {
        stream.set_nonblocking(false)?;
        Ok(Channel { stream, unread: Vec::new() })
    }

    /// User and process at the other end, as the kernel knows them.
    pub(super) fn peer(&self) -> io::Result<(u32, i32)> {
        let peer = sockopt::socket_peercred(&self.stream)?;
        Ok((peer.uid.as_raw(), peer.pid.as_raw_pid()))
    }

    /// Sends a message, with descriptors where it carries some.
    pub(super) fn send(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        if line.len() > MAX_MESSAGE || fds.len() > MAX_SOCKETS {
            return Err(io::Error::other("there is more to hand over than fits a message"));
        }
        self.stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        // Without MSG_NOSIGNAL a successor that is gone would be the end of this process too.
        let slices = [IoSlice::new(&line)];
        let sent = sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL)?;
        // The kernel takes a line this short whole; should it not, the rest goes without.
        self.stream.write_all(line.get(sent..).unwrap_or_default())
    }

    /// Waits for the next message until `end`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other process is gone, `TimedOut` at `end`.
    pub(super) fn receive(&mut self, end: Instant) -> io::Result<(Message, Vec<OwnedFd>)> {
        let mut fds = Vec::new();
        loop {
            if let Some(length) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=length).collect();
                return Ok((serde_json::from_slice(&line)?, fds));
            }
            if self.unread.len() >= MAX_MESSAGE {
                return Err(io::Error::other("the message is too long"));
            }
            let left = end.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.read_some(&mut fds)?;
        }
    }

    fn read_some(&mut self, fds: &mut Vec<OwnedFd>) -> io::Result<()> {
        let mut bytes = [0; 4_096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        // Close-on-exec, or whatever this process starts would hold the sockets open.
        let received = recvmsg(&self.stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC);
        let count = match received {
            Ok(received) => received.bytes,
            Err(Errno::INTR) => return Ok(()),
            Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error.into()),
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unread.extend_from_slice(&bytes[..count]);
        Ok(())
    }
}
