//! The way from a gateway to Redis, which the benchmark makes slow, silent or broken.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Pieces under way in one direction of a connection; then nothing more is read.
const MAX_UNDER_WAY: usize = 1024;
const PIECE_BYTES: usize = 16 * 1024;

/// What the ways do with what passes.
#[derive(Clone, Copy, Debug)]
struct Condition {
    target: SocketAddr,
    /// By how much an answer comes later.
    delay: Duration,
    /// Nothing passes in either direction, and nothing is closed.
    is_silent: bool,
    /// Connections made before this changed are reset.
    generation: u64,
}

/// One relay with a port of its own. It ends with this value.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    condition: Arc<watch::Sender<Condition>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    end: watch::Sender<bool>,
}

impl Way {
    pub(crate) fn to(target: SocketAddr) -> anyhow::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let whole = Condition { target, delay: Duration::ZERO, is_silent: false, generation: 0 };
        let condition = Arc::new(watch::Sender::new(whole));
        let end = watch::Sender::new(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (observed, mut ended) = (condition.clone(), end.subscribe());
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = relay(listener, &observed) => {}
                    _ = ended.wait_for(|ended| *ended) => {}
                }
            });
        });
        Ok(Self { address, condition, thread: Mutex::new(Some(thread)), end })
    }

    /// Answers come this much later from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        self.condition.send_modify(|condition| condition.delay = delay);
    }

    /// Whether nothing passes; what was held back goes on afterwards, as TCP would send it again.
    pub(crate) fn silence(&self, is_silent: bool) {
        self.condition.send_modify(|condition| condition.is_silent = is_silent);
    }

    /// Resets all connections there are.
    pub(crate) fn reset(&self) {
        self.condition.send_modify(|condition| condition.generation += 1);
    }

    /// Leads to another server from now on, and resets what led to the one before.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.condition.send_modify(|condition| {
            condition.target = target;
            condition.generation += 1;
        });
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.end.send_replace(true);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has nothing to say but that it ended.
            let _ = thread.join();
        }
    }
}

async fn relay(
    listener: std::net::TcpListener,
    condition: &Arc<watch::Sender<Condition>>,
) -> anyhow::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (near, _) = listener.accept().await?;
        tokio::spawn(converse(near, condition.subscribe()));
    }
}

/// One connection, until either side closes it or it is reset.
async fn converse(
    near: TcpStream,
    mut condition: watch::Receiver<Condition>,
) -> anyhow::Result<()> {
    near.set_nodelay(true)?;
    near.set_zero_linger()?;
    let Condition { target, generation, .. } = *condition.borrow();
    audible(&mut condition.clone()).await;
    let far = TcpStream::connect(target).await.context("nobody listens there")?;
    far.set_nodelay(true)?;
    far.set_zero_linger()?;
    let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
    let is_over = condition.clone();
    tokio::select! {
        _ = carry(near_read, far_write, is_over.clone(), false) => {}
        _ = carry(far_read, near_write, is_over, true) => {}
        _ = condition.wait_for(|condition| condition.generation != generation) => {}
    }
    Ok(())
}

/// One direction; each piece is late by itself, so that a slow way is no narrower.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    condition: watch::Receiver<Condition>,
    is_answer: bool,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(MAX_UNDER_WAY);
    let observed = condition.clone();
    let read = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            if !matches!(from.read_buf(&mut piece).await, Ok(read) if read > 0) {
                return;
            }
            let delay = if is_answer { observed.borrow().delay } else { Duration::ZERO };
            if sender.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        let mut condition = condition;
        while let Some((due, piece)) = pieces.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            audible(&mut condition).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    // The reader ends the writer, once that has written what there was.
    tokio::join!(read, write);
}

async fn audible(condition: &mut watch::Receiver<Condition>) {
    // An error says that the way has ended, and this task with it.
    let _ = condition.wait_for(|condition| !condition.is_silent).await;
}
