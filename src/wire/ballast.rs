//! Keeps the allocator's pages warm.
//!
//! Serving a request takes a few large allocations: the request's future, buffers for its
//! heads. mimalloc gives a page back as soon as its last block is freed, and because idle
//! connections wait outside Pingora (see [`super::app`]) a worker often has not one
//! such block between two requests. It would fetch and return the same pages for every
//! request. One block of each size that is never freed keeps them.

use std::hint::black_box;

/// The allocator's size classes from 4 KiB to 32 KiB. 192 KiB of address space a thread,
/// which is never written to.
const SIZES: [usize; 13] = [
    4_096, 5_120, 6_144, 7_168, 8_192, 10_240, 12_288, 14_336, 16_384, 20_480, 24_576, 28_672,
    32_768,
];

thread_local! {
    static BLOCKS: Vec<Vec<u8>> = SIZES.map(Vec::with_capacity).into();
}

/// Makes sure the calling thread has its blocks. Costs nothing after the first time.
pub(super) fn keep_pages() {
    BLOCKS.with(|blocks| {
        black_box(blocks.len());
    });
}
