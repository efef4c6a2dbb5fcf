//! What can happen to Redis, how it is brought about, and what gateways promise meanwhile.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::cluster::Cluster;
use super::crowd::GATEWAYS;
use super::redis::{Clock, Redis};
use super::way::Way;
use crate::contenders::{Bench, START_DEADLINE};
use crate::process::poll_until;

/// How long a trouble lasts that has a length.
const LENGTH: Duration = Duration::from_secs(3);
/// How often what happens again and again does.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a failover takes.
const FAILOVER: Duration = Duration::from_millis(500);
/// The seconds by which a clock steps.
const STEP: i64 = 3600;

/// One kind of trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Killed,
    Frozen,
    Paused,
    SlowBy5,
    SlowBy30,
    Resets,
    ScriptsFlushed,
    DataFlushed,
    OutOfMemory,
    Failover,
    ClockForward,
    ClockBack,
    Partition,
    SlotsMoved,
}

impl Trouble {
    pub(crate) const ALL: [Self; 14] = [
        Self::Killed,
        Self::Frozen,
        Self::Paused,
        Self::SlowBy5,
        Self::SlowBy30,
        Self::Resets,
        Self::ScriptsFlushed,
        Self::DataFlushed,
        Self::OutOfMemory,
        Self::Failover,
        Self::ClockForward,
        Self::ClockBack,
        Self::Partition,
        Self::SlotsMoved,
    ];

