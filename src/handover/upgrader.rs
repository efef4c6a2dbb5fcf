//! Replaces this process by a successor, once.

use super::predecessor::{Failure, Heir, offer};
use super::socket::Socket;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Mutex as Turn, watch};
use tokio::task::spawn_blocking;

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
        // Read now: once the file was replaced, the system calls it deleted.
        let program = std::env::current_exe()?;
        Ok(CommandLine { program, arguments: std::env::args_os().skip(1).collect() })
    }

    fn start_successor(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null());
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
    turn: Turn<()>,
    successor: watch::Sender<Option<i32>>,
}

impl Upgrader {
    /// Hands over `sockets` at `path`.
    pub fn new(
        path: anyhow::Result<PathBuf>,
        sockets: Vec<Socket>,
        command: Option<CommandLine>,
        announce: fn(i32),
    ) -> Arc<Upgrader> {
        Arc::new(Upgrader {
            path: path.map_err(|error| format!("{error:#}")),
            sockets: Mutex::new(sockets),
            command,
            announce,
            turn: Turn::default(),
            successor: watch::channel(None).0,
        })
    }

    /// Hands over to a successor that waits already. The log tells what came of it.
    ///
    /// # Errors
    /// Why this process serves on.
    pub async fn hand_over(self: &Arc<Self>) -> Result<i32, Failure> {
        told(self.attempt(|_| Ok(Heir::Waiting)).await)
    }

    /// Starts the binary that is installed now and hands over to it. The log tells what came
    /// of it.
    ///
    /// # Errors
    /// Why this process serves on; what was started is ended.
    pub async fn replace(self: &Arc<Self>) -> Result<i32, Failure> {
        told(self.attempt(Upgrader::start).await)
    }

    fn start(&self) -> Result<Heir, Failure> {
        let command = self.command.as_ref().ok_or(Failure::NotPossible)?;
        let child = command.start_successor().map_err(Failure::Start)?;
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
            let outcome = upgrader.try_heir(&mut heir);
            if outcome.is_err()
                && let Heir::Started(mut child) = heir
            {
                let _ = child.kill();
                let _ = child.wait();
            }
            outcome
        });
        attempt.await.unwrap_or_else(|fault| Err(Failure::Broken(fault.into())))
    }

    fn try_heir(&self, heir: &mut Heir) -> Result<i32, Failure> {
        let path = self.path.as_ref().map_err(|why| Failure::Place(why.clone()))?;
        let sockets = self.shared().map_err(Failure::Broken)?;
        if sockets.is_empty() {
            return Err(Failure::Stopping);
        }
        let serving = offer(path, &sockets, heir)?;
        let process = serving.process;
        // Before it is released, so that a supervisor never sees its main process end.
        (self.announce)(process);
        serving.release().inspect_err(|_| (self.announce)(own_process()))?;
        self.let_go();
        self.successor.send_replace(Some(process));
        Ok(process)
    }

    fn shared(&self) -> std::io::Result<Vec<Socket>> {
        let sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        sockets.iter().map(Socket::share).collect()
    }

    /// Drops this hold on the sockets: what Pingora closes is closed from then on.
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

fn own_process() -> i32 {
    rustix::process::getpid().as_raw_pid()
}
