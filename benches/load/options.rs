//! What the command line of the benchmark may ask for.

use std::time::Duration;

use anyhow::{Context, bail};

use crate::Contender;
use crate::rounds::Pace;
use crate::shared::troubles::Trouble;

pub(crate) const USAGE: &str = "usage: cargo bench --bench load -- [OPTIONS]
  --quick            short rounds to try it out; leaves benches/RESULTS.md alone
  --starts N         how often the contenders are started anew (8)
  --rounds N         rounds by turns of a case after each start (2)
  --seconds N        length of a round for one contender (2)
  --connections N    idle connections for the memory figures (5000)
  --case NAME        only this case: forward, refuse, open, log, memory, black-hole,
                     overload, reload, upgrade, hostile, slow-readers, shared-accuracy,
                     shared-cost or shared-faults; may be repeated
  --fault NAME       of shared-faults only this one: killed, frozen, paused, slow-5ms,
                     slow-30ms, resets, script-flush, flushall, oom, failover,
                     clock-forward, clock-back, partition or slots-moved; may be repeated
  --without NAME     leave out tollgate, bare, nginx or haproxy; may be repeated";

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Forward,
    Refuse,
    Open,
    Log,
    Memory,
    BlackHole,
    Overload,
    Reload,
    Upgrade,
    Hostile,
    SlowReaders,
    SharedAccuracy,
    SharedCost,
    SharedFaults,
}

impl Part {
    const ALL: [Self; 14] = [
        Self::Forward,
        Self::Refuse,
        Self::Open,
        Self::Log,
        Self::Memory,
        Self::BlackHole,
        Self::Overload,
        Self::Reload,
        Self::Upgrade,
        Self::Hostile,
        Self::SlowReaders,
        Self::SharedAccuracy,
        Self::SharedCost,
        Self::SharedFaults,
    ];

    fn parse(name: &str) -> anyhow::Result<Self> {
        Ok(match name {
            "forward" => Self::Forward,
            "refuse" => Self::Refuse,
            "open" => Self::Open,
            "log" => Self::Log,
            "memory" => Self::Memory,
            "black-hole" => Self::BlackHole,
            "overload" => Self::Overload,
            "reload" => Self::Reload,
            "upgrade" => Self::Upgrade,
            "hostile" => Self::Hostile,
            "slow-readers" => Self::SlowReaders,
            "shared-accuracy" => Self::SharedAccuracy,
            "shared-cost" => Self::SharedCost,
            "shared-faults" => Self::SharedFaults,
            _ => bail!("no case {name:?}; see --help"),
        })
    }

    /// Whether contenders take turns in it.
    pub(crate) fn compares_cpu(self) -> bool {
        matches!(self, Self::Forward | Self::Refuse | Self::Open | Self::Log)
    }

    /// Whether it is about limits that gateways share.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::SharedAccuracy | Self::SharedCost | Self::SharedFaults)
    }

    /// The programs it starts, as they are called.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::Forward | Self::Refuse | Self::Open | Self::Log => &["wrk", "nginx"],
            Self::Memory | Self::SlowReaders => &["nginx"],
            Self::BlackHole | Self::Overload | Self::Reload => &[],
            Self::Upgrade => &["wrk"],
            Self::Hostile => &["slowhttptest"],
            Self::SharedAccuracy | Self::SharedFaults => &["redis-server"],
            Self::SharedCost => &["redis-server", "wrk", "nginx"],
        }
    }

    /// Whether it needs what the comparison compares with.
    pub(crate) fn has_contenders(self) -> bool {
        self.compares_cpu() || matches!(self, Self::Memory)
    }
}

/// A checked command line.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) pace: Pace,
    pub(crate) connections: usize,
    pub(crate) parts: Vec<Part>,
    pub(crate) without: Vec<Contender>,
    troubles: Vec<Trouble>,
    quick: bool,
}

impl Options {
    /// Reads the arguments after the program's name; `None` asks for help, and
    /// so does a start by anything but `cargo bench`, which adds `--bench`: a
    /// test run over all targets must not begin to measure.
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> anyhow::Result<Option<Self>> {
        let mut options = Self {
            pace: Pace { starts: 8, rounds: 2, seconds: 2 },
            connections: 5000,
            parts: Vec::new(),
            without: Vec::new(),
            troubles: Vec::new(),
            quick: false,
        };
        let mut args = args;
        let mut is_benchmark = false;
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => is_benchmark = true,
                "--help" | "-h" => return Ok(None),
                "--quick" => {
                    options.quick = true;
                    options.pace = Pace { starts: 1, rounds: 3, seconds: 1 };
                    options.connections = 1000;
                }
                "--starts" => options.pace.starts = value()?.parse::<usize>()?.max(1),
                "--rounds" => options.pace.rounds = value()?.parse::<usize>()?.max(1),
                "--seconds" => options.pace.seconds = value()?.parse::<u64>()?.max(1),
                "--connections" => options.connections = value()?.parse::<usize>()?.max(1),
                "--case" => options.parts.push(Part::parse(&value()?)?),
                "--fault" => options.troubles.push(Trouble::parse(&value()?)?),
                "--without" => options.without.push(Contender::parse(&value()?)?),
                _ => bail!("unknown argument {arg:?}\n{USAGE}"),
            }
        }
        if options.parts.is_empty() {
            options.parts = Part::ALL.to_vec();
        }
        Ok(is_benchmark.then_some(options))
    }

    /// Programs that what is wanted will need and that no folder of `PATH` has.
    pub(crate) fn missing_programs(&self) -> Vec<&'static str> {
        let mut needed: Vec<_> = self.parts.iter().flat_map(|part| part.programs()).collect();
        let compares = self.parts.iter().any(|part| part.compares_cpu());
        needed.extend((compares && self.has(Contender::Haproxy)).then_some(&"haproxy"));
        needed.sort_unstable();
        needed.dedup();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_there =
            |program: &str| std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
        needed.into_iter().copied().filter(|program| !is_there(program)).collect()
    }

    pub(crate) fn wants(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// How long reloads go on, and how long none before that.
    pub(crate) fn reload_length(&self) -> Duration {
        Duration::from_secs(if self.quick { 6 } else { 60 })
    }

    pub(crate) fn has(&self, contender: Contender) -> bool {
        !self.without.contains(&contender)
    }

    /// How long a load on gateways that share limits goes on.
    pub(crate) fn shared_length(&self) -> Duration {
        Duration::from_secs(if self.quick { 3 } else { 10 })
    }

    /// What happens to Redis.
    pub(crate) fn troubles(&self) -> Vec<Trouble> {
        if self.troubles.is_empty() { Trouble::ALL.to_vec() } else { self.troubles.clone() }
    }

    /// Whether this run is whole enough to be kept as the project's results.
    pub(crate) fn is_complete(&self) -> bool {
        let mut parts = Part::ALL.iter().filter(|part| !part.is_shared());
        !self.quick && self.without.is_empty() && parts.all(|part| self.wants(*part))
    }

    /// The same for what is shared, whose results are kept apart.
    pub(crate) fn is_complete_of_shared(&self) -> bool {
        let mut parts = Part::ALL.iter().filter(|part| part.is_shared());
        !self.quick && self.troubles.is_empty() && parts.all(|part| self.wants(*part))
    }
}
