//! The access log: one line a request, written by a thread of its own.
//!
//! Workers append finished lines to a few shared buffers; the writer empties them many
//! times a second. A worker never waits for the disk: when a buffer is full because the
//! writer cannot keep up, the line is dropped and counted. Handing each line over through
//! a channel would wake the writer for every request, which costs more than the line.

use crate::config::{AccessLog as Target, AccessLogFormat};
use jiff::Timestamp;
use prometheus::IntCounter;
use serde::{Serialize, Serializer};
use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Buffers; workers are spread over them.
const SHARDS: usize = 8;
/// Bytes a buffer may hold before lines are dropped.
const SHARD_BYTES: usize = 2 << 20;
/// How long a line waits at most before it is written.
const WRITE_INTERVAL: Duration = Duration::from_millis(50);
/// How long the end of the process waits for the last lines to be written.
const FLUSH_TIME: Duration = Duration::from_millis(500);

/// What is written about one request.
#[derive(Debug, Serialize)]
pub struct Entry<'a> {
    /// When it was finished.
    #[serde(serialize_with = "to_millisecond")]
    pub time: Timestamp,
    /// Its trace id.
    pub trace_id: &'a str,
    /// Its client: an id, or the address that stands for one. Empty before it is known.
    pub client: &'a str,
    /// The address it came from.
    pub client_ip: Option<&'a str>,
    /// Its client's tier.
    pub tier: &'a str,
    /// Its method.
    pub method: &'a str,
    /// Its host, as sent.
    pub host: &'a str,
    /// Its path, as sent, without the query.
    pub path: &'a str,
    /// Its query.
    pub query: Option<&'a str>,
    /// Its protocol version.
    pub protocol: &'a str,
    /// The route that took it, or `none`.
    pub route: &'a str,
    /// The server that answered, or was asked last.
    pub upstream: Option<&'a str>,
    /// Attempts at the upstream.
    pub attempts: u32,
    /// What came of each attempt, where the first did not succeed.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tries: &'a [Try<'a>],
    /// The status it was answered with; 499 when the client had gone.
    pub status: u16,
    /// Bytes of the response's body.
    pub bytes_sent: usize,
    /// Bytes of the request's body that were read.
    pub bytes_received: usize,
    /// From the complete head to the end of the response.
    pub duration_seconds: f64,
    /// The policy that refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<&'a str>,
    /// The shadow policies that would have refused it.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub shadow: &'a [&'a str],
    /// Why the gateway answered by itself: the end of the problem's type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<&'static str>,
    /// Its `User-Agent`.
    pub user_agent: Option<&'a str>,
    /// Its `Referer`.
    pub referer: Option<&'a str>,
}

/// One attempt at an upstream.
#[derive(Debug, Serialize)]
pub struct Try<'a> {
    /// The server that was asked.
    pub upstream: &'a str,
    /// What came of it, as in `gateway_upstream_attempts_total`.
    pub outcome: &'static str,
    /// The status it answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Until its answer began, or it failed.
    pub duration_seconds: f64,
}

impl Entry<'_> {
    /// The line of a request that was refused before it could be read. Pingora gives no
    /// reason that could stand in `refusal`.
    pub fn unread<'a>(
        trace_id: &'a str,
        client_ip: Option<&'a str>,
        status: u16,
        refusal: Option<&'static str>,
    ) -> Entry<'a> {
        Entry {
            time: crate::clock::timestamp(),
            trace_id,
            client: "",
            client_ip,
            tier: "none",
            method: "",
            host: "",
            path: "",
            query: None,
            protocol: "",
            route: "none",
            upstream: None,
            attempts: 0,
            tries: &[],
            status,
            bytes_sent: 0,
            bytes_received: 0,
            duration_seconds: 0.0,
            limited_by: None,
            shadow: &[],
            refusal,
            user_agent: None,
            referer: None,
        }
    }
}

/// The workers' side of the log.
#[derive(Clone)]
pub struct AccessLog(Arc<Shared>);

