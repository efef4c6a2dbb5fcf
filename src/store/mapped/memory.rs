//! Memory that is not the allocator's: a mapped file, or pages of this process alone. The only
//! unsafe code of the gateway.
//!
//! What could go wrong with a mapped file, and why it does not:
//!
//! - *Data races.* Other processes, and threads of this one, write while we read. Both parts of
//!   the file are only ever seen as shared references to atomics, which allow just that; no
//!   reference to plain data in there is ever made. That they are atomic between processes takes
//!   instructions: [`is_possible`] says whether 128 bits have one here, since the locks that
//!   `portable_atomic` falls back to belong to one process alone.
//! - *Values that are none.* Every pattern of bits is an integer. What a damaged or foreign file
//!   holds is wrong, never undefined; nothing read from it is an index or a length.
//! - *A file that becomes shorter.* To touch a page beyond its end kills the process (SIGBUS).
//!   The file belongs to this user alone (0600, checked when it is opened), and no gateway ever
//!   shortens one: what is not wanted is renamed.
//! - *A disk that becomes full.* Writing to a page that has no block yet would be the same
//!   SIGBUS. All blocks are allocated before the file has its name.
//! - *A map that goes away.* The references borrow from the [`Memory`], which unmaps when it is
//!   dropped and not before.

use super::super::set::{SLOTS_PER_SET, Set};
use super::super::table::BYTES_PER_SLOT;
use super::header::{self, Words};
use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};
use portable_atomic::AtomicU128;
use std::alloc::{Layout, handle_alloc_error};
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::atomic::AtomicU64;

/// Where a table is. That of a file is shared with whoever else has it.
pub(in super::super) struct Memory {
    /// As long as the header and `sets` sets, and never null.
    map: MmapRaw,
    sets: usize,
}

// The table begins on a page, which is more than a set asks for, and the words and the slots lie
// without gaps. Were any of this not so, it would not compile.
const _: () = assert!(header::BYTES.is_multiple_of(align_of::<Set>()));
const _: () = assert!(header::BYTES == size_of::<Words>() && header::BYTES == 4_096);
const _: () = assert!(size_of::<Set>() == SLOTS_PER_SET * BYTES_PER_SLOT);
const _: () = assert!(size_of::<Set>() == SLOTS_PER_SET * size_of::<AtomicU128>());

/// Whether this machine changes 128 bits in one step, which two processes need to share a table.
pub(super) fn is_possible() -> bool {
    AtomicU128::is_lock_free()
}

/// Bytes of a file with so many slots.
pub(super) fn length(slots: u64) -> u64 {
    header::BYTES as u64 + slots * BYTES_PER_SLOT as u64
}

impl Memory {
    /// Maps a file of `slots` slots. Its pages are read in here, not at the first requests.
    ///
    /// # Errors
    /// When the file has another length, or the system has no room to map it.
    pub(super) fn map(file: &File, slots: u64) -> io::Result<Memory> {
        let bytes = length(slots);
        if file.metadata()?.len() != bytes {
            return Err(io::Error::other("its length has changed"));
        }
        let too_large = |_| io::Error::other("it is too large for this machine");
        let bytes = usize::try_from(bytes).map_err(too_large)?;
        let map = MmapOptions::new().len(bytes).populate().map_raw(file)?;
        Ok(Memory { map, sets: (bytes - header::BYTES) / size_of::<Set>() })
    }

    /// `sets` empty sets that end with the process; the header before them is never written.
    ///
    pub(in super::super) fn anonymous(sets: usize) -> Memory {
        let bytes = sets.saturating_mul(size_of::<Set>()).saturating_add(header::BYTES);
        let memory = Memory { map: anonymous(bytes), sets };
        // Whatever memory is missing is so now and not at some request.
        memory.sets().iter().for_each(Set::touch);
        memory
    }

    /// The table.
    #[inline]
    #[allow(unsafe_code, reason = "the table is in memory that Rust did not allocate")]
    pub(in super::super) fn sets(&self) -> &[Set] {
        // SAFETY: `map` begins on a page and is `header::BYTES + sets * size_of::<Set>()` bytes
        // long, so the pointer to the first set is within it, as is the last set's end.
        let first = unsafe { self.map.as_ptr().add(header::BYTES) }.cast::<Set>();
        // SAFETY: `first` is aligned, for the map begins on a page and the header's length is a
        // multiple of a set's alignment (asserted above). The memory holds `sets` sets (one
        // constructor divided, the other multiplied) and is initialised: a page of a file always
        // reads as something, an anonymous one as zeros, and any bits make an `AtomicU128`. It stays mapped while `self` is borrowed. A `Set` is
        // nothing but atomics, so that others write meanwhile is no breach of the shared
        // reference. The length is below `isize::MAX`, or the map would not exist.
        unsafe { std::slice::from_raw_parts(first, self.sets) }
    }

    /// The header.
    #[allow(unsafe_code, reason = "the header is in memory that Rust did not allocate")]
    pub(super) fn header(&self) -> &Words {
        let first = self.map.as_ptr().cast::<Words>();
        // SAFETY: the map begins on a page, which aligns it for words of 8 bytes, and is at least
        // `header::BYTES` long (both constructors saw to it), which is the size of `Words`. Any
        // bits make an `AtomicU64`; the memory stays mapped while `self` is borrowed, and what
        // others write meanwhile, they write atomically, as we do.
        unsafe { &*first }
    }
}

/// Zeros that end with the process.
///
/// In huge pages where the system has some to give: next to nothing that a request needs of a
/// table is near anything else, so in small pages nearly every look would first wait for where
/// its page is. The allocator asks for none (docs/ARCHITECTURE.md), which is why this does not
/// come from it. Less than a huge page is small pages, and what is not written takes no memory.
fn anonymous(bytes: usize) -> MmapRaw {
    let Ok(map) = MmapMut::map_anon(bytes) else {
        // As whenever there is no memory.
        handle_alloc_error(Layout::new::<Line>());
    };
    // It is as good in small pages, only slower.
    let _ = map.advise(Advice::HugePage);
    map.into()
}

/// The words of a cache line.
#[repr(align(64))]
pub struct Line(pub [AtomicU64; 8]);

/// Lines of zeros to begin with, in huge pages where there are some; they end with the process.
pub struct Lines {
    /// As long as `count` lines, of which there is at least one.
    map: MmapRaw,
    count: usize,
}

const _: () = assert!(size_of::<Line>() == 64 && align_of::<Line>() == 64);

impl Lines {
    /// So many lines, at least one.
    pub fn new(count: usize) -> Lines {
        let count = count.max(1);
        Lines { map: anonymous(count.saturating_mul(size_of::<Line>())), count }
    }
}

impl Deref for Lines {
    type Target = [Line];

    #[inline]
    #[allow(unsafe_code, reason = "the lines are in memory that Rust did not allocate")]
    fn deref(&self) -> &[Line] {
        // SAFETY: the map begins on a page, which aligns it for lines, and is `count` of them
        // long (the constructor multiplied; had that overflowed, there would be no map). It is
        // initialised, as an anonymous page reads as zeros, and any bits make an `AtomicU64`. It
        // stays mapped while `self` is borrowed and nobody else knows of it; a `Line` is nothing
        // but atomics. The length is below `isize::MAX`, or the map would not exist.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast::<Line>(), self.count) }
    }
}
