//! What goes on between reloads: the configuration on trial is watched, and the file.

use super::file_watch::{Act, FileWatch, Stamp};
use super::history::Cause;
use super::trial::Risen;
use super::{Order, Origin, Reloader, digest};
use crate::clock;
use crate::config::{self, LoadError};
use std::io;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How often counts are looked at while they are watched, and whether they are to be.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_IDLE: Duration = Duration::from_secs(1);
/// How often the file is looked at.
const LOOK_AT_FILE: Duration = Duration::from_secs(1);

impl Reloader {
    /// Watches configurations on trial and the file, for as long as the process lives. Looks
    /// cost little and what costs more is done on threads that may block.
    pub async fn attend(self: Arc<Self>) {
        tokio::join!(self.attend_trials(), self.attend_file());
    }

    async fn attend_trials(self: &Arc<Self>) {
        loop {
            let is_watched = self.gateway.generation().config.server.reloading.watch.is_some();
            sleep(if is_watched { LOOK } else { LOOK_IDLE }).await;
            let risen = is_watched.then(|| self.look()).flatten();
            if let Some(risen) = risen {
                self.roll_back(risen).await;
            }
        }
    }

    fn look(&self) -> Option<Risen> {
        let serving = self.gateway.generation();
        self.record().trials.look(&serving, clock::now_ns())
    }

    async fn roll_back(self: &Arc<Self>, risen: Risen) {
        let _turn = self.turn.lock().await;
        if self.gateway.generation().number != risen.generation {
            // Another reload was faster. What it brought is on trial in its turn.
            return;
        }
        let why: Arc<str> = risen.to_string().into();
        let (from, to) = (risen.generation, risen.good.generation);
        log::error!("generation {from} is taken back, generation {to} serves again: {why}");
        let origin = Origin::Kept(risen.good.source);
        let order = Order { cause: Cause::Rollback { to }, origin, why: Some(why) };
        if self.take_turn(order).await.is_err() {
            self.record().trials.give_up(from);
        }
    }

    async fn attend_file(self: &Arc<Self>) {
        if self.file.is_none() {
            return;
        }
        loop {
            sleep(LOOK_AT_FILE).await;
            if !self.gateway.generation().config.server.reloading.watch_file {
                continue;
            }
            let reloader = self.clone();
            if spawn_blocking(move || reloader.is_file_new()).await.unwrap_or(false) {
                // It has said in the log what came of it.
                let _ = self.reload_for(Cause::WatchFile).await;
            }
        }
    }

    /// Looks at the file: whether it says something that was not read yet.
    pub(super) fn is_file_new(&self) -> bool {
        let Some(file) = &self.file else { return false };
        let stamp = Stamp::of(file);
        let act = self.watch().look(stamp.as_ref().ok().copied());
        match act {
            Act::Wait => false,
            Act::Miss => {
                tell_missing(file, stamp.err());
                false
            }
            Act::Read => {
                let read = self.read(file);
                let before = self.record().read;
                let now = digest(&read);
                match before {
                    Some(before) => before != now,
                    // The start has read it, maybe before it changed.
                    None => {
                        let is_new = !read.is_ok_and(|text| self.is_in_effect(&text));
                        if !is_new {
                            self.record().read = Some(now);
                        }
                        is_new
                    }
                }
            }
        }
    }

    /// Reads the file. Where it is there and cannot be read, for want of file descriptors or by
    /// a disk's error, the watch forgets that it was to be read: the next look tries again. It
    /// is news only once, since what was read last is compared.
    pub(super) fn read(&self, file: &Path) -> Result<String, LoadError> {
        let read = config::read(file);
        if matches!(read, Err(LoadError::Unreadable(..))) {
            self.watch().forget();
        }
        read
    }

    fn watch(&self) -> MutexGuard<'_, FileWatch> {
        self.file_watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the configuration that serves is what this text says, as far as it can change.
    fn is_in_effect(&self, text: &str) -> bool {
        let serving = self.gateway.generation();
        config::check_text(text).is_ok_and(|mut loaded| {
            config::keep_fixed(&serving.config, &mut loaded.config);
            loaded.config == *serving.config
        })
    }
}

fn tell_missing(file: &Path, why: Option<io::Error>) {
    let why = why.map_or_else(String::new, |error| format!(": {error}"));
    log::warn!("{} cannot be watched, the configuration serves on{why}", file.display());
}
