//! A load on several gateways at a time that does not wait for answers: each stream of requests has
//! its own rate, clients and pattern of who gets them, and every request is recorded.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::contenders::PATH;
use crate::http::{self, MAX_ANSWER_BYTES};

/// How many gateways there are.
pub(crate) const GATEWAYS: usize = 4;
/// How long an answer is waited for.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Requests under way at a time; one more counts as failed.
const MAX_UNDER_WAY: usize = 2000;
/// A load that nobody stops ends by itself.
const MAX_LENGTH: Duration = Duration::from_secs(180);
const MAX_REQUESTS: u64 = 3_000_000;
/// How long one gateway has the load to itself when they take turns.
const TURN: Duration = Duration::from_millis(100);

/// Which gateway a request goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    AllOnOne,
    Even,
    /// All on one, and every 100 ms on the next.
    Alternating,
    /// 8 : 4 : 2 : 1.
    Skewed,
}

impl Pattern {
    pub(crate) const ALL: [Self; 4] = [Self::AllOnOne, Self::Even, Self::Alternating, Self::Skewed];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AllOnOne => "all on one",
            Self::Even => "even",
            Self::Alternating => "on another every 100 ms",
            Self::Skewed => "8 : 4 : 2 : 1",
        }
    }

    /// The gateway of request `number`, due so long after the beginning.
    fn gateway(self, number: u64, at: Duration) -> usize {
        match self {
            Self::AllOnOne => 0,
            Self::Even => (number % GATEWAYS as u64) as usize,
            Self::Alternating => (at.as_nanos() / TURN.as_nanos()) as usize % GATEWAYS,
            // 7 has no divisor in common with 15, so the turns mix.
            Self::Skewed => match number * 7 % 15 {
                0..8 => 0,
                8..12 => 1,
                12..14 => 2,
                _ => 3,
            },
        }
    }
}

/// Requests of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    /// They take turns.
    pub(crate) clients: Vec<String>,
    pub(crate) pattern: Pattern,
    /// Requests per second.
    pub(crate) rate: f64,
}

/// One request and what came of it; times are since the load began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shot {
    /// Its stream's place among the streams.
    pub(crate) stream: usize,
    pub(crate) gateway: usize,
    pub(crate) due: Duration,
    pub(crate) sent: Duration,
    /// When its answer was complete, or when nothing more was expected.
    pub(crate) answered: Duration,
    /// The answer's status; none: there was no answer.
    pub(crate) status: Option<u16>,
}

impl Shot {
    pub(crate) fn is_admitted(&self) -> bool {
        self.status == Some(200)
    }

    /// From when it was due until it was answered.
    pub(crate) fn took(&self) -> Duration {
        self.answered.saturating_sub(self.due)
    }
}

/// A load that goes on until it is stopped.
pub(crate) struct Load {
    pub(crate) begun: Instant,
    is_stopped: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Vec<Shot>>>,
}

impl Load {
    pub(crate) fn start(gateways: [SocketAddr; GATEWAYS], streams: Vec<Stream>) -> Self {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let thread = thread::spawn({
            let is_stopped = is_stopped.clone();
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let ground = Arc::new(Ground::new(begun, gateways, &streams));
                let (sender, due) = mpsc::channel(MAX_UNDER_WAY);
                thread::spawn(move || keep_time(begun, &streams, &is_stopped, &sender));
                Ok(runtime.block_on(run(ground, due)))
            }
        });
        Self { begun, is_stopped, thread }
    }

    /// Waits so long, sends nothing more and returns what came of everything sent, in the order
    /// in which it was due.
    pub(crate) fn stop_after(self, length: Duration) -> anyhow::Result<Vec<Shot>> {
        thread::sleep(length.saturating_sub(self.begun.elapsed()));
        self.stop()
    }

    pub(crate) fn stop(self) -> anyhow::Result<Vec<Shot>> {
        self.is_stopped.store(true, Ordering::Relaxed);
        let mut shots = self.thread.join().ok().context("the load generator panicked")??;
        shots.sort_by_key(|shot| shot.due);
        Ok(shots)
    }
}

/// Beyond this many requests per second those of [`SHORTEST_SLEEP`] go out at a time: a thread that
/// slept before each would take the core from gateways and Redis.
const FAST: f64 = 3000.0;
const SHORTEST_SLEEP: Duration = Duration::from_micros(400);

