//! What the process does when it is told something.

use super::drain::Drain;
use super::{Announce, systemd, upkeep};
use crate::gateway::Gateway;
use crate::handover::{Predecessor, Upgrader};
use crate::lifecycle::Stage;
use crate::reload::Reloader;
use crate::store::mapped::Lock;
use crate::telemetry::access_log::AccessLog;
use crate::wire::connections::Connections;
use crate::wire::listening::{self, Started};
use anyhow::{Context, anyhow};
use async_trait::async_trait;
use pingora::server::{ShutdownSignal, ShutdownSignalWatch};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// Who is told what by signals.
pub(super) struct Signals {
    pub(super) gateway: Arc<Gateway>,
    /// Those of clients: as long as one is open, a request may come on it.
    pub(super) connections: Arc<Connections>,
    pub(super) reloader: Arc<Reloader>,
    pub(super) upgrader: Arc<Upgrader>,
    pub(super) access_log: Option<AccessLog>,
    pub(super) announce: Announce,
    /// Lets the listeners accept.
    pub(super) open: watch::Sender<bool>,
    /// Whether the data port is served.
    pub(super) serving: watch::Receiver<Started>,
    /// The process that serves until this one does.
    pub(super) predecessor: Option<Predecessor>,
    /// That no other gateway serves from the folder of the state.
    pub(super) lock: Mutex<Option<Lock>>,
}

/// Waits for signals: HUP reloads; QUIT and USR2 hand over to a successor, one that waits or
/// one that is started; TERM and INT stop, the former gracefully.
pub(super) struct SignalWatch {
    signals: Mutex<Option<Signals>>,
    /// Why the process could not serve, for whoever runs it.
    failure: Arc<Mutex<Option<anyhow::Error>>>,
}

impl SignalWatch {
    pub(super) fn new(signals: Signals, failure: Arc<Mutex<Option<anyhow::Error>>>) -> SignalWatch {
        SignalWatch { signals: Mutex::new(Some(signals)), failure }
    }
}

#[async_trait]
impl ShutdownSignalWatch for SignalWatch {
    async fn recv(&self) -> ShutdownSignal {
        let signals = self.signals.lock().unwrap_or_else(PoisonError::into_inner).take();
        let served = match signals {
            Some(signals) => signals.serve().await,
            None => Err(anyhow!("the process is asked twice how it ends")),
        };
        served.unwrap_or_else(|error| {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            ShutdownSignal::FastShutdown
        })
    }
}

/// The signals that are listened to.
struct Kinds {
    hangup: Signal,
    quit: Signal,
    user2: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Kinds {
    fn listen() -> io::Result<Kinds> {
        Ok(Kinds {
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user2: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }
}

impl Signals {
    /// From the first moment to the one in which the process is to end.
    async fn serve(mut self) -> anyhow::Result<ShutdownSignal> {
        let mut kinds = Kinds::listen().context("signals cannot be received")?;
        tokio::select! {
            started = self.start() => started?,
            // From the moment on in which it is ready, connections may have been accepted.
            _ = kinds.terminate.recv() => match self.gateway.lifecycle.is_ready() {
                true => return Ok(self.stop(kinds.interrupt)),
                false => return Ok(ShutdownSignal::FastShutdown),
            },
            _ = kinds.interrupt.recv() => return Ok(ShutdownSignal::FastShutdown),
        }
        if let Err(error) = self.take_over().await {
            // What it has accepted by now is its own to finish, whoever serves from here on.
            log::error!("{error:#}");
            self.end(Stage::Draining, kinds.interrupt, 1);
            return Ok(ShutdownSignal::GracefulTerminate);
        }
        self.say_ready();
        loop {
            tokio::select! {
                _ = kinds.hangup.recv() => self.reload(),
                _ = kinds.quit.recv() => self.upgrade(Successor::Waits),
                _ = kinds.user2.recv() => self.upgrade(Successor::IsStarted),
                () = self.upgrader.succeeded() => {
                    self.end(Stage::Succeeded, kinds.interrupt, 0);
                    return Ok(ShutdownSignal::GracefulTerminate);
                }
                _ = kinds.terminate.recv() => return Ok(self.stop(kinds.interrupt)),
                _ = kinds.interrupt.recv() => {
                    log::info!("interrupted: stopping at once");
                    return Ok(ShutdownSignal::FastShutdown);
                }
            }
        }
    }

    /// Until this process serves. Nothing is accepted before requests can be answered: a
    /// connection waits in the kernel, or at the predecessor, better than for a name.
    async fn start(&mut self) -> anyhow::Result<()> {
        upkeep::first_lookups(&self.gateway).await;
        self.gateway.lifecycle.advance(Stage::Ready);
        self.open.send_replace(true);
        listening::until_started(&mut self.serving).await.map_err(anyhow::Error::msg)
    }

    /// Until no other process serves besides.
    async fn take_over(&mut self) -> anyhow::Result<()> {
        match self.predecessor.take() {
            Some(predecessor) => spawn_blocking(|| predecessor.confirm()).await?,
            None => Ok(()),
        }
    }

    /// What comes of it is in the log.
    fn reload(&self) {
        self.reloader.ask_reload();
    }

    /// What comes of it is in the log.
    fn upgrade(&self, successor: Successor) {
        let upgrader = self.upgrader.clone();
        tokio::spawn(async move {
            match successor {
                Successor::Waits => upgrader.hand_over().await,
                Successor::IsStarted => upgrader.replace().await,
            }
        });
    }

    fn say_ready(&self) {
        let generation = self.gateway.generation();
        let config = &generation.config;
        let addresses: Vec<String> = config.server.listen.iter().map(ToString::to_string).collect();
        let addresses = addresses.join(", ");
        log::info!(
            "serving on {addresses}, admin API on {}, metrics on {}",
            config.admin.listen,
            config.metrics.listen
        );
        systemd::ready(&format!("serving on {addresses}, generation {}", generation.number));
        tokio::spawn(systemd::tell_reloads(self.reloader.progress(), addresses));
        if let Announce::With(print) = self.announce {
            print(config);
        }
    }

    /// Told to stop: what was accepted is finished.
    fn stop(&self, interrupt: Signal) -> ShutdownSignal {
        log::info!("told to stop");
        systemd::stopping("draining");
        self.end(Stage::Draining, interrupt, 0);
        ShutdownSignal::GracefulTerminate
    }

    fn end(&self, stage: Stage, mut interrupt: Signal, exit_code: i32) {
        self.upgrader.let_go();
        // Whoever starts now may have the folder. What is still charged until the drain is over
        // lands in the same table.
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
        tokio::spawn(async move {
            interrupt.recv().await;
            log::info!("interrupted: the drain is cut short");
            std::process::exit(0);
        });
        let drain = Drain {
            gateway: self.gateway.clone(),
            connections: self.connections.clone(),
            upgrader: self.upgrader.clone(),
            access_log: self.access_log.clone(),
            exit_code,
        };
        drain.begin(stage);
    }
}

/// Who is to take over.
#[derive(Debug, Clone, Copy)]
enum Successor {
    Waits,
    IsStarted,
}
