//! HTTP/1.1 as bytes on a socket, read by both ends of the kit.
//!
//! This parser is deliberately literal: it finds the head by its empty line,
//! splits it at CRLF and colon, and keeps everything it was given, so that an
//! assertion about bytes is about bytes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// Most bytes of one connection that a transcript keeps.
const TRANSCRIPT_MAX: usize = 1 << 20;

/// A request or status line with its header fields, in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Every byte up to and including the empty line.
    pub raw: Vec<u8>,
    /// The first line's parts: method, target, version or version, status, reason.
    pub start: [String; 3],
    /// Names as sent, values without surrounding blanks, bytes as Latin-1.
    pub headers: Vec<(String, String)>,
}

impl Head {
    fn parse(raw: Vec<u8>) -> Self {
        let text: String = raw.iter().map(|&byte| char::from(byte)).collect();
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let mut parts = lines.next().unwrap_or("").splitn(3, ' ').map(str::to_owned);
        let start = std::array::from_fn(|_| parts.next().unwrap_or_default());
        let headers = lines
            .map(|line| line.split_once(':').unwrap_or((line, "")))
            .map(|(name, value)| (name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
            .collect();
        Self { raw, start, headers }
    }

    /// The method of a request.
    pub fn method(&self) -> &str {
        &self.start[0]
    }

    /// The target of a request, byte for byte.
    pub fn target(&self) -> &str {
        &self.start[1]
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.start[1].parse().unwrap_or(0)
    }

    /// The values of every field of this name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |(key, _): &&(String, String)| key.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of the only field of this name; fails the test when there are more.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(values.len() <= 1, "{name} came more than once: {values:?}");
        values.first().copied()
    }

    /// All fields of this name as the one list they are equal to.
    pub fn list(&self, name: &str) -> String {
        self.all(name).join(", ")
    }

    /// Whether a comma separated field holds this member, in any case.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.list(name).split(',').any(|member| member.trim().eq_ignore_ascii_case(token))
    }

    /// How the body of a request with this head ends.
    pub fn request_framing(&self) -> Framing {
        if self.has_token("transfer-encoding", "chunked") {
            Framing::Chunked
        } else {
            Framing::Length(self.length().unwrap_or(0))
        }
    }

    /// How the body of an answer to `method` with this head ends.
    pub fn reply_framing(&self, method: &str) -> Framing {
        let status = self.status();
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            Framing::Length(0)
        } else if self.has_token("transfer-encoding", "chunked") {
            Framing::Chunked
        } else {
            self.length().map_or(Framing::UntilClose, Framing::Length)
        }
    }

    fn length(&self) -> Option<u64> {
        self.all("content-length").first().and_then(|value| value.parse().ok())
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After this many bytes.
    Length(u64),
    /// After the chunk of size zero and the trailers.
    Chunked,
    /// Where the connection ends.
    UntilClose,
}

/// A socket with what was read from it and not yet used.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffered: Vec<u8>,
    patience: Option<Duration>,
    transcript: Option<Arc<Mutex<Vec<u8>>>>,
}

impl Wire {
    /// Reads from `stream`; with `patience`, any one call that reads ends after
    /// that long with [`io::ErrorKind::TimedOut`].
    pub fn new(stream: TcpStream, patience: Option<Duration>) -> Self {
        stream.set_nodelay(true).expect("nodelay");
        Self { stream, buffered: Vec::new(), patience, transcript: None }
    }

    /// Also copies the first bytes that arrive into `transcript`.
    pub fn recording(mut self, transcript: Arc<Mutex<Vec<u8>>>) -> Self {
        self.transcript = Some(transcript);
        self
    }

