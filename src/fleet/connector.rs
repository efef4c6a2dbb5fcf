//! Connections to Redis: to one server, to a cluster, to what sentinels watch over.

use crate::config;
use redis::aio::MultiplexedConnection;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::SingleNodeRoutingInfo;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, TlsCertificates, Value,
};
use std::convert::Infallible;
use std::fs;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::time::timeout;

/// How long one server may take to be connected to, TLS and password included.
const CONNECT: Duration = Duration::from_secs(1);
/// How long one of several may take: a sentinel to answer, a node to be connected to.
const ONE_OF_MANY: Duration = Duration::from_millis(300);
/// How long a cluster may take: some nodes tell which others there are.
const CONNECT_CLUSTER: Duration = Duration::from_secs(2);
/// Commands that wait to be written. Who finds it full waits, for no longer than for an answer.
const QUEUE: usize = 1_024;
/// How often a command follows a cluster's slot to where that has moved.
const MOVES: usize = 3;

/// Why there can be no connection, ever.
#[derive(Debug, Error)]
pub enum Unusable {
    /// The file of the authorities cannot be used.
    #[error("redis.tls.ca: {0}: {1}")]
    Authority(String, String),
    /// The client takes no such address.
    #[error("redis.url: {0}")]
    Url(String),
}

/// Makes connections. It holds none.
#[derive(Debug)]
pub(super) struct Connector {
    /// The servers of the configuration, in its order.
    servers: Vec<ConnectionInfo>,
    kind: Kind,
    certificates: Option<TlsCertificates>,
    /// Who was asked first the last time, among sentinels and nodes.
    turn: AtomicUsize,
}

#[derive(Debug)]
enum Kind {
    Single,
    Cluster(Box<ClusterClient>),
    /// The name of the master, and how it is spoken to wherever it is.
    Sentinel {
        master: String,
        of_master: RedisConnectionInfo,
        is_tls: bool,
    },
}

impl Connector {
    /// # Errors
    /// When the authorities cannot be read.
    pub(super) fn new(config: &config::Redis) -> Result<Connector, Unusable> {
        let url = |error: RedisError| Unusable::Url(error.to_string());
        if config.is_tls {
            provide_cryptography();
        }
        let certificates = authorities(config)?;
        let of_data = settings(config.username.as_deref(), config.password.as_ref())
            .set_db(config.database.into());
        let of_servers = match &config.sentinel {
            Some(sentinel) => settings(sentinel.username.as_deref(), sentinel.password.as_ref()),
            None => of_data.clone(),
        };
        let servers = config.servers.iter().map(|server| {
            let (host, port) = (server.host.clone(), server.port);
            info(host, port, config.is_tls, certificates.as_ref(), &of_servers)
        });
        let servers = servers.collect::<RedisResult<Vec<_>>>().map_err(url)?;
        let kind = match &config.sentinel {
            Some(sentinel) => Kind::Sentinel {
                master: sentinel.master.to_string(),
                of_master: of_data,
                is_tls: config.is_tls,
            },
            None if config.is_cluster => {
                let client = cluster(&servers, certificates.as_ref()).map_err(url)?;
                Kind::Cluster(Box::new(client))
            }
            None => Kind::Single,
        };
        Ok(Connector { servers, kind, certificates, turn: AtomicUsize::new(0) })
    }

    /// Whether there is a cluster, in which all keys of a call must be in one slot.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster(_))
    }

    /// A new connection, authenticated; on a cluster to all of its nodes. Nothing has been asked
    /// on it yet.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        if let Kind::Cluster(client) = &self.kind {
            let connection = within(CONNECT_CLUSTER, client.get_async_connection()).await?;
            return Ok(Connection::Cluster(connection));
        }
        let client = Client::open(self.server().await?)?;
        let config = shared_connection();
        let connecting = client.get_multiplexed_async_connection_with_config(&config);
        within(CONNECT, connecting).await.map(Connection::Single)
    }

    /// A new connection that messages come on, which `take` is given: to the server, or to any
    /// node of a cluster, all of which pass messages on to each other.
    pub(super) async fn listen(
        &self,
        take: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> RedisResult<MultiplexedConnection> {
        let server = self.server().await?;
        // Only with this version of the protocol are messages told from answers.
        let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(server.set_redis_settings(settings))?;
        let config = shared_connection().set_push_sender(move |push| {
            take(push);
            Ok::<_, Infallible>(())
        });
        within(CONNECT, client.get_multiplexed_async_connection_with_config(&config)).await
    }

    /// Where the data is, as sentinels have it where there are any.
    async fn server(&self) -> RedisResult<ConnectionInfo> {
        let Kind::Sentinel { master, of_master, is_tls } = &self.kind else {
            return Ok(self.next().clone());
        };
        let mut last = None;
        for _ in &self.servers {
            let sentinel = self.next().clone();
            match within(ONE_OF_MANY, whereabouts(sentinel, master)).await {
                Ok(Some((host, port))) => {
                    return info(host, port, *is_tls, self.certificates.as_ref(), of_master);
                }
                Ok(None) => last = Some(unknown(master)),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| unknown(master)))
    }

    /// The next of the servers, in turn: one that is gone is asked no more often than others, and
    /// a sentinel that has not heard of a failover does not have the only say.
    fn next(&self) -> &ConnectionInfo {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // The configuration has at least one.
        &self.servers[turn % self.servers.len()]
    }
}

