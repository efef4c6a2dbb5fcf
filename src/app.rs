//! The composition root: from a configuration to a running process. The only file that
//! knows all the others.

mod signals;
mod upkeep;

use crate::admin::{self, AdminState};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::gateway::table_metrics::TableMetrics;
use crate::metrics::Metrics;
use crate::proxy::pacing::PacedConnector;
use crate::proxy::refusal::{self, Refusal};
use crate::proxy::{self, Proxy, trace};
use crate::reload::Reloader;
use crate::store::key::KeyHasher;
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::wire::app::{Answers, GuardedApp};
use crate::wire::fault::Fault;
use crate::wire::head::HeadLimits;
use anyhow::{Context, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use http::StatusCode;
use pingora::prelude::Server;
use pingora::server::configuration::ServerConf;
use pingora::server::{ListenFds, RunArgs, ShutdownWatch};
use pingora::services::Service as PingoraService;
use pingora::services::listening::Service;
use pingora_core::apps::{HttpServerOptions, ServerApp};
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::services::background::{BackgroundService, background_service};
use pingora_proxy::{HttpProxy, ProcessCustomSession, ProxyServiceBuilder};
use signals::Signals;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use upkeep::UpkeepService;

/// Read and write buffer of a client's connection. Pingora's default of 64 KiB to read is
/// most of what an idle connection costs.
const READ_BUFFER: usize = 4_096;
const WRITE_BUFFER: usize = 1_460;
/// Idle connections kept to upstreams, for each worker.
const UPSTREAM_POOL: usize = 512;

/// What to tell the user once the gateway serves.
pub enum Announce {
    /// One line in the log.
    InLog,
    /// That, and what this prints.
    With(fn(&Config)),
}

/// Serves `config` until the process is told to stop; `file` is where it came from and is
/// read again at a reload.
///
/// # Errors
/// When it cannot start: a port is taken, the access log cannot be opened.
pub fn run(config: &Config, file: Option<PathBuf>, announce: Announce) -> anyhow::Result<()> {
    let listeners = Listeners::bind(config)?;
    let registry = prometheus::default_registry();
    let metrics = Arc::new(Metrics::register(registry)?);
    let access_log = AccessLog::open(&config.server.access_log, metrics.access_log_dropped.clone())
        .context("server.access_log cannot be opened")?;
    let hasher = KeyHasher::from_os().context("the system has no randomness to give")?;
    let gateway = Arc::new(Gateway::new(config.clone(), hasher, metrics));
    TableMetrics::register(registry, gateway.clone())?;
    let reloader = Arc::new(Reloader::new(gateway.clone(), file));

    let mut server = Server::new_with_opt_and_conf(None, server_conf(config));
    server.bootstrap();
    server.add_service(data_service(&server, config, &gateway, access_log.clone(), listeners.data));
    server.add_service(metrics_service(config, listeners.metrics));
    server.add_service(background_service(
        "admin",
        AdminService::new(config, &gateway, reloader.clone(), listeners.admin),
    ));
    server.add_service(background_service("upkeep", UpkeepService(gateway.clone())));
    let stop = Signals { gateway, reloader, access_log: access_log.clone(), announce };
    server.run(RunArgs { shutdown_signal: Box::new(stop) });
    if let Some(log) = access_log {
        log.flush();
    }
    Ok(())
}

/// Opens a listening socket.
///
/// # Errors
/// When the address is taken or not this machine's; the error names it.
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            anyhow!("{address} is in use by another process; stop that, or choose another address")
        }
        _ => anyhow!("cannot listen on {address}: {error}"),
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Every socket, opened before anything is started: Pingora itself would try a taken port
/// for half a minute and then panic.
struct Listeners {
    data: Vec<(String, TcpListener)>,
    metrics: Vec<(String, TcpListener)>,
    admin: TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> anyhow::Result<Listeners> {
        let named = |address: SocketAddr| bind(address).map(|socket| (address.to_string(), socket));
        let data = config.server.listen.iter().map(|&address| named(address));
        Ok(Listeners {
            data: data.collect::<Result<_, _>>().context("server.listen")?,
            metrics: vec![named(config.metrics.listen).context("metrics.listen")?],
            admin: bind(config.admin.listen).context("admin.listen")?,
        })
    }
}

fn server_conf(config: &Config) -> ServerConf {
    ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: UPSTREAM_POOL,
        max_retries: proxy::MAX_ATTEMPTS,
        // Pingora's own timers stay in their tree until they expire; nearly all of ours are
        // cancelled long before, which Tokio's are made for.
        fast_timeout_to_tokio_threshold_seconds: Some(0),
        grace_period_seconds: Some(config.server.grace_period.as_secs_f64().ceil() as u64),
        graceful_shutdown_timeout_seconds: Some(1),
        ..ServerConf::default()
    }
}

