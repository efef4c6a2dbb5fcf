//! Where the process is in its life: starting, ready or draining.

use crate::clock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// A stage of the process's life. It only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Not everything that requests need is there yet.
    Starting = 0,
    /// Serving.
    Ready = 1,
    /// Another process serves on the same sockets: what is in flight is finished here.
    Succeeded = 2,
    /// Told to stop: what is in flight is finished, nothing new is wanted.
    Draining = 3,
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
            2 => Stage::Succeeded,
            _ => Stage::Draining,
        }
    }

    /// Whether new requests are wanted where this process listens, whoever serves them.
    pub fn is_ready(&self) -> bool {
        matches!(self.stage(), Stage::Ready | Stage::Succeeded)
    }

    /// Whether this process finishes what it has and takes nothing new.
    pub fn is_ending(&self) -> bool {
        self.stage() >= Stage::Succeeded
    }

    /// Time since the start.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }
}
