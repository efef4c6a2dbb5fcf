//! Replaces this process by a successor, once.

use super::estate::{Estate, Loan};
use super::place::ARRANGED;
use super::predecessor::{Failure, Heir, offer};
use super::socket::Socket;
use crate::clock;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex as Turn, watch};
use tokio::task::spawn_blocking;

/// How long a successor that is not wanted may take to end.
const END_WITHIN: Duration = Duration::from_secs(2);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(10);
/// What of the environment was meant for this process alone.
const OWN_VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How this process was started, to start its successor in the same way.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// The binary's path, which by now may lead to another binary.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl CommandLine {
    /// This process's own.
    ///
    /// # Errors
    /// When the system does not tell where the binary is.
    pub fn own() -> std::io::Result<CommandLine> {
        let mut arguments = std::env::args_os();
        let called = arguments.next().map(PathBuf::from).unwrap_or_default();
        // As it was called, for where a link leads to the binary, it may lead to another one
        // by the time of an upgrade. A name that was found in PATH is taken from the system,
        // and now: once the file was replaced, that calls it deleted.
        let program = match called.components().count() {
            0 | 1 => std::env::current_exe()?,
            _ => std::path::absolute(called)?,
        };
        Ok(CommandLine { program, arguments: arguments.collect() })
    }

    /// Starts a successor that is expected at `meeting_point`.
    fn start_successor(&self, meeting_point: &Path) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env(ARRANGED, meeting_point).stdin(Stdio::null());
        if !self.arguments.iter().any(|argument| argument == "--upgrade") {
            command.arg("--upgrade");
        }
        for variable in OWN_VARIABLES {
            command.env_remove(variable);
        }
        command.spawn()
    }
}

/// Hands the sockets of this process to a successor, one attempt at a time.
pub struct Upgrader {
    path: Result<PathBuf, String>,
    /// Empty once this process takes no more connections.
    sockets: Mutex<Vec<Socket>>,
    /// None: it cannot be started again.
    command: Option<CommandLine>,
    /// Tells the supervisor which process is the main one from now on.
    announce: fn(i32),
    /// What the successor gets besides.
    estate: Estate,
    turn: Turn<()>,
    successor: watch::Sender<Option<i32>>,
}

impl Upgrader {
    /// Hands over `sockets` at `path`, and `estate` with them.
    pub fn new(
        path: anyhow::Result<PathBuf>,
        sockets: Vec<Socket>,
        command: Option<CommandLine>,
        announce: fn(i32),
        estate: Estate,
    ) -> Arc<Upgrader> {
        Arc::new(Upgrader {
            path: path.map_err(|error| format!("{error:#}")),
            sockets: Mutex::new(sockets),
            command,
            announce,
            estate,
            turn: Turn::default(),
            successor: watch::channel(None).0,
        })
    }

    /// Hands over to a successor that waits already. The log tells what came of it.
    ///
    /// # Errors
    /// Why this process serves on.
    pub async fn hand_over(self: &Arc<Self>) -> Result<i32, Failure> {
        told(self.attempt(Upgrader::seek).await)
    }

    /// Starts the binary that is installed now and hands over to it. The log tells what came
    /// of it.
    ///
    /// # Errors
    /// Why this process serves on; what was started is ended.
    pub async fn replace(self: &Arc<Self>) -> Result<i32, Failure> {
        told(self.attempt(Upgrader::start).await)
    }

    fn seek(&self) -> Result<Heir, Failure> {
        log::info!("upgrade: looking for a successor at {}", self.path()?.display());
        Ok(Heir::Waiting)
    }

    fn start(&self) -> Result<Heir, Failure> {
        let command = self.command.as_ref().ok_or(Failure::NotPossible)?;
        if self.is_stopping() {
            return Err(Failure::Stopping);
        }
        let child = command.start_successor(self.path()?).map_err(Failure::Start)?;
        log::info!("upgrade: started {} as process {}", command.program.display(), child.id());
        Ok(Heir::Started(child))
    }

    async fn attempt(
        self: &Arc<Self>,
        find: fn(&Upgrader) -> Result<Heir, Failure>,
    ) -> Result<i32, Failure> {
        let _turn = self.turn.try_lock().map_err(|_| Failure::UnderWay)?;
        if own_process() == 1 {
            return Err(Failure::IsInit);
        }
        let upgrader = self.clone();
        let attempt = spawn_blocking(move || {
            let mut heir = find(&upgrader)?;
            let mut loan = upgrader.estate.loan();
            let outcome = upgrader.try_heir(&mut heir, &mut loan);
            match (&outcome, heir) {
                (Ok(_), _) => loan.leave(),
                (Err(_), Heir::Waiting) => {}
                // The estate is free to come back once this one is gone.
                (Err(_), Heir::Started(child)) => end(child),
            }
            outcome
        });
        attempt.await.unwrap_or_else(|fault| Err(Failure::Broken(fault.into())))
    }

    fn try_heir(&self, heir: &mut Heir, loan: &mut Loan<'_>) -> Result<i32, Failure> {
        let sockets = self.shared().map_err(Failure::Broken)?;
        if sockets.is_empty() {
            return Err(Failure::Stopping);
        }
        let serving = offer(self.path()?, &sockets, heir, loan, &|| self.is_stopping())?;
        let process = serving.process;
        // Held to the end, so that whoever stops this process comes before or after, and not in
        // between.
        let mut held = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_empty() {
            return Err(Failure::Stopping);
        }
        // Before it is released, so that a supervisor never sees its main process end.
        (self.announce)(process);
        serving.release().inspect_err(|_| (self.announce)(own_process()))?;
        held.clear();
        self.successor.send_replace(Some(process));
        Ok(process)
    }

    fn path(&self) -> Result<&Path, Failure> {
        self.path.as_deref().map_err(|why| Failure::Place(why.clone()))
    }

    /// Whether this process takes no more connections.
    fn is_stopping(&self) -> bool {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether no upgrade is under way.
    pub fn is_idle(&self) -> bool {
        self.turn.try_lock().is_ok()
    }

    fn shared(&self) -> std::io::Result<Vec<Socket>> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().map(Socket::share).collect()
    }

    /// Drops this hold on the sockets: what the services close is closed from then on, and an
    /// upgrade under way is given up.
    pub fn let_go(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Waits until a successor has taken over.
    pub async fn succeeded(&self) {
        // The sender lives as long as this.
        let _ = self.successor.subscribe().wait_for(Option::is_some).await;
    }
}

fn told(outcome: Result<i32, Failure>) -> Result<i32, Failure> {
    match &outcome {
        Ok(process) => log::info!("upgrade: process {process} serves now"),
        Err(why) => log::error!("no upgrade, this process serves on: {why}"),
    }
    outcome
}

/// Ends a successor that is not wanted: with a word, as it may have accepted connections, and
/// then for certain.
fn end(mut child: Child) {
    if let Some(process) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(process, Signal::TERM);
    }
    let patience = clock::now() + END_WITHIN;
    while clock::now() < patience {
        if let Ok(Some(_)) = child.try_wait() {
            return;
        }
        std::thread::sleep(LOOK);
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn own_process() -> i32 {
    rustix::process::getpid().as_raw_pid()
}
