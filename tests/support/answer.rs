//! What an upstream can do with a request.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::wait::DEADLINE;
use super::wire::{Head, Pattern, Wire};

/// How often somebody who waits at a gate looks whether the upstream is still there.
const LOOK: Duration = Duration::from_millis(20);

/// What the upstream does with a request once it has read the head.
///
/// The faults have constructors of their own in [`super::fault`].
#[derive(Clone, Debug)]
pub enum Answer {
    /// Reads the body, then 200 with this text (to HEAD: its length alone).
    Text(String),
    /// Reads the body, then exactly these bytes; the connection stays.
    Bytes(Vec<u8>),
    /// Reads the body, then exactly these bytes, then closes.
    Last(Vec<u8>),
    /// Reads the body, then exactly these bytes, then this and nothing more.
    Cut(Vec<u8>, Ending),
    /// Reads the body, then exactly these bytes, some of them slowly; the connection stays.
    Drip(Drops),
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

/// Bytes of which some come little by little.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    /// What comes at once.
    pub before: Vec<u8>,
    /// What comes in drops.
    pub bytes: Vec<u8>,
    /// How many bytes a drop has.
    pub size: usize,
    /// How long nothing comes before each drop.
    pub every: Duration,
    /// What comes right after the last drop.
    pub after: Vec<u8>,
}

/// How an answer breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Nothing more comes, and the connection stays.
    Silence,
    /// The connection is closed in order (FIN).
    Close,
    /// The connection is reset (RST).
    Reset,
}

impl Ending {
    /// Every one of them.
    pub const ALL: [Self; 3] = [Self::Silence, Self::Close, Self::Reset];
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

    fn pass(&self, life: &Life) -> io::Result<()> {
        // Longer than any test waits, so that a forgotten gate cannot hold a thread for ever.
        let end = Instant::now() + DEADLINE * 6;
        let mut open = self.0.0.lock().unwrap();
        while !*open && Instant::now() < end {
            life.check()?;
            open = self.0.1.wait_timeout(open, LOOK).unwrap().0;
        }
        Ok(())
    }
}

/// One opening of an upstream, from its first connection to the end of its last.
#[derive(Debug, Default)]
pub(super) struct Life {
    over: Mutex<bool>,
    changed: Condvar,
}

impl Life {
    pub(super) fn end(&self) {
        *self.over.lock().unwrap() = true;
        self.changed.notify_all();
    }

    pub(super) fn is_over(&self) -> bool {
        *self.over.lock().unwrap()
    }

    fn check(&self) -> io::Result<()> {
        if self.is_over() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    /// Waits this long, or until it is over.
    fn sleep(&self, pause: Duration) -> io::Result<()> {
        let over = self.over.lock().unwrap();
        drop(self.changed.wait_timeout_while(over, pause, |over| !*over).unwrap());
        self.check()
    }
}

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    Keep,
    Close,
    Reset,
}

/// One request that is being answered. `F` is dropped when the last bytes of the answer
/// are about to be sent, that is before anybody can have them all.
pub(super) struct Exchange<'a, F> {
    pub(super) wire: &'a mut Wire,
    pub(super) head: &'a Head,
    /// The request's body, for who sends it back.
    pub(super) body: Vec<u8>,
    pub(super) streamed: &'a AtomicU64,
    pub(super) life: &'a Life,
    pub(super) in_flight: Option<F>,
}

impl<F> Exchange<'_, F> {
    /// Gives the answer after the request's body was read.
    pub(super) fn respond(mut self, answer: Answer) -> io::Result<Then> {
        match answer {
            Answer::Text(text) => {
                let mut bytes = status_200(text.len() as u64);
                if self.head.method() != "HEAD" {
                    bytes.extend_from_slice(text.as_bytes());
                }
                self.finish(&bytes)?;
            }
            Answer::Bytes(bytes) => self.finish(&bytes)?,
            Answer::Last(bytes) => {
                self.finish(&bytes)?;
                return Ok(Then::Close);
            }
            Answer::Cut(bytes, ending) => return self.cut(&bytes, ending),
            Answer::Drip(drops) => self.drip(&drops)?,
            Answer::Echo => {
                let bytes = [status_200(self.body.len() as u64), self.body.clone()].concat();
                self.finish(&bytes)?;
            }
            Answer::Chunked(chunks) => self.chunks(&chunks)?,
            Answer::Stream(length) => self.stream(length)?,
            Answer::After(pause, next) => {
                self.life.sleep(pause)?;
                return self.respond(*next);
            }
            Answer::Held(gate, next) => {
                gate.pass(self.life)?;
                return self.respond(*next);
            }
            Answer::Interim(bytes, next) => {
                self.wire.write(&bytes)?;
                return self.respond(*next);
            }
            Answer::Upgrade(lines) => {
                let mut start = b"HTTP/1.1 101 Switching Protocols\r\n".to_vec();
                write!(start, "{lines}\r\n")?;
                self.finish(&start)?;
                return self.send_back();
            }
            Answer::Hangup => return Ok(Then::Close),
            Answer::Early(bytes) => return self.cut(&bytes, Ending::Silence),
            Answer::Silent => return self.cut(b"", Ending::Silence),
        }
        Ok(if self.head.has_token("connection", "close") { Then::Close } else { Then::Keep })
    }

    fn finish(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.in_flight = None;
        self.wire.write(bytes)
    }

    fn cut(self, bytes: &[u8], ending: Ending) -> io::Result<Then> {
        self.wire.write(bytes)?;
        match ending {
            Ending::Silence => {
                while !self.wire.some()?.is_empty() {}
                Ok(Then::Close)
            }
            Ending::Close => Ok(Then::Close),
            Ending::Reset => Ok(Then::Reset),
        }
    }

    fn drip(&mut self, drops: &Drops) -> io::Result<()> {
        self.wire.write(&drops.before)?;
        let mut each = drops.bytes.chunks(drops.size.max(1)).peekable();
        while let Some(drop) = each.next() {
            self.life.sleep(drops.every)?;
            match each.peek() {
                Some(_) => self.wire.write(drop)?,
                None => self.finish(&[drop, &drops.after].concat())?,
            }
        }
        Ok(())
    }

    fn chunks(&mut self, chunks: &[Vec<u8>]) -> io::Result<()> {
        self.wire.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        for chunk in chunks {
            let mut framed = format!("{:x}\r\n", chunk.len()).into_bytes();
            framed.extend_from_slice(chunk);
            framed.extend_from_slice(b"\r\n");
            self.wire.write(&framed)?;
        }
        self.finish(b"0\r\n\r\n")
    }

    fn stream(&mut self, length: u64) -> io::Result<()> {
        self.wire.write(&status_200(length))?;
        let mut left = length;
        Pattern::write(length, |piece| {
            left -= piece.len() as u64;
            if left == 0 {
                self.in_flight = None;
            }
            self.streamed.fetch_add(piece.len() as u64, Ordering::SeqCst);
            self.wire.write(piece)
        })
    }

    fn send_back(self) -> io::Result<Then> {
        loop {
            let bytes = self.wire.some()?;
            if bytes.is_empty() {
                return Ok(Then::Close);
            }
            self.wire.write(&bytes)?;
        }
    }
}

fn status_200(length: u64) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}
