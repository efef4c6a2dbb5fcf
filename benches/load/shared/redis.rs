//! A Redis of the benchmark's own, and what it says of itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use redis::{Client, FromRedisValue};

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

    /// One that takes the time from a file, which says how far from the truth it is.
    pub(crate) fn with_clock(bench: &Bench<'_>, name: &str) -> anyhow::Result<(Self, Clock)> {
        let clock = Clock { file: bench.dir.join(format!("{name}.clock")) };
        clock.step("+0")?;
        let library = false_time()?;
        let before = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={}", library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            // What it waits by is not what it tells scripts.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
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
        let own = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let options = own.iter().chain(options).map(|&option| option.to_owned()).collect();
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
        process::signal("CONT", self.process.as_ref().context("it does not run")?.id());
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

/// The clock of a server.
pub(crate) struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Sets it so far from the truth, such as `+3600`, all at once.
    pub(crate) fn step(&self, offset: &str) -> anyhow::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset}\n"))?;
        // A file that is being written would be read as something else.
        Ok(std::fs::rename(new, &self.file)?)
    }
}

/// The library that makes a program believe in another time.
fn false_time() -> anyhow::Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")?.filter_map(|folder| Some(folder.ok()?.path()));
    let mut libraries = folders.map(|folder| folder.join("faketime/libfaketime.so.1"));
    libraries.find(|file| file.exists()).context("libfaketime is not installed")
}
