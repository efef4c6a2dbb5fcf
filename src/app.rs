//! The composition root: from a configuration to a running process. The only file that
//! knows all the others.

mod answers;
mod beside;
mod data_proxy;
mod descriptors;
mod drain;
mod held;
mod listeners;
mod metrics_port;
mod signals;
mod state;
mod systemd;
mod upkeep;
mod watchdog;

pub use listeners::bind;

use crate::admin::{self, AdminState};
use crate::config::{self, Config};
use crate::fleet::Fleet;
use crate::gateway::Gateway;
use crate::gateway::registry_metrics::RegistryMetrics;
use crate::gateway::table_metrics::TableMetrics;
use crate::handover::{
    self, CommandLine, Estate, Inheritance, Predecessor, Socket, Upgrader, Waiting,
};
use crate::metrics::{ConnectionMetrics, Metrics};
use crate::proxy::pool::Pool;
use crate::proxy::{self, Proxy};
use crate::registry::{Bounds, Registry};
use crate::reload::Reloader;
use crate::store::mapped::Lock;
use crate::telemetry::access_log::AccessLog;
use crate::wire::app::GuardedApp;
use crate::wire::connections::Connections;
use crate::wire::head::HeadLimits;
use crate::wire::listening::{Listening, OnFailure};
use answers::Refuser;
use anyhow::{Context, bail};
use async_trait::async_trait;
use beside::Beside;
use data_proxy::DataProxy;
use held::Held;
use listeners::Listeners;
use metrics_port::MetricsApp;
use pingora::prelude::Server;
use pingora::server::configuration::ServerConf;
use pingora::server::{RunArgs, ShutdownWatch};
use pingora_core::services::background::{BackgroundService, background_service};
use signals::{SignalWatch, Signals};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use upkeep::UpkeepService;
use watchdog::Watchdog;

/// What to tell the user once the gateway serves.
pub enum Announce {
    /// One line in the log.
    InLog,
    /// That, and what this prints.
    With(fn(&Config)),
}

/// Where the listening sockets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// From systemd where it holds them, else they are opened.
    Opened,
    /// From the running gateway, which ends once this one serves.
    Predecessor,
}

/// What to serve and how.
pub struct Launch<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// Where that came from; it is read again at a reload. Without it there is no reload and
    /// no upgrade.
    pub file: Option<PathBuf>,
    /// Where the listening sockets come from.
    pub origin: Origin,
    /// What to tell the user.
    pub announce: Announce,
}

/// Serves until the process is told to stop, or has a successor.
///
/// # Errors
/// When it cannot start: a port is taken, the access log cannot be opened, no gateway hands
/// its sockets over.
pub fn run(launch: Launch<'_>) -> anyhow::Result<()> {
    let config = launch.config;
    let meeting_point =
        handover::meeting_point(config.server.upgrade_socket.as_deref(), config.admin.listen);
    let (sockets, mut link) = match (handover::arranged(), &meeting_point, launch.origin) {
        (_, _, Origin::Opened) => (listeners::from_systemd(), None),
        (Some(path), ..) => inherit(&path)?,
        (None, Ok(path), _) => inherit(path)?,
        (None, Err(error), _) => bail!("server.upgrade_socket: {error:#}"),
    };
    match (prepare(launch, sockets, meeting_point, link.as_mut()), link) {
        (Ok((server, mut signals)), link) => {
            signals.predecessor = link;
            serve(server, signals)
        }
        (Err(error), None) => Err(error),
        (Err(error), Some(link)) => {
            link.decline(&format!("{error:#}"));
            Err(error)
        }
    }
}

fn inherit(path: &Path) -> anyhow::Result<(Vec<Socket>, Option<Predecessor>)> {
    log::info!("waiting at {} for the running gateway's sockets", path.display());
    let Inheritance { sockets, link } = Waiting::at(path)?.receive()?;
    Ok((sockets, Some(link)))
}

