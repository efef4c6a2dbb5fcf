//! An upstream that answers by script and records what it was sent.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::answer::{Answer, Exchange, Life, Then, ok};
use super::port::Port;
use super::wait::{DEADLINE, eventually, until};
use super::wire::{Head, Pattern, Wire};

/// Most bytes of one body that are kept; the rest is counted and checked.
const BODY_KEPT: usize = 1 << 20;

/// Most connections, and with them threads, at a time; further ones wait.
const CONNECTIONS_MAX: usize = 2048;

/// One request as the upstream got it.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The head, parsed and raw.
    pub head: Head,
    /// When the head had come.
    pub at: Instant,
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
    /// What is answered in place of the script.
    switched: Mutex<Option<Answer>>,
    requests: Mutex<Vec<Recorded>>,
    /// Per connection, everything that was received.
    transcripts: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    /// The connections that are open, by number.
    streams: Mutex<HashMap<usize, TcpStream>>,
    connections: AtomicUsize,
    sent: AtomicU64,
    in_flight: AtomicUsize,
    max_in_flight: AtomicUsize,
}

/// The upstream. It ends, and all its connections with it, when dropped.
pub struct Upstream {
    port: Port,
    shared: Arc<Shared>,
    open: Option<Open>,
}

/// What an upstream has while it listens.
struct Open {
    life: Arc<Life>,
    acceptor: JoinHandle<()>,
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

    /// Refuses connections until it is opened, then answers like [`Self::new`].
    pub fn refusing() -> Self {
        let mut upstream = Self::new();
        upstream.close();
        upstream
    }

    /// Asks `script` what to do with each request, by its head.
    pub fn scripted(script: impl Fn(&Head) -> Answer + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            switched: Mutex::default(),
            requests: Mutex::default(),
            transcripts: Mutex::default(),
            streams: Mutex::default(),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            max_in_flight: AtomicUsize::new(0),
        });
        let mut upstream = Self { port: Port::new(), shared, open: None };
        upstream.open();
        upstream
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Stops listening and ends all connections, like a process that ends: its port
    /// refuses connections and stays its own. The record stays.
    pub fn close(&mut self) {
        let Some(open) = self.open.take() else { return };
        open.life.end();
        // One connection wakes the acceptor, which then sees that it is over.
        let _ = TcpStream::connect(self.address());
        let _ = open.acceptor.join();
        for stream in self.shared.streams.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        eventually(DEADLINE, || self.shared.streams.lock().unwrap().is_empty().then_some(()));
    }

    /// Listens again, on the same port.
    pub fn open(&mut self) {
        if self.open.is_some() {
            return;
        }
        let listener = self.port.listen();
        let life = Arc::new(Life::default());
        let (shared, of_acceptor) = (Arc::clone(&self.shared), Arc::clone(&life));
        let acceptor = thread::spawn(move || accept(&listener, &shared, &of_acceptor));
        self.open = Some(Open { life, acceptor });
    }

    /// Gives every further request this answer instead of the script's.
    pub fn switch_to(&self, answer: Answer) {
        *self.shared.switched.lock().unwrap() = Some(answer);
    }

    /// Follows the script again, which was not asked meanwhile.
    pub fn switch_back(&self) {
        *self.shared.switched.lock().unwrap() = None;
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

    /// How many of them have not ended.
    pub fn open_connections(&self) -> usize {
        self.shared.streams.lock().unwrap().len()
    }

    /// How many bytes of [`Answer::Stream`] bodies it got rid of.
    pub fn streamed(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// How many requests were made to it: those whose head was complete, since
    /// [`Self::forget`].
    pub fn attempts(&self) -> usize {
        self.shared.requests.lock().unwrap().len()
    }

    /// How many of them had this target.
    pub fn attempts_at(&self, target: &str) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|request| request.head.target() == target).count()
    }

    /// How many requests it has got and not answered yet. Who gives up is counted until
    /// the upstream has seen the end of the connection.
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// The most that [`Self::in_flight`] ever was. It never counts a request whose
    /// answer somebody can have read to its end.
    pub fn max_in_flight(&self) -> usize {
        self.shared.max_in_flight.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.close();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, life: &Arc<Life>) {
    for stream in listener.incoming() {
        while shared.streams.lock().unwrap().len() >= CONNECTIONS_MAX && !life.is_over() {
            thread::sleep(Duration::from_millis(5));
        }
        if life.is_over() {
            return;
        }
        let Ok(stream) = stream else { continue };
        let Ok(clone) = stream.try_clone() else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::SeqCst);
        let transcript = Arc::new(Mutex::new(Vec::new()));
        shared.transcripts.lock().unwrap().push(Arc::clone(&transcript));
        shared.streams.lock().unwrap().insert(connection, clone);
        let (shared, life) = (Arc::clone(shared), Arc::clone(life));
        thread::spawn(move || {
            let listed = Listed(&shared, connection);
            let mut wire = Wire::new(stream, None).recording(transcript);
            // A connection that breaks off is an everyday thing for an upstream; what
            // it got until then is in the record.
            match serve(&mut wire, &shared, &life, connection) {
                Ok(Then::Reset) => {
                    // A socket is reset when its last owner closes it.
                    drop(listed);
                    wire.reset();
                }
                _ => wire.shutdown(Shutdown::Both),
            }
        });
    }
}

/// A connection in the list of those that are open, until it is dropped.
struct Listed<'a>(&'a Shared, usize);

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.0.streams.lock().unwrap().remove(&self.1);
    }
}

/// Counts a request until it is dropped.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn of(shared: &'a Shared) -> Self {
        let now = shared.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        shared.max_in_flight.fetch_max(now, Ordering::SeqCst);
        Self(&shared.in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn serve(wire: &mut Wire, shared: &Shared, life: &Life, connection: usize) -> io::Result<Then> {
    while let Some(head) = wire.head()? {
        let in_flight = InFlight::of(shared);
        let index = shared.record(&head, connection);
        let mut answer = shared.answer(&head);
        while let Answer::Interim(bytes, next) = answer {
            wire.write(&bytes)?;
            answer = *next;
        }
        if !matches!(answer, Answer::Silent | Answer::Early(_)) {
            read_body(wire, shared, &head, index)?;
        }
        let exchange = Exchange {
            wire: &mut *wire,
            head: &head,
            body: shared.body(index),
            streamed: &shared.sent,
            life,
            in_flight: Some(in_flight),
        };
        match exchange.respond(answer)? {
            Then::Keep => {}
            then => return Ok(then),
        }
    }
    Ok(Then::Close)
}

impl Shared {
    /// Where the request is in the record.
    fn record(&self, head: &Head, connection: usize) -> usize {
        let mut requests = self.requests.lock().unwrap();
        requests.push(Recorded {
            head: head.clone(),
            at: Instant::now(),
            body: Vec::new(),
            pattern: None,
            complete: false,
            connection,
        });
        requests.len() - 1
    }

    fn answer(&self, head: &Head) -> Answer {
        let switched = self.switched.lock().unwrap().clone();
        switched.unwrap_or_else(|| (self.script)(head))
    }

    fn body(&self, index: usize) -> Vec<u8> {
        let requests = self.requests.lock().unwrap();
        requests.get(index).map(|request| request.body.clone()).unwrap_or_default()
    }
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
