//! The commands that steer a running gateway: thin clients of its admin API.
//!
//! They read the same file as the gateway, for the API's address and token. One request on a
//! connection of its own; a client library would be larger than all of this.

mod screen;

pub use screen::{SCREEN_PATHS, describe_status};

use crate::config::Admin;
use anyhow::{Context, bail};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the gateway may take to accept, and to answer: a reload waits for new names.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// The largest answer that is read.
const MAX_ANSWER: u64 = 16 << 20;
/// Header fields of an answer.
const MAX_HEADERS: usize = 64;

/// The admin API of a running gateway.
pub struct Remote {
    address: SocketAddr,
    token: Option<String>,
}

/// An answer of it.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its body; null where that is no JSON.
    pub body: Value,
}

impl Remote {
    /// The API that `admin` describes.
    pub fn of(admin: &Admin) -> Remote {
        let token = admin.token.as_ref().map(|token| token.expose().to_owned());
        Remote { token, ..Remote::at(admin.listen) }
    }

    /// What listens at `address`, without a token; on every address, loopback is asked.
    pub fn at(mut address: SocketAddr) -> Remote {
        match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
            IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
            _ => {}
        }
        Remote { address, token: None }
    }

    /// Sends one request without a body.
    ///
    /// # Errors
    /// When no gateway answers there, or not with HTTP.
    pub fn ask(&self, method: &str, path: &str) -> anyhow::Result<Answer> {
        let Remote { address, token } = self;
        let mut stream =
            TcpStream::connect_timeout(address, CONNECT_TIMEOUT).with_context(|| {
                format!("no gateway answers at {address}; is that where it listens?")
            })?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
        if let Some(token) = token {
            let _ = write!(head, "Authorization: Bearer {token}\r\n");
        }
        head.push_str("Content-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MAX_ANSWER).read_to_end(&mut answer).context("the gateway did not answer")?;
        parse(&answer)
    }
}

fn parse(answer: &[u8]) -> anyhow::Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(answer)? else {
        bail!("the answer ended within its head; is this the admin API?");
    };
    // The API names the length of every answer of its own.
    let body = serde_json::from_slice(&answer[head..]).unwrap_or(Value::Null);
    Ok(Answer { status: response.code.unwrap_or_default(), body })
}

/// Where a reload is asked for: of the file, or of the configuration of a generation.
pub fn reload_path(to: Option<u64>) -> String {
    to.map_or_else(|| "/reload".to_owned(), |generation| format!("/config/history/{generation}"))
}

/// What a reload came to, for people.
pub fn describe_reload(answer: &Answer) -> String {
    let mut text = String::new();
    let list = |name: &str| answer.body[name].as_array().cloned().unwrap_or_default();
    for warning in list("warnings") {
        let _ = writeln!(text, "warning: {}", plain(&warning));
    }
    for error in list("errors") {
        let _ = writeln!(text, "{}", plain(&error));
    }
    if answer.status == 200 {
        let changed = list("changed");
        let _ =
            writeln!(text, "generation {}: {} changes", answer.body["generation"], changed.len());
        for change in changed {
            let _ = writeln!(text, "  {}", plain(&change));
        }
    } else {
        let detail = answer.body["detail"].as_str().unwrap_or("the gateway gave no reason");
        let _ = writeln!(text, "not reloaded ({}): {detail}", answer.status);
    }
    text
}

/// What an upgrade came to, for people.
pub fn describe_upgrade(answer: &Answer) -> String {
    match answer.body["process"].as_i64() {
        Some(process) if answer.status == 200 => format!("process {process} serves now\n"),
        _ => {
            let detail = answer.body["detail"].as_str().unwrap_or("the gateway gave no reason");
            format!("not upgraded ({}): {detail}\n", answer.status)
        }
    }
}

/// Text as it is, everything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