/// Everything up to the first thread.
fn prepare(
    launch: Launch<'_>,
    sockets: Vec<Socket>,
    meeting_point: anyhow::Result<PathBuf>,
    predecessor: Option<&mut Predecessor>,
) -> anyhow::Result<(Server, Signals)> {
    let Launch { config, file, announce, origin } = launch;
    let listeners = Listeners::open(config, sockets)?;
    let registry = prometheus::default_registry();
    let metrics = Arc::new(Metrics::register(registry)?);
    let access_log = AccessLog::open(&config.server.access_log, metrics.access_log_dropped.clone())
        .context("server.access_log cannot be opened")?;
    let (gateway, lock) = gateway(config, metrics, origin, predecessor)?;
    TableMetrics::register(registry, gateway.clone())?;
    RegistryMetrics::register(registry, gateway.clone())?;
    let can_be_replaced = file.is_some();
    let upgrader = upgrader(meeting_point, listeners.share(config)?, can_be_replaced, &gateway)?;
    let reloader = Arc::new(Reloader::new(gateway.clone(), file));
    let watchdog = Watchdog::wanted(&gateway, config.server.listen.first().copied())?;

    let connections = Arc::new(Connections::default());

    let mut server = Server::new_with_opt_and_conf(None, server_conf());
    server.bootstrap();
    let own_probe = watchdog.as_ref().map(Watchdog::path);
    let proxy = Proxy::new(gateway.clone(), access_log.clone(), own_probe);
    let pool = Arc::new(Pool::default());
    let proxy = data_proxy::build(&server.configuration, proxy, pool.clone())?;
    let refuser = Arc::new(Refuser::new(gateway.clone(), access_log.clone()));
    let reporter = refuser.clone();
    let on_failure: OnFailure = Arc::new(move |error| reporter.could_not_accept(error));
    let data =
        data_service(config, proxy, refuser, on_failure.clone(), &connections, listeners.data)?;
    let serving = data.started();
    let open = watch::channel(false).0;
    let data = Held { service: data, open: open.subscribe() };
    server.add_service(Beside { service: data, gateway: gateway.clone() });
    server.add_service(metrics_service(on_failure, listeners.metrics));
    server.add_service(background_service(
        "admin",
        AdminService::new(config, &gateway, &reloader, &upgrader, listeners.admin),
    ));
    let upkeep = UpkeepService { gateway: gateway.clone(), reloader: reloader.clone(), pool };
    server.add_service(background_service("upkeep", upkeep));
    if let Some(watchdog) = watchdog {
        server.add_service(background_service("watchdog", watchdog));
    }
    let signals = Signals {
        gateway,
        connections,
        reloader,
        upgrader,
        access_log,
        announce,
        open,
        serving,
        predecessor: None,
        lock: Mutex::new(lock),
    };
    Ok((server, signals))
}

/// What hands the sockets to a successor, and starts one itself where that is possible.
fn upgrader(
    meeting_point: anyhow::Result<PathBuf>,
    sockets: Vec<Socket>,
    can_be_replaced: bool,
    gateway: &Arc<Gateway>,
) -> anyhow::Result<Arc<Upgrader>> {
    let command = can_be_replaced.then(CommandLine::own).transpose();
    let command = command.context("the system does not tell where the binary is")?;
    let estate = estate(gateway);
    Ok(Upgrader::new(meeting_point, sockets, command, systemd::main_process, estate))
}

/// The gateway with the state that outlives processes, of which the predecessor lets go first.
fn gateway(
    config: &Config,
    metrics: Arc<Metrics>,
    origin: Origin,
    predecessor: Option<&mut Predecessor>,
) -> anyhow::Result<(Arc<Gateway>, Option<Lock>)> {
    let folder = state::open(config.state_dir.as_deref());
    let (limiter, lock) = state::limiter(config, folder, origin)?;
    let mut gateway = Gateway::with_limiter(config.clone(), limiter, metrics);
    if let Some(predecessor) = predecessor {
        predecessor.take_estate()?;
    }
    if let Some(redis) = &config.redis {
        gateway.join(Fleet::new(redis, &gateway.metrics)?);
    }
    let folder = config.state_dir.as_deref();
    let registry = match &gateway.fleet {
        Some(fleet) => Registry::open_shared(folder, Bounds::default(), fleet.id.0),
        None => Registry::open(folder),
    };
    gateway.registry = registry.context("state_dir")?;
    Ok((Arc::new(gateway), lock))
}

