//! The files of the table: made, locked, put aside.

use super::header;
use super::memory;
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The table.
pub(super) const TABLE: &str = "limiter.table";
const NEW: &str = "limiter.table.new";
const LOCK: &str = "limiter.lock";
const ASIDE: &str = "limiter.table.aside-";
/// Files that are kept aside; of more the oldest go.
const MAX_ASIDE: usize = 3;

/// Held by every gateway that serves from a folder; given up when it ends, however it ends.
#[derive(Debug)]
pub struct Lock(File);

/// How a lock was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Nobody else has the folder.
    Alone,
    /// The predecessor has it too.
    Shared,
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum Denied {
    /// Somebody else serves from the folder, of which this is the process's number.
    InUse(String),
    Failed(io::Error),
}

impl Lock {
    /// Locks `folder`; with a predecessor, beside it.
    pub(super) fn take(folder: &Path, has_predecessor: bool) -> Result<(Lock, Hold), Denied> {
        let lock = open(&folder.join(LOCK), true).map_err(Denied::Failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok((Lock(lock), Hold::Alone)),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(Denied::Failed(error.into())),
        }
        if has_predecessor && flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
            return Ok((Lock(lock), Hold::Shared));
        }
        let mut holder = String::new();
        let _ = lock.take(20).read_to_string(&mut holder);
        Err(Denied::InUse(holder.trim().to_owned()))
    }

    /// Says who serves, and lets a successor in.
    pub(super) fn share(&mut self) -> io::Result<()> {
        let process = format!("{}\n", rustix::process::getpid().as_raw_pid());
        self.0.set_len(0)?;
        self.0.write_all_at(process.as_bytes(), 0)?;
        Ok(flock(&self.0, FlockOperation::NonBlockingLockShared)?)
    }
}

/// Opens a file for this user alone; a link is not followed.
fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32)
        .open(path)
}

/// Why a table that is there cannot be gone on with.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It is not one of ours, or not any more, and will not become one.
    WithTheFile(String),
    /// The system could not do it now; the file may be good.
    WithTheSystem(String),
}

impl Trouble {
    /// What the system says cannot be done to the file, as `what`.
    pub(super) fn from_system(what: &str, error: &io::Error) -> Trouble {
        let text = format!("it cannot be {what}: {error}");
        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::INTR) => {
                Trouble::WithTheSystem(text)
            }
            _ => Trouble::WithTheFile(text),
        }
    }
}

/// Opens the table of `folder`, where there is one that nobody else can change.
pub(super) fn open_table(folder: &Path) -> Result<Option<File>, Trouble> {
    let file = match open(&folder.join(TABLE), false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Trouble::from_system("opened", &error)),
    };
    let found = file.metadata().map_err(|error| Trouble::from_system("read", &error))?;
    if !found.is_file() {
        return Err(Trouble::WithTheFile("it is not a file".to_owned()));
    }
    // Whoever else may write it may shorten it under our feet.
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
        return Err(Trouble::WithTheFile("others than this user may write it".to_owned()));
    }
    Ok(Some(file))
}

/// The header of a file, and the file's length; zeros where it is shorter.
pub(super) fn read_header(file: &File) -> io::Result<([u64; header::WORDS], u64)> {
    let mut bytes = [0; header::BYTES];
    let length = file.metadata()?.len();
    let there = header::BYTES.min(usize::try_from(length).unwrap_or(header::BYTES));
    file.read_exact_at(&mut bytes[..there], 0)?;
    let mut words = [0; header::WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Ok((words, length))
}

/// A file of `slots` slots without a name that counts yet, all of it zero, with blocks for all.
pub(super) fn create(folder: &Path, slots: u64) -> io::Result<File> {
    let path = folder.join(NEW);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = options.read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    allocate(&mut file, memory::length(slots)).inspect_err(|_| {
        let _ = fs::remove_file(&path);
    })?;
    Ok(file)
}

/// Reserves every block, so that a full disk is an error now and not a signal later.
fn allocate(file: &mut File, bytes: u64) -> io::Result<()> {
    match fallocate(&*file, FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
        Err(error) => return Err(error.into()),
    }
    // Some file systems cannot reserve; there zeros are written.
    file.seek(SeekFrom::Start(0))?;
    let written = io::copy(&mut io::repeat(0).take(bytes), file)?;
    file.flush()?;
    if written == bytes { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Makes what was created the folder's table, in one step.
pub(super) fn publish(folder: &Path, file: &File) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(folder.join(NEW), folder.join(TABLE))?;
    File::open(folder)?.sync_all()
}

/// Takes the table's file out of the way. Gives where it is now.
pub(super) fn put_aside(folder: &Path, stamp: &str) -> io::Result<PathBuf> {
    let aside = folder.join(format!("{ASIDE}{stamp}"));
    fs::rename(folder.join(TABLE), &aside)?;
    let mut all: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(ASIDE))
        .map(|entry| entry.path())
        .collect();
    // Their names hold the time.
    all.sort();
    let surplus = all.len().saturating_sub(MAX_ASIDE);
    all.iter().take(surplus).for_each(|path| {
        let _ = fs::remove_file(path);
    });
    Ok(aside)
}
