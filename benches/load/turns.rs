//! A round in which the loads of all contenders take turns so short that whatever slows the
//! machine down slows all of them down alike.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::contenders::Target;
use crate::wrk::{self, Counts, Wrk};

/// How long a contender is driven at a time: some thousand requests, so that what its caches lost
/// to the others is soon made up for.
const TURN: Duration = Duration::from_millis(50);
/// After a turn: what was asked for by then is answered before another contender is driven.
const GAP: Duration = Duration::from_millis(5);
/// How long a load may take to connect.
const START: Duration = Duration::from_millis(30);

/// Drives the targets for `seconds` each, the one numbered `first` to begin with.
///
/// Every target has a wrk of its own, of which all but one are frozen. That spoils the latencies
/// it counts, unless there is one target only.
pub(crate) fn drive(
    targets: &[&Target],
    first: usize,
    seconds: u64,
    core: usize,
    script: &Path,
) -> anyhow::Result<Vec<Counts>> {
    if let [target] = targets {
        return Ok(vec![wrk::drive(target, seconds, core, script)?]);
    }
    let count = targets.len();
    let length = seconds * count as u64;
    let end = Instant::now() + Duration::from_secs(length);
    let mut loads = Vec::with_capacity(count);
    for target in targets {
        let load = Wrk::start(target, length, core, script)?;
        thread::sleep(START);
        load.freeze();
        loads.push(load);
    }
    // Whole cycles, as long as not even the load that was started first has come to its end.
    let cycle = (TURN + GAP) * u32::try_from(count)?;
    while Instant::now() + cycle < end {
        for turn in first..first + count {
            let load = &loads[turn % count];
            load.thaw();
            thread::sleep(TURN);
            load.freeze();
            thread::sleep(GAP);
        }
    }
    for load in &loads {
        load.thaw();
    }
    loads.into_iter().map(Wrk::counts).collect()
}