fn data_service(
    server: &Server,
    config: &Config,
    gateway: &Arc<Gateway>,
    access_log: Option<AccessLog>,
    listeners: Vec<(String, TcpListener)>,
) -> Inheriting<DataApp> {
    let limits = HeadLimits {
        max_head: config.server.max_head,
        max_headers: config.server.max_headers,
        max_uri: config.server.max_uri,
    };
    let answers = Arc::new(Refuser { gateway: gateway.clone(), access_log: access_log.clone() });
    let proxy = Proxy::new(gateway.clone(), access_log);
    let mut options = HttpServerOptions::default();
    options.force_custom = true;
    let mut service = ProxyServiceBuilder::new(&server.configuration, proxy)
        .name("data")
        .custom(PacedConnector::new(), guarded(limits, answers))
        .server_options(options)
        .build();
    service.threads = Some(config.server.workers);
    for (address, _) in &listeners {
        let buffers = L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER);
        service.add_listener(ListenerConfig::tcp(address).l4_buffer(buffers));
    }
    Inheriting { service, listeners }
}

/// The data path: Pingora's proxy with connections to upstreams of our own making.
type DataApp = HttpProxy<Proxy, PacedConnector>;

/// Puts the guard in front of the proxy. A proxy with a connector of one's own is to be had
/// only inside a service, so that the guard cannot be wrapped around it; but such a service can
/// be told to hand every connection to this.
fn guarded(
    limits: HeadLimits,
    answers: Arc<dyn Answers>,
) -> ProcessCustomSession<Proxy, PacedConnector> {
    let guard: OnceLock<Arc<GuardedApp<DataApp>>> = OnceLock::new();
    Arc::new(move |proxy, io, shutdown| {
        let guard =
            guard.get_or_init(|| Arc::new(GuardedApp::new(proxy, limits, answers.clone()))).clone();
        let shutdown = shutdown.clone();
        // In a task of its own: Pingora's has room for what HTTP/2 would need, 8 KiB, and would
        // keep it as long as the connection lives.
        tokio::spawn(async move { guard.process_new(io, &shutdown).await });
        Box::pin(std::future::ready(None))
    })
}

fn metrics_service(
    config: &Config,
    listeners: Vec<(String, TcpListener)>,
) -> Inheriting<pingora_prometheus::PrometheusServer> {
    let mut service = pingora_prometheus::prometheus_http_service();
    service.add_tcp(&config.metrics.listen.to_string());
    Inheriting { service, listeners }
}

/// A Pingora service on sockets that are open already.
struct Inheriting<A> {
    service: Service<A>,
    listeners: Vec<(String, TcpListener)>,
}

#[async_trait]
impl<A: ServerApp + Send + Sync + 'static> PingoraService for Inheriting<A> {
    async fn start_service(
        &mut self,
        fds: Option<ListenFds>,
        shutdown: ShutdownWatch,
        listeners_per_fd: usize,
    ) {
        if let Some(fds) = &fds {
            let mut fds = fds.lock();
            for (address, listener) in self.listeners.drain(..) {
                fds.add(address, listener.into_raw_fd());
            }
        }
        self.service.start_service(fds, shutdown, listeners_per_fd).await;
    }

    fn name(&self) -> &str {
        self.service.name()
    }

    fn threads(&self) -> Option<usize> {
        self.service.threads
    }
}

/// The admin API as a service with a thread of its own.
struct AdminService {
    router: axum::Router,
    listener: Mutex<Option<TcpListener>>,
}

impl AdminService {
    fn new(
        config: &Config,
        gateway: &Arc<Gateway>,
        reloader: Arc<Reloader>,
        listener: TcpListener,
    ) -> AdminService {
        let state = AdminState {
            gateway: gateway.clone(),
            reloader,
            listen: config.admin.listen,
            token: config.admin.token.clone(),
            metrics: prometheus::default_registry().clone(),
        };
        AdminService { router: admin::router(state), listener: Mutex::new(Some(listener)) }
    }
}

#[async_trait]
impl BackgroundService for AdminService {
    /// Serves through a drain to its end, so that `/ready` can say that it drains.
    async fn start(&self, _shutdown: ShutdownWatch) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (_never, until) = tokio::sync::watch::channel(false);
        if let Some(listener) = listener
            && let Err(error) = admin::serve(listener, self.router.clone(), until).await
        {
            log::error!("the admin API stopped: {error}");
        }
    }
}

/// Answers and accounts for heads that never became a request.
struct Refuser {
    gateway: Arc<Gateway>,
    access_log: Option<AccessLog>,
}

impl Answers for Refuser {
    fn refuse(&self, fault: Fault, peer: Option<IpAddr>) -> Bytes {
        let refusal = Refusal::Malformed(fault);
        let trace_id = trace::new();
        let response = refusal::bare_response(&refusal, trace::text(&trace_id));
        self.account(refusal.status(), trace::text(&trace_id), peer, Some(refusal.name()));
        Bytes::from(response)
    }

    fn parser_refused(&self) {
        self.account(StatusCode::BAD_REQUEST, "", None, None);
    }
}

impl Refuser {
    fn account(
        &self,
        status: StatusCode,
        trace_id: &str,
        client_ip: Option<IpAddr>,
        refusal: Option<&'static str>,
    ) {
        self.gateway.generation().no_route.count(status.as_u16());
        if let Some(log) = &self.access_log {
            let client_ip = client_ip.map(|ip| ip.to_string());
            let client_ip = client_ip.as_deref();
            log.record(&Entry::unread(trace_id, client_ip, status.as_u16(), refusal));
        }
    }
}
