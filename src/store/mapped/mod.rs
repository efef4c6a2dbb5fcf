//! The limiter's table as a file, so that buckets outlive the process.
//!
//! The file is mapped and is the table: nothing is saved or loaded, and a charge is as durable
//! as it is made, whatever becomes of the process (the machine may lose what its disk had not
//! got yet). A successor maps the same file while its predecessor still serves, and both charge
//! the same buckets; the claim protocol of the table holds between processes as it does between
//! threads, and leaves nothing to clean up after one that was killed.
//!
//! Whatever is the matter with the file, the gateway serves: a file that cannot be used is put
//! aside and another one begun, and where there can be none the buckets stay in memory. The one
//! exception is a folder that another gateway serves from: two of them would charge one another's
//! clients, which nobody can have meant.

mod files;
mod header;
mod memory;
mod timeline;

#[cfg(test)]
mod tests;

pub use files::Lock;
pub(super) use memory::Memory;
pub use memory::{Line, Lines};
pub use timeline::{Boot, Reading};

use super::carry::carry_over;
use super::set::SLOTS_PER_SET;
use crate::policy::rate::MAX_CAPACITY_NS;
use files::{Denied, Hold, Trouble};
use header::Identity;
use std::fs;
use std::path::{Path, PathBuf};
use thiserror::Error;
use timeline::{Continuation, Mark};

/// What a table is opened with.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where it lies.
    pub folder: &'a Path,
    /// How many slots it shall have; rounded up to a power of two of at least one set.
    pub slots: usize,
    /// Whether another process serves from the folder and will let go of it.
    pub has_predecessor: bool,
    /// Which boot of the machine this is.
    pub boot: Boot,
    /// What its clocks say.
    pub now: Reading,
}

/// A table's file at work.
pub struct TableFile {
    memory: Memory,
    identity: Identity,
    process: u64,
    clock: FileClock,
}

/// What a table's file is told of the time.
pub(super) struct FileClock {
    boot: Boot,
    shift_ns: u64,
}

/// A table that was opened.
pub struct Opened {
    /// The table.
    pub file: TableFile,
    /// To be held for as long as the gateway takes requests.
    pub lock: Lock,
    /// What happened that its operator should know.
    pub warnings: Vec<String>,
    /// What the log tells of it.
    pub summary: String,
}

/// Why there is no file to serve from.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// Another gateway serves from the folder. This one must not.
    #[error("{} is in use by another gateway ({}); give each its own folder", .0.display(), .1)]
    InUse(PathBuf, String),
    /// The buckets have to stay in memory.
    #[error("{}", .0)]
    Unusable(String),
}

impl Boot {
    /// The boot that this process runs in.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn current() -> Result<Boot, Unavailable> {
        const FILE: &str = "/proc/sys/kernel/random/boot_id";
        let unknown = |why: &str| Unavailable::Unusable(format!("{FILE} {why}"));
        let text = fs::read_to_string(FILE).map_err(|error| unknown(&error.to_string()))?;
        Boot::parse(&text).ok_or_else(|| unknown("does not name this boot of the machine"))
    }
}

/// Opens the table of a folder, or begins one.
///
/// # Errors
/// When another gateway has the folder, or nothing can be kept in it.
pub fn open(wanted: &Wanted<'_>) -> Result<Opened, Unavailable> {
    let unusable = |error: &dyn std::fmt::Display| {
        Unavailable::Unusable(format!("{}: {error}", wanted.folder.display()))
    };
    if !memory::is_possible() {
        return Err(unusable(&"this processor cannot change 16 bytes in one step"));
    }
    let (mut lock, hold) =
        Lock::take(wanted.folder, wanted.has_predecessor).map_err(|denied| match denied {
            Denied::InUse(process) => {
                Unavailable::InUse(wanted.folder.to_owned(), format!("process {process}"))
            }
            Denied::Failed(error) => unusable(&format!("cannot be locked: {error}")),
        })?;
    let mut opening = Opening { wanted, hold, warnings: Vec::new() };
    let file = opening.table().map_err(|error| unusable(&error))?;
    lock.share().map_err(|error| unusable(&error))?;
    let warnings = opening.warnings;
    let (slots, path) = (file.identity.slots, wanted.folder.join(files::TABLE));
    let beside = if hold == Hold::Shared { ", beside the running gateway" } else { "" };
    let summary = format!("{slots} buckets of the limiter are kept in {}{beside}", path.display());
    Ok(Opened { file, lock, warnings, summary })
}