struct Shared {
    format: AccessLogFormat,
    shards: [Mutex<Vec<u8>>; SHARDS],
    dropped: IntCounter,
    /// Held while buffers are written out; guards the output.
    output: Mutex<Output>,
    wake: Condvar,
}

enum Output {
    Stdout,
    File(File),
}

impl AccessLog {
    /// Opens the log and starts its writer; none when no log is configured.
    ///
    /// # Errors
    /// When the file cannot be opened or the thread cannot be started.
    pub fn open(target: &Target, dropped: IntCounter) -> io::Result<Option<AccessLog>> {
        let (output, format) = match target {
            Target::None => return Ok(None),
            Target::Stdout { format } => (Output::Stdout, *format),
            Target::File { path, format } => {
                let file = OpenOptions::new().create(true).append(true).open(path)?;
                (Output::File(file), *format)
            }
        };
        let shared = Arc::new(Shared {
            format,
            shards: Default::default(),
            dropped,
            output: Mutex::new(output),
            wake: Condvar::new(),
        });
        let writer = shared.clone();
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            loop {
                let output = lock(&writer.output);
                let (mut output, _) = writer
                    .wake
                    .wait_timeout(output, WRITE_INTERVAL)
                    .unwrap_or_else(PoisonError::into_inner);
                writer.write_out(&mut output);
            }
        })?;
        Ok(Some(AccessLog(shared)))
    }

    /// Appends a line. Never blocks on the output.
    pub fn record(&self, entry: &Entry<'_>) {
        let mut shard = lock(&self.0.shards[shard_of_thread()]);
        if shard.len() >= SHARD_BYTES {
            self.0.dropped.inc();
            return;
        }
        let start = shard.len();
        let written = match self.0.format {
            AccessLogFormat::Json => serde_json::to_writer(&mut *shard, entry).is_ok(),
            AccessLogFormat::Combined => combined(&mut shard, entry).is_ok(),
        };
        if written {
            shard.push(b'\n');
        } else {
            shard.truncate(start);
        }
    }

    /// Writes out everything recorded so far, or what the output takes of it in
    /// `FLUSH_TIME`: a reader that stands still must not keep the process from ending.
    pub fn flush(&self) {
        let (done, flushed) = std::sync::mpsc::channel();
        let shared = self.0.clone();
        let write = move || {
            shared.write_out(&mut lock(&shared.output));
            let _ = done.send(());
        };
        if std::thread::Builder::new().name("access-log-flush".into()).spawn(write).is_ok() {
            let _ = flushed.recv_timeout(FLUSH_TIME);
        }
    }
}

impl Shared {
    fn write_out(&self, output: &mut Output) {
        for shard in &self.shards {
            let lines = std::mem::take(&mut *lock(shard));
            if lines.is_empty() {
                continue;
            }
            let result = match output {
                Output::Stdout => io::stdout().lock().write_all(&lines),
                Output::File(file) => file.write_all(&lines),
            };
            if let Err(error) = result {
                let count = memchr::memchr_iter(b'\n', &lines).count();
                self.dropped.inc_by(count as u64);
                log::error!("cannot write the access log, {count} lines are lost: {error}");
            }
        }
    }
}

/// A panic elsewhere leaves the bytes of a buffer as they were; it is used on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn shard_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
    }
    SHARD.with(|shard| *shard)
}

/// RFC 3339 with milliseconds. All but those is the same for a whole second and kept.
fn to_millisecond<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    thread_local! {
        static SECOND: Cell<(i64, [u8; 24])> = const { Cell::new((i64::MIN, [0; 24])) };
    }
    let (second, mut text) = SECOND.get();
    if second != time.as_second() {
        let fresh = time.strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
        // Years of more than four digits lie beyond this clock.
        text = fresh.into_bytes().try_into().unwrap_or(text);
        SECOND.set((time.as_second(), text));
    }
    let millisecond = time.subsec_millisecond().unsigned_abs();
    text[20] += (millisecond / 100) as u8;
    text[21] += (millisecond / 10 % 10) as u8;
    text[22] += (millisecond % 10) as u8;
    serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
}

