//! Reload as a transaction: read, check, build beside what serves, swap. Until the swap nothing
//! has changed, and after it nothing can fail; so a reload that fails leaves everything as it
//! was. What was taken can still be taken back: by its trial (`trial.rs`), or by an operator
//! who goes back to one of the last generations (`history.rs`).

mod attend;
mod background;
mod file_watch;
mod history;
mod progress;
mod queue;
mod trial;

pub use history::{Cause, Entry, KEPT, Rejection};
pub use progress::{Phase, Progress};
pub use queue::Outcome;
pub use trial::OnTrial;

use crate::clock;
use crate::config::{self, Finding, LoadError, Loaded};
use crate::gateway::{Gateway, Generation};
use crate::metrics::ReloadResult;
use background::behind_requests;
use file_watch::FileWatch;
use history::{History, Kept, Source};
use jiff::Timestamp;
use progress::Teller;
use queue::Queue;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{self, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};
use trial::{Swap, Trials};

/// How long a swap waits for names that are new. A resolver that is down must not hold up the
/// rest of a configuration.
const FIRST_LOOKUPS: Duration = Duration::from_secs(2);
/// How often is looked whether the last request of an old generation has ended.
const SWEEP: Duration = Duration::from_secs(1);

/// Replaces the gateway's configuration: by what its file says now, or by one that served
/// before. One reload at a time; a bounded number of others waits.
pub struct Reloader {
    gateway: Arc<Gateway>,
    /// None: it was started without a file.
    file: Option<PathBuf>,
    turn: sync::Mutex<()>,
    queue: Queue,
    progress: Teller,
    /// Held for as long as counts are compared or entries pushed; never while waiting.
    record: Mutex<Record>,
    file_watch: Mutex<FileWatch>,
}

/// What is known of the configurations so far.
struct Record {
    history: History,
    trials: Trials,
    /// What the file said when it was last read, right or wrong; none: it was not read yet.
    read: Option<u64>,
    /// What the generation that serves is made from again.
    serving: Kept,
}

/// A reload that was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reloaded {
    /// The number of the generation that serves now.
    pub generation: u64,
    /// What changed, by key.
    pub changed: Vec<String>,
    /// What the file says that may not have been meant, or takes effect only after a restart.
    pub warnings: Vec<Finding>,
}

/// A reload that was rejected; what served before serves on.
#[derive(Debug, Error)]
pub enum Rejected {
    /// The file is missing, cannot be read or is wrong.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// There is no file to read.
    #[error("the gateway was started without a file, so there is nothing to reload")]
    NoFile,
    /// The generation is not, or no longer, kept.
    #[error("generation {generation} is not kept; those that are: {}", numbers(.kept))]
    NotKept {
        /// What was asked for.
        generation: u64,
        /// What there is.
        kept: Vec<u64>,
    },
    /// So many operators go back at once that this one was not even begun.
    #[error("other generations are being gone back to already; try again later")]
    Busy,
    /// A fault of the gateway itself.
    #[error("the new configuration could not be built: {0}")]
    Broken(String),
}

impl From<JoinError> for Rejected {
    fn from(error: JoinError) -> Rejected {
        Rejected::Broken(error.to_string())
    }
}