    /// Changes how long later calls wait.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = Some(patience);
    }

    /// Sends all of it.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        // The peer may have gone first, which is as good.
        let _ = self.stream.shutdown(how);
    }

    /// Ends the connection the hard way: whoever reads from it finds it reset.
    pub fn reset(self) {
        // Closed without lingering, a socket says RST; where that cannot be set, the test
        // that wanted it sees an orderly end and fails.
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
    }

    /// The next head, or nothing where the connection ends before its first byte.
    pub fn head(&mut self) -> io::Result<Option<Head>> {
        let end = self.end();
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.buffered[searched..], b"\r\n\r\n") {
                let raw = self.buffered.drain(..searched + at + 4).collect();
                return Ok(Some(Head::parse(raw)));
            }
            searched = self.buffered.len().saturating_sub(3);
            if self.fill(end)? == 0 {
                return if self.buffered.is_empty() { Ok(None) } else { Err(eof()) };
            }
        }
    }

    /// Hands a whole body to `take`, piece by piece, without its framing.
    pub fn body(&mut self, framing: Framing, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        match framing {
            Framing::Length(length) => self.pass(length, take),
            Framing::UntilClose => loop {
                take(&std::mem::take(&mut self.buffered));
                if self.fill(self.end())? == 0 {
                    return Ok(());
                }
            },
            Framing::Chunked => self.chunks(take),
        }
    }

    /// One read: what is buffered, else what arrives next; empty at the end.
    pub fn some(&mut self) -> io::Result<Vec<u8>> {
        if self.buffered.is_empty() {
            self.fill(self.end())?;
        }
        Ok(std::mem::take(&mut self.buffered))
    }

    fn chunks(&mut self, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        loop {
            let line = self.line()?;
            let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
            let digits = String::from_utf8_lossy(digits);
            let size = u64::from_str_radix(digits.trim(), 16)
                .map_err(|_| malformed("chunk size", &line))?;
            if size == 0 {
                while !self.line()?.is_empty() {}
                return Ok(());
            }
            self.pass(size, take)?;
            let after = self.line()?;
            if !after.is_empty() {
                return Err(malformed("end of chunk", &after));
            }
        }
    }

    fn pass(&mut self, mut length: u64, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        while length > 0 {
            if self.buffered.is_empty() && self.fill(self.end())? == 0 {
                return Err(eof());
            }
            let now = usize::try_from(length).unwrap_or(usize::MAX).min(self.buffered.len());
            take(&self.buffered[..now]);
            self.buffered.drain(..now);
            length -= now as u64;
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let end = self.end();
        loop {
            if let Some(at) = find(&self.buffered, b"\r\n") {
                let line = self.buffered[..at].to_vec();
                self.buffered.drain(..at + 2);
                return Ok(line);
            }
            if self.fill(end)? == 0 {
                return Err(eof());
            }
        }
    }

    fn end(&self) -> Option<Instant> {
        self.patience.map(|patience| Instant::now() + patience)
    }

    fn fill(&mut self, end: Option<Instant>) -> io::Result<usize> {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(left)?;
        let mut piece = [0; 64 * 1024];
        let count = match self.stream.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            other => other?,
        };
        self.buffered.extend_from_slice(&piece[..count]);
        if let Some(transcript) = &self.transcript {
            let mut transcript = transcript.lock().unwrap();
            let room = TRANSCRIPT_MAX.saturating_sub(transcript.len()).min(count);
            transcript.extend_from_slice(&piece[..room]);
        }
        Ok(count)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn eof() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

fn malformed(what: &str, line: &[u8]) -> io::Error {
    let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
    io::Error::new(io::ErrorKind::InvalidData, format!("not a {what}: {shown:?}"))
}

/// Bytes of any length that are the same on both ends, so that a body of
/// 100 MiB can be checked whole without being kept. The period is a multiple of
/// a prime: a piece lost, doubled or moved by any round number shows.
#[derive(Clone, Debug)]
pub struct Pattern {
    block: Vec<u8>,
    at: usize,
    length: u64,
    intact: bool,
}

impl Default for Pattern {
    fn default() -> Self {
        let block = (0..251 * 256).map(|index: usize| (index % 251) as u8).collect();
        Self { block, at: 0, length: 0, intact: true }
    }
}

impl Pattern {
    /// Compares the next bytes received with the pattern.
    pub fn check(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let now = bytes.len().min(self.block.len() - self.at);
            self.intact &= bytes[..now] == self.block[self.at..self.at + now];
            self.at = (self.at + now) % self.block.len();
            bytes = &bytes[now..];
        }
    }

    /// How many bytes were checked, where all of them were right.
    pub fn checked(&self) -> Option<u64> {
        self.intact.then_some(self.length)
    }

    /// Hands the first `length` bytes of the pattern to `put`, piece by piece.
    pub fn write<E>(length: u64, mut put: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let block = Self::default().block;
        let mut left = length;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            put(&block[..now])?;
            left -= now as u64;
        }
        Ok(())
    }
}
