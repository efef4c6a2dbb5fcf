//! Reload as a transaction: read, check, build beside what serves, swap. Until the swap nothing
//! has changed, and after it nothing can fail; so a reload that fails leaves everything as it
//! was.

mod progress;

pub use progress::{Phase, Progress};

use crate::config::{self, Finding, LoadError};
use crate::gateway::{Gateway, Generation};
use progress::Teller;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};

/// How long a swap waits for names that are new. A resolver that is down must not hold up the
/// rest of a configuration.
const FIRST_LOOKUPS: Duration = Duration::from_secs(2);
/// How often is looked whether the last request of an old generation has ended.
const SWEEP: Duration = Duration::from_secs(1);

/// Replaces the gateway's configuration by what its file says now. One reload at a time;
/// others wait.
pub struct Reloader {
    gateway: Arc<Gateway>,
    /// None: it was started without a file.
    file: Option<PathBuf>,
    turn: Mutex<()>,
    progress: Teller,
}

/// A reload that was taken.
#[derive(Debug, PartialEq, Eq)]
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
    /// A fault of the gateway itself.
    #[error("the new configuration could not be built: {0}")]
    Broken(#[from] JoinError),
}

impl Reloader {
    /// Reloads `gateway` from `file`.
    pub fn new(gateway: Arc<Gateway>, file: Option<PathBuf>) -> Reloader {
        Reloader { gateway, file, turn: Mutex::new(()), progress: Teller::new() }
    }

    /// Where reloads stand, and how to wait for the next change of that.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the file and swaps what it says in. Log and metrics tell what came of it.
    ///
    /// # Errors
    /// Why the old configuration serves on.
    pub async fn reload(&self) -> Result<Reloaded, Rejected> {
        let _turn = self.turn.lock().await;
        self.progress.begin();
        let outcome = self.exchange().await;
        self.gateway.metrics.reloaded(outcome.is_ok());
        match &outcome {
            Ok(reloaded) => {
                self.log_taken(reloaded);
                let changes = reloaded.changed.len();
                self.progress.end(Phase::Taken { generation: reloaded.generation, changes });
            }
            Err(why) => {
                log::error!("reload rejected, the old configuration serves on: {why}");
                let generation = self.gateway.generation().number;
                let why = why.to_string().replace('\n', "; ").into();
                self.progress.end(Phase::Rejected { generation, why });
            }
        }
        outcome
    }

    async fn exchange(&self) -> Result<Reloaded, Rejected> {
        let file = self.file.clone().ok_or(Rejected::NoFile)?;
        let gateway = self.gateway.clone();
        // Large files take a while; neither the admin API nor health checks wait for that.
        let built = spawn_blocking(move || build(&gateway, &file)).await??;
        let (next, reloaded) = built;
        for upstream in &next.upstreams {
            upstream.spawn_upkeep(&Handle::current());
        }
        let all_settled = async {
            for upstream in &next.upstreams {
                upstream.settled().await;
            }
        };
        let _ = timeout(FIRST_LOOKUPS, all_settled).await;
        let old = self.gateway.swap(next);
        tokio::spawn(let_go(old));
        Ok(reloaded)
    }

    fn log_taken(&self, reloaded: &Reloaded) {
        let Reloaded { generation, changed, warnings } = reloaded;
        for warning in warnings {
            match &self.file {
                Some(file) => log::warn!("{}", warning.in_file(file)),
                None => log::warn!("{warning}"),
            }
        }
        match &changed[..] {
            [] => log::info!("reloaded, nothing changed; this is generation {generation}"),
            [first, rest @ ..] => log::info!(
                "reloaded, this is generation {generation}; {first}{}",
                if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) }
            ),
        }
    }
}

/// Reads, checks and compares the file, and builds what it decides.
fn build(gateway: &Gateway, file: &Path) -> Result<(Generation, Reloaded), Rejected> {
    let mut loaded = config::load(file)?;
    let current = gateway.generation();
    let fixed = config::keep_fixed(&current.config, &mut loaded.config);
    let mut warnings = loaded.warnings;
    warnings.extend(fixed);
    let changed = config::changes(&current.config, &loaded.config);
    let next = gateway.prepare(loaded.config);
    let reloaded = Reloaded { generation: next.number, changed, warnings };
    Ok((next, reloaded))
}

/// Holds an old generation until its last request has ended, so that the work of dropping it
/// is not that request's.
async fn let_go(old: Arc<Generation>) {
    while Arc::strong_count(&old) > 1 {
        sleep(SWEEP).await;
    }
    // Nobody can take hold of it any more.
    let _ = spawn_blocking(move || drop(old)).await;
}
