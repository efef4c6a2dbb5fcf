//! Who waits for the turn. However many ask, at most one reload of the file waits: it reads the
//! file after all of them have asked, so what comes of it is the answer to each.

use super::history::{Cause, Source};
use super::{Order, Origin, Rejected, Reloaded, Reloader};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Semaphore, watch};

/// Rollbacks that operators ask for which wait or are under way.
const MAX_RESTORES: usize = 8;

/// What came of a reload, for everybody who asked for it.
pub type Outcome = Result<Reloaded, Arc<Rejected>>;

/// Where the outcome of a reload will be.
type Awaited = watch::Receiver<Option<Outcome>>;

pub(super) struct Queue {
    /// The reload of the file that has not begun.
    file: Mutex<Option<Awaited>>,
    restores: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue { file: Mutex::default(), restores: Arc::new(Semaphore::new(MAX_RESTORES)) }
    }
}

impl Queue {
    fn file(&self) -> MutexGuard<'_, Option<Awaited>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reloader {
    /// Reads the file and swaps what it says in. Log and metrics tell what came of it. It goes on
    /// to its end also when nobody waits for that any more. Where another one waits that has not
    /// begun, its outcome is this one's as well.
    ///
    /// # Errors
    /// Why the old configuration serves on.
    pub async fn reload(self: &Arc<Self>) -> Outcome {
        self.reload_for(Cause::Reload).await
    }

    /// As [`reload`](Self::reload), for who does not wait for it. Must be called on a runtime.
    pub fn ask_reload(self: &Arc<Self>) {
        self.ask(Cause::Reload);
    }

    pub(super) async fn reload_for(self: &Arc<Self>, cause: Cause) -> Outcome {
        outcome(self.ask(cause)).await
    }

    /// Goes back to the configuration of one of the last generations, as a new one. The file is
    /// not changed: the next reload reads it.
    ///
    /// # Errors
    /// Why the configuration that serves serves on.
    pub async fn restore(self: &Arc<Self>, generation: u64) -> Outcome {
        let source = self.kept_source(generation)?;
        let place = self.queue.restores.clone().try_acquire_owned().map_err(|_| Rejected::Busy)?;
        let cause = Cause::Restored { to: generation };
        let order = Order { cause, origin: Origin::Kept(source), why: None };
        let (sender, awaited) = watch::channel(None);
        let reloader = self.clone();
        tokio::spawn(async move {
            let _turn = reloader.turn.lock().await;
            let outcome = reloader.take_turn(order).await;
            drop(place);
            sender.send_replace(Some(outcome.map_err(Arc::new)));
        });
        outcome(awaited).await
    }

    fn kept_source(&self, generation: u64) -> Result<Source, Rejected> {
        let record = self.record();
        match record.history.find(generation) {
            Some(kept) => Ok(kept.source),
            None => Err(Rejected::NotKept { generation, kept: record.history.kept() }),
        }
    }

    /// Joins the reload of the file that waits, or begins to wait with one.
    fn ask(self: &Arc<Self>, cause: Cause) -> Awaited {
        let mut waiting = self.queue.file();
        if let Some(awaited) = &*waiting {
            return awaited.clone();
        }
        let (sender, awaited) = watch::channel(None);
        *waiting = Some(awaited.clone());
        let reloader = self.clone();
        // A client that goes away ends the handler that waits for it, not the reload.
        tokio::spawn(async move {
            let _turn = reloader.turn.lock().await;
            // Whoever asks from now on may have changed the file after it is read.
            *reloader.queue.file() = None;
            let order = Order { cause, origin: Origin::File, why: None };
            let outcome = reloader.take_turn(order).await;
            sender.send_replace(Some(outcome.map_err(Arc::new)));
        });
        awaited
    }
}

async fn outcome(mut awaited: Awaited) -> Outcome {
    let told = awaited.wait_for(Option::is_some).await;
    let outcome = told.ok().and_then(|outcome| outcome.clone());
    outcome.unwrap_or_else(|| Err(Rejected::Broken("it was given up".to_owned()).into()))
}
