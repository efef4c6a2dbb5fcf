//! An upstream that answers by script and records what it was sent.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::wait::{DEADLINE, until};
use super::wire::{Head, Pattern, Wire};

/// Most bytes of one body that are kept; the rest is counted and checked.
const BODY_KEPT: usize = 1 << 20;

/// What the upstream does with a request once it has read the head.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Reads the body, then 200 with this text (to HEAD: its length alone).
    Text(String),
    /// Reads the body, then exactly these bytes; the connection stays.
    Bytes(Vec<u8>),
    /// Reads the body, then exactly these bytes, then closes.
    Last(Vec<u8>),
    /// These bytes at once, before the body is read, then the other answer.
    /// For 100 Continue and 103 Early Hints.
    Interim(Vec<u8>, Box<Answer>),
    /// These bytes at once, the body never read, then silence.
    Early(Vec<u8>),
    /// Reads the body, then 200 with the same body.
    Echo,
    /// Reads the body, then 200 with these chunks, each in a write of its own.
    Chunked(Vec<Vec<u8>>),
    /// Reads the body, then 200 with this many bytes of [`Pattern`].
    Stream(u64),
    /// Reads the body, waits this long, then the other answer.
    After(Duration, Box<Answer>),
    /// Reads the body, waits until the test opens the gate, then the other answer.
    Held(Gate, Box<Answer>),
    /// Reads whatever comes and never answers.
    Silent,
    /// Reads the body and closes without a byte.
    Hangup,
    /// 101 with these further header lines, then sends back whatever comes.
    Upgrade(String),
}

/// 200 with this text.
pub fn ok(text: impl Into<String>) -> Answer {
    Answer::Text(text.into())
}

/// Something a test opens when the upstream may go on.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Lets everyone through, now and later.
    pub fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let shut = self.0.0.lock().unwrap();
        // Longer than any test waits, so that a forgotten gate cannot hold a thread for ever.
        let _ = self.0.1.wait_timeout_while(shut, DEADLINE * 6, |open| !*open).unwrap();
    }
}

/// One request as the upstream got it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The head, parsed and raw.
    pub head: Head,
    /// The body without its framing, its first MiB.
    pub body: Vec<u8>,
    /// How many body bytes were [`Pattern`], where all were.
    pub pattern: Option<u64>,
    /// Whether the body came to its proper end.
    pub complete: bool,
    /// Which of the connections, counted from 0, it came over.
    pub connection: usize,
}

type Script = Box<dyn Fn(&Head) -> Answer + Send + Sync>;

struct Shared {
    script: Script,
    requests: Mutex<Vec<Recorded>>,
    /// Per connection, everything that was received.
    transcripts: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    sent: AtomicU64,
    stopping: AtomicBool,
}

/// The upstream. It ends, and all its connections with it, when dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Answers 200 with "METHOD target".
    pub fn new() -> Self {
        Self::scripted(|head| ok(format!("{} {}", head.method(), head.target())))
    }

    /// Gives every request the same answer.
    pub fn answering(answer: Answer) -> Self {
        Self::scripted(move |_| answer.clone())
    }

    /// Asks `script` what to do with each request, by its head.
    pub fn scripted(script: impl Fn(&Head) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            transcripts: Mutex::default(),
            streams: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || accept(&listener, &shared))
        };
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every request so far whose head was complete, in order of arrival.
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// The targets of these requests.
    pub fn targets(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.head.target().to_owned()).collect()
    }

    /// The most recent request; fails the test when there is none.
    #[track_caller]
    pub fn last(&self) -> Recorded {
        self.requests().pop().expect("the upstream got no request")
    }

    /// The most recent request once its body has ended.
    #[track_caller]
    pub fn last_complete(&self) -> Recorded {
        until("the upstream has read a whole request", || {
            self.requests().pop().filter(|request| request.complete)
        })
    }

    /// Waits until at least `count` heads have arrived.
    #[track_caller]
    pub fn wait_for(&self, count: usize) {
        until("the upstream has got the request", || {
            (self.shared.requests.lock().unwrap().len() >= count).then_some(())
        });
    }

    /// Forgets requests and transcripts; connections stay.
    pub fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
        for transcript in self.shared.transcripts.lock().unwrap().iter() {
            transcript.lock().unwrap().clear();
        }
    }

    /// Every byte received on all connections, one after the other.
    pub fn transcript(&self) -> String {
        let transcripts = self.shared.transcripts.lock().unwrap();
        let bytes = transcripts.iter().flat_map(|each| each.lock().unwrap().clone());
        bytes.map(char::from).collect()
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes of [`Answer::Stream`] bodies it got rid of.
    pub fn streamed(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // One connection wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        for stream in self.shared.streams.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopping.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let transcript = Arc::new(Mutex::new(Vec::new()));
        shared.transcripts.lock().unwrap().push(Arc::clone(&transcript));
        if let Ok(clone) = stream.try_clone() {
            shared.streams.lock().unwrap().push(clone);
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let mut wire = Wire::new(stream, None).recording(transcript);
            // A connection that breaks off is an everyday thing for an upstream; what
            // it got until then is in the record.
            let _ = serve(&mut wire, &shared, connection);
            wire.shutdown(Shutdown::Both);
        });
    }
}

