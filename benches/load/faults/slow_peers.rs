//! Clients that ask for much and read nothing, and clients that send much to an upstream that
//! reads nothing: what each costs in memory, and what stays when they are gone.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use socket2::{Domain, Socket, Type};

use super::findings::{Finding, Findings};
use crate::contenders::{Bench, OPEN_CLIENT, START_DEADLINE, free_listeners};
use crate::http;
use crate::process::{free_addresses, poll_until, resident_bytes};

/// Clients at a time.
pub(crate) const PEERS: usize = 1_000;
/// What each wants to move: more than the kernel's buffers on the way take.
const BODY_BYTES: u64 = 10 << 20;
/// The clients' receive buffer, so that little waits on their side.
const RECEIVE_BUFFER: usize = 4_096;
/// How long clients push their uploads, and how long everything then has to come to rest.
const PUSH: Duration = Duration::from_secs(4);
const REST: Duration = Duration::from_secs(3);
/// After the clients have gone: how long memory may take to be given back. An upload notices
/// that its client has gone only when its own wait for the upstream is over.
const GIVE_BACK: Duration = Duration::from_secs(5);
const MOST_BYTES: u64 = 128 << 10;
/// What may stay of each: a tenth of what it may cost.
const MOST_LEFT_BYTES: u64 = MOST_BYTES / 10;

/// What one contender's clients cost and left behind, in bytes each.
struct Cost {
    held: u64,
    left: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Readers,
    Writers,
}

pub(crate) fn measure(bench: &Bench<'_>) -> anyhow::Result<Findings> {
    let mut findings = Vec::new();
    for (kind, cost_of, left_of) in [
        (Kind::Readers, "memory of a slow reader", "of that, left 5 s after"),
        (Kind::Writers, "memory of an upload nobody reads", "of that, left 5 s after it"),
    ] {
        let (_gateway, id, address) = start_gateway(bench)?;
        let Cost { held, left } = cost(id, address, kind)?;
        let (most, most_left) = ("at most 128 KiB".to_owned(), "at most 13 KiB".to_owned());
        findings.push(Finding::bounded(cost_of, kib(held), &most, held <= MOST_BYTES));
        findings.push(Finding::bounded(left_of, kib(left), &most_left, left <= MOST_LEFT_BYTES));
    }
    Ok(Findings {
        title: "Slow readers and slow writers",
        setting: format!(
            "{PEERS} clients with a receive buffer of {RECEIVE_BUFFER} bytes ask for {} MiB each \
             and read nothing; then, with fresh processes, {PEERS} clients send {} MiB each to an \
             upstream that reads nothing. Resident memory above that before, divided by the \
             clients; then all of them go.",
            BODY_BYTES >> 20,
            BODY_BYTES >> 20,
        ),
        table: String::new(),
        findings,
    })
}

fn kib(bytes: u64) -> String {
    format!("{:.1} KiB", bytes as f64 / 1024.0)
}

fn start_gateway(bench: &Bench<'_>) -> anyhow::Result<(crate::process::Process, u32, SocketAddr)> {
    let listeners = free_listeners()?;
    let (data, admin, metrics) = (listeners.data, listeners.admin, listeners.metrics);
    let upstream = origin()?;
    let config = format!(
        "server: {{listen: \"{data}\", workers: 1, min_body_rate: 0}}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}
limiter: {{slots: 65536}}
clients: {{default_tier: open}}
tiers:
  open: {{rate: 1000000/s, burst: 1000000}}
upstreams:
  slow: {{servers: [\"{upstream}\"], timeouts: {{read: 60s, write: 12s}}}}
routes:
  - {{name: slow, path: /, upstream: slow, max_body: 100MiB}}
"
    );
    let process = bench.start_gateway("slow-peers", &config)?;
    poll_until(START_DEADLINE, || {
        http::get(admin, "/ready", OPEN_CLIENT)?;
        http::connect(data)
    })
    .context("the gateway did not start")?;
    let id = process.id();
    Ok((process, id, data))
}

fn cost(id: u32, address: SocketAddr, kind: Kind) -> anyhow::Result<Cost> {
    // One that is answered, so that what every process does once is done.
    drop(connect(address, Kind::Readers)?);
    thread::sleep(REST);
    let before = resident_bytes(id)?;
    let mut peers: Vec<TcpStream> =
        (0..PEERS).map(|_| connect(address, kind)).collect::<anyhow::Result<_>>()?;
    if matches!(kind, Kind::Writers) {
        push(&mut peers)?;
    }
    thread::sleep(REST);
    let each = |bytes: u64| bytes.saturating_sub(before) / PEERS as u64;
    let held = each(resident_bytes(id)?);
    ensure!(held > 0, "the clients cost nothing: do they reach it?");
    drop(peers);
    if matches!(kind, Kind::Writers) {
        // Until the wait for the upstream is over.
        thread::sleep(Duration::from_secs(12));
    }
    thread::sleep(GIVE_BACK);
    Ok(Cost { held, left: each(resident_bytes(id)?) })
}

fn connect(address: SocketAddr, kind: Kind) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect(&address.into())?;
    let mut stream: TcpStream = socket.into();
    let head = match kind {
        Kind::Readers => "GET /slow HTTP/1.1\r\nHost: slow\r\n\r\n".to_owned(),
        Kind::Writers => {
            format!("PUT /slow HTTP/1.1\r\nHost: slow\r\nContent-Length: {BODY_BYTES}\r\n\r\n")
        }
    };
    stream.write_all(head.as_bytes())?;
    Ok(stream)
}

/// Sends on every connection what it takes.
fn push(peers: &mut [TcpStream]) -> anyhow::Result<()> {
    let piece = [b'w'; 1 << 14];
    for peer in &mut *peers {
        peer.set_nonblocking(true)?;
    }
    let end = std::time::Instant::now() + PUSH;
    while std::time::Instant::now() < end {
        for peer in &mut *peers {
            // What is not taken is what this is about.
            let _ = peer.write(&piece);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// A server that answers GET with [`BODY_BYTES`] as fast as they are taken, and never reads a
/// body. It lives as long as the benchmark.
fn origin() -> anyhow::Result<SocketAddr> {
    let [address] = free_addresses()?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            let _ = runtime.block_on(serve(listener));
        }
    });
    Ok(address)
}

async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let _ = answer(stream).await;
        });
    }
}

async fn answer(mut stream: tokio::net::TcpStream) -> anyhow::Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    if &head != b"GET " {
        tokio::time::sleep(Duration::from_secs(3_600)).await;
    }
    let start = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n");
    stream.write_all(start.as_bytes()).await?;
    let piece = [b'r'; 1 << 16];
    for _ in 0..BODY_BYTES / piece.len() as u64 {
        stream.write_all(&piece).await?;
    }
    // The request's rest is read at the end only, so that a reset cannot cut the answer.
    let mut rest = [0; 1_024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
