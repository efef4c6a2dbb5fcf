//! What is compared: each program started with its own configuration, one
//! worker, on the contenders' core, and checked before it is measured.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::configs::{self, Listeners, Setup};
use crate::process::{Cores, Process, free_addresses, poll_until};
use crate::{Contender, http};

/// What every request asks for.
pub(crate) const PATH: &str = "/api/users/1";
/// A client that no limit refuses.
pub(crate) const OPEN_CLIENT: &str = "bench-open";
/// A client of Tollgate whose bucket holds one token an hour.
pub(crate) const SPENT_CLIENT: &str = "bench-spent";
/// How long a program may take until it answers.
pub(crate) const START_DEADLINE: Duration = Duration::from_secs(20);

/// One listener of a running contender and how to ask it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As the report names it.
    pub(crate) name: &'static str,
    /// The process whose CPU time and memory count, with its descendants.
    pub(crate) id: u32,
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    pub(crate) client: &'static str,
    /// Where this listener logs its requests, if it does.
    pub(crate) access_log: Option<PathBuf>,
    /// Answers a round may hold that were not refused although all should be.
    /// Only nginx needs one: its slowest rate is one a minute.
    pub(crate) stray_admissions: u64,
}

impl Target {
    pub(crate) fn new(name: &'static str, process: &Process, address: SocketAddr) -> Self {
        Self {
            name,
            id: process.id(),
            address,
            path: PATH,
            client: OPEN_CLIENT,
            access_log: None,
            stray_admissions: 0,
        }
    }
}

/// Where a run keeps its files and what it starts.
pub(crate) struct Bench<'a> {
    pub(crate) dir: &'a Path,
    pub(crate) cores: Cores,
    /// The yardstick's binary, absent when it is left out.
    pub(crate) bare: Option<PathBuf>,
}

/// A started program with its targets; it ends with this value.
pub(crate) struct Running {
    process: Process,
    pub(crate) forward: Target,
    /// The listener or client that is always refused.
    pub(crate) refuse: Option<Target>,
    /// The listener that logs what it forwards.
    pub(crate) logged: Option<Target>,
}

impl Running {
    fn forwarding(process: Process, forward: Target) -> Self {
        Self { process, forward, refuse: None, logged: None }
    }

    /// Waits until the forwarding listener answers 200.
    fn wait(mut self, dir: &Path) -> anyhow::Result<Self> {
        self.wait_for_status(dir, 200)?;
        Ok(self)
    }

    fn wait_for_status(&mut self, dir: &Path, status: u16) -> anyhow::Result<()> {
        let (target, process) = (&self.forward, &mut self.process);
        poll_until(START_DEADLINE, || {
            // A process that has ended will never answer, so that is final.
            if let Err(ended) = process.check_alive(dir) {
                return Ok(Err(ended));
            }
            let answer = http::get(target.address, target.path, target.client)?;
            if answer.status == status {
                return Ok(Ok(()));
            }
            bail!("{} answers {} instead of {status}", target.name, answer.status)
        })
        .and_then(|outcome| outcome)
        .with_context(|| format!("{} did not start", target.name))
    }
}

