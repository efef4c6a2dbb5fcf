//! The way to Redis.
//!
//! One connection is shared by all who ask, and kept up in the background (`keeper`). Who asks on
//! a request's path finds it ready or goes without: nobody ever waits for a connection, nor for
//! Redis longer than `redis.timeout`, nor at all once a few calls in a row have failed (`gate`).

use super::channels::{Channels, Messages};
use super::connector::{Connection, Connector, Unusable};
use super::gate::{Change, Gate, Opening};
use super::script::Script;
use super::symptom::{LinkError, Symptom};
use crate::clock;
use crate::config;
use crate::metrics::{RedisMetrics, RedisOutcome};
use arc_swap::ArcSwapOption;
use futures_util::future::poll_immediate;
use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind, ToRedisArgs, Value};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::yield_now;
use tokio::time::timeout;

/// The way to Redis. Clones are the same way.
#[derive(Clone)]
pub struct Link {
    pub(super) shared: Arc<Shared>,
}

/// What all clones of a link share with its keeper.
pub(super) struct Shared {
    pub(super) connector: Connector,
    pub(super) timeout: Duration,
    pub(super) prefix: Arc<str>,
    pub(super) channels: Channels,
    gate: Mutex<Gate>,
    way: ArcSwapOption<Way>,
    is_up: AtomicBool,
    /// Whether the log says that Redis is down.
    is_told_down: AtomicBool,
    changes: watch::Sender<bool>,
    metrics: RedisMetrics,
}

/// A connection that calls may take.
pub(super) struct Way {
    connection: Connection,
    opening: Opening,
    /// Nobody waits on it any longer.
    is_over: watch::Sender<bool>,
    /// Wakes the keeper when it is over.
    pub(super) ended: Notify,
}

impl Way {
    pub(super) fn is_over(&self) -> bool {
        *self.is_over.borrow()
    }

    fn end(&self) {
        self.is_over.send_replace(true);
        self.ended.notify_one();
    }

    async fn over(&self) {
        // The sender lives as long as the borrow of `self`.
        let _ = self.is_over.subscribe().wait_for(|is_over| *is_over).await;
    }
}

/// Whether a call shows in the metrics.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

impl Link {
    /// A way to the Redis of `config`. It opens nothing and waits for nothing; without
    /// [`attend`](Link::attend) it stays down.
    ///
    /// # Errors
    /// When the file of the authorities cannot be read.
    pub fn new(config: &config::Redis, metrics: RedisMetrics) -> Result<Link, Unusable> {
        let shared = Shared {
            connector: Connector::new(config)?,
            timeout: config.timeout,
            prefix: config.prefix.clone(),
            channels: Channels::default(),
            gate: Mutex::new(Gate::new()),
            way: ArcSwapOption::empty(),
            is_up: AtomicBool::new(false),
            is_told_down: AtomicBool::new(false),
            changes: watch::channel(false).0,
            metrics,
        };
        Ok(Link { shared: Arc::new(shared) })
    }

    /// Connects, and keeps connected; passes messages on. To be run once, on the runtime of those
    /// whose requests ask: then no other thread is between them and Redis. It goes on until the
    /// runtime ends, for requests that are finished in a drain ask as well.
    pub async fn attend(&self) {
        tokio::join!(self.keep_up(), self.listen());
    }

    /// Whether Redis is asked at the moment. One load.
    pub fn is_up(&self) -> bool {
        self.shared.is_up.load(Ordering::Acquire)
    }

    /// Tells when it is asked again, and when it is not.
    pub fn changes(&self) -> watch::Receiver<bool> {
        self.shared.changes.subscribe()
    }

    /// What every key and channel begins with.
    pub fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    /// Whether it leads to a cluster, in which all KEYS of a script must be in one slot.
    pub fn is_cluster(&self) -> bool {
        self.shared.connector.is_cluster()
    }

    /// How long a request may wait for Redis.
    pub fn timeout(&self) -> Duration {
        self.shared.timeout
    }

    /// Until when a request that begins to wait now may do so, for all it waits for together.
    pub fn deadline(&self) -> Instant {
        clock::now() + self.shared.timeout
    }