/// What the client tells the server that it is.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A connection that all who ask share.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Whether it is many connections, each of which may break and is made again without a word.
    pub(super) fn mends_itself(&self) -> bool {
        matches!(self, Connection::Cluster(_))
    }

    /// Sends one command and waits for its answer, for as long as that takes. On a cluster a slot
    /// that has moved is followed; nothing else is ever sent again.
    pub(super) async fn ask(&self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Connection::Single(connection) => command.query_async(&mut connection.clone()).await,
            Connection::Cluster(connection) => {
                let mut connection = connection.clone();
                let mut answer = command.query_async(&mut connection).await;
                for _ in 1..MOVES {
                    // Whoever sends it elsewhere has not executed it.
                    answer = match &answer {
                        Err(error) if is(error, ServerErrorKind::Moved) => {
                            // The client has drawn its map anew when it takes this.
                            command.query_async(&mut connection).await
                        }
                        Err(error) if is(error, ServerErrorKind::Ask) => {
                            asking(&mut connection, command, error).await
                        }
                        _ => break,
                    };
                }
                answer
            }
        }
    }
}

fn is(error: &RedisError, kind: ServerErrorKind) -> bool {
    error.kind() == ErrorKind::Server(kind)
}

/// Asks the node that takes a slot over for one of the keys it has got already.
async fn asking(
    connection: &mut ClusterConnection,
    command: &Cmd,
    error: &RedisError,
) -> RedisResult<Value> {
    let place = error.redirect_node().and_then(|(node, _)| node.rsplit_once(':'));
    let Some((host, Ok(port))) = place.map(|(host, port)| (host, port.parse())) else {
        return Err(error.clone());
    };
    let mut both = redis::pipe();
    both.cmd("ASKING").ignore().add_command(command.clone());
    let node = SingleNodeRoutingInfo::ByAddress { host: host.to_owned(), port };
    let answers = connection.route_pipeline(both, 0, 2, node).await?;
    answers.into_iter().next_back().unwrap_or(Value::Nil).extract_error()
}

fn cluster(
    servers: &[ConnectionInfo],
    certificates: Option<&TlsCertificates>,
) -> RedisResult<ClusterClient> {
    let mut builder = ClusterClientBuilder::new(servers.to_vec())
        // Where a connection broke, a command may have been executed: who asked decides.
        .retries(0)
        .connection_timeout(ONE_OF_MANY)
        // Who asks for less has a time-out of his own around it.
        .response_timeout(CONNECT)
        .overall_response_timeout(None)
        .tcp_settings(tcp());
    if let Some(certificates) = certificates {
        builder = builder.certs(certificates.clone());
    }
    builder.build()
}

/// Who the gateway is to a server.
fn settings(username: Option<&str>, password: Option<&config::Secret>) -> RedisConnectionInfo {
    let mut settings = RedisConnectionInfo::default().set_lib_name("tollgate", VERSION);
    if let Some(username) = username {
        settings = settings.set_username(username);
    }
    if let Some(password) = password {
        settings = settings.set_password(password.expose());
    }
    settings
}

/// How a connection behaves: who waits says how long, not the client.
fn shared_connection() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None)
        .set_pipeline_buffer_size(QUEUE)
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn info(
    host: String,
    port: u16,
    is_tls: bool,
    certificates: Option<&TlsCertificates>,
    settings: &RedisConnectionInfo,
) -> RedisResult<ConnectionInfo> {
    let address = match is_tls {
        true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        false => ConnectionAddr::Tcp(host, port),
    };
    let mut info = address.into_connection_info()?;
    if let (true, Some(certificates)) = (is_tls, certificates) {
        let client = Client::build_with_tls(info, certificates.clone())?;
        info = client.get_connection_info().clone();
    }
    Ok(info.set_redis_settings(settings.clone()).set_tcp_settings(tcp()))
}

/// Where a sentinel says that the master is.
async fn whereabouts(sentinel: ConnectionInfo, master: &str) -> RedisResult<Option<(String, u16)>> {
    let mut connection = Client::open(sentinel)?.get_multiplexed_async_connection().await?;
    let mut command = redis::cmd("SENTINEL");
    command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
    command.query_async(&mut connection).await
}

fn unknown(master: &str) -> RedisError {
    let text = "no sentinel knows this master";
    RedisError::from((ErrorKind::MasterNameNotFoundBySentinel, text, master.to_owned()))
}

async fn within<T>(
    patience: Duration,
    asking: impl Future<Output = RedisResult<T>>,
) -> RedisResult<T> {
    match timeout(patience, asking).await {
        Ok(result) => result,
        Err(elapsed) => Err(std::io::Error::from(elapsed).into()),
    }
}

/// The authorities of `redis.tls.ca`, read once: what the file says later is for the next start.
fn authorities(config: &config::Redis) -> Result<Option<TlsCertificates>, Unusable> {
    let Some(path) = &config.ca else { return Ok(None) };
    let name = path.display().to_string();
    let text =
        fs::read(path).map_err(|error| Unusable::Authority(name.clone(), error.to_string()))?;
    if !text.windows(BEGIN.len()).any(|window| window == BEGIN) {
        let why = "there is no certificate in it; it must be a PEM file".to_owned();
        return Err(Unusable::Authority(name, why));
    }
    Ok(Some(TlsCertificates { client_tls: None, root_cert: Some(text) }))
}

/// How a certificate begins in a PEM file.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// Gives rustls its cryptography, once for the process.
fn provide_cryptography() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // Fails where there is one already, which serves as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}
