//! What a test says about the gateway it wants.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::gateway::Gateway;
use super::port::{free_addresses, free_ipv6_address};

/// Limits nobody reaches by accident, for tests that are about something else.
const WIDE_TIERS: &str = "free: {rate: 100000/s, burst: 100000}";

/// What a test says about the gateway it wants. Each text is YAML as it stands
/// under the key of its name, indented as the test likes.
#[derive(Clone, Debug)]
pub struct GatewayBuilder {
    server: String,
    clients: String,
    tiers: String,
    limits: String,
    upstreams: String,
    routes: String,
    admin: String,
    limiter: String,
    state_dir: String,
    redis: String,
    env: Vec<(String, String)>,
    descriptors: Option<[u32; 2]>,
}

impl Default for GatewayBuilder {
    fn default() -> Self {
        Self {
            server: String::new(),
            clients: "identify: [ip]\ndefault_tier: free".to_owned(),
            tiers: WIDE_TIERS.to_owned(),
            limits: String::new(),
            upstreams: String::new(),
            routes: String::new(),
            admin: String::new(),
            limiter: String::new(),
            state_dir: String::new(),
            redis: String::new(),
            env: Vec::new(),
            descriptors: None,
        }
    }
}

impl GatewayBuilder {
    /// Further keys of `server`, beside the listener.
    pub fn server(mut self, yaml: &str) -> Self {
        self.server = yaml.to_owned();
        self
    }

    /// The whole of `clients`; without it everybody is known by address.
    pub fn clients(mut self, yaml: &str) -> Self {
        self.clients = yaml.to_owned();
        self
    }

    /// The whole of `tiers`; without it one tier `free` that nobody exhausts.
    pub fn tiers(mut self, yaml: &str) -> Self {
        self.tiers = yaml.to_owned();
        self
    }

    /// The list `limits`.
    pub fn limits(mut self, yaml: &str) -> Self {
        self.limits = yaml.to_owned();
        self
    }

    /// The whole of `upstreams`.
    pub fn upstreams(mut self, yaml: &str) -> Self {
        self.upstreams = yaml.to_owned();
        self
    }

    /// One more upstream with one server.
    pub fn upstream(mut self, name: &str, server: SocketAddr) -> Self {
        let _ = writeln!(self.upstreams, "{name}: {{servers: [\"{server}\"]}}");
        self
    }

    /// The list `routes`.
    pub fn routes(mut self, yaml: &str) -> Self {
        self.routes = yaml.to_owned();
        self
    }

    /// Further keys of `admin`, beside the listener.
    pub fn admin(mut self, yaml: &str) -> Self {
        self.admin = yaml.to_owned();
        self
    }

    /// The whole of `limiter`.
    pub fn limiter(mut self, yaml: &str) -> Self {
        self.limiter = yaml.to_owned();
        self
    }

    /// The folder of what outlives the process, relative to that of the configuration.
    pub fn state_dir(mut self, folder: &str) -> Self {
        self.state_dir = folder.to_owned();
        self
    }

    /// The whole of `redis`.
    pub fn redis(mut self, yaml: &str) -> Self {
        self.redis = yaml.to_owned();
        self
    }

    /// A variable of the gateway's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// File descriptors the process may have, at first and after it has asked for all it can
    /// get; without it as many as the test's own.
    pub fn descriptors(mut self, soft: u32, hard: u32) -> Self {
        self.descriptors = Some([soft, hard]);
        self
    }

    /// The configuration file with these listeners.
    pub fn yaml(&self, data: SocketAddr, admin: SocketAddr, metrics: SocketAddr) -> String {
        let mut yaml = format!("server:\n  listen: \"{data}\"\n");
        if !self.server.contains("workers:") {
            yaml.push_str("  workers: 1\n");
        }
        yaml.push_str(&indented(&self.server));
        let _ = write!(yaml, "admin:\n  listen: \"{admin}\"\n{}", indented(&self.admin));
        let _ = writeln!(yaml, "metrics:\n  listen: \"{metrics}\"");
        if !self.state_dir.is_empty() {
            let _ = writeln!(yaml, "state_dir: {:?}", self.state_dir);
        }
        for (key, fragment) in [
            ("redis", &self.redis),
            ("clients", &self.clients),
            ("limiter", &self.limiter),
            ("tiers", &self.tiers),
            ("limits", &self.limits),
            ("upstreams", &self.upstreams),
            ("routes", &self.routes),
        ] {
            if !fragment.trim().is_empty() {
                let _ = write!(yaml, "{key}:\n{}", indented(fragment));
            }
        }
        yaml
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub fn start(&self) -> Gateway {
        let [data, admin, metrics] = free_addresses();
        self.spawn(data, admin, metrics).ready().unwrap_or_else(|why| panic!("{why}"))
    }

    /// Starts it with its data port on `::1`; nothing where there is no IPv6.
    #[track_caller]
    pub fn start_on_ipv6(&self) -> Option<Gateway> {
        let data = free_ipv6_address()?;
        let [admin, metrics] = free_addresses();
        Some(self.spawn(data, admin, metrics).ready().unwrap_or_else(|why| panic!("{why}")))
    }

    /// Starts it on these addresses and does not wait.
    #[track_caller]
    pub fn spawn(&self, data: SocketAddr, admin: SocketAddr, metrics: SocketAddr) -> Gateway {
        let yaml = self.yaml(data, admin, metrics);
        Gateway::launch(&yaml, &self.env, self.descriptors, [data, admin, metrics])
    }
}

/// The text with the least indentation of its lines replaced by two blanks.
fn indented(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let margin = |line: &str| line.len() - line.trim_start().len();
    let least = lines().map(margin).min().unwrap_or(0);
    lines().map(|line| format!("  {}\n", &line[least..])).collect()
}
