//! A load that does not wait for answers: requests go out at a constant rate, and each one's
//! latency counts from when it was due, not from when the client came to send it. A client
//! that waits, as wrk does, sends less while answers are slow and so hides what it measures.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http;

/// How long an answer is waited for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Requests under way at a time; one more counts as failed.
const MAX_UNDER_WAY: usize = 4000;
/// A load that nobody stops ends by itself.
const MAX_LENGTH: Duration = Duration::from_secs(180);

/// What to send.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) path: &'static str,
    /// They take turns.
    pub(crate) clients: &'static [&'static str],
    /// Requests per second.
    pub(crate) rate: u32,
    /// Each so-manieth request comes on a connection of its own; 0: none does.
    pub(crate) fresh_every: u32,
}

/// One request and what came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot {
    pub(crate) due: Instant,
    /// From when it was due until its answer was complete.
    pub(crate) took: Duration,
    /// Its place among the clients.
    pub(crate) client: usize,
    /// The answer's status; none: there was no answer.
    pub(crate) status: Option<u16>,
}

impl Shot {
    pub(crate) fn is_served(&self) -> bool {
        self.status == Some(200)
    }

    pub(crate) fn ended(&self) -> Instant {
        self.due + self.took
    }
}

/// A load that goes on until it is stopped.
pub(crate) struct Load {
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Shot>>>,
}

impl Load {
    pub(crate) fn start(plan: Plan) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let is_stopped = is_stopped.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(run(&plan, &is_stopped))
            }
        });
        Self { is_stopped, thread }
    }

    /// Sends nothing more and returns what came of everything sent.
    pub(crate) fn stop(self) -> anyhow::Result<Vec<Shot>> {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the load generator panicked")?
    }
}

async fn run(plan: &Plan, is_stopped: &AtomicBool) -> anyhow::Result<Vec<Shot>> {
    let client = Arc::new(Client::new(plan));
    let interval = Duration::from_secs(1) / plan.rate;
    let start = Instant::now();
    let mut under_way = JoinSet::new();
    let mut shots = Vec::new();
    for number in 0_u32.. {
        let due = start + interval * number;
        if is_stopped.load(Ordering::Relaxed) || due > start + MAX_LENGTH {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        while let Some(shot) = under_way.try_join_next() {
            shots.push(shot?);
        }
        let index = number as usize % plan.clients.len();
        if under_way.len() < MAX_UNDER_WAY {
            let is_fresh = plan.fresh_every > 0 && number % plan.fresh_every == 0;
            under_way.spawn(client.clone().shoot(index, is_fresh, due));
        } else {
            shots.push(Shot { due, took: Duration::ZERO, client: index, status: None });
        }
    }
    while let Some(shot) = under_way.join_next().await {
        shots.push(shot?);
    }
    Ok(shots)
}

/// All the clients with the connections they keep.
struct Client {
    address: SocketAddr,
    /// One for each client.
    requests: Vec<Vec<u8>>,
    idle: Mutex<Vec<TcpStream>>,
}

impl Client {
    fn new(plan: &Plan) -> Self {
        let request =
            |client: &&str| http::request_text(plan.address, plan.path, client).into_bytes();
        let requests = plan.clients.iter().map(request).collect();
        Self { address: plan.address, requests, idle: Mutex::default() }
    }

    async fn shoot(self: Arc<Self>, client: usize, is_fresh: bool, due: Instant) -> Shot {
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.ask(client, is_fresh)).await;
        let status = answer.ok().and_then(Result::ok);
        Shot { due, took: due.elapsed(), client, status }
    }

    /// A connection that is still open, as any client would look before it uses one.
    fn kept(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let stream = idle.pop()?;
            if matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
            {
                return Some(stream);
            }
        }
    }

    /// Asks once, and keeps the connection unless it was to be a fresh one.
    async fn ask(&self, client: usize, is_fresh: bool) -> anyhow::Result<u16> {
        let mut stream = match (!is_fresh).then(|| self.kept()).flatten() {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let request = self.requests.get(client).context("no such client")?;
        stream.write_all(request).await?;
        let answer = read_answer(&mut stream).await?;
        if !is_fresh && answer.header("connection").is_none_or(|value| value != "close") {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        }
        Ok(answer.status)
    }
}

async fn read_answer(stream: &mut TcpStream) -> anyhow::Result<http::Answer> {
    let mut raw = Vec::new();
    while stream.read_buf(&mut raw).await? > 0 {
        if let Some(answer) = http::parse(&raw)? {
            return Ok(answer);
        }
        ensure!(raw.len() < http::MAX_ANSWER_BYTES, "the answer is too long");
    }
    bail!("the connection was closed inside an answer")
}
