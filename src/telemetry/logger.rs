//! The process's log: env_logger, with a bound on how often one place may speak.
//!
//! Clients can make Pingora report a failure for every connection they open. A flood of
//! such lines costs more than the failures and buries the one that matters, so each
//! source line may log a few times a second; what it said beyond that is counted and
//! summed up when it may speak again.

use env_logger::{Env, Logger};
use log::{Level, LevelFilter, Log, Metadata, Record};
use pingora_limits::rate::Rate;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Lines a place in the code may log in a second.
const LINES_PER_SECOND: isize = 5;
/// The filter where `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info,pingora=warn,pingora_core=warn,pingora_proxy=warn";

struct BoundedLogger {
    inner: Logger,
    /// Counts by source line in a sketch of fixed size: collisions can only make it
    /// quieter. Its window must not be shorter than a second.
    spoken: Rate,
    suppressed: AtomicU64,
}

/// Starts logging to standard error, filtered by `RUST_LOG`.
///
/// # Errors
/// When a logger is set already.
pub fn start() -> Result<(), log::SetLoggerError> {
    let inner = env_logger::Builder::from_env(Env::default().default_filter_or(DEFAULT_FILTER))
        .format_timestamp_millis()
        .build();
    let level = inner.filter();
    log::set_boxed_logger(Box::new(BoundedLogger {
        inner,
        spoken: Rate::new(Duration::from_secs(1)),
        suppressed: AtomicU64::new(0),
    }))?;
    log::set_max_level(level);
    Ok(())
}

impl BoundedLogger {
    fn may_speak(&self, record: &Record<'_>) -> bool {
        // Whoever asked for debug output wants all of it.
        if record.level() > Level::Info || log::max_level() > LevelFilter::Info {
            return true;
        }
        let place = (record.module_path(), record.line());
        self.spoken.observe(&place, 1) <= LINES_PER_SECOND
    }
}

impl Log for BoundedLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.inner.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.inner.matches(record) {
            return;
        }
        if !self.may_speak(record) {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let suppressed = self.suppressed.swap(0, Ordering::Relaxed);
        if suppressed > 0 {
            let message = format_args!("{suppressed} repeated log lines were left out");
            let notice =
                Record::builder().level(Level::Warn).target("tollgate").args(message).build();
            self.inner.log(&notice);
        }
        self.inner.log(record);
    }

    fn flush(&self) {
        self.inner.flush();
    }
}
