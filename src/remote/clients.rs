//! `tollgate clients import` and `export`: a million clients through an API that takes 64 KiB at
//! a time.
//!
//! Each piece is set whole or not at all, and setting it again changes nothing. So an import that
//! broke off, for whatever reason, is begun again from the start.

use super::rows::{RowReader, heading, line};
use super::{Answer, Remote};
use crate::cli::Format;
use crate::clock;
use serde_json::Value;
use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};
use thiserror::Error;

/// What one request may hold: clients, and bytes, below the 64 KiB of the API.
const MAX_ROWS: usize = 500;
const MAX_BYTES: usize = 56 << 10;
/// Bytes of a line. An id has 256 at the most.
const MAX_LINE: u64 = 4 << 10;
/// Errors that are told at a time.
const MAX_ERRORS: usize = 20;
/// Clients of an answer.
const PAGE: usize = 1_000;
/// How often a gateway that cannot write at the moment is asked again, a second apart: a
/// successor takes 30 seconds at the most.
const PATIENCE: usize = 40;

/// Why not all clients were imported or exported.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// Lines are wrong.
    #[error(
        "{0}\nnothing was set from line {1} on; {2} clients before it were. Mend the file and \
         import it again"
    )]
    Lines(String, usize, usize),
    /// The gateway refused.
    #[error("the gateway answers {0}: {1}; {2} clients were set. Import the file again")]
    Refused(u16, String, usize),
    /// The gateway does not list its clients.
    #[error("the gateway answers {0}: {1}; not all clients were exported")]
    NotListed(u16, String),
    /// No gateway answers.
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// Standard output is closed.
    #[error("what was exported cannot be written: {0}")]
    Output(io::Error),
}

/// Sets the clients in `file`; how many there were.
///
/// # Errors
/// Why not all were set.
pub fn import(
    remote: &Remote,
    file: &Path,
    format: Option<Format>,
) -> Result<usize, TransferError> {
    let unread = |error| TransferError::File(file.display().to_string(), error);
    let is_stdin = file == Path::new("-");
    let (input, bytes): (Box<dyn Read>, u64) = match is_stdin {
        true => (Box::new(io::stdin()), 0),
        false => {
            let opened = File::open(file).map_err(unread)?;
            let bytes = opened.metadata().map_err(unread)?.len();
            (Box::new(opened), bytes)
        }
    };
    let mut input = BufReader::new(input);
    let mut importer = Importer {
        remote,
        reader: RowReader::new(format),
        piece: Piece::default(),
        line: 0,
        imported: 0,
        seen: HashSet::new(),
        hasher: RandomState::new(),
        progress: Progress::new(bytes),
    };
    loop {
        let mut text = Vec::new();
        let read = input.by_ref().take(MAX_LINE).read_until(b'\n', &mut text).map_err(unread)?;
        if read == 0 {
            importer.send()?;
            importer.progress.end();
            return Ok(importer.imported);
        }
        importer.take(&text)?;
    }
}

/// What is to be sent next.
#[derive(Default)]
struct Piece {
    /// Where it begins in the file.
    first_line: usize,
    /// Clients, with commas between.
    rows: String,
    count: usize,
    errors: Vec<String>,
}

struct Importer<'a> {
    remote: &'a Remote,
    reader: RowReader,
    piece: Piece,
    line: usize,
    imported: usize,
    /// Digests of the clients so far, eight bytes each: a million ids are longer, and two of so
    /// many share a digest in one of ten million files.
    seen: HashSet<u64>,
    hasher: RandomState,
    progress: Progress,
}

impl Importer<'_> {
    fn take(&mut self, text: &[u8]) -> Result<(), TransferError> {
        self.line += 1;
        self.progress.bytes += text.len() as u64;
        if self.piece.first_line == 0 {
            self.piece.first_line = self.line;
        }
        let is_whole = text.len() < MAX_LINE as usize;
        let row = match std::str::from_utf8(text) {
            Ok(text) if is_whole => self.reader.read(text),
            Ok(_) => Err(format!("the line is longer than {MAX_LINE} bytes")),
            Err(_) => Err("the line is not UTF-8".to_owned()),
        };
        match row {
            Ok(None) => {}
            Ok(Some(row)) if !self.is_new(&row) => {
                let error = format!("line {}: {} is there twice", self.line, row["client"]);
                self.piece.errors.push(error);
            }
            Ok(Some(mut row)) => {
                row["line"] = self.line.into();
                let row = row.to_string();
                if self.piece.rows.len() + row.len() > MAX_BYTES {
                    self.send()?;
                    self.piece.first_line = self.line;
                }
                if !self.piece.rows.is_empty() {
                    self.piece.rows.push(',');
                }
                self.piece.rows.push_str(&row);
                self.piece.count += 1;
            }
            Err(error) => self.piece.errors.push(format!("line {}: {error}", self.line)),
        }
        let has_enough = !is_whole || self.piece.errors.len() >= MAX_ERRORS;
        if has_enough || self.piece.count >= MAX_ROWS { self.send() } else { Ok(()) }
    }

    /// Whether no line before named the same client. One that names none is the gateway's to refuse.
    fn is_new(&mut self, row: &Value) -> bool {
        let client = row["client"].as_str();
        client.is_none_or(|client| self.seen.insert(self.hasher.hash_one(client)))
    }

    /// Sends what there is, and waits while the gateway cannot write it.
    fn send(&mut self) -> Result<(), TransferError> {
        let piece = std::mem::take(&mut self.piece);
        if !piece.errors.is_empty() {
            return Err(self.wrong(&piece, &piece.errors));
        }
        if piece.count == 0 {
            return Ok(());
        }
        let body = format!("{{\"clients\":[{}]}}", piece.rows);
        let mut answer = self.post(&body)?;
        for _ in 0..PATIENCE {
            if answer.status != 503 {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            answer = self.post(&body)?;
        }
        match answer.status {
            200 => {
                self.imported += piece.count;
                self.progress.show(self.imported);
                Ok(())
            }
            400 => {
                let errors = answer.body["errors"].as_array().cloned().unwrap_or_default();
                let errors: Vec<String> = errors.iter().map(super::plain).collect();
                match errors.is_empty() {
                    false => Err(self.wrong(&piece, &errors)),
                    true => Err(refused(&answer, self.imported)),
                }
            }
            _ => Err(refused(&answer, self.imported)),
        }
    }

    fn post(&self, body: &str) -> Result<Answer, TransferError> {
        self.remote.send("POST", "/clients", body).map_err(TransferError::Unreachable)
    }

    fn wrong(&self, piece: &Piece, errors: &[String]) -> TransferError {
        TransferError::Lines(errors.join("\n"), piece.first_line, self.imported)
    }
}