    /// As the command line knows it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Frozen => "frozen",
            Self::Paused => "paused",
            Self::SlowBy5 => "slow-5ms",
            Self::SlowBy30 => "slow-30ms",
            Self::Resets => "resets",
            Self::ScriptsFlushed => "script-flush",
            Self::DataFlushed => "flushall",
            Self::OutOfMemory => "oom",
            Self::Failover => "failover",
            Self::ClockForward => "clock-forward",
            Self::ClockBack => "clock-back",
            Self::Partition => "partition",
            Self::SlotsMoved => "slots-moved",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Killed => "Redis killed, and started again without data",
            Self::Frozen => "Redis stopped (SIGSTOP), and continued",
            Self::Paused => "CLIENT PAUSE 2000 ALL",
            Self::SlowBy5 => "Answers of Redis 5 ms late",
            Self::SlowBy30 => "Answers of Redis 30 ms late",
            Self::Resets => "All connections to Redis reset every 50 ms",
            Self::ScriptsFlushed => "SCRIPT FLUSH every 50 ms",
            Self::DataFlushed => "FLUSHALL",
            Self::OutOfMemory => "Redis out of memory (noeviction)",
            Self::Failover => "Failover to a replica",
            Self::ClockForward => "Redis' clock an hour forward",
            Self::ClockBack => "Redis' clock an hour back",
            Self::Partition => "One of four gateways cut off from Redis",
            Self::SlotsMoved => "Every bucket's slot moved to another node of a cluster",
        }
    }

    pub(crate) fn parse(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|trouble| trouble.name() == name);
        let known = Self::ALL.map(Self::name).join(", ");
        found.with_context(|| format!("no fault {name:?}; there are {known}"))
    }

    /// What all gateways together may admit beyond burst + rate · t on its account.
    pub(crate) fn promise(self) -> Promise {
        let (cut_off, more_bursts) = match self {
            Self::SlowBy5 | Self::ScriptsFlushed | Self::ClockBack => (0, 0),
            Self::DataFlushed | Self::ClockForward => (0, 1),
            Self::Killed | Self::Failover => (GATEWAYS, 1),
            Self::Partition => (1, 0),
            Self::Frozen
            | Self::Paused
            | Self::SlowBy30
            | Self::Resets
            | Self::OutOfMemory
            | Self::SlotsMoved => (GATEWAYS, 0),
        };
        Promise { cut_off, more_bursts }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Promise {
    /// How many gateways cannot ask Redis at times.
    pub(crate) cut_off: usize,
    /// How many bursts Redis itself forgets that were spent.
    pub(crate) more_bursts: u64,
}

/// The servers that gateways share their limits by, and the ways to them.
pub(crate) struct Stage {
    redis: Redis,
    replica: Option<Redis>,
    clock: Option<Clock>,
    cluster: Option<Cluster>,
    ways: Vec<Way>,
}

impl Stage {
    pub(crate) fn start(bench: &Bench<'_>, trouble: Trouble) -> anyhow::Result<Self> {
        let (redis, clock) = match trouble {
            Trouble::ClockForward | Trouble::ClockBack => {
                let (redis, clock) = Redis::with_clock(bench, "redis")?;
                (redis, Some(clock))
            }
            _ => (Redis::start(bench, "redis", &[])?, None),
        };
        let is_moved = trouble == Trouble::SlotsMoved;
        let cluster = is_moved.then(|| Cluster::start(bench)).transpose()?;
        let is_followed = trouble == Trouble::Failover;
        let replica = is_followed.then(|| replica_of(bench, &redis)).transpose()?;
        let ways = (0..GATEWAYS).map(|_| Way::to(redis.address)).collect::<anyhow::Result<_>>()?;
        Ok(Self { redis, replica, clock, cluster, ways })
    }

    /// What each gateway's configuration says of Redis. The nodes of a cluster name each other,
    /// so nothing can stand between them and the gateways.
    pub(crate) fn links(&self) -> anyhow::Result<[String; GATEWAYS]> {
        let links: Vec<String> = match &self.cluster {
            Some(cluster) => vec![format!("url: {}, cluster: true", cluster.urls()); GATEWAYS],
            None => {
                self.ways.iter().map(|way| format!("url: \"redis://{}\"", way.address)).collect()
            }
        };
        links.try_into().ok().context("another number of ways")
    }

    /// Brings the trouble about, and returns once it is over.
    pub(crate) fn inflict(&mut self, bench: &Bench<'_>, trouble: Trouble) -> anyhow::Result<()> {
        match trouble {
            Trouble::Killed => {
                self.redis.kill()?;
                thread::sleep(LENGTH);
                self.redis.run(bench)
            }
            Trouble::Frozen => {
                self.redis.freeze()?;
                thread::sleep(LENGTH);
                self.redis.thaw()
            }
            Trouble::Paused => {
                self.redis.ask::<()>(&["CLIENT", "PAUSE", "2000", "ALL"])?;
                thread::sleep(Duration::from_secs(2));
                Ok(())
            }
            Trouble::SlowBy5 => self.slow(Duration::from_millis(5)),
            Trouble::SlowBy30 => self.slow(Duration::from_millis(30)),
            Trouble::Resets => again_and_again(|| {
                self.ways.iter().for_each(Way::reset);
                Ok(())
            }),
            Trouble::ScriptsFlushed => again_and_again(|| self.redis.ask(&["SCRIPT", "FLUSH"])),
            Trouble::DataFlushed => self.redis.ask(&["FLUSHALL"]),
            Trouble::OutOfMemory => {
                self.redis.ask::<()>(&["CONFIG", "SET", "maxmemory-policy", "noeviction"])?;
                self.redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1mb"])?;
                thread::sleep(LENGTH);
                self.redis.ask(&["CONFIG", "SET", "maxmemory", "0"])
            }
            Trouble::Failover => self.fail_over(),
            Trouble::ClockForward => self.step(STEP),
            Trouble::ClockBack => self.step(-STEP),
            Trouble::Partition => {
                let way = self.ways.last().context("no way")?;
                way.silence(true);
                thread::sleep(LENGTH);
                way.silence(false);
                Ok(())
            }
            Trouble::SlotsMoved => self.cluster.as_ref().context("no cluster")?.move_buckets(),
        }
    }

    fn slow(&self, delay: Duration) -> anyhow::Result<()> {
        self.ways.iter().for_each(|way| way.delay(delay));
        thread::sleep(LENGTH);
        self.ways.iter().for_each(|way| way.delay(Duration::ZERO));
        Ok(())
    }

    fn fail_over(&mut self) -> anyhow::Result<()> {
        let replica = self.replica.as_ref().context("no replica")?;
        self.redis.kill()?;
        thread::sleep(FAILOVER);
        replica.ask::<()>(&["REPLICAOF", "NO", "ONE"])?;
        self.ways.iter().for_each(|way| way.lead_to(replica.address));
        Ok(())
    }

    fn step(&self, seconds: i64) -> anyhow::Result<()> {
        let before = self.redis.time()?;
        self.clock.as_ref().context("no clock")?.step(seconds)?;
        poll_until(Duration::from_secs(1), || {
            let stepped = self.redis.time()? - before;
            ensure!((stepped - seconds).abs() < 10, "the clock of Redis stepped {stepped} s");
            Ok(())
        })
    }
}

fn again_and_again(mut once: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < LENGTH {
        once()?;
        thread::sleep(AGAIN);
    }
    Ok(())
}

/// A replica that has all that its primary has.
fn replica_of(bench: &Bench<'_>, primary: &Redis) -> anyhow::Result<Redis> {
    let of = format!("127.0.0.1 {}", primary.address.port());
    primary.ask::<()>(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"])?;
    let replica = Redis::start(bench, "replica", &["--replicaof", &of])?;
    poll_until(START_DEADLINE, || {
        let state: String = replica.ask(&["INFO", "REPLICATION"])?;
        ensure!(state.contains("master_link_status:up"), "the replica is not in step: {state}");
        Ok(())
    })?;
    Ok(replica)
}