/// The combined log format of Apache httpd and nginx.
fn combined(out: &mut Vec<u8>, entry: &Entry<'_>) -> io::Result<()> {
    match entry.client_ip {
        Some(ip) => out.extend_from_slice(ip.as_bytes()),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" - ");
    field(out, entry.client);
    write!(out, " [{}] \"", entry.time.strftime("%d/%b/%Y:%H:%M:%S +0000"))?;
    quoted(out, entry.method);
    out.push(b' ');
    quoted(out, entry.path);
    if let Some(query) = entry.query {
        out.push(b'?');
        quoted(out, query);
    }
    write!(out, " {}\" {} {} \"", entry.protocol, entry.status, entry.bytes_sent)?;
    quoted(out, entry.referer.unwrap_or("-"));
    out.extend_from_slice(b"\" \"");
    quoted(out, entry.user_agent.unwrap_or("-"));
    out.push(b'"');
    Ok(())
}

fn field(out: &mut Vec<u8>, text: &str) {
    if text.is_empty() { out.push(b'-') } else { quoted(out, text) }
}

/// Text within quotes: what could end the quotes or the line is written as `\xXX`.
fn quoted(out: &mut Vec<u8>, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' | 0..=0x1f | 0x7f..=0xff => {
                // Writing to a vector cannot fail.
                let _ = write!(out, "\\x{byte:02X}");
            }
            byte => out.push(byte),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry<'static> {
        Entry {
            time: Timestamp::from_second(1_700_000_000).unwrap(),
            trace_id: "abc",
            client: "c1",
            client_ip: Some("192.0.2.1"),
            tier: "free",
            method: "GET",
            host: "example.com",
            path: "/a",
            query: Some("b=\"c"),
            protocol: "HTTP/1.1",
            route: "users",
            upstream: None,
            attempts: 1,
            tries: &[],
            status: 200,
            bytes_sent: 5,
            bytes_received: 0,
            duration_seconds: 0.25,
            limited_by: None,
            shadow: &[],
            refusal: None,
            user_agent: Some("evil\"\n"),
            referer: None,
        }
    }

    #[test]
    fn a_combined_line_cannot_be_broken_by_what_a_client_sends() {
        let mut line = Vec::new();
        combined(&mut line, &entry()).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            "192.0.2.1 - c1 [14/Nov/2023:22:13:20 +0000] \"GET /a?b=\\x22c HTTP/1.1\" 200 5 \
             \"-\" \"evil\\x22\\x0A\""
        );
    }

    #[test]
    fn the_time_has_milliseconds_in_every_second() {
        for (second, nanosecond, text) in [
            (1_700_000_000, 7_000_000, "\"2023-11-14T22:13:20.007Z\""),
            (1_700_000_000, 999_999_999, "\"2023-11-14T22:13:20.999Z\""),
            (1_700_000_001, 0, "\"2023-11-14T22:13:21.000Z\""),
        ] {
            let mut line = Vec::new();
            let time = Timestamp::new(second, nanosecond).unwrap();
            to_millisecond(&time, &mut serde_json::Serializer::new(&mut line)).unwrap();
            assert_eq!(String::from_utf8(line).unwrap(), text);
        }
    }

    #[test]
    fn lines_reach_the_file_and_a_full_buffer_drops_and_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let target = Target::File { path: path.clone(), format: AccessLogFormat::Json };
        let dropped = IntCounter::new("dropped", "help").unwrap();
        let log = AccessLog::open(&target, dropped.clone()).unwrap().unwrap();
        {
            // With the output held the writer stands still.
            let _held = lock(&log.0.output);
            let line = serde_json::to_vec(&entry()).unwrap().len();
            for _ in 0..SHARD_BYTES / line + 100 {
                log.record(&entry());
            }
        }
        log.flush();
        let written = std::fs::read_to_string(&path).unwrap();
        let lines = written.lines().count();
        assert!(dropped.get() > 0);
        assert!(lines > 0);
        let first: serde_json::Value =
            serde_json::from_str(written.lines().next().unwrap()).unwrap();
        assert_eq!((&first["status"], &first["route"]), (&200.into(), &"users".into()));
        assert_eq!(first["user_agent"], "evil\"\n");
    }
}
