//! The one thread that has the registry's file: it makes changes, and reads what only
//! administrators ask for.
//!
//! Changes that come while others are written wait and are then written together, so that many
//! writers cost hardly more than one. Each is answered once it is on disk and every request
//! from then on meets it. When the process is replaced the file is closed for the successor,
//! and opened again if that fails.

use super::clients::Numbers;
use super::condition::{Bounds, Condition, RegistryError, Status};
use super::file::{FILE_NAME, OpenError, Reading, Store, Tables};
use super::ledger;
use super::memory::{Memory, Seen};
use super::merge::Page;
use super::record::{Change, Effect};
use super::shares::Shares;
use super::sharing::Sharing;
use crate::clock;
use redb::StorageError;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Changes that are written together.
const MAX_BATCH: usize = 256;
/// How often what has ended is thrown away.
const PURGE_EVERY: Duration = Duration::from_secs(60);
/// How often a file that another process still has is tried again.
const RETRY: Duration = Duration::from_millis(50);
/// How often one that could not be used is.
const RETRY_FAILING: Duration = Duration::from_secs(1);
/// How long a file that another process has at the start is waited for: it may be ending.
const FREE_WITHIN: Duration = Duration::from_secs(5);

pub(super) type Answer<T> = oneshot::Sender<Result<T, RegistryError>>;
type Reader = Box<dyn FnOnce(Result<Reading, RegistryError>) + Send>;

/// What the thread is asked for.
pub(super) enum Letter {
    /// To make a change. Answered with its counter, by which it is seen when it is shared; 0:
    /// there is nothing to share.
    Change(Change, Answer<u64>),
    /// To take over what other gateways wrote.
    Merge(Page, Answer<()>),
    /// To give some entries from before the first sharing a version. Answered with where to go
    /// on.
    Adopt(String, Answer<Option<String>>),
    /// To let somebody read.
    Read(Reader),
    /// To close the file, because a successor will open it.
    LetGo(oneshot::Sender<()>),
    /// To open it again, because there is no successor after all.
    TakeBack,
    /// To end.
    End,
}

/// What the thread has in its hands.
enum Holding {
    Open(Store),
    /// A successor has it, or is to have it.
    Away,
    /// There is no successor; the file is to be opened as soon as that can be done.
    Wanted,
}

/// The thread's state.
pub(super) struct Keeper {
    /// None: everything is in memory and ends with the process.
    folder: Option<PathBuf>,
    holding: Holding,
    memory: Arc<Memory>,
    names: Numbers,
    status: Arc<Status>,
    sharing: Arc<Sharing>,
    /// Who writes versions, where the registry is shared.
    writer: Option<u64>,
    bounds: Bounds,
    purged: Instant,
}

impl Keeper {
    /// Opens the registry and reads all of it.
    ///
    /// # Errors
    /// When another process has the file. Where it is damaged the registry begins anew, and where
    /// it cannot be reached it begins empty and takes no changes; both are said aloud.
    pub(super) fn start(
        folder: Option<&Path>,
        memory: Arc<Memory>,
        status: Arc<Status>,
        sharing: Arc<Sharing>,
        writer: Option<u64>,
        bounds: Bounds,
    ) -> Result<Keeper, RegistryError> {
        let mut keeper = Keeper {
            folder: folder.map(Path::to_owned),
            holding: Holding::Wanted,
            memory,
            names: Numbers::default(),
            status,
            sharing,
            writer,
            bounds,
            purged: clock::now(),
        };
        let end = clock::now() + FREE_WITHIN;
        let opened = loop {
            match keeper.open() {
                Err(OpenError::Taken) if clock::now() < end => std::thread::sleep(RETRY),
                opened => break opened,
            }
        };
        match opened {
            Ok(()) => {}
            Err(OpenError::Taken) => return Err(RegistryError::Taken),
            Err(OpenError::Damaged(why)) => keeper.begin_anew(&why),
            Err(OpenError::OutOfReach(why)) => keeper.go_without(&why),
        }
        Ok(keeper)
    }