impl Bench<'_> {
    /// The origin server: nginx with one worker on the load's core.
    pub(crate) fn start_upstream(&self) -> anyhow::Result<(Process, SocketAddr)> {
        let [address] = free_addresses()?;
        let process = self.start_nginx("upstream", self.cores.load, &configs::upstream(address))?;
        poll_until(START_DEADLINE, || http::get(address, PATH, OPEN_CLIENT))
            .context("the upstream did not start")?;
        Ok((process, address))
    }

    /// Tollgate as one of the contenders.
    pub(crate) fn start_tollgate(
        &self,
        name: &'static str,
        upstream: SocketAddr,
        setup: Setup<'_>,
    ) -> anyhow::Result<Running> {
        let listeners = free_listeners()?;
        let text = configs::tollgate(listeners, upstream, setup);
        let process = self.start_gateway(name, &text)?;
        let target = Target::new(name, &process, listeners.data);
        let refuse = Target { client: SPENT_CLIENT, ..target.clone() };
        let logged = setup.log.map(|log| Target { access_log: Some(log.into()), ..target.clone() });
        let mut running = Running::forwarding(process, target);
        (running.refuse, running.logged) = (Some(refuse), logged);
        running.wait(self.dir)
    }

    /// Tollgate whose circuit an operator has opened.
    pub(crate) fn start_open_tollgate(
        &self,
        upstream: SocketAddr,
        setup: Setup<'_>,
    ) -> anyhow::Result<Running> {
        let listeners = free_listeners()?;
        let text = configs::tollgate(listeners, upstream, setup);
        let process = self.start_gateway("tollgate-open", &text)?;
        let target = Target::new(Contender::Tollgate.name(), &process, listeners.data);
        let mut running = Running::forwarding(process, target).wait(self.dir)?;
        let circuit = format!("/circuit-breakers/{}", configs::UPSTREAM);
        // So long that the digits of Retry-After stay as many as they are.
        let answer = http::post(listeners.admin, &circuit, r#"{"force": "open", "ttl": "48h"}"#)?;
        ensure!(answer.status == 200, "the circuit cannot be forced: status {}", answer.status);
        running.refuse = Some(running.forward.clone());
        Ok(running)
    }

    /// The gateway with this configuration, on the contenders' core.
    pub(crate) fn start_gateway(&self, name: &str, config: &str) -> anyhow::Result<Process> {
        let file = self.write(&format!("{name}.yaml"), config)?;
        let program = Path::new(env!("CARGO_BIN_EXE_tollgate"));
        Process::start(name, self.cores.contender, program, &["run", "-c", &file], self.dir)
    }

    pub(crate) fn start_bare_forward(&self, upstream: SocketAddr) -> anyhow::Result<Running> {
        self.start_bare("forward", &upstream.to_string(), 200)
    }

    /// The bare program writing `response`, which is a whole HTTP response of this status.
    pub(crate) fn start_bare_respond(
        &self,
        response: &[u8],
        status: u16,
    ) -> anyhow::Result<Running> {
        let file = self.dir.join(format!("refusal-{status}.http"));
        fs::write(&file, response)?;
        let file = file.to_str().context("the temporary folder's name is not text")?;
        let mut running = self.start_bare("respond", file, status)?;
        running.refuse = Some(running.forward.clone());
        Ok(running)
    }

    fn start_bare(&self, mode: &str, subject: &str, status: u16) -> anyhow::Result<Running> {
        let program = self.bare.as_deref().context("the bare proxy was not built")?;
        let [address] = free_addresses()?;
        let args = [mode, &address.to_string(), subject];
        let name = format!("bare-{mode}-{status}");
        let process = Process::start(&name, self.cores.contender, program, &args, self.dir)?;
        let forward = Target::new(Contender::Bare.name(), &process, address);
        let mut running = Running::forwarding(process, forward);
        running.wait_for_status(self.dir, status)?;
        Ok(running)
    }

    /// nginx with a limited, a logging and an always refusing listener.
    pub(crate) fn start_nginx_proxy(
        &self,
        name: &str,
        upstream: SocketAddr,
    ) -> anyhow::Result<Running> {
        let [forward, logged, refuse] = free_addresses()?;
        let log = self.dir.join(format!("{name}-access.log"));
        let text = configs::nginx(forward, logged, refuse, upstream, &log);
        let process = self.start_nginx(name, self.cores.contender, &text)?;
        let target = |address| Target::new(Contender::Nginx.name(), &process, address);
        let refuse = Target { stray_admissions: 1, ..target(refuse) };
        let logged = Target { name: "nginx with log", access_log: Some(log), ..target(logged) };
        let forward = target(forward);
        Running { process, forward, refuse: Some(refuse), logged: Some(logged) }.wait(self.dir)
    }

    fn start_nginx(&self, name: &str, core: usize, text: &str) -> anyhow::Result<Process> {
        let prefix = self.dir.join(name);
        fs::create_dir_all(&prefix)?;
        let prefix = prefix.to_str().context("the temporary folder's name is not text")?;
        let file = self.write(&format!("{name}.conf"), text)?;
        let args = ["-p", prefix, "-c", &file, "-e", "error.log"];
        Process::start(name, core, Path::new("nginx"), &args, self.dir)
    }

    /// HAProxy with a limited and an always refusing listener.
    pub(crate) fn start_haproxy(&self, upstream: SocketAddr) -> anyhow::Result<Running> {
        let [forward, refuse] = free_addresses()?;
        let file = self.write("haproxy.cfg", &configs::haproxy(forward, refuse, upstream))?;
        let args = ["-db", "-f", &file];
        let program = Path::new("haproxy");
        let process = Process::start("haproxy", self.cores.contender, program, &args, self.dir)?;
        let name = Contender::Haproxy.name();
        let refuse = Target::new(name, &process, refuse);
        let forward = Target::new(name, &process, forward);
        Running { process, forward, refuse: Some(refuse), logged: None }.wait(self.dir)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<String> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(path.to_str().context("the temporary folder's name is not text")?.to_owned())
    }
}

/// Where a gateway can listen.
pub(crate) fn free_listeners() -> anyhow::Result<Listeners> {
    let [data, admin, metrics] = free_addresses()?;
    Ok(Listeners { data, admin, metrics })
}

/// Builds the yardstick with the profile of this program and says where it is.
///
/// Cargo knows the file's name, which holds a hash; looking for it in the
/// target folder could find one that an older source left there.
pub(crate) fn build_bare_proxy() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["bench", "--quiet", "--bench", "bare_proxy", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")])
        .stderr(Stdio::inherit());
    if cfg!(debug_assertions) {
        command.args(["--profile", "dev"]);
    }
    // What cargo tells the programs it runs is not meant for a build: dependencies that look at
    // it would be built anew, everything above them too, and all of that again at the next run.
    for (name, _) in std::env::vars_os() {
        let is_told = |prefix| name.to_str().is_some_and(|name| name.starts_with(prefix));
        if is_told("CARGO_PKG_") || is_told("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    let output = command.output().context("cannot run cargo")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let artifacts = text.lines().filter_map(|line| serde_json::from_str(line).ok());
    artifacts
        .filter(|message: &serde_json::Value| message["target"]["name"] == "bare_proxy")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo did not build the bare proxy")
}