fn refused(answer: &Answer, done: usize) -> TransferError {
    TransferError::Refused(answer.status, reason(answer), done)
}

fn reason(answer: &Answer) -> String {
    answer.body["detail"].as_str().unwrap_or("it gives no reason").to_owned()
}

/// What was exported.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// How many clients.
    pub clients: usize,
    /// How many of them are in a tier that the configuration no longer has. It may have it again
    /// one day, but until then they are in the default tier, and an import refuses their lines.
    pub without_tier: usize,
}

/// Writes the clients for which something is set to `out`.
///
/// # Errors
/// Why not all were written.
pub fn export(
    remote: &Remote,
    format: Format,
    prefix: &str,
    out: &mut impl Write,
) -> Result<Exported, TransferError> {
    let mut progress = Progress::new(0);
    let mut exported = Exported::default();
    let mut write = |text: &str| out.write_all(text.as_bytes()).map_err(TransferError::Output);
    let mut path = format!("/clients?limit={PAGE}&prefix={}", encoded(prefix));
    // Where nobody answers, nothing is written.
    let mut heading = Some(heading(format));
    loop {
        let answer = remote.ask("GET", &path).map_err(TransferError::Unreachable)?;
        if answer.status != 200 {
            return Err(TransferError::NotListed(answer.status, reason(&answer)));
        }
        heading.take().map_or(Ok(()), |heading| write(&heading))?;
        for client in answer.body["clients"].as_array().into_iter().flatten() {
            let (id, changed) = (client["client"].as_str().unwrap_or_default(), &client["changed"]);
            // One that only has a key has nothing that could be imported.
            if changed["tier"].is_string() || changed["capacity"].is_number() {
                write(&line(format, id, changed))?;
                exported.clients += 1;
                exported.without_tier += usize::from(!is_in_its_tier(client));
            }
        }
        progress.show(exported.clients);
        let Some(next) = answer.body["next"].as_str() else { break };
        path = format!("/clients?limit={PAGE}&prefix={}&after={}", encoded(prefix), encoded(next));
    }
    progress.end();
    out.flush().map_err(TransferError::Output)?;
    Ok(exported)
}

/// Whether a client is in the tier that was set for it, if one was.
fn is_in_its_tier(client: &Value) -> bool {
    let tier = client["tier"].as_str().unwrap_or_default();
    client["changed"]["tier"].as_str().is_none_or(|set| set.eq_ignore_ascii_case(tier))
}

/// A value in a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => {
                let _ = std::fmt::Write::write_fmt(&mut encoded, format_args!("%{byte:02X}"));
            }
        }
    }
    encoded
}

/// How far it has come, on standard error: on one line that changes where that is a terminal, else
/// on a new line every second.
struct Progress {
    total_bytes: u64,
    bytes: u64,
    is_terminal: bool,
    shown: Instant,
    has_shown: bool,
}

impl Progress {
    fn new(total_bytes: u64) -> Progress {
        let is_terminal = io::stderr().is_terminal();
        Progress { total_bytes, bytes: 0, is_terminal, shown: clock::now(), has_shown: false }
    }

    fn show(&mut self, clients: usize) {
        let now = clock::now();
        let every = Duration::from_millis(if self.is_terminal { 100 } else { 1_000 });
        if now.saturating_duration_since(self.shown) < every {
            return;
        }
        (self.shown, self.has_shown) = (now, true);
        let share = match (self.bytes * 100).checked_div(self.total_bytes) {
            Some(percent) => format!(" ({percent} %)"),
            None => String::new(),
        };
        let (start, end) = if self.is_terminal { ("\r", "") } else { ("", "\n") };
        let _ = write!(io::stderr(), "{start}{clients} clients{share}{end}");
    }

    /// Leaves the line.
    fn end(&self) {
        if self.has_shown && self.is_terminal {
            let _ = writeln!(io::stderr());
        }
    }
}