/// A table on its way to be opened.
struct Opening<'a> {
    wanted: &'a Wanted<'a>,
    hold: Hold,
    warnings: Vec<String>,
}

/// How much later than the mark in the file, which is made about once a second, a charge can have
/// been, with a good deal to spare.
const LATEST_CHARGE_NS: u64 = 1 << 40;

/// A file that can be used, and what it says.
struct Found {
    memory: Memory,
    identity: Identity,
    mark: Mark,
}

impl Found {
    /// Whether every bucket will be full within the time that the slowest can take. A slot that
    /// is not would be nobody's for ever, and a set of such slots refuse whoever comes to it.
    fn is_plausible(&self, wanted: &Wanted<'_>) -> bool {
        let shift_ns = self.mark.resume(wanted.boot, wanted.now).shift_ns();
        let now_ns = wanted.now.monotonic_ns.wrapping_add(shift_ns);
        // The last charges may be later than what the file says it was.
        let latest_ns = now_ns.saturating_add(MAX_CAPACITY_NS + LATEST_CHARGE_NS);
        self.memory.sets().iter().all(|set| set.is_plausible(latest_ns))
    }
}

impl Opening<'_> {
    fn table(&mut self) -> Result<TableFile, String> {
        match self.find() {
            Ok(Some(found)) => self.go_on(found),
            Ok(None) => self.begin(),
            Err(Trouble::WithTheFile(why)) => {
                self.put_aside(&why)?;
                self.begin()
            }
            // It is left where it is: with it would go what clients have spent.
            Err(Trouble::WithTheSystem(why)) => Err(format!("{}: {why}", files::TABLE)),
        }
    }

    /// The table that is there.
    fn find(&self) -> Result<Option<Found>, Trouble> {
        let Some(file) = files::open_table(self.wanted.folder)? else { return Ok(None) };
        let read = files::read_header(&file);
        let (words, length) = read.map_err(|error| Trouble::from_system("read", &error))?;
        let (identity, mark) = header::read(&words, length)
            .map_err(|damage| Trouble::WithTheFile(damage.to_string()))?;
        let memory = Memory::map(&file, identity.slots)
            .map_err(|error| Trouble::from_system("mapped", &error))?;
        let found = Found { memory, identity, mark };
        // One that somebody is serving from has been looked at.
        if self.hold == Hold::Alone && !found.is_plausible(self.wanted) {
            return Err(Trouble::WithTheFile("it has times in it that no bucket can have".into()));
        }
        Ok(Some(found))
    }

    fn go_on(&mut self, found: Found) -> Result<TableFile, String> {
        let Found { memory, identity, mark } = found;
        let continuation = mark.resume(self.wanted.boot, self.wanted.now);
        let shift_ns = continuation.shift_ns();
        let slots = self.slots();
        if self.hold == Hold::Shared {
            if matches!(continuation, Continuation::Rebased { .. }) {
                return Err("the running gateway has another clock".to_owned());
            }
            if slots != identity.slots {
                self.warnings.push(format!(
                    "limiter.slots: the table keeps its {} slots as long as the running gateway \
                     uses it; {slots} take effect at a restart",
                    identity.slots
                ));
            }
            return Ok(self.at_work(memory, identity, shift_ns));
        }
        let now_ns = self.wanted.now.monotonic_ns.wrapping_add(shift_ns);
        if slots != identity.slots
            && let Some(resized) = self.resize(&memory, identity, shift_ns, now_ns)
        {
            return Ok(resized);
        }
        memory.sets().iter().for_each(|set| set.mend(now_ns));
        Ok(self.at_work(memory, identity, shift_ns))
    }

    /// A table of the size that is wanted, with what the old one holds; none where there is no
    /// room for both.
    fn resize(
        &mut self,
        old: &Memory,
        identity: Identity,
        shift_ns: u64,
        now_ns: u64,
    ) -> Option<TableFile> {
        let resized = Identity { slots: self.slots(), ..identity };
        let (slots, before) = (resized.slots, identity.slots);
        let made = self.make(&resized, shift_ns, |new| carry_over(old.sets(), new.sets(), now_ns));
        match made {
            Ok((memory, left_out)) => {
                if left_out > 0 {
                    self.warnings.push(format!(
                        "limiter.slots: {left_out} buckets did not fit into {slots} slots; their \
                         clients share overflow buckets until they would be full again"
                    ));
                }
                Some(self.at_work(memory, resized, shift_ns))
            }
            Err(error) => {
                self.warnings.push(format!(
                    "limiter.slots: the table keeps its {before} slots, for one of {slots} cannot \
                     be made beside it: {error}"
                ));
                None
            }
        }
    }

    fn begin(&mut self) -> Result<TableFile, String> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|error| error.to_string())?;
        let identity = Identity { slots: self.slots(), secret };
        let shift_ns = FIRST_SHIFT_NS;
        let made = self.make(&identity, shift_ns, |_| ());
        let (memory, ()) = made.map_err(|error| format!("cannot hold a new table: {error}"))?;
        Ok(self.at_work(memory, identity, shift_ns))
    }

    /// Makes a table, fills it, and then gives it its name.
    fn make<T>(
        &self,
        identity: &Identity,
        shift_ns: u64,
        fill: impl FnOnce(&Memory) -> T,
    ) -> std::io::Result<(Memory, T)> {
        let file = files::create(self.wanted.folder, identity.slots)?;
        let memory = Memory::map(&file, identity.slots)?;
        let filled = fill(&memory);
        header::write(memory.header(), identity);
        header::mark(memory.header(), &mark(self.wanted.boot, shift_ns, self.wanted.now));
        files::publish(self.wanted.folder, &file)?;
        Ok((memory, filled))
    }

    fn at_work(&self, memory: Memory, identity: Identity, shift_ns: u64) -> TableFile {
        let process = header::next_process(memory.header());
        let clock = FileClock { boot: self.wanted.boot, shift_ns };
        clock.mark(&memory, self.wanted.now);
        TableFile { memory, identity, process, clock }
    }

    fn put_aside(&mut self, why: &str) -> Result<(), String> {
        let (folder, wall_ns) = (self.wanted.folder, self.wanted.now.wall_ns);
        let table = folder.join(files::TABLE);
        let stamp = jiff::Timestamp::from_nanosecond(i128::from(wall_ns)).unwrap_or_default();
        let stamp = stamp.strftime("%Y%m%dT%H%M%S.%3fZ").to_string();
        let aside = files::put_aside(folder, &stamp);
        let aside = aside.map_err(|error| {
            format!("{} is no table to go on with ({why}) and stays: {error}", table.display())
        })?;
        self.warnings.push(format!(
            "{} is no table to go on with: {why}. It is kept as {}, and all buckets begin full",
            table.display(),
            aside.display()
        ));
        Ok(())
    }

    fn slots(&self) -> u64 {
        self.wanted.slots.max(SLOTS_PER_SET).next_power_of_two() as u64
    }
}

/// What a new table's clock is ahead of the machine's, so that no time is zero.
const FIRST_SHIFT_NS: u64 = 1_000_000_000;

fn mark(boot: Boot, shift_ns: u64, now: Reading) -> Mark {
    let time_ns = now.monotonic_ns.wrapping_add(shift_ns);
    Mark { boot, shift_ns, time_ns, wall_ns: now.wall_ns }
}

impl TableFile {
    /// What the keys of the table are hashed with.
    pub fn secret(&self) -> &[u8; 16] {
        &self.identity.secret
    }

    /// What the limiter's time is ahead of the machine's monotonic clock, modulo 2^64.
    pub fn shift_ns(&self) -> u64 {
        self.clock.shift_ns
    }

    /// This process's number among all that have opened the file.
    pub(super) fn process(&self) -> u64 {
        self.process
    }

    pub(super) fn into_parts(self) -> (Memory, FileClock) {
        (self.memory, self.clock)
    }
}

impl FileClock {
    /// Notes what time it is, for whoever goes on after a reboot. To be done about once a second.
    pub(super) fn mark(&self, memory: &Memory, now: Reading) {
        header::mark(memory.header(), &mark(self.boot, self.shift_ns, now));
    }
}
