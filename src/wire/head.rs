//! The head of an HTTP/1 request, read strictly.
//!
//! Nobody stands in front of an edge gateway, so a request that two parsers could read in
//! two ways must end here. Pingora's parser is made for a friendlier place: it accepts
//! bare LF, drops `Content-Length` beside `Transfer-Encoding`, joins equal lengths and
//! repairs request lines. What passes this check is the narrow middle of RFC 9112 that
//! all implementations agree on; everything else is refused before the parser sees it.
//!
//! One pass over the head, no allocation.

use super::fault::Fault;
use memchr::memmem::Finder;
use std::ops::Range;
use std::sync::LazyLock;

/// Bounds on a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the whole head.
    pub max_head: usize,
    /// Header fields.
    pub max_headers: usize,
    /// Bytes of the request target.
    pub max_uri: usize,
}

/// A head that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How its body is framed.
    pub framing: Framing,
    /// Where `scheme://authority` of an absolute-form target lies. It says what Host says and
    /// is cut out, so that every request goes on in origin form.
    pub authority: Option<Range<usize>>,
}

/// How the body behind a head is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes; no body is zero.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// Bytes a method may have; the longest registered one has 17.
const MAX_METHOD: usize = 32;

/// Checks what can be said of a method and a target, in whatever form, before they are read
/// further.
///
/// # Errors
/// A target beyond `max_uri` bytes or with bytes that none may have; a method that is not served.
pub fn check_target(method: &[u8], target: &[u8], max_uri: usize) -> Result<(), Fault> {
    if target.len() > max_uri {
        return Err(Fault::TargetTooLong);
    }
    let path_end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path_end);
    if target.is_empty() || !path.iter().all(is_path_byte) || !query.iter().all(is_query_byte) {
        return Err(Fault::Target);
    }
    if method == b"CONNECT" {
        return Err(Fault::Connect);
    }
    Ok(())
}

/// Whether a path may have this byte. Pingora takes no other, and would refuse without a word.
fn is_path_byte(byte: &u8) -> bool {
    TARGET[*byte as usize] & IN_PATH != 0
}

/// The same for a query.
fn is_query_byte(byte: &u8) -> bool {
    TARGET[*byte as usize] & IN_QUERY != 0
}

const IN_PATH: u8 = 1;
const IN_QUERY: u8 = 2;

/// Where in a target a byte may be.
const TARGET: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let of_target = byte as u8;
        if of_target.is_ascii_graphic() && !matches!(of_target, b'#' | b'<' | b'>') {
            let in_path = if of_target == b'`' { 0 } else { IN_PATH };
            let in_query = if of_target == b'"' { 0 } else { IN_QUERY };
            table[byte] = in_path | in_query;
        }
        byte += 1;
    }
    table
};

/// Looks for the end of a head in `bytes`, of which the first `seen` held no end.
///
/// Returns the head's length, blank line included. A bare LF that ends a line followed by
/// another ends the head too, so that a head written with bare LFs is found, and refused,
/// instead of waited for.
pub fn end_of_head(bytes: &[u8], seen: usize) -> Option<usize> {
    if seen == 0 && is_one_head(bytes) {
        return Some(bytes.len());
    }
    static BLANK: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n\r\n"));
    static BARE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\n\n"));
    let from = seen.saturating_sub(3);
    let unseen = &bytes[from..];
    let end = BLANK.find(unseen).map(|at| at + 3);
    let bare = BARE.find(&unseen[..end.unwrap_or(unseen.len())]).map(|at| at + 2);
    bare.or(end).map(|end| from + end)
}

/// Whether the bytes end as a head does, and none of its lines before is blank: nearly always the
/// case, and told by a plain sum over them.
fn is_one_head(bytes: &[u8]) -> bool {
    let Some(lines) = bytes.strip_suffix(b"\r\n") else { return false };
    lines.ends_with(b"\r\n")
        && !any_pair(lines, |b, next| (b == b'\n') & ((next == b'\r') | (next == b'\n')))
}

/// Checks a complete head, its blank line included.
///
/// # Errors
/// The first thing in it that could be read in two ways, or the bound it exceeds.
pub fn inspect(head: &[u8], limits: &HeadLimits) -> Result<Checked, Fault> {
    if head.len() > limits.max_head {
        return Err(too_large(head, limits));
    }
    check_bytes(head)?;
    let mut lines = Lines(head);
    let request = parse_request_line(lines.next()?.ok_or(Fault::RequestLine)?, limits)?;
    let mut fields = Fields::default();
    let mut count = 0;
    while let Some(line) = lines.next()? {
        count += 1;
        if count > limits.max_headers {
            return Err(Fault::TooManyHeaders);
        }
        fields.read(line)?;
    }
    let framing = fields.check(&request)?;
    Ok(Checked { framing, authority: request.authority.map(|authority| authority.place) })
}

