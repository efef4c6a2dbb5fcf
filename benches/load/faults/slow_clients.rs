//! slowhttptest, which opens many connections and keeps each busy with next to nothing: how it
//! is started and what it writes about itself.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::origin::LARGE;
use crate::contenders::{Bench, PATH};
use crate::process::Process;

/// How many connections it opens, within two seconds. A debug build would take longer for them
/// than the time-outs are.
pub(crate) const CONNECTIONS: u64 = if cfg!(debug_assertions) { 300 } else { 2_000 };
const PER_SECOND: u64 = CONNECTIONS / 2;
/// How long it goes on when nobody closes its connections, in seconds.
pub(crate) const MAX_SECONDS: u32 = 45;

/// What it is slow at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The head of a request never ends; each second brings another header field.
    Header,
    /// A body of 64 KiB, of which each second brings a few bytes.
    Body,
    /// An answer of 4 MiB, of which each second takes 16 bytes.
    Read,
}

impl Mode {
    pub(crate) const ALL: [Self; 3] = [Self::Header, Self::Body, Self::Read];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Header => "header mode",
            Self::Body => "body mode",
            Self::Read => "read mode",
        }
    }

    /// The name of its processes and files.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Self::Header => "hostile-header",
            Self::Body => "hostile-body",
            Self::Read => "hostile-read",
        }
    }

    fn args(self) -> &'static [&'static str] {
        match self {
            Self::Header => &["-H", "-i", "1", "-x", "24"],
            Self::Body => &["-B", "-i", "1", "-x", "10", "-s", "65536"],
            Self::Read => &["-X", "-n", "1", "-z", "16", "-w", "512", "-y", "1024"],
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Header | Self::Body => PATH,
            Self::Read => LARGE,
        }
    }
}

/// One run of it. It ends by itself when it has noticed that none of its connections is left.
pub(crate) struct SlowClients {
    process: Process,
    name: String,
    dir: PathBuf,
}

/// What it counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Connections it opened.
    pub(crate) opened: u64,
    /// Seconds it wrote a line for.
    pub(crate) seconds: u64,
    /// Those of them in which its own probe, an ordinary request, was answered.
    pub(crate) available: u64,
}

impl Tally {
    /// Adds what another run counted.
    pub(crate) fn add(&mut self, other: Self) {
        self.opened += other.opened;
        self.seconds += other.seconds;
        self.available += other.available;
    }
}

impl SlowClients {
    /// Starts run `number` of a mode on the load's core.
    ///
    /// With the lowest priority, since the core is the legitimate client's too: what hostile
    /// clients cost themselves would otherwise count as the gateway's doing.
    pub(crate) fn start(
        bench: &Bench<'_>,
        mode: Mode,
        number: u32,
        gateway: SocketAddr,
    ) -> anyhow::Result<Self> {
        let name = format!("{}-{number}", mode.file());
        let report = bench.dir.join(&name);
        let report = report.to_str().context("the temporary folder's name is not text")?;
        let url = format!("http://{gateway}{}", mode.path());
        let [connections, rate] = [CONNECTIONS, PER_SECOND].map(|number| number.to_string());
        let seconds = MAX_SECONDS.to_string();
        let mut args = vec!["-n", "19", "slowhttptest", "-g", "-o", report, "-u", &url];
        args.extend(["-c", &connections, "-r", &rate, "-l", &seconds, "-p", "3"]);
        args.extend(mode.args());
        let nice = Path::new("nice");
        let process = Process::start(&name, bench.cores.load, nice, &args, bench.dir)?;
        Ok(Self { process, name, dir: bench.dir.to_owned() })
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        self.process.has_ended()
    }

    /// Ends it, if it has not ended, and returns what it counted.
    pub(crate) fn finish(self) -> anyhow::Result<Tally> {
        let Self { process, name, dir } = self;
        drop(process);
        let report = fs::read_to_string(dir.join(format!("{name}.csv")));
        report.ok().as_deref().and_then(parse).with_context(|| {
            let said = fs::read_to_string(dir.join(format!("{name}.out")));
            format!("slowhttptest left no figures; it said: {}", said.unwrap_or_default().trim())
        })
    }
}

/// Reads lines of seconds, closed, pending and connected, and how many connections there are to
/// be while the probe is answered, 0 while it is not.
fn parse(report: &str) -> Option<Tally> {
    let mut tally = Tally::default();
    for line in report.lines().skip(1) {
        let numbers: Option<Vec<u64>> = line.split(',').map(|number| number.parse().ok()).collect();
        let &[_, closed, pending, connected, available] = numbers?.as_slice() else { return None };
        tally.opened = tally.opened.max(closed + pending + connected);
        tally.seconds += 1;
        tally.available += u64::from(available > 0);
    }
    (tally.seconds > 0).then_some(tally)
}
