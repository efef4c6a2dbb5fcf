//! How many file descriptors the process may have.

use crate::wire::lingering::MAX_LINGERING;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors beside those of connections: listeners, the log, runtimes, clients of the admin and
/// metrics ports; and connections that are over but for their client's last bytes.
const OWN: u64 = 1_024 + MAX_LINGERING as u64;

/// Raises the soft limit on descriptors to the hard one, and warns when that cannot carry
/// `max_connections` with a connection to an upstream for each.
pub(super) fn raise(max_connections: u32) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if setrlimit(Resource::Nofile, raised).is_ok() {
            limit = raised;
        }
    }
    let needed = needed(max_connections);
    if let Some(allowed) = limit.current.filter(|&allowed| allowed < needed) {
        log::warn!(
            "the process may have {allowed} file descriptors, and server.max_connections \
             ({max_connections}) may need {needed}: lower it, or raise the limit \
             (LimitNOFILE of systemd, ulimit -n)"
        );
    }
}

fn needed(max_connections: u32) -> u64 {
    2 * u64::from(max_connections) + OWN
}
