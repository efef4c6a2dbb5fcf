//! A client for single requests: enough to check what a contender answers and to tell a
//! gateway what to do.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// The header by which every contender knows a client.
pub(crate) const CLIENT_HEADER: &str = "X-Client-ID";
/// How long one answer may take before it counts as missing.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// The largest answer that is read.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// One answer as it came over the wire.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    /// Head and body together, unchanged.
    pub(crate) raw: Vec<u8>,
    head_len: usize,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn body(&self) -> &[u8] {
        self.raw.get(self.head_len..).unwrap_or_default()
    }
}

/// Opens a connection and asks once.
pub(crate) fn get(address: SocketAddr, path: &str, client: &str) -> anyhow::Result<Answer> {
    ask(&mut connect(address)?, path, client)
}

/// Opens a connection on which an answer that stays away is an error.
pub(crate) fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, ANSWER_DEADLINE)?;
    stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks once on an open connection, which stays open.
pub(crate) fn ask(stream: &mut TcpStream, path: &str, client: &str) -> anyhow::Result<Answer> {
    let host = stream.peer_addr()?;
    stream.write_all(request_text(host, path, client).as_bytes())?;
    read_answer(stream)
}

/// Opens a connection and posts a JSON document, as the admin API takes them.
pub(crate) fn post(address: SocketAddr, path: &str, json: &str) -> anyhow::Result<Answer> {
    let mut stream = connect(address)?;
    let length = json.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{json}"
    );
    stream.write_all(request.as_bytes())?;
    read_answer(&mut stream)
}

/// A request for `path` by `client` as it goes over the wire.
pub(crate) fn request_text(host: SocketAddr, path: &str, client: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{CLIENT_HEADER}: {client}\r\n\r\n")
}

fn read_answer(stream: &mut TcpStream) -> anyhow::Result<Answer> {
    let mut raw = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).context("no answer")?;
        ensure!(read > 0, "the connection was closed inside an answer");
        raw.extend_from_slice(buffer.get(..read).unwrap_or_default());
        if let Some(answer) = parse(&raw)? {
            return Ok(answer);
        }
        ensure!(raw.len() < MAX_ANSWER_BYTES, "the answer is too long");
    }
}

/// The answer, once all of it is there.
pub(crate) fn parse(raw: &[u8]) -> anyhow::Result<Option<Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head_len) = response.parse(raw)? else { return Ok(None) };
    let status = response.code.context("an answer without a status")?;
    let headers = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()));
    let answer = Answer { status, headers: headers.collect(), raw: raw.to_vec(), head_len };
    let Some(length) = answer.header("content-length") else {
        bail!("an answer without Content-Length: status {status}");
    };
    let length: usize = length.parse()?;
    Ok((answer.body().len() >= length).then_some(answer))
}
