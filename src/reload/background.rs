//! Work that requests come before.

use std::panic::resume_unwind;
use std::thread;
use tokio::task::{JoinError, spawn_blocking};

/// How much less of a core the work gets where requests want it too: about a tenth.
const NICENESS: i32 = 10;

/// Does `work` on a thread of its own, with a lower priority. To read and build a large
/// configuration takes a core for a good part of a second, which workers may have no other of.
///
/// # Errors
/// When `work` panicked.
pub(super) async fn behind_requests<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    let lowered = move || {
        // Of this thread alone, as Linux has it. A thread whose priority was lowered cannot
        // raise it again, so none of the runtime's will do.
        let _ = rustix::process::nice(NICENESS);
        work()
    };
    spawn_blocking(move || {
        let done = thread::scope(|scope| scope.spawn(lowered).join());
        done.unwrap_or_else(|panic| resume_unwind(panic))
    })
    .await
}