    /// Runs a script for a request that may wait until `until`: at once an error while Redis is not
    /// asked. It costs a round trip, two where Redis has forgotten the script.
    ///
    /// # Errors
    /// When there is no answer; see [`LinkError`].
    pub async fn call(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
        until: Instant,
    ) -> Result<Value, LinkError> {
        let patience = until.saturating_duration_since(clock::now());
        if patience.is_zero() {
            return Err(LinkError::Timeout);
        }
        self.run(script, keys, args, patience).await
    }

    /// Runs a script in the background, with a patience of its own.
    ///
    /// # Errors
    /// When there is no answer; see [`LinkError`].
    pub async fn run(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
        patience: Duration,
    ) -> Result<Value, LinkError> {
        self.run_script(script, keys, args, patience, Counted::Yes).await
    }

    /// As [`run`](Link::run), and not counted as a call: what gateways do without any request.
    pub(super) async fn beat(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
        patience: Duration,
    ) -> Result<Value, LinkError> {
        self.run_script(script, keys, args, patience, Counted::No).await
    }

    /// Asks anything in the background, with a patience of its own.
    ///
    /// # Errors
    /// When there is no answer; see [`LinkError`].
    pub async fn ask(&self, command: Cmd, patience: Duration) -> Result<Value, LinkError> {
        let way = self.shared.way.load_full().ok_or(LinkError::Down)?;
        let asking = way.connection.ask(&command);
        self.shared.exchange(&way, asking, patience, Counted::Yes).await
    }

    /// Messages on this channel from now on, of all gateways including this one, for as long as
    /// the receiver lives. Messages that come while there is no connection are lost, and so are
    /// those that find the receiver [full](super::channels::MESSAGES): what they tell must be
    /// found out otherwise as well.
    pub fn subscribe(&self, name: &str) -> Messages {
        self.shared.channels.subscribe(format!("{}{name}", self.shared.prefix))
    }

    /// Sends a message on a channel.
    ///
    /// # Errors
    /// When it was not sent for certain.
    pub async fn publish(&self, name: &str, payload: &[u8]) -> Result<(), LinkError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(format!("{}{name}", self.shared.prefix)).arg(payload);
        self.ask(command, PUBLISH_PATIENCE).await.map(drop)
    }

    async fn run_script(
        &self,
        script: &Script,
        keys: &[impl ToRedisArgs],
        args: &[impl ToRedisArgs],
        patience: Duration,
        counted: Counted,
    ) -> Result<Value, LinkError> {
        let way = self.shared.way.load_full().ok_or(LinkError::Down)?;
        let asking = run_on(&way.connection, script, keys, args);
        self.shared.exchange(&way, asking, patience, counted).await
    }
}

/// How long a message may take to be sent.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(1);

/// Runs a script by its name, and by its text where that is not known, as after a restart.
pub(super) async fn run_on(
    connection: &Connection,
    script: &Script,
    keys: &[impl ToRedisArgs],
    args: &[impl ToRedisArgs],
) -> RedisResult<Value> {
    match connection.ask(&script.by_hash(keys, args)).await {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            connection.ask(&script.by_text(keys, args)).await
        }
        answer => answer,
    }
}

/// What `asking` comes to, unless it takes longer than `patience`.
///
/// A gateway that was busy for so long finds its clock beyond the end before it has read the answer
/// that lies in its socket, and that would be taken for slowness of Redis. So the answer is looked for
/// once more after everybody else has had a turn, the reader of the socket among them.
async fn in_time<T>(patience: Duration, asking: impl Future<Output = T>) -> Option<T> {
    let mut asking = pin!(asking);
    if let Ok(answer) = timeout(patience, &mut asking).await {
        return Some(answer);
    }
    yield_now().await;
    poll_immediate(asking).await
}

