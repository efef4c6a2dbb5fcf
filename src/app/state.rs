//! The folder of what outlives the process.

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