fn numbers(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

impl Rejected {
    /// Why, in one line.
    fn summary(&self) -> String {
        match self {
            Rejected::Load(LoadError::Invalid(findings)) => match &findings[..] {
                [] => "the file is wrong".to_owned(),
                [one] => one.to_string(),
                [first, rest @ ..] => format!("{first} (and {} more errors)", rest.len()),
            },
            other => other.to_string(),
        }
    }
}

/// What a new configuration is made of.
enum Origin {
    /// The file as it is now.
    File,
    /// One that served before.
    Kept(Source),
}

/// One reload that is asked for.
struct Order {
    cause: Cause,
    origin: Origin,
    /// Why the generation that serves is taken back; only for a rollback.
    why: Option<Arc<str>>,
}

impl Reloader {
    /// Reloads `gateway` from `file`.
    pub fn new(gateway: Arc<Gateway>, file: Option<PathBuf>) -> Reloader {
        let first = gateway.generation();
        let source = Source::Checked(first.config.clone());
        let entry = Entry {
            generation: first.number,
            at: clock::timestamp(),
            cause: Cause::Start,
            changed: [].into(),
            rolled_back: None,
            source: Some(source.clone()),
        };
        let record = Record {
            history: History::starting(entry),
            trials: Trials::default(),
            read: None,
            serving: Kept { generation: first.number, source },
        };
        Reloader {
            gateway,
            file,
            turn: sync::Mutex::new(()),
            queue: Queue::default(),
            progress: Teller::new(),
            record: Mutex::new(record),
            file_watch: Mutex::default(),
        }
    }

    /// Where reloads stand, and how to wait for the next change of that.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// The last generations, the newest first; at most [`KEPT`].
    pub fn history(&self) -> Vec<Entry> {
        self.record().history.entries()
    }

    /// The last reload that was rejected.
    pub fn last_rejection(&self) -> Option<Rejection> {
        self.record().history.last_rejection()
    }

    /// When something was reloaded last, and what it came to.
    pub fn last(&self) -> Option<(Timestamp, ReloadResult)> {
        self.record().history.last()
    }

    /// The configuration that is on trial.
    pub fn on_trial(&self) -> Option<OnTrial> {
        self.record().trials.current(clock::now_ns())
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries an order out; whose turn it is must be settled.
    async fn take_turn(self: &Arc<Self>, order: Order) -> Result<Reloaded, Rejected> {
        let Order { cause, origin, why } = order;
        self.progress.begin();
        let from = self.gateway.generation().number;
        match self.exchange(cause, origin, why.as_ref()).await {
            Ok(reloaded) => {
                let generation = reloaded.generation;
                self.log_taken(cause, &reloaded);
                self.progress.end(match why {
                    Some(why) => Phase::RolledBack { generation, from, why },
                    None => Phase::Taken { generation, changes: reloaded.changed.len() },
                });
                Ok(reloaded)
            }
            Err(rejected) => {
                log::error!("reload rejected, the old configuration serves on: {rejected}");
                self.gateway.metrics.reloaded(ReloadResult::Rejected);
                let why: Arc<str> = rejected.summary().into();
                let rejection = Rejection { at: clock::timestamp(), cause, why: why.clone() };
                self.record().history.reject(rejection);
                self.progress.end(Phase::Rejected { generation: from, why });
                Err(rejected)
            }
        }
    }

    async fn exchange(
        self: &Arc<Self>,
        cause: Cause,
        origin: Origin,
        why: Option<&Arc<str>>,
    ) -> Result<Reloaded, Rejected> {
        let reloader = self.clone();
        // Large files take a while; neither the admin API nor health checks wait for that.
        let built = behind_requests(move || reloader.build(origin)).await??;
        let Built { next, reloaded, source } = built;
        for upstream in &next.upstreams {
            upstream.spawn_upkeep(&Handle::current());
        }
        let all_settled = async {
            for upstream in &next.upstreams {
                upstream.settled().await;
            }
        };
        let _ = timeout(FIRST_LOOKUPS, all_settled).await;
        let entry = Entry {
            generation: next.number,
            at: clock::timestamp(),
            cause,
            changed: reloaded.changed.clone().into(),
            rolled_back: None,
            source: Some(source),
        };
        let (reloader, why) = (self.clone(), why.cloned());
        let old = spawn_blocking(move || reloader.swap(next, entry, why.as_ref())).await?;
        tokio::spawn(self.clone().let_go(old));
        Ok(reloaded)
    }

    /// Reads, checks and compares the configuration, and builds what it decides.
    fn build(&self, origin: Origin) -> Result<Built, Rejected> {
        let (Loaded { mut config, mut warnings }, source) = match origin {
            Origin::File => {
                let file = self.file.as_deref().ok_or(Rejected::NoFile)?;
                let read = self.read(file);
                self.record().read = Some(digest(&read));
                let text = read?;
                (config::check_text(&text)?, Source::Text(text.into()))
            }
            Origin::Kept(Source::Text(text)) => {
                (config::check_text(&text)?, Source::Text(text.clone()))
            }
            Origin::Kept(Source::Checked(config)) => {
                let loaded = Loaded { config: (*config).clone(), warnings: Vec::new() };
                (loaded, Source::Checked(config))
            }
        };
        let current = self.gateway.generation();
        warnings.extend(config::keep_fixed(&current.config, &mut config));
        let changed = config::changes(&current.config, &config);
        let next = self.gateway.prepare(config);
        let reloaded = Reloaded { generation: next.number, changed, warnings };
        Ok(Built { next, reloaded, source })
    }

    /// Lets `next` serve and gives the old generation. `why` says that it is taken back.
    fn swap(&self, next: Generation, entry: Entry, why: Option<&Arc<str>>) -> Arc<Generation> {
        let old = self.gateway.generation();
        let metrics = &self.gateway.metrics;
        let mut record = self.record();
        let source = entry.source.clone().unwrap_or(Source::Checked(next.config.clone()));
        let serving = Kept { generation: next.number, source };
        let serving = std::mem::replace(&mut record.serving, serving);
        record.trials.swap(Swap {
            old: &old,
            new: &next,
            serving,
            is_changed: !entry.changed.is_empty(),
            is_rollback: why.is_some(),
            now_ns: clock::now_ns(),
        });
        self.gateway.swap(next);
        match why {
            Some(why) => {
                metrics.reloaded(ReloadResult::RolledBack);
                record.history.mark_rolled_back(old.number, why);
            }
            None => metrics.reloaded(ReloadResult::Ok),
        }
        record.history.push(entry);
        old
    }

    /// Holds an old generation until its last request has ended, so that the work of dropping it
    /// is not that request's.
    async fn let_go(self: Arc<Self>, old: Arc<Generation>) {
        while Arc::strong_count(&old) > 1 {
            sleep(SWEEP).await;
        }
        // Nobody can take hold of it any more, and meanwhile no other one is prepared.
        let _turn = self.turn.lock().await;
        let gateway = self.gateway.clone();
        let _ = behind_requests(move || gateway.let_go(&old)).await;
    }

    fn log_taken(&self, cause: Cause, reloaded: &Reloaded) {
        let Reloaded { generation, changed, warnings } = reloaded;
        for warning in warnings {
            match &self.file {
                Some(file) => log::warn!("{}", warning.in_file(file)),
                None => log::warn!("{warning}"),
            }
        }
        let did = match cause.goes_back_to() {
            Some(to) => format!("went back to the configuration of generation {to}"),
            None => "reloaded".to_owned(),
        };
        match &changed[..] {
            [] => log::info!("{did}, nothing changed; this is generation {generation}"),
            [first, rest @ ..] => log::info!(
                "{did}, this is generation {generation}; {first}{}",
                if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) }
            ),
        }
    }
}

/// What a reload made and has not let serve yet.
struct Built {
    next: Generation,
    reloaded: Reloaded,
    source: Source,
}

/// Tells one content of the file from another, unreadable ones included. No adversary writes
/// the file, so that two contents with one digest are not to be feared.
fn digest(read: &Result<String, LoadError>) -> u64 {
    let mut hasher = DefaultHasher::new();
    read.as_ref().map_err(ToString::to_string).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
