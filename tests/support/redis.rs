//! Redis servers of a test's own: one, a pair, a cluster, and sentinels. They keep nothing on
//! disk, listen on ports of their own and end with the test.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use redis::{Client, FromRedisValue, RedisResult};
use tempfile::TempDir;

use super::gateway::signal_process;
use super::port::{Port, free_addresses};
use super::wait::until;

/// A server. Dropping it ends its process, and only that; its port is its own until then, also
/// while it does not run.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: Port,
    arguments: Vec<String>,
    password: Option<String>,
    dir: TempDir,
}

impl RedisServer {
    /// One that runs, with the server's own defaults.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// One that runs with these options, such as `--requirepass`, `secret`.
    #[track_caller]
    pub fn with(options: &[&str]) -> Self {
        let mut server = Self::absent(options);
        server.run();
        server
    }

    /// One that does not run yet.
    pub fn absent(options: &[&str]) -> Self {
        let port = Port::new();
        let own = port.address().port().to_string();
        let mut arguments =
            vec!["--save".to_owned(), String::new(), "--appendonly".into(), "no".into()];
        let is_tls = options.contains(&"--tls-cert-file");
        let ports = if is_tls {
            ["--port", "0", "--tls-port", &own]
        } else {
            ["--tls-port", "0", "--port", &own]
        };
        arguments.extend(ports.map(str::to_owned));
        arguments.extend(["--bind", "127.0.0.1"].map(str::to_owned));
        // A replica is not to wait for others that might come.
        arguments.extend(["--repl-diskless-sync-delay", "0"].map(str::to_owned));
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let password = options.iter().position(|&option| option == "--requirepass");
        let password = password.map(|at| options[at + 1].to_owned());
        Self { child: None, port, arguments, password, dir: tempfile::tempdir().unwrap() }
    }

    /// Starts it, with the same options as before and no data.
    #[track_caller]
    pub fn run(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let _ = fs::remove_file(self.socket());
        let mut command = server();
        command.args(&self.arguments).arg("--dir").arg(self.dir.path());
        command.args(["--logfile", "log"]);
        command.arg("--unixsocket").arg(self.socket());
        self.child = Some(command.spawn().expect("redis-server; `make test` installs it"));
        until("Redis answers", || {
            let state = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(state.is_none(), "redis-server ended: {}", self.log());
            self.try_ask::<String>(&["PING"]).ok().filter(|answer| answer == "PONG")
        });
    }

    /// Ends it as no signal handler can see.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("own child");
            child.wait().expect("own child");
        }
    }

    /// Stops it where it is; the kernel goes on taking connections and bytes for it.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    #[track_caller]
    pub fn thaw(&self) {
        self.signal("CONT");
    }

    #[track_caller]
    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("it runs");
        assert!(signal_process(child.id(), name), "kill -{name}");
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// What `redis.url` says of it.
    pub fn url(&self) -> String {
        let password = self.password.as_ref().map(|p| format!(":{p}@")).unwrap_or_default();
        format!("redis://{password}{}", self.address())
    }

    /// Asks it something, past whatever the network is like for others.
    #[track_caller]
    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// As [`ask`](Self::ask), for what may fail.
    pub fn try_ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let password = self.password.as_deref().map(|p| format!("?pass={p}")).unwrap_or_default();
        let client = Client::open(format!("redis+unix://{}{password}", self.socket().display()))?;
        let mut connection = client.get_connection()?;
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query(&mut connection)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn server() -> Command {
    let mut command = Command::new("redis-server");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// A cluster of masters that share the slots evenly.
#[derive(Debug)]
pub struct RedisCluster {
    /// Its nodes, in the order of their slots.
    pub nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// One of three masters.
    #[track_caller]
    pub fn start() -> Self {
        let buses: [SocketAddr; 3] = free_addresses();
        let node = |bus: &SocketAddr| {
            let bus = bus.port().to_string();
            let timeout = ["--cluster-node-timeout", "2000"];
            let mut options = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
            options.extend(timeout);
            RedisServer::with(&options)
        };
        let nodes: Vec<_> = buses.iter().map(node).collect();
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        for (index, (node, (first, last))) in nodes.iter().zip(slots).enumerate() {
            node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", first, last]);
            node.ask::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()]);
        }
        for (node, bus) in nodes.iter().zip(&buses).skip(1) {
            let (port, bus) = (node.address().port().to_string(), bus.port().to_string());
            nodes[0].ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
        }
        let cluster = Self { nodes };
        until("the nodes know each other", || cluster.is_whole().then_some(()));
        cluster
    }

    fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| {
            let info: String = node.ask(&["CLUSTER", "INFO"]);
            info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")
        })
    }

    /// What `redis.url` says of it.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.nodes.iter().map(|node| format!("\"{}\"", node.url())).collect();
        format!("[{}]", urls.join(", "))
    }

    /// Moves a slot, with what is in it, from the node that has it to another.
    #[track_caller]
    pub fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let id = |node: usize| self.nodes[node].ask::<String>(&["CLUSTER", "MYID"]);
        let (slot, source, target) = (slot.to_string(), id(from), id(to));
        self.nodes[to].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        self.nodes[from].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
        let port = self.nodes[to].address().port().to_string();
        loop {
            let keys: Vec<String> =
                self.nodes[from].ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
            if keys.is_empty() {
                break;
            }
            for key in keys {
                let move_it = ["MIGRATE", "127.0.0.1", &port, &key, "0", "5000"];
                self.nodes[from].ask::<String>(&move_it);
            }
        }
        for node in [to, from] {
            self.nodes[node].ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
    }
}

