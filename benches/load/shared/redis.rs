//! A Redis of the benchmark's own, and what it says of itself.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use redis::{Client, FromRedisValue};
use rustix::process::Signal;

use crate::contenders::{Bench, START_DEADLINE};
use crate::process::{self, Process, free_addresses, poll_until};

/// How long it may take to answer the benchmark itself.
const PATIENCE: Duration = Duration::from_secs(5);
/// The commands by which gateways ask about limits.
const SCRIPTS: [&str; 2] = ["cmdstat_eval:", "cmdstat_evalsha:"];

/// A server without anything on disk; it ends with this value.
pub(crate) struct Redis {
    name: String,
    pub(crate) address: SocketAddr,
    options: Vec<String>,
    /// What stands before the program: `env` and its variables, when its clock is another.
    before: Vec<String>,
    process: Option<Process>,
}

impl Redis {
    pub(crate) fn start(bench: &Bench<'_>, name: &str, options: &[&str]) -> anyhow::Result<Self> {
        Self::start_after(bench, name, options, Vec::new())
    }

    /// One whose clock can be stepped.
    pub(crate) fn with_clock(bench: &Bench<'_>, name: &str) -> anyhow::Result<(Self, Clock)> {
        let clock = Clock::new(bench, name)?;
        let before = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", clock.library.display()),
            format!("CLOCK_OFFSET={}", clock.file.display()),
        ];
        Ok((Self::start_after(bench, name, &[], before)?, clock))
    }

    fn start_after(
        bench: &Bench<'_>,
        name: &str,
        options: &[&str],
        before: Vec<String>,
    ) -> anyhow::Result<Self> {
        let [address] = free_addresses()?;
        let port = address.port().to_string();
        let dir = bench.dir.to_str().context("the temporary folder's name is not text")?;
        let own = ["--port", &port, "--bind", "127.0.0.1", "--dir", dir];
        let own = own.into_iter().chain(["--save", "", "--appendonly", "no"]);
        let options = own.chain(options.iter().copied()).map(str::to_owned).collect();
        let mut redis = Self { name: name.to_owned(), address, options, before, process: None };
        redis.run(bench)?;
        Ok(redis)
    }

    /// Starts it, with the address of before and no data.
    pub(crate) fn run(&mut self, bench: &Bench<'_>) -> anyhow::Result<()> {
        let server = "redis-server".to_owned();
        let mut words = self.before.iter().chain([&server]).chain(&self.options);
        let program = words.next().context("no program")?;
        let args: Vec<&str> = words.map(String::as_str).collect();
        let program = Path::new(program);
        let process = Process::start(&self.name, bench.cores.load, program, &args, bench.dir)?;
        self.process = Some(process);
        poll_until(START_DEADLINE, || {
            let answer: String = self.ask(&["PING"])?;
            ensure!(answer == "PONG", "it says {answer}");
            Ok(())
        })
        .with_context(|| format!("{} did not start", self.name))
    }

    /// Ends it as nobody could see coming.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("it does not run")?.kill()
    }

    pub(crate) fn freeze(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().context("it does not run")?.freeze();
        Ok(())
    }

    pub(crate) fn thaw(&self) -> anyhow::Result<()> {
        process::signal(Signal::CONT, self.process.as_ref().context("it does not run")?.id());
        Ok(())
    }

    pub(crate) fn ask<T: FromRedisValue>(&self, command: &[&str]) -> anyhow::Result<T> {
        let client = Client::open(format!("redis://{}", self.address))?;
        let mut connection = client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let (name, arguments) = command.split_first().context("no command")?;
        redis::cmd(name)
            .arg(arguments)
            .query(&mut connection)
            .with_context(|| format!("{} does not take {command:?}", self.name))
    }

    /// Calls of scripts so far, which is all that gateways ask about limits, and their beats.
    pub(crate) fn calls(&self) -> anyhow::Result<u64> {
        let statistics: String = self.ask(&["INFO", "COMMANDSTATS"])?;
        let of_script = |line: &str| {
            let fields = SCRIPTS.iter().find_map(|script| line.strip_prefix(script))?;
            let calls = fields.split(',').find_map(|field| field.strip_prefix("calls="))?;
            calls.parse::<u64>().ok()
        };
        Ok(statistics.lines().filter_map(of_script).sum())
    }

    /// What its clock says, in seconds.
    pub(crate) fn time(&self) -> anyhow::Result<i64> {
        let (seconds, _): (i64, i64) = self.ask(&["TIME"])?;
        Ok(seconds)
    }
}

/// The clock of a server: the true one, and a number of seconds.
pub(crate) struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// Builds what a server has to load for it.
    fn new(bench: &Bench<'_>, name: &str) -> anyhow::Result<Self> {
        let in_dir = |ending: &str| bench.dir.join(format!("{name}-clock.{ending}"));
        let (source, library, file) = (in_dir("c"), in_dir("so"), in_dir("offset"));
        fs::write(&source, include_str!("clock.c"))?;
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]);
        ensure!(compiler.status()?.success(), "cc cannot build the clock");
        fs::write(&file, 0_i64.to_ne_bytes())?;
        Ok(Self { library, file })
    }

    /// Sets it so many seconds from the truth, at once.
    pub(crate) fn step(&self, seconds: i64) -> anyhow::Result<()> {
        // In place: the server has mapped these eight bytes.
        let file = File::options().write(true).open(&self.file)?;
        Ok(file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}