/// Which bound a head that is still growing exceeds, if any: an endless request line is an
/// over-long target.
pub fn too_large(head: &[u8], limits: &HeadLimits) -> Fault {
    let line = memchr::memchr(b'\n', head).unwrap_or(head.len());
    if line > limits.max_uri + MAX_METHOD { Fault::TargetTooLong } else { Fault::HeadTooLarge }
}

/// Lines of a head without bare ends, up to the blank one.
struct Lines<'a>(&'a [u8]);

impl<'a> Lines<'a> {
    fn next(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        let end = memchr::memchr(b'\n', self.0).ok_or(Fault::LineEnd)?;
        let (line, rest) = self.0.split_at(end + 1);
        self.0 = rest;
        let line = line.strip_suffix(b"\r\n").ok_or(Fault::LineEnd)?;
        Ok((!line.is_empty()).then_some(line))
    }
}

/// Looks for control characters other than tab and line ends, and for a CR without LF or the
/// other way round: all at once, since hardly any head has one.
fn check_bytes(head: &[u8]) -> Result<(), Fault> {
    let is_bare = |b, next| (b == b'\r') != (next == b'\n');
    let ends_well = head.first() != Some(&b'\n') && head.ends_with(b"\n");
    if ends_well && !any_pair(head, |b, next| is_control(b) | is_bare(b, next)) {
        return Ok(());
    }
    Err(if has_control(head) { Fault::HeaderValue } else { Fault::LineEnd })
}

/// Whether there is a control character other than tab and line ends.
pub(super) fn has_control(bytes: &[u8]) -> bool {
    bytes.iter().copied().any(is_control)
}

fn is_control(b: u8) -> bool {
    ((b < b' ') & (b != b'\t') & (b != b'\r') & (b != b'\n')) | (b == 0x7f)
}

/// Whether something is true of any byte and the one after it. A plain sum over pieces of one
/// size, so that the compiler makes each of them a few vector instructions; the last piece begins
/// within the one before.
fn any_pair(bytes: &[u8], is: impl Fn(u8, u8) -> bool) -> bool {
    const PIECE: usize = 16;
    let sum = |here: &[u8; PIECE], next: &[u8; PIECE]| {
        here.iter().zip(next).fold(false, |found, (&b, &next)| found | is(b, next))
    };
    let Some((_, next)) = bytes.split_first() else { return false };
    let here = &bytes[..next.len()];
    let (Some(last), Some(after)) = (here.last_chunk(), next.last_chunk()) else {
        return here.iter().zip(next).any(|(&b, &next)| is(b, next));
    };
    let pieces = here.as_chunks().0.iter().zip(next.as_chunks().0);
    pieces.fold(sum(last, after), |found, (here, next)| found | sum(here, next))
}

struct RequestLine<'a> {
    is_http_1_1: bool,
    authority: Option<Authority<'a>>,
}

/// The authority of an absolute-form target.
struct Authority<'a> {
    text: &'a [u8],
    /// Where it lies in the head, its scheme included.
    place: Range<usize>,
}

fn parse_request_line<'a>(line: &'a [u8], limits: &HeadLimits) -> Result<RequestLine<'a>, Fault> {
    let method_end = memchr::memchr(b' ', line).ok_or(Fault::RequestLine)?;
    let (method, rest) = (&line[..method_end], &line[method_end + 1..]);
    let target_end = memchr::memrchr(b' ', rest).ok_or(Fault::RequestLine)?;
    let (target, version) = (&rest[..target_end], &rest[target_end + 1..]);
    if method.is_empty() || method.len() > MAX_METHOD || !method.iter().all(|&b| is_token(b)) {
        return Err(Fault::Method);
    }
    let is_http_1_1 = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(Fault::Version),
    };
    check_target(method, target, limits.max_uri)?;
    let authority = match target[0] {
        b'/' => None,
        b'*' if target.len() == 1 && method == b"OPTIONS" => None,
        _ => Some(absolute_authority(target, method_end + 1).ok_or(Fault::Target)?),
    };
    Ok(RequestLine { is_http_1_1, authority })
}

/// The authority of `http://authority/path`, the target beginning at `start` of the head.
fn absolute_authority(target: &[u8], start: usize) -> Option<Authority<'_>> {
    let scheme_end = target.windows(3).position(|three| three == b"://")?;
    let scheme = &target[..scheme_end];
    if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
        return None;
    }
    let rest = &target[scheme_end + 3..];
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    Some(Authority { text: &rest[..end], place: start..start + scheme_end + 3 + end })
}

