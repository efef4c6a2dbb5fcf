//! The lines of an access log.

use super::{IpAddr, Ipv4Addr};
use jiff::Timestamp;
use serde::Deserialize;
use std::io::{self, BufRead, Read};

/// The longest line in bytes; the gateway's own are bounded by `max_head`.
const MAX_LINE: u64 = 256 << 10;

/// What a line says of a request, as far as it is needed.
#[derive(Debug, Deserialize)]
pub(super) struct Line {
    /// When it was finished.
    pub(super) time: Timestamp,
    pub(super) client: String,
    pub(super) client_ip: Option<IpAddr>,
    pub(super) tier: String,
    pub(super) method: String,
    pub(super) host: String,
    pub(super) path: String,
    pub(super) route: String,
    pub(super) status: u16,
    pub(super) duration_seconds: f64,
    #[serde(default)]
    pub(super) limited_by: Option<String>,
    #[serde(default)]
    pub(super) refusal: Option<String>,
    #[serde(default)]
    pub(super) shadow: Vec<String>,
}

impl Line {
    /// When the request began, in nanoseconds since 1970.
    pub(super) fn began_ns(&self) -> u64 {
        let ended_ns = u64::try_from(self.time.as_nanosecond()).unwrap_or(0);
        let took_ns = (self.duration_seconds.max(0.0) * 1e9) as u64;
        // Not the first second: a state of nought is an untouched bucket.
        ended_ns.saturating_sub(took_ns).max(1_000_000_000)
    }

    /// The address the request came from.
    pub(super) fn source(&self) -> IpAddr {
        self.client_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
    }

    /// The client's id, where it is not an address.
    pub(super) fn client_id(&self) -> Option<&str> {
        let id = &*self.client;
        (!id.is_empty() && id.parse::<IpAddr>().is_err()).then_some(id)
    }

    /// Whether the gateway refused it for what a configuration of limits does not change.
    pub(super) fn was_kept_out(&self) -> bool {
        const DECIDED_ANEW: [&str; 4] =
            ["rate-limited", "no-route", "method-not-allowed", "api-key-required"];
        match self.refusal.as_deref() {
            // What an upstream failed at had been charged.
            None => false,
            Some(_) if matches!(self.status, 502 | 504) => false,
            Some("client-timeout" | "internal") => false,
            Some(refusal) => !DECIDED_ANEW.contains(&refusal),
        }
    }
}

/// What comes next in a log.
pub(super) enum Next {
    Line(Box<Line>),
    /// A line that is no request: its number, and why.
    Malformed(u64, String),
    End,
}

/// Reads lines, one at a time.
pub(super) struct Lines {
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
    bytes: u64,
}

impl Lines {
    pub(super) fn new(input: Box<dyn BufRead>) -> Lines {
        Lines { input, line: Vec::new(), number: 0, bytes: 0 }
    }

    /// Lines so far.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn next(&mut self) -> io::Result<Next> {
        loop {
            self.line.clear();
            let read = self.read()?;
            if read == 0 {
                return Ok(Next::End);
            }
            self.number += 1;
            if self.line.len() as u64 == MAX_LINE && !self.line.ends_with(b"\n") {
                while !self.line.ends_with(b"\n") {
                    self.line.clear();
                    if self.read()? == 0 {
                        break;
                    }
                }
                return Ok(Next::Malformed(self.number, "the line is too long".to_owned()));
            }
            let text = self.line.trim_ascii();
            if text.is_empty() {
                continue;
            }
            return Ok(match serde_json::from_slice::<Line>(text) {
                Ok(line) if line.method.is_empty() => {
                    // A head that never became a request: no limit saw it, none would.
                    continue;
                }
                Ok(line) => Next::Line(Box::new(line)),
                Err(error) => Next::Malformed(self.number, without_line(&error)),
            });
        }
    }

    fn read(&mut self) -> io::Result<u64> {
        let read = (&mut self.input).take(MAX_LINE).read_until(b'\n', &mut self.line)? as u64;
        self.bytes += read;
        Ok(read)
    }
}

/// Every line is the first one to its parser.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or(&text).to_owned()
}
