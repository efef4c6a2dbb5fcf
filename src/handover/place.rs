//! Where the two processes meet.

use anyhow::{Context, bail};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The longest path a Unix socket can have.
const MAX_PATH: usize = 107;

/// The path at which a successor waits: `configured`, or one in a folder that belongs to this
/// user alone. The admin API's address is part of its name, so that several gateways of one
/// user do not meet.
///
/// # Errors
/// When there is no such folder and none can be made, or the path is longer than a socket's
/// can be.
pub fn meeting_point(configured: Option<&Path>, admin: SocketAddr) -> anyhow::Result<PathBuf> {
    let path = match configured {
        Some(path) => path.to_owned(),
        None => private_folder()?.join(format!("upgrade-{admin}.sock")),
    };
    if path.as_os_str().len() > MAX_PATH {
        bail!("{} is longer than the {MAX_PATH} bytes a socket's path can have", path.display());
    }
    Ok(path)
}

/// Tells a successor where the process that started it expects it, whatever its own
/// configuration says.
pub(super) const ARRANGED: &str = "TOLLGATE_MEETING_POINT";

/// Where the process that started this one expects it; none: nobody did.
pub fn arranged() -> Option<PathBuf> {
    std::env::var_os(ARRANGED).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// systemd's folder for the service, the user's, or one in /tmp.
fn private_folder() -> anyhow::Result<PathBuf> {
    // systemd separates several folders by colons.
    let of_service = std::env::var("RUNTIME_DIRECTORY").unwrap_or_default();
    if let Some(first) = of_service.split(':').find(|folder| !folder.is_empty()) {
        return Ok(first.into());
    }
    let user = rustix::process::geteuid().as_raw();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR").filter(|folder| !folder.is_empty()) {
        Some(folder) if Path::new(&folder).is_dir() => PathBuf::from(folder).join("tollgate"),
        _ => std::env::temp_dir().join(format!("tollgate-{user}")),
    };
    let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(&folder);
    made.with_context(|| {
        format!("{} cannot be made; set server.upgrade_socket", folder.display())
    })?;
    // In /tmp anybody could have been first; a link is not followed.
    let found = fs::symlink_metadata(&folder)?;
    if !found.is_dir() || found.uid() != user || found.mode() & 0o077 != 0 {
        bail!(
            "{} is not a folder of this user alone; remove it or set server.upgrade_socket",
            folder.display()
        );
    }
    Ok(folder)
}