/// What becomes of the connection after an answer.
#[derive(PartialEq)]
enum Then {
    Keep,
    Close,
}

fn serve(wire: &mut Wire, shared: &Shared, connection: usize) -> io::Result<()> {
    while let Some(head) = wire.head()? {
        let index = {
            let mut requests = shared.requests.lock().unwrap();
            requests.push(Recorded {
                head: head.clone(),
                body: Vec::new(),
                pattern: None,
                complete: false,
                connection,
            });
            requests.len() - 1
        };
        let mut answer = (shared.script)(&head);
        while let Answer::Interim(bytes, next) = answer {
            wire.write(&bytes)?;
            answer = *next;
        }
        match &answer {
            Answer::Silent => return read_in_silence(wire),
            Answer::Early(bytes) => {
                wire.write(bytes)?;
                return read_in_silence(wire);
            }
            _ => read_body(wire, shared, &head, index)?,
        }
        if respond(wire, shared, &head, index, answer)? == Then::Close {
            return Ok(());
        }
    }
    Ok(())
}

fn read_body(wire: &mut Wire, shared: &Shared, head: &Head, index: usize) -> io::Result<()> {
    let mut pattern = Pattern::default();
    let read = wire.body(head.request_framing(), &mut |piece| {
        pattern.check(piece);
        // `forget` may have taken the record away meanwhile.
        if let Some(request) = shared.requests.lock().unwrap().get_mut(index) {
            let room = BODY_KEPT.saturating_sub(request.body.len()).min(piece.len());
            request.body.extend_from_slice(&piece[..room]);
        }
    });
    if let Some(request) = shared.requests.lock().unwrap().get_mut(index) {
        request.pattern = pattern.checked();
        request.complete = read.is_ok();
    }
    read
}

fn read_in_silence(wire: &mut Wire) -> io::Result<()> {
    while !wire.some()?.is_empty() {}
    Ok(())
}

fn respond(
    wire: &mut Wire,
    shared: &Shared,
    head: &Head,
    index: usize,
    answer: Answer,
) -> io::Result<Then> {
    match answer {
        Answer::Text(text) => {
            let mut bytes = status_200(text.len() as u64);
            if head.method() != "HEAD" {
                bytes.extend_from_slice(text.as_bytes());
            }
            wire.write(&bytes)?;
        }
        Answer::Bytes(bytes) => wire.write(&bytes)?,
        Answer::Last(bytes) => {
            wire.write(&bytes)?;
            return Ok(Then::Close);
        }
        Answer::Echo => {
            let body = shared.requests.lock().unwrap().get(index).map(|seen| seen.body.clone());
            let body = body.unwrap_or_default();
            wire.write(&[status_200(body.len() as u64), body].concat())?;
        }
        Answer::Chunked(chunks) => write_chunks(wire, &chunks)?,
        Answer::Stream(length) => {
            wire.write(&status_200(length))?;
            Pattern::write(length, |piece| {
                shared.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                wire.write(piece)
            })?;
        }
        Answer::After(pause, next) => {
            thread::sleep(pause);
            return respond(wire, shared, head, index, *next);
        }
        Answer::Held(gate, next) => {
            gate.pass();
            return respond(wire, shared, head, index, *next);
        }
        Answer::Upgrade(lines) => {
            let mut start = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
            write!(start, "{lines}\r\n")?;
            wire.write(&start)?;
            return send_back(wire);
        }
        Answer::Hangup | Answer::Interim(..) | Answer::Early(_) | Answer::Silent => {
            return Ok(Then::Close);
        }
    }
    Ok(if head.has_token("connection", "close") { Then::Close } else { Then::Keep })
}

fn write_chunks(wire: &mut Wire, chunks: &[Vec<u8>]) -> io::Result<()> {
    wire.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    for chunk in chunks {
        let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
        framed.extend_from_slice(chunk);
        framed.extend_from_slice(b"\r\n");
        wire.write(&framed)?;
    }
    wire.write(b"0\r\n\r\n")
}

fn send_back(wire: &mut Wire) -> io::Result<Then> {
    loop {
        let bytes = wire.some()?;
        if bytes.is_empty() {
            return Ok(Then::Close);
        }
        wire.write(&bytes)?;
    }
}

fn status_200(length: u64) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}