    /// Opens the file and brings the memory in line with it.
    fn open(&mut self) -> Result<(), OpenError> {
        let (store, condition) = match &self.folder {
            Some(folder) => (Store::open(folder, self.writer)?, Condition::Durable),
            None => (Store::in_memory(self.writer)?, Condition::InMemory),
        };
        let mut seen = Seen::default();
        let was_empty = self.memory.is_empty();
        let (memory, names) = (&self.memory, &mut self.names);
        store.read().and_then(|reading| {
            reading.all(|effect| {
                if !was_empty {
                    memory.see(&effect, &mut seen);
                }
                memory.apply(effect, names);
            })
        })?;
        if !was_empty {
            self.memory.keep_only(&seen);
        }
        self.sharing.set(store.waiting);
        self.holding = Holding::Open(store);
        self.status.set(condition);
        Ok(())
    }

    /// Puts a damaged file aside and begins a new one.
    fn begin_anew(&mut self, why: &str) {
        let Some(folder) = self.folder.clone() else { return self.go_without(why) };
        let path = folder.join(FILE_NAME);
        let aside = folder.join(format!("{FILE_NAME}.damaged-{}", clock::unix_ms()));
        let moved = std::fs::rename(&path, &aside).map_err(|error| error.to_string());
        match moved.and_then(|()| self.open().map_err(|error| error.to_string())) {
            Ok(()) => {
                log::error!(
                    "{} is damaged ({why}); it was kept as {}, and the registry begins anew: \
                     clients, keys and blocks that were set at run time are gone until they are \
                     set again",
                    path.display(),
                    aside.display()
                );
                self.status.set(Condition::Anew);
            }
            Err(error) => self.go_without(&format!("{why}; no new one can be made: {error}")),
        }
    }

    /// Begins with nothing. The file is tried again now and then.
    fn go_without(&self, why: &str) {
        let folder = self.folder.clone().unwrap_or_default();
        log::error!(
            "{} cannot be used ({why}): clients, keys and blocks that were set at run time are \
             not known, and none can be set",
            folder.join(FILE_NAME).display()
        );
        self.status.set(Condition::Failing);
    }

