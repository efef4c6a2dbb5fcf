//! The folder of what outlives the process, and the limiter's table in it.

use super::Origin;
use crate::clock;
use crate::config::Config;
use crate::store::key::KeyHasher;
use crate::store::limiter::Limiter;
use crate::store::mapped::{self, Boot, Lock, Opened, Reading, Unavailable, Wanted};
use anyhow::{Context, bail};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Makes `folder` where it is not there yet, for this user alone. Gives it when it is there; why
/// it is not is a warning, and what would have lain in it stays in memory: a disk that is full or
/// read-only must not keep the gateway from serving.
pub(super) fn open(folder: Option<&Path>) -> Option<&Path> {
    let folder = folder?;
    match fs::DirBuilder::new().mode(0o700).recursive(true).create(folder) {
        Ok(()) => Some(folder),
        Err(error) => {
            log::warn!(
                "state_dir: {} cannot be made, so nothing outlives this process: {error}",
                folder.display()
            );
            None
        }
    }
}

/// The limiter that `config` asks for: in a file of `folder`, or in memory where there is none or
/// the file cannot be. The lock is to be held for as long as requests are taken.
///
/// # Errors
/// When another gateway serves from the folder, or the system has no randomness to give.
pub(super) fn limiter(
    config: &Config,
    folder: Option<&Path>,
    origin: Origin,
) -> anyhow::Result<(Limiter, Option<Lock>)> {
    let slots = config.limiter.slots;
    let opened = folder.map(|folder| {
        let has_predecessor = origin == Origin::Predecessor;
        let (boot, now) = (Boot::current()?, reading());
        mapped::open(&Wanted { folder, slots, has_predecessor, boot, now })
    });
    match opened {
        Some(Ok(Opened { file, lock, warnings, summary })) => {
            warnings.iter().for_each(|warning| log::warn!("{warning}"));
            log::info!("{summary}");
            clock::shift_by(file.shift_ns());
            return Ok((Limiter::in_file(file), Some(lock)));
        }
        Some(Err(error @ Unavailable::InUse(..))) => bail!("state_dir: {error}"),
        Some(Err(error)) => {
            log::warn!("state_dir: the limiter's buckets stay in memory: {error}");
        }
        None => {}
    }
    let hasher = KeyHasher::from_os().context("the system has no randomness to give")?;
    Ok((Limiter::new(slots, hasher), None))
}

/// What the machine's clocks say.
pub(super) fn reading() -> Reading {
    let (monotonic_ns, wall_ns) = clock::monotonic_and_wall_ns();
    Reading { monotonic_ns, wall_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_folder_is_made_for_this_user_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        for _ in 0..2 {
            assert_eq!(open(Some(&folder)), Some(&*folder));
            assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(open(None), None);
    }

    #[test]
    fn where_there_can_be_none_there_is_none() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("file"), "").unwrap();
        assert_eq!(open(Some(&parent.path().join("file/folder"))), None);
    }
}