impl Shared {
    async fn exchange(
        &self,
        way: &Arc<Way>,
        asking: impl Future<Output = RedisResult<Value>>,
        patience: Duration,
        counted: Counted,
    ) -> Result<Value, LinkError> {
        let result = tokio::select! {
            biased;
            answer = in_time(patience, asking) => match answer {
                Some(Ok(value)) => Ok(value),
                Some(Err(error)) => Err(LinkError::from(error)),
                None => Err(LinkError::Timeout),
            },
            () = way.over() => Err(LinkError::Cut),
        };
        if counted == Counted::Yes {
            self.metrics.called(match &result {
                Ok(_) => RedisOutcome::Ok,
                Err(LinkError::Timeout | LinkError::Cut) => RedisOutcome::Timeout,
                Err(_) => RedisOutcome::Error,
            });
        }
        // Who had little time left, for others had taken it, has not found Redis slow.
        let is_hasty = patience < self.timeout / 2 && matches!(result, Err(LinkError::Timeout));
        if !is_hasty {
            self.learn(way, &result);
        }
        result
    }

    /// What a call's end tells of the way.
    fn learn(&self, way: &Arc<Way>, result: &Result<Value, LinkError>) {
        let (symptom, why) = match result {
            Ok(_) => (Symptom::None, None),
            Err(LinkError::Down | LinkError::Cut) => return,
            Err(error) => (Symptom::of(error, &way.connection), Some(error)),
        };
        let mut gate = self.gate();
        let change = match symptom {
            Symptom::None => {
                gate.worked(way.opening);
                None
            }
            Symptom::Ill | Symptom::Misplaced => gate.failed(way.opening, clock::now()),
            Symptom::Gone => None,
        };
        if change == Some(Change::Shut) {
            self.close(why);
        }
        if matches!(symptom, Symptom::Gone | Symptom::Misplaced) {
            self.withdraw(Some(way));
        }
    }

    /// Takes this way from those who would take it and from those who wait on it.
    pub(super) fn withdraw(&self, way: Option<&Arc<Way>>) {
        let Some(way) = way else { return };
        let none: Option<Arc<Way>> = None;
        self.way.compare_and_swap(way, none);
        way.end();
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a probe on `connection` came to into account; `current` is the way that calls
    /// took over this connection so far. Gives the one that they take from now on, if any.
    pub(super) fn probed(
        &self,
        connection: &Connection,
        current: Option<Arc<Way>>,
        result: &Result<(), LinkError>,
    ) -> Option<Arc<Way>> {
        // Held to the end: what is published is what the gate says.
        let mut gate = self.gate();
        if gate.probed(result.is_ok(), clock::now()) == Some(Change::Shut) {
            self.close(result.as_ref().err());
        }
        let opening = gate.opening()?;
        if current.as_ref().is_some_and(|way| way.opening == opening && !way.is_over()) {
            return current;
        }
        if result.is_err() {
            return None;
        }
        let way = Arc::new(Way {
            connection: connection.clone(),
            opening,
            is_over: watch::channel(false).0,
            ended: Notify::new(),
        });
        self.way.store(Some(way.clone()));
        if !self.is_up.swap(true, Ordering::AcqRel) {
            log::info!("Redis is reached");
            self.is_told_down.store(false, Ordering::Relaxed);
            self.metrics.up.set(1);
            self.changes.send_replace(true);
        }
        Some(way)
    }

    /// Lets nobody ask until a probe has been answered.
    pub(super) fn shut(&self, why: &LinkError) {
        let mut gate = self.gate();
        gate.shut(clock::now());
        self.close(Some(why));
    }

    /// What a gate that is shut means to those who ask. To be called with the gate held.
    fn close(&self, why: Option<&LinkError>) {
        // Whoever finds no way, or hears that it is over, finds it down.
        let was_up = self.is_up.swap(false, Ordering::Release);
        let way = self.way.swap(None);
        if was_up {
            self.metrics.up.set(0);
            self.changes.send_replace(false);
        }
        if let Some(way) = way {
            way.end();
        }
        if !self.is_told_down.swap(true, Ordering::Relaxed) {
            let why = why.map(ToString::to_string).unwrap_or_default();
            log::warn!("Redis is not asked until it answers again: {why}");
        }
    }
}