    /// Serves until it is told to end.
    pub(super) fn run(mut self, letters: &Receiver<Letter>) {
        loop {
            let patience = match (&self.holding, self.status.get()) {
                (Holding::Wanted, Condition::HandedOver) => RETRY,
                (Holding::Wanted, _) => RETRY_FAILING,
                (Holding::Open(_) | Holding::Away, _) => PURGE_EVERY,
            };
            let letter = match letters.recv_timeout(patience) {
                Ok(letter) => Some(letter),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if matches!(self.holding, Holding::Wanted) {
                self.reopen();
            }
            self.purge();
            if let Some(letter) = letter
                && !self.handle(letter, letters)
            {
                return;
            }
        }
    }

    fn reopen(&mut self) {
        match self.open() {
            Ok(()) => log::info!("the registry's file is open again"),
            Err(OpenError::Taken) => {}
            Err(error) => log::debug!("the registry cannot be opened: {error}"),
        }
    }

    /// Does what a letter asks for; whether to go on.
    fn handle(&mut self, letter: Letter, letters: &Receiver<Letter>) -> bool {
        match letter {
            Letter::Change(change, answer) => {
                let mut batch = vec![(change, answer)];
                let mut next = None;
                while batch.len() < MAX_BATCH {
                    match letters.try_recv() {
                        Ok(Letter::Change(change, answer)) => batch.push((change, answer)),
                        Ok(other) => {
                            next = Some(other);
                            break;
                        }
                        Err(_) => break,
                    }
                }
                self.write(batch);
                return next.is_none_or(|letter| self.handle(letter, letters));
            }
            Letter::Read(reader) => reader(self.read()),
            Letter::Merge(page, answer) => {
                let _ = answer.send(self.merge(page));
            }
            Letter::Adopt(after, answer) => {
                let _ = answer.send(self.adopt(&after));
            }
            Letter::LetGo(answer) => {
                // What is in memory alone goes nowhere. Dropping a file closes and unlocks it.
                if self.folder.is_some() {
                    self.holding = Holding::Away;
                    self.status.set(Condition::HandedOver);
                }
                let _ = answer.send(());
            }
            Letter::TakeBack => {
                if matches!(self.holding, Holding::Away) {
                    self.holding = Holding::Wanted;
                    self.reopen();
                    if matches!(self.holding, Holding::Wanted) {
                        log::warn!("changes are refused until the registry's file is free again");
                    }
                }
            }
            Letter::End => return false,
        }
        true
    }

    pub(super) fn read(&self) -> Result<Reading, RegistryError> {
        let store = self.store()?;
        store.read().map_err(|error| RegistryError::Failing(error.to_string()))
    }

    fn store(&self) -> Result<&Store, RegistryError> {
        match &self.holding {
            Holding::Open(store) => Ok(store),
            Holding::Away => Err(RegistryError::HandedOver),
            Holding::Wanted if self.status.get() == Condition::HandedOver => {
                Err(RegistryError::HandedOver)
            }
            Holding::Wanted => Err(RegistryError::Failing("it cannot be opened".into())),
        }
    }

    /// Makes changes in one transaction, and then in memory, and only then says so.
    fn write(&mut self, batch: Vec<(Change, Answer<u64>)>) {
        let written = self.transact(|tables, bounds, effects| {
            let made = batch.iter().map(|(change, _)| {
                let made = ledger::make(change, tables, bounds, effects)?;
                Ok(made.map(|()| tables.shares.as_ref().map_or(0, Shares::written)))
            });
            made.collect::<Result<Vec<_>, _>>()
        });
        match written {
            Ok(made) => {
                for ((_, answer), made) in batch.into_iter().zip(made) {
                    let _ = answer.send(made);
                }
            }
            Err(error) => {
                for (_, answer) in batch {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    /// Runs `work` in one transaction, and once that is on disk brings what it did into memory.
    pub(super) fn transact<T>(
        &mut self,
        work: impl FnOnce(&mut Tables<'_>, &Bounds, &mut Vec<Effect>) -> Result<T, StorageError>,
    ) -> Result<T, RegistryError> {
        let mut effects = Vec::new();
        let written = self.store().and_then(|store| {
            let write = || store.write(|tables| work(tables, &self.bounds, &mut effects));
            match catch_unwind(AssertUnwindSafe(write)) {
                Ok(Ok(made)) => Ok(made),
                Ok(Err(error)) => Err(RegistryError::Failing(error.to_string())),
                Err(_) => Err(RegistryError::Failing("its contents are inconsistent".into())),
            }
        });
        match written {
            Ok((made, waiting)) => {
                for effect in effects {
                    self.memory.apply(effect, &mut self.names);
                }
                self.sharing.set(waiting);
                Ok(made)
            }
            Err(error) => {
                if let (RegistryError::Failing(why), Some(_)) = (&error, &self.folder) {
                    self.fail(why);
                }
                Err(error)
            }
        }
    }

    /// What was written last may be on disk or not; only opening the file again tells.
    fn fail(&mut self, why: &str) {
        if self.status.get() != Condition::Failing {
            log::error!("the registry cannot be written, and changes are refused: {why}");
        }
        self.holding = Holding::Wanted;
        self.status.set(Condition::Failing);
    }

    fn purge(&mut self) {
        let now = clock::now();
        if now.saturating_duration_since(self.purged) < PURGE_EVERY {
            return;
        }
        self.purged = now;
        if matches!(self.holding, Holding::Open(_))
            && (self.memory.has_ends() || self.writer.is_some())
        {
            let (answer, _) = oneshot::channel();
            self.write(vec![(Change::Purge { now_ms: clock::unix_ms() }, answer)]);
        }
    }
}