/// What passes to a successor besides the sockets: the registry, whose file one process locks.
fn estate(gateway: &Arc<Gateway>) -> Estate {
    let (closed, opened) = (gateway.clone(), gateway.clone());
    Estate {
        let_go: Box::new(move || closed.registry.let_go()),
        take_back: Box::new(move || opened.registry.take_back()),
    }
}

/// Runs to the end. Pingora's server does not say how that came; a cell does.
fn serve(server: Server, signals: Signals) -> anyhow::Result<()> {
    let access_log = signals.access_log.clone();
    let failure = Arc::new(Mutex::new(None));
    let watch = SignalWatch::new(signals, failure.clone());
    server.run(RunArgs { shutdown_signal: Box::new(watch) });
    if let Some(log) = access_log {
        log.flush();
    }
    let failure = failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), Err)
}

fn server_conf() -> ServerConf {
    ServerConf {
        threads: 1,
        max_retries: proxy::MAX_ATTEMPTS,
        // Pingora's own timers stay in their tree until they expire; nearly all of ours are
        // cancelled long before, which Tokio's are made for.
        fast_timeout_to_tokio_threshold_seconds: Some(0),
        // Longer than any grace period: the drain ends the process, by the one of its time.
        grace_period_seconds: Some(2 * config::MAX_GRACE_PERIOD.as_secs()),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn data_service(
    config: &Config,
    proxy: Arc<DataProxy>,
    refuser: Arc<Refuser>,
    on_failure: OnFailure,
    connections: &Arc<Connections>,
    listeners: Vec<(String, TcpListener)>,
) -> anyhow::Result<Listening<GuardedApp<DataProxy>>> {
    descriptors::raise(config.server.connections.max);
    let limits = HeadLimits {
        max_head: config.server.max_head,
        max_headers: config.server.max_headers,
        max_uri: config.server.max_uri,
    };
    let open = connections.clone();
    ConnectionMetrics::watch(prometheus::default_registry(), move || open.open())?;
    let app = GuardedApp::new(proxy, limits, refuser, connections.clone());
    Ok(Listening::new("data", app, config.server.workers, listeners, on_failure))
}

fn metrics_service(
    on_failure: OnFailure,
    listeners: Vec<(String, TcpListener)>,
) -> Listening<GuardedApp<MetricsApp>> {
    Listening::new("metrics", metrics_port::app(), 1, listeners, on_failure)
}

/// The admin API as a service with a thread of its own.
struct AdminService {
    router: axum::Router,
    listener: Mutex<Option<TcpListener>>,
    upgrader: Arc<Upgrader>,
}

impl AdminService {
    fn new(
        config: &Config,
        gateway: &Arc<Gateway>,
        reloader: &Arc<Reloader>,
        upgrader: &Arc<Upgrader>,
        listener: TcpListener,
    ) -> AdminService {
        let state = AdminState {
            gateway: gateway.clone(),
            reloader: reloader.clone(),
            upgrader: upgrader.clone(),
            listen: config.admin.listen,
            token: config.admin.token.clone(),
            metrics: prometheus::default_registry().clone(),
        };
        let listener = Mutex::new(Some(listener));
        AdminService { router: admin::router(state), listener, upgrader: upgrader.clone() }
    }
}

#[async_trait]
impl BackgroundService for AdminService {
    /// Serves through a drain to its end, so that `/ready` can say that it drains; a successor
    /// says so itself, on the same socket.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (succeeded, until) = watch::channel(false);
        let upgrader = self.upgrader.clone();
        tokio::spawn(async move {
            upgrader.succeeded().await;
            succeeded.send_replace(true);
        });
        if let Some(listener) = listener
            && let Err(error) = admin::serve(listener, self.router.clone(), until).await
        {
            log::error!("the admin API stopped: {error}");
        }
    }
}
