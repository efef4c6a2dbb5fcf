//! One word that says whether everything passes, and counts what succeeds meanwhile.
//!
//! ```text
//! 63           32 31          11 10        1  0
//! ┌──────────────┬──────────────┬───────────┬────┐
//! │  generation  │  sub-window  │ successes │ up │
//! └──────────────┴──────────────┴───────────┴────┘
//! ```
//!
//! Whoever holds the circuit's lock writes the word; others only add to the successes, by
//! compare-and-swap, so that a success is counted in the generation and the sub-window it
//! belongs to or not at all. An unconditional add would be one instruction less and could
//! hit a word that has just been replaced.
//!
//! Nothing else is published by the word: what the lock protects is read under the lock. So
//! no access needs an ordering of its own. What a thread did before it told another one
//! anything, the other sees here as well, by coherence of the word alone.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const UP: u64 = 1;
const ONE_SUCCESS: u64 = 1 << 1;
const SUCCESS_BITS: u32 = 10;
const SUCCESSES: u64 = ((1 << SUCCESS_BITS) - 1) << 1;
const TICK_SHIFT: u32 = 1 + SUCCESS_BITS;
/// Low bits of the sub-window's number. After 2^21 quiet sub-windows, 24 days if they are of
/// a second, two look the same; the successes of one are then taken for much too old.
const TICK_BITS: u32 = 32 - TICK_SHIFT;

/// Successes that are counted before somebody has to take the lock, at most.
#[cfg(test)]
pub(super) const MOST_SUCCESSES: u32 = (1 << SUCCESS_BITS) - 1;

/// The word. It starts down: nothing passes by it.
#[derive(Debug, Default)]
pub(super) struct Gate(AtomicU64);

impl Gate {
    /// The generation in which everything passes; `None`: ask the machine.
    pub(super) fn generation(&self) -> Option<u32> {
        let word = self.0.load(Relaxed);
        (word & UP != 0).then_some((word >> 32) as u32)
    }

    /// Counts one success. Returns whether it was: not if the gate is down, stands for
    /// another generation or sub-window, or can count no more.
    pub(super) fn count(&self, generation: u32, tick: u64) -> bool {
        let expected = up(generation, tick);
        let mut word = self.0.load(Relaxed);
        while word & !SUCCESSES == expected && word & SUCCESSES != SUCCESSES {
            match self.0.compare_exchange_weak(word, word + ONE_SUCCESS, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(seen) => word = seen,
            }
        }
        false
    }

    /// Takes the successes counted. For the holder of the lock.
    pub(super) fn take(&self) -> u32 {
        successes(self.0.fetch_and(!SUCCESSES, Relaxed))
    }

    /// Puts the gate up for a generation, counting in sub-window `tick`, or down. Returns the
    /// successes counted since [`Gate::take`]. For the holder of the lock.
    pub(super) fn set(&self, generation: Option<u32>, tick: u64) -> u32 {
        let word = generation.map_or(0, |generation| up(generation, tick));
        successes(self.0.swap(word, Relaxed))
    }
}

/// The word of a gate that is up and has counted nothing.
fn up(generation: u32, tick: u64) -> u64 {
    let tick = tick & ((1 << TICK_BITS) - 1);
    u64::from(generation) << 32 | tick << TICK_SHIFT | UP
}

fn successes(word: u64) -> u32 {
    ((word & SUCCESSES) >> 1) as u32
}
