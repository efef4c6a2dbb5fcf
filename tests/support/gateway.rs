//! The real binary, configured by a test and ended with it.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::builder::GatewayBuilder;
use super::client::{Client, Reply};
use super::series::Series;
use super::upstream::Upstream;
use super::wait::{DEADLINE, eventually};

/// A running gateway. Dropping it ends its process, and only that.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    dir: Arc<TempDir>,
    env: Vec<(String, String)>,
    /// Where clients go.
    pub data: SocketAddr,
    /// Where operators go.
    pub admin: SocketAddr,
    /// Where Prometheus goes.
    pub metrics: SocketAddr,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
    ended: Option<ExitStatus>,
}

impl Gateway {
    /// Nothing but listeners and wide tiers; upstreams and routes are still to be said.
    pub fn builder() -> GatewayBuilder {
        GatewayBuilder::default()
    }

    /// One route named `all` that sends every path to this upstream, named `main`.
    pub fn before(upstream: &Upstream) -> GatewayBuilder {
        Self::builder()
            .upstream("main", upstream.address())
            .routes("- {name: all, path: /, upstream: main}")
    }

    /// Starts the binary with this configuration, which names these addresses (data,
    /// admin, metrics), and does not wait.
    #[track_caller]
    pub(super) fn launch(
        yaml: &str,
        env: &[(String, String)],
        descriptors: Option<[u32; 2]>,
        at: [SocketAddr; 3],
    ) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        fs::write(dir.path().join("tollgate.yaml"), yaml).expect("the configuration");
        let mut command = match descriptors {
            Some(limits) => limited_command(dir.path(), limits),
            None => command(dir.path()),
        };
        command.args(["run", "-c", "tollgate.yaml"]);
        Self::spawned(command, dir, env.to_vec(), at)
    }

    /// Starts a successor with the same configuration, which waits for this one's sockets.
    #[track_caller]
    pub fn successor(&self) -> Self {
        let mut command = command(self.dir.path());
        command.args(["run", "-c", "tollgate.yaml", "--upgrade"]);
        let at = [self.data, self.admin, self.metrics];
        Self::spawned(command, self.dir.clone(), self.env.clone(), at)
    }

    /// Ends its process as no signal handler can see.
    pub fn kill(&mut self) {
        self.child.kill().expect("own child");
        self.ended = Some(self.child.wait().expect("own child"));
    }

    #[track_caller]
    fn spawned(
        mut command: Command,
        dir: Arc<TempDir>,
        env: Vec<(String, String)>,
        at: [SocketAddr; 3],
    ) -> Self {
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().expect("the binary starts");
        let stdout = collect(child.stdout.take());
        let stderr = collect(child.stderr.take());
        let [data, admin, metrics] = at;
        Self { child, dir, env, data, admin, metrics, stdout, stderr, ended: None }
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Starts another one with the same configuration in the same folder and waits until it is
    /// ready. This one must have let go of its addresses.
    #[track_caller]
    pub fn another(&self) -> Self {
        let mut command = command(self.dir.path());
        command.args(["run", "-c", "tollgate.yaml"]);
        let at = [self.data, self.admin, self.metrics];
        let next = Self::spawned(command, self.dir.clone(), self.env.clone(), at);
        next.ready().unwrap_or_else(|why| panic!("{why}"))
    }

    /// A new connection to the data port.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.data)
    }

    /// GET on the data port, on a connection of its own.
    #[track_caller]
    pub fn get(&self, target: &str) -> Reply {
        self.client().get(target)
    }

    /// GET on the admin port, on a connection of its own, with the Host an
    /// operator's client would send.
    #[track_caller]
    pub fn admin_get(&self, target: &str) -> Reply {
        let host = self.admin.to_string();
        Client::connect(self.admin).get_with(target, &[("Host", &host), ("Connection", "close")])
    }

    /// Any request on the admin port, on a connection of its own. A body without a
    /// Content-Type of the test's own is JSON.
    #[track_caller]
    pub fn admin_request(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Reply {
        let given = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
        let host = self.admin.to_string();
        let mut all = vec![("Connection", "close")];
        if !given("host") {
            all.push(("Host", &host));
        }
        if !body.is_empty() && !given("content-type") {
            all.push(("Content-Type", "application/json"));
        }
        all.extend_from_slice(headers);
        Client::connect(self.admin).request(method, target, &all, body.as_bytes())
    }

    /// PUT of this JSON on the admin port.
    #[track_caller]
    pub fn admin_put(&self, target: &str, body: &str) -> Reply {
        self.admin_request("PUT", target, &[], body)
    }

    /// What Prometheus reads from the metrics port.
    #[track_caller]
    pub fn series(&self) -> Series {
        Series::parse(&Client::connect(self.metrics).get("/metrics").text())
    }

    /// What Prometheus reads once this sample has this value: a request is counted
    /// when all of it is over, a moment after its answer.
    #[track_caller]
    pub fn series_once(&self, sample: &str, value: f64) -> Series {
        let mut last = Series::default();
        let found = eventually(DEADLINE, || {
            last = self.series();
            ((last.value(sample) - value).abs() < 1e-9).then_some(())
        });
        assert!(found.is_some(), "{sample} is {}, not {value}", last.value(sample));
        last
    }

    /// The status of GET /ready, where anybody answers.
    pub fn readiness(&self) -> Option<u16> {
        let mut client = Client::try_connect(self.admin)?;
        let request = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        client.try_send(request).ok()?;
        client.try_reply().ok()?.map(|reply| reply.status)
    }

    /// A path beside the configuration, gone when the gateway is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout.lock().unwrap()).into_owned()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// Its resident memory in bytes.
    #[track_caller]
    pub fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// How many file descriptors it may have.
    #[track_caller]
    pub fn descriptor_limit(&self) -> u32 {
        let limits = fs::read_to_string(format!("/proc/{}/limits", self.child.id())).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
        line.split_whitespace().nth(3).unwrap().parse().unwrap()
    }

    /// The processor time it has used so far, to a hundredth of a second.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // Behind the name, which may hold anything, the third field of the line is the first.
        let (_, rest) = stat.rsplit_once(") ").expect("a name in parentheses");
        let fields: Vec<&str> = rest.split(' ').collect();
        let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Asks it to drain and stop.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Replaces its configuration's file; it reads that when it is told to.
    pub fn rewrite(&self, builder: &GatewayBuilder) {
        self.rewrite_as(&builder.yaml(self.data, self.admin, self.metrics));
    }

    /// Replaces its configuration's file by this text, in one step.
    pub fn rewrite_as(&self, yaml: &str) {
        let new = self.path("tollgate.yaml.new");
        fs::write(&new, yaml).expect("the configuration");
        fs::rename(new, self.config()).expect("the configuration");
    }

    /// Where its configuration's file is.
    pub fn config(&self) -> PathBuf {
        self.path("tollgate.yaml")
    }

    /// POST /reload on the admin port.
    #[track_caller]
    pub fn reload(&self) -> Reply {
        self.admin_request("POST", "/reload", &[], "")
    }

    /// Asks it to read its configuration again.
    pub fn hang_up(&self) {
        self.signal("HUP");
    }

    /// Asks it to stop at once.
    pub fn interrupt(&self) {
        self.signal("INT");
    }

    /// Sends it a signal, named without SIG.
    pub fn signal(&self, name: &str) {
        assert!(self.ended.is_none(), "the gateway has ended already");
        assert!(signal_process(self.child.id(), name), "kill -{name}");
    }

    /// Whether its process is still there.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("own child");
        }
        self.ended.is_none()
    }

    /// Its exit status, if it ends within `deadline`.
    pub fn exit_within(&mut self, deadline: Duration) -> Option<ExitStatus> {
        eventually(deadline, || (!self.is_running()).then_some(()))?;
        self.ended
    }

    /// Polls until /ready says so; the error holds what it printed.
    pub(super) fn ready(mut self) -> Result<Self, String> {
        let ready = eventually(DEADLINE, || {
            if !self.is_running() {
                return Some(false);
            }
            (self.readiness() == Some(200)).then_some(true)
        });
        // A stranger on the admin port could have answered in its place.
        match ready {
            Some(true) if self.is_running() => Ok(self),
            Some(_) => {
                Err(format!("the gateway ended at start ({:?}):\n{}", self.ended, self.log()))
            }
            None => Err(format!("the gateway was not ready in {DEADLINE:?}:\n{}", self.log())),
        }
    }

    fn log(&self) -> String {
        let config = fs::read_to_string(self.path("tollgate.yaml")).unwrap_or_default();
        format!("{config}\n--- stdout\n{}\n--- stderr\n{}", self.stdout(), self.stderr())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// Sends a process a signal; whether there was one to send it to.
pub fn signal_process(process: u32, name: &str) -> bool {
    // The shell's own `kill` needs neither a package nor unsafe code.
    let kill = format!("kill -{name} {process} 2>/dev/null");
    Command::new("sh").arg("-c").arg(kill).status().expect("sh").success()
}

/// A run of the binary that came to its end.
#[derive(Debug)]
pub struct Finished {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

/// Runs the binary with these arguments in `dir` and waits for its end.
#[track_caller]
pub fn run_to_exit(dir: &Path, arguments: &[&str]) -> Finished {
    let mut child = command(dir).args(arguments).spawn().expect("the binary starts");
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());
    let status = eventually(DEADLINE, || child.try_wait().expect("own child"));
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text =
        |bytes: &Mutex<Vec<u8>>| String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned();
    // The collecting threads hold a share each until they have seen the end.
    eventually(DEADLINE, || (Arc::strong_count(&stdout) == 1).then_some(()));
    eventually(DEADLINE, || (Arc::strong_count(&stderr) == 1).then_some(()));
    let finished = |code| Finished { code, stdout: text(&stdout), stderr: text(&stderr) };
    match status {
        Some(status) => finished(status.code()),
        None => panic!("tollgate {arguments:?} did not end: {:?}", finished(None)),
    }
}

/// The binary, to be run in `dir`.
pub fn command(dir: &Path) -> Command {
    prepared(Command::new(env!("CARGO_BIN_EXE_tollgate")), dir)
}

/// The binary in a process that may have so many descriptors. The shell becomes the binary,
/// so signals reach that.
fn limited_command(dir: &Path, [soft, hard]: [u32; 2]) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -Sn {soft} && ulimit -Hn {hard} && exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_tollgate"));
    prepared(command, dir)
}

fn prepared(mut command: Command, dir: &Path) -> Command {
    command.current_dir(dir).env("RUST_LOG", "info");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> Arc<Mutex<Vec<u8>>> {
    let bytes = Arc::new(Mutex::new(Vec::new()));
    let (mut pipe, shared) = (pipe.expect("a pipe"), Arc::clone(&bytes));
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut piece) {
            shared.lock().unwrap().extend_from_slice(&piece[..count]);
        }
    });
    bytes
}
