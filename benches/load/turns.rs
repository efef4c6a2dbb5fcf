//! A round in which the loads of all contenders take turns so short that whatever slows the
//! machine down slows all of them down alike.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::contenders::Target;
use crate::process::Meter;
use crate::wrk::{self, Counts, Wrk};

/// How long a contender is driven at a time: some thousand requests, so that what its caches lost
/// to the others is soon made up for.
const TURN: Duration = Duration::from_millis(50);
/// After a turn: what was asked for by then is answered before another contender is driven.
const GAP: Duration = Duration::from_millis(5);
/// How long a load may take to connect. Nothing tells when it has; one that is later connects in its
/// first turn.
const START: Duration = Duration::from_millis(30);

/// What a contender's load came to.
pub(crate) struct Driven {
    pub(crate) counts: Counts,
    /// CPU time that the contender used while others had their turns, for nobody's request.
    pub(crate) waiting_ns: u64,
}

/// A load with what it drives.
struct Load<'a> {
    wrk: Wrk,
    meter: &'a Meter,
    /// The contender's CPU time when its last turn was over.
    stopped_at_ns: u64,
    waiting_ns: u64,
}

/// Drives the targets, each with its meter, for `seconds` each, the one numbered `first` to begin
/// with.
///
/// Every target has a wrk of its own, of which all but one are frozen. That spoils the latencies
/// it counts, unless there is one target only.
pub(crate) fn drive(
    targets: &[(&Target, Meter)],
    first: usize,
    seconds: u64,
    core: usize,
    script: &Path,
) -> anyhow::Result<Vec<Driven>> {
    if let [(target, _)] = targets {
        let counts = wrk::drive(target, seconds, core, script)?;
        return Ok(vec![Driven { counts, waiting_ns: 0 }]);
    }
    let count = targets.len();
    let length = seconds * count as u64;
    let end = Instant::now() + Duration::from_secs(length);
    let mut loads = Vec::with_capacity(count);
    for (target, meter) in targets {
        let wrk = Wrk::start(target, length, core, script)?;
        thread::sleep(START);
        wrk.freeze();
        thread::sleep(GAP);
        loads.push(Load { wrk, meter, stopped_at_ns: meter.cpu_ns()?, waiting_ns: 0 });
    }
    // Whole cycles, as long as not even the load that was started first has come to its end.
    let cycle = (TURN + GAP) * u32::try_from(count)?;
    while Instant::now() + cycle < end {
        for turn in first..first + count {
            let load = &mut loads[turn % count];
            load.waiting_ns += load.meter.cpu_ns()? - load.stopped_at_ns;
            load.wrk.thaw();
            thread::sleep(TURN);
            load.wrk.freeze();
            thread::sleep(GAP);
            load.stopped_at_ns = load.meter.cpu_ns()?;
        }
    }
    for load in &loads {
        load.wrk.thaw();
    }
    let driven =
        |load: Load<'_>| Ok(Driven { counts: load.wrk.counts()?, waiting_ns: load.waiting_ns });
    loads.into_iter().map(driven).collect()
}
