//! The side that hands over.

use super::channel::{Channel, Message, Named, PROTOCOL};
use super::estate::Loan;
use super::socket::{Role, Socket};
use super::{FOUND_WITHIN, READY_WITHIN};
use crate::clock;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How often is looked whether the successor waits.
const LOOK: Duration = Duration::from_millis(20);

/// Why nothing was handed over. The process serves on.
#[derive(Debug, Error)]
pub enum Failure {
    /// Another hand-over has not ended.
    #[error("an upgrade is under way already")]
    UnderWay,
    /// It drains.
    #[error("the gateway is stopping, so there is nothing to hand over")]
    Stopping,
    /// What was started is not a gateway that serves a file.
    #[error("only a gateway started with `tollgate run` can be replaced")]
    NotPossible,
    /// With the first process of a container the container ends, successor and all.
    #[error(
        "the gateway is the first process of its container, which ends with it: start another \
         container instead"
    )]
    IsInit,
    /// Nobody is at the meeting point.
    #[error(
        "no successor waits at {0}; start one first, with `tollgate run --upgrade` and the same \
         configuration"
    )]
    NoSuccessor(String),
    /// The meeting point cannot be used.
    #[error("the upgrade socket cannot be used: {0}")]
    Place(String),
    /// The binary cannot be started.
    #[error("the successor cannot be started: {0}")]
    Start(io::Error),
    /// It ended by itself.
    #[error("the successor ended before it served ({0}); the log says why")]
    Ended(ExitStatus),
    /// Somebody else waits there.
    #[error("process {0} waits for the sockets, which is not the successor")]
    Stranger(i32),
    /// It took too long.
    #[error("the successor was not ready within {READY_WITHIN:?}")]
    NotReady,
    /// It closed the connection.
    #[error("the successor went away after it was given the sockets")]
    Gone,
    /// It said so.
    #[error("the successor cannot serve: {0}")]
    Declined(String),
    /// The connection to it failed.
    #[error("the hand-over broke off: {0}")]
    Broken(io::Error),
}

/// Who is to get the sockets.
#[derive(Debug)]
pub(super) enum Heir {
    /// Whoever of this user waits already.
    Waiting,
    /// The process that was just started.
    Started(Child),
}

/// A successor that serves; both do, until it is released.
#[derive(Debug)]
pub(super) struct Serving {
    channel: Channel,
    /// Its process.
    pub(super) process: i32,
}

/// Gives the successor at `path` the sockets, and the estate when it asks for it, and waits until
/// it serves, or until this process is to end.
pub(super) fn offer(
    path: &Path,
    sockets: &[Socket],
    heir: &mut Heir,
    loan: &mut Loan<'_>,
    is_stopping: &dyn Fn() -> bool,
) -> Result<Serving, Failure> {
    let started = clock::now();
    let stream = find(path, heir, started, is_stopping)?;
    let end = match heir {
        Heir::Waiting => clock::now() + READY_WITHIN,
        Heir::Started(_) => started + READY_WITHIN,
    };
    let mut channel = Channel::new(stream).map_err(Failure::Broken)?;
    let (user, process) = channel.peer().map_err(Failure::Broken)?;
    let is_expected = match heir {
        Heir::Waiting => user == rustix::process::geteuid().as_raw(),
        Heir::Started(child) => i64::from(child.id()) == i64::from(process),
    };
    if !is_expected {
        return Err(Failure::Stranger(process));
    }
    let named = sockets
        .iter()
        .map(|socket| Named { role: socket.role.unwrap_or(Role::Data), address: socket.address });
    let message = Message::Sockets { protocol: PROTOCOL, sockets: named.collect() };
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.listener.as_fd()).collect();
    let sent = channel.send(&message, &fds);
    log::info!("upgrade: process {process} is given the sockets");
    match sent.and_then(|()| attend(&mut channel, loan, end, is_stopping)) {
        Ok(Message::Ready) => Ok(Serving { channel, process }),
        Ok(Message::Failed { why }) => Err(Failure::Declined(why)),
        Ok(other) => Err(Failure::Broken(io::Error::other(format!("it said {other:?}")))),
        Err(error) => Err(match error.kind() {
            ErrorKind::TimedOut if is_stopping() => Failure::Stopping,
            ErrorKind::TimedOut => Failure::NotReady,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                gone(heir)
            }
            _ => Failure::Broken(error),
        }),
    }
}

/// Waits for the word that decides, and lets the estate go when that is asked for before.
fn attend(
    channel: &mut Channel,
    loan: &mut Loan<'_>,
    end: Instant,
    is_stopping: &dyn Fn() -> bool,
) -> io::Result<Message> {
    match listen(channel, end, is_stopping)? {
        Message::Release => {
            loan.give();
            channel.send(&Message::Released, &[])?;
            listen(channel, end, is_stopping)
        }
        message => Ok(message),
    }
}

/// The next message until `end`, or until this process is to end.
fn listen(
    channel: &mut Channel,
    end: Instant,
    is_stopping: &dyn Fn() -> bool,
) -> io::Result<Message> {
    loop {
        match channel.receive(end.min(clock::now() + LOOK)) {
            Err(error)
                if error.kind() == ErrorKind::TimedOut && clock::now() < end && !is_stopping() => {}
            received => return received.map(|(message, _)| message),
        }
    }
}

/// What became of a successor that closed its connection.
fn gone(heir: &mut Heir) -> Failure {
    let Heir::Started(child) = heir else { return Failure::Gone };
    // The connection closes a moment before the process is reaped.
    let end = clock::now() + Duration::from_secs(1);
    while clock::now() < end {
        if let Ok(Some(status)) = child.try_wait() {
            return Failure::Ended(status);
        }
        std::thread::sleep(LOOK);
    }
    Failure::Gone
}

fn find(
    path: &Path,
    heir: &mut Heir,
    started: Instant,
    is_stopping: &dyn Fn() -> bool,
) -> Result<UnixStream, Failure> {
    let end = match heir {
        Heir::Waiting => started + FOUND_WITHIN,
        Heir::Started(_) => started + READY_WITHIN,
    };
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) => match error.kind() {
                // Not there yet, or left behind by one that ended.
                ErrorKind::NotFound | ErrorKind::ConnectionRefused => {}
                _ => return Err(Failure::Place(format!("{}: {error}", path.display()))),
            },
        }
        if let Heir::Started(child) = heir
            && let Ok(Some(status)) = child.try_wait()
        {
            return Err(Failure::Ended(status));
        }
        if is_stopping() {
            return Err(Failure::Stopping);
        }
        if clock::now() >= end {
            return Err(match heir {
                Heir::Waiting => Failure::NoSuccessor(path.display().to_string()),
                Heir::Started(_) => Failure::NotReady,
            });
        }
        std::thread::sleep(LOOK);
    }
}

impl Serving {
    /// Leaves the sockets to the successor.
    pub(super) fn release(mut self) -> Result<(), Failure> {
        self.channel.send(&Message::Yours, &[]).map_err(|_| Failure::Gone)
    }
}