/// Says of each request when it is due, until the load is stopped. It has a thread of its own:
/// a runtime's clock wakes to the millisecond, and all requests of one would go out at a time.
fn keep_time(
    begun: Instant,
    streams: &[Stream],
    is_stopped: &AtomicBool,
    sender: &mpsc::Sender<(Shot, usize)>,
) {
    let mut numbers = vec![0_u64; streams.len()];
    let is_fast = streams.iter().map(|stream| stream.rate).sum::<f64>() > FAST;
    let shortest = if is_fast { SHORTEST_SLEEP } else { Duration::ZERO };
    for _ in 0..MAX_REQUESTS {
        let due =
            |stream: usize| Duration::from_secs_f64(numbers[stream] as f64 / streams[stream].rate);
        let Some(stream) = (0..streams.len()).min_by_key(|stream| due(*stream)) else { return };
        let due = due(stream);
        let early = due.saturating_sub(begun.elapsed());
        if !early.is_zero() {
            thread::sleep(early.max(shortest));
        }
        if is_stopped.load(Ordering::Relaxed) || due > MAX_LENGTH {
            return;
        }
        let number = numbers[stream];
        numbers[stream] += 1;
        let client = number as usize % streams[stream].clients.len();
        let gateway = streams[stream].pattern.gateway(number, due);
        let shot = Shot { stream, gateway, due, sent: due, answered: due, status: None };
        if sender.blocking_send((shot, client)).is_err() {
            return;
        }
    }
}

async fn run(ground: Arc<Ground>, mut due: mpsc::Receiver<(Shot, usize)>) -> Vec<Shot> {
    while let Some((shot, client)) = due.recv().await {
        if ground.under_way.load(Ordering::Relaxed) < MAX_UNDER_WAY {
            ground.under_way.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(ground.clone().shoot(shot, client));
        } else {
            ground.shots().push(shot);
        }
    }
    while ground.under_way.load(Ordering::Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    std::mem::take(&mut *ground.shots())
}

/// What all requests of a load have in common.
struct Ground {
    begun: Instant,
    gateways: [SocketAddr; GATEWAYS],
    /// By stream and client, as they go over the wire.
    requests: Vec<Vec<Vec<u8>>>,
    idle: [Mutex<Vec<TcpStream>>; GATEWAYS],
    under_way: AtomicUsize,
    shots: Mutex<Vec<Shot>>,
}

impl Ground {
    fn new(begun: Instant, gateways: [SocketAddr; GATEWAYS], streams: &[Stream]) -> Self {
        let request = |client: &String| http::request_text(gateways[0], PATH, client).into_bytes();
        let requests = streams.iter().map(|stream| stream.clients.iter().map(request).collect());
        Self {
            begun,
            gateways,
            requests: requests.collect(),
            idle: Default::default(),
            under_way: AtomicUsize::new(0),
            shots: Mutex::default(),
        }
    }

    async fn shoot(self: Arc<Self>, mut shot: Shot, client: usize) {
        shot.sent = self.begun.elapsed();
        let answer = tokio::time::timeout(ANSWER_DEADLINE, self.ask(&shot, client)).await;
        shot.answered = self.begun.elapsed();
        shot.status = answer.ok().and_then(Result::ok);
        self.shots().push(shot);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    async fn ask(&self, shot: &Shot, client: usize) -> anyhow::Result<u16> {
        let mut stream = match self.kept(shot.gateway) {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.gateways[shot.gateway]).await?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        stream.write_all(&self.requests[shot.stream][client]).await?;
        let (status, is_kept) = read_answer(&mut stream).await?;
        if is_kept {
            self.idle(shot.gateway).push(stream);
        }
        Ok(status)
    }

    /// A connection that is still open, as any client would look before it uses one.
    fn kept(&self, gateway: usize) -> Option<TcpStream> {
        let mut idle = self.idle(gateway);
        loop {
            let stream = idle.pop()?;
            let read = stream.try_read(&mut [0]);
            if matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock) {
                return Some(stream);
            }
        }
    }

    fn idle(&self, gateway: usize) -> MutexGuard<'_, Vec<TcpStream>> {
        self.idle[gateway].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shots(&self) -> MutexGuard<'_, Vec<Shot>> {
        self.shots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads one answer: its status, and whether the connection can be used again.
async fn read_answer(stream: &mut TcpStream) -> anyhow::Result<(u16, bool)> {
    let mut raw = Vec::with_capacity(1024);
    while stream.read_buf(&mut raw).await? > 0 {
        if let Some(answer) = parse(&raw)? {
            return Ok(answer);
        }
        ensure!(raw.len() < MAX_ANSWER_BYTES, "the answer is too long");
    }
    bail!("the connection was closed inside an answer")
}

/// The status and whether the connection is kept, once all of the answer is there. Unlike
/// [`http::parse`] it copies nothing: it runs ten thousand times a second.
fn parse(raw: &[u8]) -> anyhow::Result<Option<(u16, bool)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = response.parse(raw)? else { return Ok(None) };
    let status = response.code.context("an answer without a status")?;
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.map(|header| header.value)
    };
    let length = value("content-length").context("an answer without Content-Length")?;
    let length: usize = std::str::from_utf8(length)?.parse()?;
    let is_kept = value("connection").is_none_or(|value| !value.eq_ignore_ascii_case(b"close"));
    Ok((raw.len() >= head_len + length).then_some((status, is_kept)))
}
