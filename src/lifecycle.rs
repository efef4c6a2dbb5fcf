//! Where the process is in its life: starting, ready or draining.

use crate::clock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// A stage of the process's life. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Listeners are not open yet.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Told to stop: what is in flight is finished, nothing new is wanted.
    Draining = 2,
}

/// The process's stage and age.
#[derive(Debug)]
pub struct Lifecycle {
    stage: AtomicU8,
    started: Instant,
}

impl Lifecycle {
    /// A process that starts now.
    pub fn starting() -> Lifecycle {
        Lifecycle { stage: AtomicU8::new(Stage::Starting as u8), started: clock::now() }
    }

    /// Moves on to `stage`; never back.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// The current stage.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            _ => Stage::Draining,
        }
    }

    /// Whether new requests are wanted.
    pub fn is_ready(&self) -> bool {
        self.stage() == Stage::Ready
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
