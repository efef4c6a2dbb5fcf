//! Where a request's body ends.
//!
//! The guard follows the framing byte by byte, so that it hands Pingora exactly the bytes
//! of one message and knows where the next head begins, and so that chunk framing two
//! parsers could read differently is never forwarded.

use super::fault::Fault;
use super::head::{Framing, has_control, split_field};

/// Bytes of extensions one chunk may carry. They have no use and a history of abuse.
const MAX_CHUNK_EXTENSION: usize = 256;
/// Bytes of one trailer line, and lines of a trailer section.
const MAX_TRAILER_LINE: usize = 4_096;
const MAX_TRAILERS: usize = 32;
/// Hexadecimal digits of a chunk size: 2^60 bytes are enough and cannot overflow.
const MAX_SIZE_DIGITS: u8 = 15;

/// Follows one body to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct BodyTracker(Progress);

#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// This many bytes are left.
    Length(u64),
    /// Somewhere in chunked framing.
    Chunked(Chunks),
}

/// A place in chunked framing.
#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    /// Reading a size: its value and digits so far.
    Size { size: u64, digits: u8 },
    /// In the extensions of a chunk of this size.
    Extension { size: u64, length: usize },
    /// Behind the CR that ends the size line.
    SizeEnd { size: u64 },
    /// In data.
    Data { left: u64 },
    /// Behind data: before CR, before LF.
    DataCr,
    /// As above.
    DataLf,
    /// In the trailer section: the current line, and lines so far.
    Trailer { line: Vec<u8>, lines: usize },
    /// Behind the last byte.
    Done,
    /// Behind a byte that must not stand where it does: there is no way on.
    Broken,
}

impl BodyTracker {
    /// At the beginning of a body.
    pub fn new(framing: Framing) -> BodyTracker {
        BodyTracker(match framing {
            Framing::Length(length) => Progress::Length(length),
            Framing::Chunked => Progress::Chunked(Chunks::Size { size: 0, digits: 0 }),
        })
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        matches!(self.0, Progress::Length(0) | Progress::Chunked(Chunks::Done))
    }

    /// Follows `bytes` and returns how many of them belong to this body.
    ///
    /// # Errors
    /// When the chunked framing is malformed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match &mut self.0 {
            Progress::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(taken)
            }
            Progress::Chunked(chunks) => {
                let mut at = 0;
                while at < bytes.len() && *chunks != Chunks::Done {
                    at += chunks.step(&bytes[at..])?;
                }
                Ok(at)
            }
        }
    }
}

impl Chunks {
    /// Moves over at least one byte of `bytes`, which is not empty.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        if let Chunks::Data { left } = self {
            let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= taken as u64;
            if *left == 0 {
                *self = Chunks::DataCr;
            }
            return Ok(taken);
        }
        self.byte(bytes[0])?;
        Ok(1)
    }

    fn byte(&mut self, byte: u8) -> Result<(), Fault> {
        *self = match (std::mem::replace(self, Chunks::Broken), byte) {
            (Chunks::Size { size, digits }, byte) => after_size(size, digits, byte)?,
            (Chunks::Extension { size, .. }, b'\r') => Chunks::SizeEnd { size },
            (Chunks::Extension { size, length }, b'\t' | b' '..=b'~') => {
                if length >= MAX_CHUNK_EXTENSION {
                    return Err(Fault::ChunkExtension);
                }
                Chunks::Extension { size, length: length + 1 }
            }
            (Chunks::SizeEnd { size: 0 }, b'\n') => Chunks::Trailer { line: Vec::new(), lines: 0 },
            (Chunks::SizeEnd { size }, b'\n') => Chunks::Data { left: size },
            (Chunks::DataCr, b'\r') => Chunks::DataLf,
            (Chunks::DataLf, b'\n') => Chunks::Size { size: 0, digits: 0 },
            (Chunks::Trailer { line, lines }, byte) => after_trailer(line, lines, byte)?,
            _ => return Err(Fault::Chunk),
        };
        Ok(())
    }
}

fn after_size(size: u64, digits: u8, byte: u8) -> Result<Chunks, Fault> {
    match (char::from(byte).to_digit(16), byte) {
        (Some(digit), _) if digits < MAX_SIZE_DIGITS => {
            Ok(Chunks::Size { size: size << 4 | u64::from(digit), digits: digits + 1 })
        }
        (None, b'\r') if digits > 0 => Ok(Chunks::SizeEnd { size }),
        (None, b';') if digits > 0 => Ok(Chunks::Extension { size, length: 1 }),
        _ => Err(Fault::Chunk),
    }
}

fn after_trailer(mut line: Vec<u8>, lines: usize, byte: u8) -> Result<Chunks, Fault> {
    if byte != b'\n' {
        if line.len() >= MAX_TRAILER_LINE {
            return Err(Fault::Trailer);
        }
        line.push(byte);
        return Ok(Chunks::Trailer { line, lines });
    }
    match line.strip_suffix(b"\r").ok_or(Fault::Trailer)? {
        b"" => Ok(Chunks::Done),
        field if lines < MAX_TRAILERS => {
            let (name, _) = split_field(field).map_err(|_| Fault::Trailer)?;
            if has_control(field) || field.contains(&b'\r') || is_forbidden_trailer(name) {
                return Err(Fault::Trailer);
            }
            line.clear();
            Ok(Chunks::Trailer { line, lines: lines + 1 })
        }
        _ => Err(Fault::Trailer),
    }
}

/// Fields that would change what the message is (RFC 9110, section 6.5.1).
fn is_forbidden_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 5] =
        [b"content-length", b"transfer-encoding", b"host", b"authorization", b"te"];
    FORBIDDEN.iter().any(|forbidden| name.eq_ignore_ascii_case(forbidden))
}
