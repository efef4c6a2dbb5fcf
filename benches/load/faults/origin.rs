//! Servers whose capacity is known: each answer takes a fixed time, and a server works on so
//! many at a time. They are this program started again, so that one can be stopped like a
//! machine that hangs while the load goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use socket2::{Domain, Socket, Type};

use crate::contenders::{Bench, START_DEADLINE};
use crate::http;
use crate::process::{Process, free_addresses, poll_until};

/// The argument that makes this program a server.
pub(crate) const MODE: &str = "origin";
/// Where a server says what it has done. Neither this nor `HEALTH` counts as a request.
const COUNTS: &str = "/counts";
/// Where a gateway's health checks ask.
pub(crate) const HEALTH: &str = "/health";
/// Where an answer is so large that no gateway should keep all of it for a client.
pub(crate) const LARGE: &str = "/api/users/large";
static LARGE_BODY: [u8; 4 << 20] = [0; 4 << 20];
/// What the kernel keeps of an answer for a gateway that does not take it yet: left to itself
/// it would keep all of a large one, for each of thousands.
const SEND_BUFFER_BYTES: usize = 64 * 1024;
/// Connections that may wait to be accepted. Where one too many comes, its gateway hears nothing
/// and tries again after a second, which is no failure of a gateway.
const BACKLOG: i32 = 4096;
/// The longest request head that is read.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// What a server is like.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    /// How long an answer takes.
    pub(crate) service: Duration,
    /// How many requests it works on at a time; others wait.
    pub(crate) slots: usize,
    /// What it answers with.
    pub(crate) status: u16,
}

/// A started server.
pub(crate) struct Origin {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

/// What a server has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    /// The most requests it had at a time.
    pub(crate) peak: u64,
    /// The time its requests took, waits for a slot included.
    pub(crate) busy: Duration,
}

impl Origin {
    pub(crate) fn start(bench: &Bench<'_>, name: &str, kind: Kind) -> anyhow::Result<Self> {
        let [address] = free_addresses()?;
        let program: PathBuf = std::env::current_exe()?;
        let Kind { service, slots, status } = kind;
        let texts = [
            address.to_string(),
            service.as_micros().to_string(),
            slots.to_string(),
            status.to_string(),
        ];
        let mut args = vec![MODE];
        args.extend(texts.iter().map(String::as_str));
        let process = Process::start(name, bench.cores.load, &program, &args, bench.dir)?;
        let mut origin = Self { process, address };
        poll_until(START_DEADLINE, || match origin.process.check_alive(bench.dir) {
            // A process that has ended will never answer, so that is final.
            Err(ended) => Ok(Err(ended)),
            Ok(()) => origin.counts().map(Ok),
        })
        .and_then(|outcome| outcome)
        .context("a server did not start")?;
        Ok(origin)
    }

    pub(crate) fn counts(&self) -> anyhow::Result<Counts> {
        let answer = http::get(self.address, COUNTS, "")?;
        let json: serde_json::Value = serde_json::from_slice(answer.body())?;
        let number = |name: &str| json[name].as_u64().with_context(|| format!("no {name}"));
        Ok(Counts {
            requests: number("requests")?,
            peak: number("peak")?,
            busy: Duration::from_micros(number("busy_us")?),
        })
    }
}

/// Serves until the process is ended; `args` are what [`Origin::start`] hands over.
pub(crate) fn serve(args: &[String]) -> anyhow::Result<()> {
    let [address, service_us, slots, status] = args else { bail!("origin: wrong arguments") };
    let kind = Kind {
        service: Duration::from_micros(service_us.parse()?),
        slots: slots.parse()?,
        status: status.parse()?,
    };
    let listener = listen(address.parse()?)?;
    let work = Arc::new(Work { kind, state: Mutex::default(), freed: Condvar::new() });
    for stream in listener.incoming() {
        let (stream, work) = (stream?, work.clone());
        // Whoever closes a connection ends its thread; nobody asks why.
        thread::spawn(move || work.converse(stream));
    }
    Ok(())
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // Connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The requests of a server.
struct Work {
    kind: Kind,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    requests: u64,
    present: u64,
    peak: u64,
    busy: Duration,
    working: usize,
}

impl Work {
    /// Answers request after request until the other side has no more.
    fn converse(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        loop {
            let head = read_request(&mut stream)?;
            let path = path_of(&head);
            if path == LARGE.as_bytes() {
                self.work();
                stream.write_all(head_of(self.kind.status, LARGE_BODY.len()).as_bytes())?;
                stream.write_all(&LARGE_BODY)?;
            } else {
                stream.write_all(self.answer(path).as_bytes())?;
            }
        }
    }

    fn answer(&self, path: &[u8]) -> String {
        let (status, body) = match path {
            path if path == COUNTS.as_bytes() => (200, self.counts()),
            path if path == HEALTH.as_bytes() => (self.kind.status, "{}".to_owned()),
            _ => {
                self.work();
                (self.kind.status, "{}".to_owned())
            }
        };
        head_of(status, body.len()) + &body
    }

    /// One request: it waits for a slot and takes its time.
    fn work(&self) {
        let arrived = Instant::now();
        let lock = || self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = lock();
        state.requests += 1;
        state.present += 1;
        state.peak = state.peak.max(state.present);
        let is_full = |state: &mut State| state.working >= self.kind.slots;
        let mut state =
            self.freed.wait_while(state, is_full).unwrap_or_else(PoisonError::into_inner);
        state.working += 1;
        drop(state);
        thread::sleep(self.kind.service);
        let mut state = lock();
        state.working -= 1;
        state.present -= 1;
        state.busy += arrived.elapsed();
        self.freed.notify_one();
    }

    fn counts(&self) -> String {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, peak, busy_us) = (state.requests, state.peak, state.busy.as_micros());
        format!(r#"{{"requests": {requests}, "peak": {peak}, "busy_us": {busy_us}}}"#)
    }
}

fn head_of(status: u16, length: usize) -> String {
    format!("HTTP/1.1 {status} Answer\r\nContent-Length: {length}\r\n\r\n")
}

/// Reads a request to the end of its body and returns its head.
fn read_request(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    let mut read = || -> anyhow::Result<Vec<u8>> {
        let read = stream.read(&mut buffer)?;
        ensure!(read > 0, "closed");
        Ok(buffer.get(..read).unwrap_or_default().to_vec())
    };
    loop {
        request.extend(read()?);
        if let Some((head_len, body_len)) = lengths(&request)? {
            let mut missing = (head_len + body_len).saturating_sub(request.len());
            while missing > 0 {
                missing = missing.saturating_sub(read()?.len());
            }
            return Ok(request);
        }
        ensure!(request.len() <= MAX_HEAD_BYTES, "the head is too long");
    }
}

/// How long a request's head and body are, once all of the head is there.
fn lengths(request: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_len) = parsed.parse(request)? else { return Ok(None) };
    let length =
        parsed.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body_len = match length {
        Some(length) => std::str::from_utf8(length.value)?.parse()?,
        None => 0,
    };
    Ok(Some((head_len, body_len)))
}

/// The target of a request line.
fn path_of(head: &[u8]) -> &[u8] {
    head.split(|byte| *byte == b' ').nth(1).unwrap_or_default()
}