/// A primary, a replica and three sentinels over them, for whom half a second of silence is
/// enough.
#[derive(Debug)]
pub struct RedisSentinels {
    /// The primary at first, and its replica.
    pub servers: [RedisServer; 2],
    sentinels: Vec<Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    child: Child,
    address: SocketAddr,
    _dir: TempDir,
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl RedisSentinels {
    /// What they know the primary as.
    pub const MASTER: &str = "main";

    /// All of them, and each knows of the others.
    #[track_caller]
    pub fn start() -> Self {
        let primary = RedisServer::start();
        let replica = replica_of(&primary);
        let addresses: [SocketAddr; 3] = free_addresses();
        let sentinels = addresses.map(|address| sentinel(address, primary.address()));
        let all = Self { servers: [primary, replica], sentinels: sentinels.into() };
        until("the sentinels know each other", || all.are_ready().then_some(()));
        all
    }

    fn are_ready(&self) -> bool {
        self.sentinels.iter().all(|sentinel| {
            let ask = || -> RedisResult<Vec<String>> {
                let client = Client::open(format!("redis://{}", sentinel.address))?;
                let mut command = redis::cmd("SENTINEL");
                command.arg("MASTER").arg(Self::MASTER).query(&mut client.get_connection()?)
            };
            let fields = ask().unwrap_or_default();
            let is = |name: &str, value: &str| {
                fields.chunks(2).any(|field| field[0] == name && field[1] == value)
            };
            is("num-slaves", "1") && is("num-other-sentinels", "2") && is("flags", "master")
        })
    }

    /// What `redis.url` says of the sentinels.
    pub fn urls(&self) -> String {
        let url = |sentinel: &Sentinel| format!("\"redis://{}\"", sentinel.address);
        let urls: Vec<_> = self.sentinels.iter().map(url).collect();
        format!("[{}]", urls.join(", "))
    }
}

/// A replica that has caught up with its primary.
#[track_caller]
pub fn replica_of(primary: &RedisServer) -> RedisServer {
    let port = primary.address().port().to_string();
    let replica = RedisServer::with(&["--replicaof", &format!("127.0.0.1 {port}")]);
    until("the replica is in step", || {
        let info: String = replica.ask(&["INFO", "REPLICATION"]);
        info.contains("master_link_status:up").then_some(())
    });
    replica
}

#[track_caller]
fn sentinel(address: SocketAddr, primary: SocketAddr) -> Sentinel {
    let dir = tempfile::tempdir().unwrap();
    let (port, name, theirs) = (address.port(), RedisSentinels::MASTER, primary.port());
    let file = dir.path().join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\n\
         sentinel monitor {name} 127.0.0.1 {theirs} 2\n\
         sentinel down-after-milliseconds {name} 500\n\
         sentinel failover-timeout {name} 2000\n",
        dir.path().display()
    );
    fs::write(&file, text).unwrap();
    let child = server().arg(&file).arg("--sentinel").spawn().expect("redis-server");
    Sentinel { child, address, _dir: dir }
}
