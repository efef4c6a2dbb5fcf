//! Keeps the allocator's pages warm.
//!
//! Serving a request takes a few large allocations: the request's future, buffers for its
//! heads. mimalloc gives a page back as soon as its last block is freed, but for the last page of
//! a size; and because idle connections wait outside Pingora (see [`super::app`]) the number of
//! such blocks goes up and down with the requests under way. At 64 of them a page was fetched and
//! returned for every eighth request. Blocks that are never freed, one to a page, keep as many
//! pages as that many requests fill.

use std::hint::black_box;

/// Bytes of the allocator's pages.
const PAGE: usize = 64 << 10;

/// The allocator's size classes, and how many pages of each are kept. The sizes of a request's
/// future, of the buffers for heads and of what a head is kept in need more than one: 41 pages or
/// 2.6 MiB a thread, most of which freeing writes to. Of the others one block each is never
/// written to.
const KEPT: [(usize, usize); 21] = [
    (640, 2),
    (768, 4),
    (896, 2),
    (1_024, 2),
    (1_280, 3),
    (1_536, 2),
    (1_792, 2),
    (2_048, 2),
    (4_096, 8),
    (5_120, 1),
    (6_144, 1),
    (7_168, 1),
    (8_192, 1),
    (10_240, 14),
    (12_288, 1),
    (14_336, 1),
    (16_384, 1),
    (20_480, 1),
    (24_576, 1),
    (28_672, 1),
    (32_768, 1),
];

thread_local! {
    static BLOCKS: Vec<Vec<u8>> = KEPT.iter().flat_map(|&(size, pages)| fill(size, pages)).collect();
}

/// One block of each of so many pages: they are filled with blocks, of which most are freed.
fn fill(size: usize, pages: usize) -> impl Iterator<Item = Vec<u8>> {
    let a_page = if pages > 1 { PAGE / size } else { 1 };
    let blocks: Vec<Vec<u8>> = (0..pages * a_page).map(|_| Vec::with_capacity(size)).collect();
    blocks.into_iter().step_by(a_page)
}

/// Makes sure the calling thread has its blocks. Costs nothing after the first time.
pub(super) fn keep_pages() {
    BLOCKS.with(|blocks| {
        black_box(blocks.len());
    });
}