/// What the header fields say about framing and authority.
#[derive(Default)]
struct Fields<'a> {
    length: Option<u64>,
    is_chunked: bool,
    host: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn read(&mut self, line: &'a [u8]) -> Result<(), Fault> {
        let (name, value) = split_field(line)?;
        // Only three names matter here; their lengths tell most others apart at once.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.read_host(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.read_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.read_coding(value),
            _ => Ok(()),
        }
    }

    fn read_host(&mut self, value: &'a [u8]) -> Result<(), Fault> {
        let is_first = self.host.replace(value).is_none();
        if is_first && is_host(value) { Ok(()) } else { Err(Fault::Host) }
    }

    fn read_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        let length = parse_length(value).ok_or(Fault::ContentLength)?;
        if self.length.replace(length).is_none() { Ok(()) } else { Err(Fault::ContentLength) }
    }

    fn read_coding(&mut self, value: &[u8]) -> Result<(), Fault> {
        let is_first = !std::mem::replace(&mut self.is_chunked, true);
        if is_first && value.eq_ignore_ascii_case(b"chunked") {
            Ok(())
        } else {
            Err(Fault::TransferEncoding)
        }
    }

    fn check(&self, request: &RequestLine<'_>) -> Result<Framing, Fault> {
        if request.is_http_1_1 && self.host.is_none() {
            return Err(Fault::Host);
        }
        if let Some(Authority { text, .. }) = request.authority {
            let agrees = self.host.is_none_or(|host| host.eq_ignore_ascii_case(text));
            if !agrees || !is_host(text) {
                return Err(Fault::Authority);
            }
        }
        match (self.is_chunked, self.length) {
            (true, Some(_)) => Err(Fault::LengthAndChunked),
            (true, None) if !request.is_http_1_1 => Err(Fault::TransferEncoding),
            (true, None) => Ok(Framing::Chunked),
            (false, length) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }
}

/// Splits a field line, free of control characters, in its name and its value without the
/// space around it.
///
/// # Errors
/// When the name is not a token directly followed by a colon; this also refuses folded lines.
pub(super) fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let end = line.iter().position(|&b| !is_token(b)).ok_or(Fault::HeaderName)?;
    if end == 0 || line[end] != b':' {
        return Err(Fault::HeaderName);
    }
    Ok((&line[..end], trim(&line[end + 1..])))
}

fn trim(value: &[u8]) -> &[u8] {
    let is_space = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !is_space(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !is_space(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// Digits only, at most 19, so that no sign, list or overflow can hide in it.
fn parse_length(value: &[u8]) -> Option<u64> {
    if !(1..=19).contains(&value.len()) {
        return None;
    }
    // No 19 digits are too many for 64 bits.
    value.iter().try_fold(0_u64, |sum, digit| {
        digit.is_ascii_digit().then(|| 10 * sum + u64::from(digit - b'0'))
    })
}

/// `host` or `host:port`: a name, an IPv4 address or a bracketed IPv6 address. No user,
/// no list, no empty host.
fn is_host(value: &[u8]) -> bool {
    let end = match value.first() {
        Some(b'[') => value.iter().position(|&byte| byte == b']').map_or(0, |end| end + 1),
        _ => value.iter().position(|&byte| !NAME[byte as usize]).unwrap_or(value.len()),
    };
    let (host, port) = value.split_at(end);
    let is_ipv6 = |host: &[u8]| {
        let text = host.get(1..host.len() - 1).and_then(|host| std::str::from_utf8(host).ok());
        text.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let is_port = match port {
        [] | b":" => true,
        [b':', port @ ..] => parse_length(port).is_some_and(|port| port <= 65_535),
        _ => false,
    };
    is_port && !host.is_empty() && (host[0] != b'[' || is_ipv6(host))
}

const fn is_token(byte: u8) -> bool {
    TOKEN[byte as usize]
}

/// `tchar` of RFC 9110, section 5.6.2.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_'
            | b'`' | b'|' | b'~' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z');
        byte += 1;
    }
    table
};

/// Bytes of a host's name, an IPv4 address included.
const NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let of_name = byte as u8;
        table[byte] =
            of_name.is_ascii_alphanumeric() || matches!(of_name, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// Whether bytes that are no complete head yet can still become one. Finds clients that
/// speak another protocol (TLS, for one) without waiting for more.
///
/// # Errors
/// When the first word is no method, or the first line no request line.
pub fn check_beginning(bytes: &[u8], limits: &HeadLimits) -> Result<(), Fault> {
    if let Some(end) = memchr::memchr(b'\n', bytes).filter(|&end| end > 1) {
        let line = bytes[..end].strip_suffix(b"\r").ok_or(Fault::LineEnd)?;
        return parse_request_line(line, limits).map(drop);
    }
    let word = bytes.iter().position(|&b| !is_token(b)).unwrap_or(bytes.len());
    let is_method = match bytes.get(word) {
        Some(b' ') => (1..=MAX_METHOD).contains(&word),
        // A line end that may be skipped, not complete yet.
        Some(b'\r') => bytes == b"\r",
        Some(_) => false,
        None => word <= MAX_METHOD,
    };
    if is_method { Ok(()) } else { Err(Fault::RequestLine) }
}
