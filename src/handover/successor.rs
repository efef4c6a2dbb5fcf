//! The side that takes over.

use super::channel::{Channel, Message, PROTOCOL};
use super::place::arranged;
use super::socket::Socket;
use super::{GIVEN_WITHIN, READY_WITHIN};
use crate::clock;
use anyhow::{Context, anyhow, bail};
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often is looked whether somebody came.
const LOOK: Duration = Duration::from_millis(10);

/// A successor at the meeting point, with nothing in its hands yet.
#[derive(Debug)]
pub struct Waiting {
    listener: UnixListener,
    path: PathBuf,
}

/// What the predecessor handed over, and the connection to it.
#[derive(Debug)]
pub struct Inheritance {
    /// Its listening sockets.
    pub sockets: Vec<Socket>,
    /// Tells it what becomes of them.
    pub link: Predecessor,
}

/// The process that handed its sockets over and serves until it hears that they are served.
#[derive(Debug)]
pub struct Predecessor(Channel);

impl Waiting {
    /// Begins to wait at `path`.
    ///
    /// # Errors
    /// When another successor waits there, or no socket can be made there.
    pub fn at(path: &Path) -> anyhow::Result<Waiting> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                if UnixStream::connect(path).is_ok() {
                    bail!("another process waits at {} already", path.display());
                }
                // Left behind by one that ended.
                fs::remove_file(path).and_then(|()| UnixListener::bind(path))
            }
            bound => bound,
        };
        let listener = listener.with_context(|| format!("cannot wait at {}", path.display()))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(Waiting { listener, path: path.to_owned() })
    }

    /// Waits to be given the sockets, for [`GIVEN_WITHIN`], or [`READY_WITHIN`] where the process
    /// that has them started this one.
    ///
    /// # Errors
    /// When nobody came, or what came cannot be understood.
    pub fn receive(self) -> anyhow::Result<Inheritance> {
        let within = if arranged().is_some() { READY_WITHIN } else { GIVEN_WITHIN };
        let end = clock::now() + within;
        while clock::now() < end {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    if let Some(inheritance) = take(stream)? {
                        return Ok(inheritance);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(LOOK),
                Err(error) => return Err(error).context("waiting for the running gateway"),
            }
        }
        Err(anyhow!(
            "no running gateway has handed over its sockets at {} within {within:?}; send \
             it QUIT while this one waits",
            self.path.display()
        ))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads what the predecessor sends; nothing where it only looked whether anybody is here.
fn take(stream: UnixStream) -> anyhow::Result<Option<Inheritance>> {
    let mut channel = Channel::new(stream)?;
    let (user, process) = channel.peer()?;
    let own = rustix::process::geteuid().as_raw();
    if user != own {
        log::warn!("process {process} of user {user} wanted to hand over to user {own}: refused");
        return Ok(None);
    }
    let received = channel.receive(clock::now() + Duration::from_secs(5));
    let (message, fds) = match received {
        Ok(received) => received,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error).context("the running gateway's sockets were not read"),
    };
    let named = match message {
        Message::Sockets { protocol: PROTOCOL, sockets } if sockets.len() == fds.len() => sockets,
        _ => {
            let why = "the two versions hand over in different ways; restart instead".to_owned();
            let _ = channel.send(&Message::Failed { why: why.clone() }, &[]);
            bail!(why);
        }
    };
    let sockets = named.into_iter().zip(fds).map(|(named, fd)| Socket {
        role: Some(named.role),
        address: named.address,
        listener: TcpListener::from(fd),
    });
    Ok(Some(Inheritance { sockets: sockets.collect(), link: Predecessor(channel) }))
}

impl Predecessor {
    /// Asks for what only one process can have open, and waits until the predecessor has closed
    /// it. Comes after everything that may fail and needs none of it: from here on until the end
    /// of the hand-over the predecessor is without.
    ///
    /// # Errors
    /// When the predecessor is gone or went on.
    pub fn take_estate(&mut self) -> anyhow::Result<()> {
        let end: Instant = clock::now() + READY_WITHIN;
        match self.0.send(&Message::Release, &[]).and_then(|()| self.0.receive(end)) {
            Ok((Message::Released, _)) => Ok(()),
            Ok((other, _)) => bail!("the running gateway answered {other:?}"),
            Err(error) => Err(error).context("the running gateway did not let go of its registry"),
        }
    }

    /// Says that this process serves, and waits until the predecessor has let go.
    ///
    /// # Errors
    /// When the predecessor is gone or went on: then this process must not.
    pub fn confirm(mut self) -> anyhow::Result<()> {
        let end: Instant = clock::now() + READY_WITHIN;
        let answer = self.0.send(&Message::Ready, &[]).and_then(|()| self.0.receive(end));
        match answer {
            Ok((Message::Yours, _)) => Ok(()),
            Ok((other, _)) => bail!("the running gateway answered {other:?}"),
            Err(error) => Err(error)
                .context("the running gateway did not let go of its sockets and serves on"),
        }
    }

    /// Says that this process cannot serve.
    pub fn decline(mut self, why: &str) {
        let why = why.chars().take(1_000).collect();
        let _ = self.0.send(&Message::Failed { why }, &[]);
    }
}
