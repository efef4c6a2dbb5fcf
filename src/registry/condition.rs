//! How the registry is: its bounds, what it refuses, and where it lies.

use super::{MAX_BLOCKS, MAX_CHANGED_CLIENTS, MAX_KEYS, MAX_KEYS_OF_CLIENT};
use std::sync::atomic::{AtomicU8, Ordering};
use thiserror::Error;

/// How many of what there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Clients.
    pub clients: usize,
    /// API keys.
    pub keys: usize,
    /// API keys of one client.
    pub keys_of_client: usize,
    /// Blocks.
    pub blocks: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            clients: MAX_CHANGED_CLIENTS,
            keys: MAX_KEYS,
            keys_of_client: MAX_KEYS_OF_CLIENT,
            blocks: MAX_BLOCKS,
        }
    }
}

/// Why a change was not made, or a question not answered. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RegistryError {
    /// There is no room for another client.
    #[error("the registry is full: at most {0} clients can be registered at run time")]
    TooManyClients(usize),
    /// There is no room for another key.
    #[error("the registry is full: at most {0} API keys can be made at run time")]
    TooManyKeys(usize),
    /// The client has as many keys as it may.
    #[error("the client has {0} API keys, as many as it may; revoke one first")]
    TooManyKeysOfClient(usize),
    /// There is no room for another block.
    #[error("the block list is full: at most {0} entries")]
    TooManyBlocks(usize),
    /// The client has no such key.
    #[error("the client has no such key that was made at run time")]
    NoSuchKey,
    /// Nobody of that name is blocked.
    #[error("there is no such block")]
    NoSuchBlock,
    /// More wait for the file than may.
    #[error("too many changes wait to be written; try again in a moment")]
    Busy,
    /// A successor has the file.
    #[error("another process is taking over and has the registry; ask again in a moment")]
    HandedOver,
    /// Another gateway has the file.
    #[error("another process has the registry open; every gateway needs a state_dir of its own")]
    Taken,
    /// The file cannot be written or read.
    #[error("the registry's file fails: {0}")]
    Failing(String),
}

/// Where the registry is and how it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// It ends with the process: there is no `state_dir`.
    InMemory = 0,
    /// On disk.
    Durable = 1,
    /// On disk, but it began anew because its file was damaged.
    Anew = 2,
    /// Its file cannot be written; what is in memory goes on.
    Failing = 3,
    /// A successor has its file.
    HandedOver = 4,
}

/// The condition, for all to see.
#[derive(Debug, Default)]
pub(super) struct Status(AtomicU8);

impl Status {
    pub(super) fn set(&self, condition: Condition) {
        self.0.store(condition as u8, Ordering::Release);
    }

    pub(super) fn get(&self) -> Condition {
        match self.0.load(Ordering::Acquire) {
            0 => Condition::InMemory,
            1 => Condition::Durable,
            2 => Condition::Anew,
            4 => Condition::HandedOver,
            _ => Condition::Failing,
        }
    }
}
