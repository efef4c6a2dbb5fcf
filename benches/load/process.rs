//! Child processes: started on one core, measured from `/proc`, ended by their ids.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};

/// How long a child may take to end after it was asked to.
const END_DEADLINE: Duration = Duration::from_secs(3);
/// How long one may take to drain.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How often a condition is looked at while waiting for it.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The cores of a run: one for what is measured, one for everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cores {
    pub(crate) contender: usize,
    pub(crate) load: usize,
}

impl Cores {
    /// Takes the first two cores this process may run on; one core serves both
    /// parts where there is no second.
    pub(crate) fn of_this_machine() -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list = field(&status, "Cpus_allowed_list:").context("no list of allowed cores")?;
        let cores = parse_core_list(list);
        let contender = *cores.first().context("the list of allowed cores is empty")?;
        Ok(Self { contender, load: cores.get(1).copied().unwrap_or(contender) })
    }

    /// Whether load generator and contender share one core, which makes
    /// throughput meaningless and leaves CPU per request usable.
    pub(crate) fn shared(self) -> bool {
        self.contender == self.load
    }
}

/// Reads a list such as `0-3,8`.
fn parse_core_list(list: &str) -> Vec<usize> {
    let mut cores = Vec::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cores.extend(first..=last);
        }
    }
    cores
}

/// The value of a `Name: value` line of a `/proc` file.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// A child process that ends with this value, also when the harness panics.
pub(crate) struct Process {
    name: String,
    child: Child,
    is_frozen: bool,
}

impl Process {
    /// Starts `program` on one core, its output going to `NAME.out` in `dir`.
    ///
    /// `setpriv` lets the kernel end the child when the harness is killed, and
    /// `taskset` pins it with all the threads it will start. Both replace
    /// themselves by the next program, so the child's id is the program's own.
    pub(crate) fn start(
        name: &str,
        core: usize,
        program: &Path,
        args: &[&str],
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let output = File::create(dir.join(format!("{name}.out")))?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "INT", "taskset", "-c", &core.to_string()])
            .arg(program)
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), child, is_frozen: false })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Stops the child where it is, as a machine that hangs; its sockets stay open.
    pub(crate) fn freeze(&mut self) {
        self.is_frozen = true;
        signal(Signal::STOP, self.child.id());
    }

    /// Ends the child as no handler of signals can see, and waits until it has ended.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks the child to finish what it has and to end, and waits until it has.
    pub(crate) fn drain(&mut self) -> anyhow::Result<()> {
        signal(Signal::TERM, self.child.id());
        let deadline = Instant::now() + DRAIN_DEADLINE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} did not drain within {DRAIN_DEADLINE:?}", self.name);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Says how the child ended, if it did.
    pub(crate) fn check_alive(&mut self, dir: &Path) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let output = fs::read_to_string(dir.join(format!("{}.out", self.name)))?;
        bail!("{} ended with {status}; it said: {}", self.name, output.trim())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its id may be somebody else's by now.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.is_frozen {
            signal(Signal::CONT, self.child.id());
        }
        // The tree is taken first: once the parent is gone, nothing tells whose
        // children its workers were.
        let tree = tree_of(self.child.id());
        signal(Signal::INT, self.child.id());
        let deadline = Instant::now() + END_DEADLINE;
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                break;
            }
            thread::sleep(POLL_INTERVAL);
        }
        for left in tree.into_iter().filter(|id| parent_of(*id).is_some()) {
            signal(Signal::KILL, left);
        }
        let _ = self.child.wait();
    }
}

/// Signals one process. One that has ended in the meantime is what was wanted.
pub(crate) fn signal(signal: Signal, id: u32) {
    if let Some(id) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(id, signal);
    }
}

/// The process and all its descendants, the process itself first.
fn tree_of(root: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| Some((id, parent_of(id)?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(id, _)| *id));
        next += 1;
    }
    tree
}

/// The fields of `/proc/ID/stat` that follow the name, which may hold spaces.
fn stat_fields(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn parent_of(id: u32) -> Option<u32> {
    stat_fields(id)?.get(1)?.parse().ok()
}

/// Reads the CPU time of a process and of the descendants it has when this is made.
pub(crate) struct Meter(Vec<u32>);

impl Meter {
    pub(crate) fn of(root: u32) -> Self {
        Self(tree_of(root))
    }

    /// Nanoseconds used so far by all threads, in user and kernel mode together.
    pub(crate) fn cpu_ns(&self) -> anyhow::Result<u64> {
        let mut sum = 0;
        for id in &self.0 {
            sum += scheduler_ns(*id)
                .or_else(|| ticks_ns(*id))
                .with_context(|| format!("cannot read the CPU time of process {id}"))?;
        }
        Ok(sum)
    }
}

/// What the scheduler counted, to the nanosecond, over the threads alive. The
/// contenders start their threads once, so none takes its time away with it.
fn scheduler_ns(id: u32) -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{id}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

/// The same in ticks of 10 ms, for kernels without scheduler statistics.
fn ticks_ns(id: u32) -> Option<u64> {
    let fields = stat_fields(id)?;
    let user: u64 = fields.get(11)?.parse().ok()?;
    let system: u64 = fields.get(12)?.parse().ok()?;
    Some((user + system) * 10_000_000)
}

/// Resident memory in bytes of the process and its descendants.
pub(crate) fn resident_bytes(root: u32) -> anyhow::Result<u64> {
    let mut kib = 0;
    for id in tree_of(root) {
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let value = field(&status, "VmRSS:").and_then(|text| text.split(' ').next());
        kib += value.context("no resident size")?.parse::<u64>()?;
    }
    Ok(kib * 1024)
}

/// Lets this process and the children to come open `wanted` files, or as many
/// as the hard limit allows; returns how many that is.
pub(crate) fn raise_open_files(wanted: u64) -> anyhow::Result<u64> {
    let limits = fs::read_to_string("/proc/self/limits")?;
    let line = field(&limits, "Max open files").context("no limit of open files")?;
    let mut values = line.split_whitespace();
    let soft = values.next().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    let hard = values.next().and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    if soft >= wanted {
        return Ok(soft);
    }
    let reachable = wanted.min(hard);
    let status = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string(), &format!("--nofile={reachable}:")])
        .status()
        .context("cannot run prlimit")?;
    if !status.success() {
        bail!("prlimit could not raise the limit of open files to {reachable}");
    }
    Ok(reachable)
}

/// Loopback addresses for programs to listen on. Each is held by a socket that is bound and never
/// listens, so that none is given to a connection of somebody else before its program has it.
pub(crate) fn free_addresses<const N: usize>() -> anyhow::Result<[SocketAddr; N]> {
    static HELD: Mutex<Vec<Socket>> = Mutex::new(Vec::new());
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&(*address).into())?;
        *address = socket.local_addr()?.as_socket().context("a socket without an address")?;
        HELD.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
    }
    Ok(addresses)
}

/// Looks again and again until `ready` succeeds; the last error is returned
/// when that has not happened by the deadline.
pub(crate) fn poll_until<T>(
    wait: Duration,
    mut ready: impl FnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + wait;
    loop {
        match ready() {
            Err(_) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
            outcome => return outcome,
        }
    }
}
