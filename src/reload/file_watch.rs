//! When a file that somebody else writes has changed and is complete.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What tells one state of a file from another without reading it. Links are followed, so a
/// link that leads elsewhere is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    /// When the inode changed: tools that copy a file with its times leave this one.
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(path: &Path) -> io::Result<Stamp> {
        let metadata = fs::metadata(path)?;
        Ok(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing: it is as it was, or it is still being written.
    Wait,
    /// Read it: it has changed, and stayed so since the look before.
    Read,
    /// Say that it is not there. Only after the first look that missed it.
    Miss,
}

/// A file that is looked at every now and then.
#[derive(Debug, Default)]
pub(super) struct FileWatch {
    /// As it was at the look before; none: it was not there.
    seen: Option<Stamp>,
    /// As it was when it was to be read.
    read: Option<Stamp>,
    is_missed: bool,
}

impl FileWatch {
    /// What to do about a file that is like this now; none: it is not there.
    pub(super) fn look(&mut self, stamp: Option<Stamp>) -> Act {
        let is_settled = stamp.is_some() && stamp == self.seen;
        self.seen = stamp;
        if stamp.is_none() {
            return if std::mem::replace(&mut self.is_missed, true) {
                Act::Wait
            } else {
                Act::Miss
            };
        }
        self.is_missed = false;
        if !is_settled || stamp == self.read {
            return Act::Wait;
        }
        self.read = stamp;
        Act::Read
    }

    /// Takes back that it was read: the next look reads it again.
    pub(super) fn forget(&mut self) {
        self.read = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn stamp(inode: u64, size: u64) -> Option<Stamp> {
        Some(Stamp { device: 1, inode, size, modified: (0, 0), changed: (0, 0) })
    }

    #[test]
    fn a_file_is_read_once_it_has_stayed_the_same() {
        let mut watch = FileWatch::default();
        let looks = [
            (stamp(1, 5), Act::Wait),
            (stamp(1, 5), Act::Read),
            (stamp(1, 5), Act::Wait),
            (stamp(1, 6), Act::Wait),
            (stamp(1, 7), Act::Wait),
            (stamp(1, 7), Act::Read),
            (stamp(1, 7), Act::Wait),
        ];
        for (number, (stamp, act)) in looks.into_iter().enumerate() {
            assert_eq!(watch.look(stamp), act, "look {number}");
        }
    }

    #[test]
    fn a_file_that_goes_is_missed_once_and_read_when_another_comes() {
        let mut watch = FileWatch::default();
        let looks = [
            (None, Act::Miss),
            (None, Act::Wait),
            (stamp(1, 5), Act::Wait),
            (stamp(1, 5), Act::Read),
            (None, Act::Miss),
            (stamp(2, 5), Act::Wait),
            (None, Act::Miss),
            (stamp(2, 5), Act::Wait),
            (stamp(2, 5), Act::Read),
        ];
        for (number, (stamp, act)) in looks.into_iter().enumerate() {
            assert_eq!(watch.look(stamp), act, "look {number}");
        }
    }

    #[test]
    fn a_file_that_could_not_be_read_is_read_again() {
        let mut watch = FileWatch::default();
        let mut look = |is_readable: bool| {
            let act = watch.look(stamp(1, 5));
            if act == Act::Read && !is_readable {
                watch.forget();
            }
            act
        };
        assert_eq!([look(true), look(false), look(false)], [Act::Wait, Act::Read, Act::Read]);
        assert_eq!([look(true), look(true)], [Act::Read, Act::Wait]);
    }

    #[test]
    fn a_link_that_leads_elsewhere_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for version in ["v1", "v2"] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("file"), "same").unwrap();
        }
        symlink("v1", path("data")).unwrap();
        symlink("data/file", path("file")).unwrap();
        let before = Stamp::of(&path("file")).unwrap();
        assert_eq!(Stamp::of(&path("file")).unwrap(), before);
        symlink("v2", path("new")).unwrap();
        fs::rename(path("new"), path("data")).unwrap();
        assert_ne!(Stamp::of(&path("file")).unwrap(), before);
        fs::remove_file(path("data")).unwrap();
        assert!(Stamp::of(&path("file")).is_err());
    }
}
