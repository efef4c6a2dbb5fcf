//! A client that sends exactly the bytes it is given and reads answers literally.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::wait::DEADLINE;
use super::wire::{Framing, Head, Wire};

/// The Host of requests that do not name one.
const HOST: &str = "tollgate.test";

/// One answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status line and header fields.
    pub head: Head,
    /// The status code.
    pub status: u16,
    /// The body without its framing.
    pub body: Vec<u8>,
    /// The informational answers (1xx) that came before it.
    pub interim: Vec<Head>,
}

impl Reply {
    /// The value of the only field of this name.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The body as text, for assertions and messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; fails the test where it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in the body of {}: {:?}", self.status, self.text()),
        }
    }

    /// Whether it announces the end of the connection.
    pub fn says_close(&self) -> bool {
        self.head.has_token("connection", "close")
    }
}

/// What became of a connection.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The peer ended it, without another byte.
    Closed,
    /// Nothing happened for as long as the client waited.
    Open,
    /// More bytes came.
    More(String),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects; every later call that reads ends after [`DEADLINE`].
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        match TcpStream::connect_timeout(&address, DEADLINE) {
            Ok(stream) => Self { wire: Wire::new(stream, Some(DEADLINE)) },
            Err(error) => panic!("cannot connect to {address}: {error}"),
        }
    }

    /// Speaks on a connection that the test made itself.
    pub fn on(stream: TcpStream) -> Self {
        Self { wire: Wire::new(stream, Some(DEADLINE)) }
    }

    /// Connects, where somebody listens.
    pub fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        Some(Self { wire: Wire::new(stream, Some(DEADLINE)) })
    }

    /// Waits at most this long in each later call that reads.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.wire.set_patience(patience);
        self
    }

    /// Sends exactly these bytes.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.write(bytes.as_ref()).expect("the gateway takes the bytes");
    }

    /// Sends these bytes, or as many of them as the peer takes before it closes.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.wire.write(bytes.as_ref())
    }

    /// Says that nothing more will be sent; answers can still be read.
    pub fn finish_sending(&self) {
        self.wire.shutdown(Shutdown::Write);
    }

    /// The next answer, to a request whose answer has a body.
    #[track_caller]
    pub fn reply(&mut self) -> Reply {
        self.reply_to("GET")
    }

    /// The next answer, to a request of this method.
    #[track_caller]
    pub fn reply_to(&mut self, method: &str) -> Reply {
        match self.try_reply_to(method) {
            Ok(Some(reply)) => reply,
            Ok(None) => panic!("the connection was closed instead of an answer"),
            Err(error) => panic!("no whole answer: {error}"),
        }
    }

    /// The next answer; nothing where the connection ends before its first byte.
    pub fn try_reply(&mut self) -> io::Result<Option<Reply>> {
        self.try_reply_to("GET")
    }

    fn try_reply_to(&mut self, method: &str) -> io::Result<Option<Reply>> {
        let mut body = Vec::new();
        let take = &mut |piece: &[u8]| body.extend_from_slice(piece);
        let Some((head, interim)) = self.reply_into(method, take)? else { return Ok(None) };
        Ok(Some(Reply { status: head.status(), head, body, interim }))
    }

    /// Like [`Self::try_reply`] with the body handed to `take` as it comes:
    /// the last head and those of the informational answers before it.
    pub fn reply_into(
        &mut self,
        method: &str,
        take: &mut dyn FnMut(&[u8]),
    ) -> io::Result<Option<(Head, Vec<Head>)>> {
        let mut interim = Vec::new();
        let head = loop {
            let head = match self.wire.head() {
                Ok(Some(head)) => head,
                Ok(None) => return Ok(None),
                Err(error) if gone(&error) => return Ok(None),
                Err(error) => return Err(error),
            };
            if !(100..200).contains(&head.status()) || head.status() == 101 {
                break head;
            }
            interim.push(head);
        };
        let framing = head.reply_framing(method);
        match self.wire.body(framing, take) {
            Err(error) if framing == Framing::UntilClose && gone(&error) => {}
            other => other?,
        }
        Ok(Some((head, interim)))
    }

    /// The next informational answer or head, without its body.
    #[track_caller]
    pub fn next_head(&mut self) -> Head {
        self.wire.head().expect("a head in time").expect("a head before the end")
    }

    /// Exactly this many bytes, for what is spoken after an upgrade.
    #[track_caller]
    pub fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length);
        let take = &mut |piece: &[u8]| bytes.extend_from_slice(piece);
        self.wire.body(Framing::Length(length as u64), take).expect("so many bytes");
        bytes
    }

    /// Waits for the peer to end the connection.
    pub fn end(&mut self) -> End {
        match self.wire.some() {
            Ok(bytes) if bytes.is_empty() => End::Closed,
            Ok(bytes) => End::More(bytes.into_iter().map(char::from).collect()),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => End::Open,
            Err(_) => End::Closed,
        }
    }

    /// GET on this connection.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> Reply {
        self.request("GET", target, &[], b"")
    }

    /// GET with further header fields.
    #[track_caller]
    pub fn get_with(&mut self, target: &str, headers: &[(&str, &str)]) -> Reply {
        self.request("GET", target, headers, b"")
    }

    /// POST with a body of known length.
    #[track_caller]
    pub fn post(&mut self, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.request("POST", target, headers, body)
    }

    /// Any request; Host and Content-Length are added where they are not given
    /// and needed.
    #[track_caller]
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.send(request_bytes(method, target, headers, body));
        self.reply_to(method)
    }
}

/// The bytes of a request as [`Client::request`] sends it.
fn request_bytes(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let given = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    let mut bytes = format!("{method} {target} HTTP/1.1\r\n");
    if !given("host") {
        bytes.push_str(&format!("Host: {HOST}\r\n"));
    }
    for (name, value) in headers {
        bytes.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() && !given("content-length") && !given("transfer-encoding") {
        bytes.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    bytes.push_str("\r\n");
    [bytes.as_bytes(), body].concat()
}

/// Whether the peer ended the connection the hard way, which happens when it
/// closes with bytes of ours unread.
fn gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
