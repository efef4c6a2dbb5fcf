//! The normal form of a request target: what routes are matched against is, byte for
//! byte, what the upstream receives.
//!
//! A gateway and an upstream that read one path differently are a way around every rule
//! of the gateway. So what different software reads differently is refused (dot segments,
//! encoded slashes, backslashes, NUL), and what all software means alike is written one
//! way (RFC 3986, section 6.2.2): `//` becomes `/`, an escaped unreserved character
//! becomes the character, hexadecimal digits become upper case.

use std::borrow::Cow;
use thiserror::Error;

/// Why a target has no normal form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PathFault {
    /// It does not begin with a slash.
    #[error("the request target must begin with /")]
    NotAbsolute,
    /// A `.` or `..` segment, plain or encoded.
    #[error("the path contains a dot segment")]
    DotSegment,
    /// `%2f` or `%5c`.
    #[error("the path contains an encoded slash or backslash")]
    EncodedSlash,
    /// A backslash.
    #[error("the path contains a backslash")]
    Backslash,
    /// NUL or another control character, encoded.
    #[error("the path contains an encoded control character")]
    Control,
    /// `%` without two hexadecimal digits.
    #[error("the request target contains a % that is not followed by two hexadecimal digits")]
    BadEscape,
    /// A byte that has to be percent-encoded in a target.
    #[error("the request target contains a character that must be percent-encoded")]
    BadCharacter,
}

/// A target split in its path and query, the path in normal form.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path, in normal form.
    pub path: Cow<'a, str>,
    /// The query without its `?`, as it came.
    pub query: Option<&'a str>,
}

impl Target<'_> {
    /// Whether the target already was in normal form.
    pub fn is_unchanged(&self) -> bool {
        matches!(self.path, Cow::Borrowed(_))
    }
}

/// Brings an origin-form target into normal form.
///
/// Costs one pass over the bytes and allocates only when the path changes.
///
/// # Errors
/// What the target contains that may be read in more than one way.
pub fn normalize(target: &str) -> Result<Target<'_>, PathFault> {
    let (form, end) = read(target.as_bytes());
    let (path, query) = match target.split_at(end) {
        (path, "") => (path, None),
        (path, query) => (path, Some(&query[1..])),
    };
    if !path.starts_with('/') {
        return Err(PathFault::NotAbsolute);
    }
    if let Some(query) = query {
        check_query(query.as_bytes())?;
    }
    let path = match form {
        Form::Normal => return Ok(Target { path: Cow::Borrowed(path), query }),
        Form::Dotted => Cow::Borrowed(path),
        Form::Other => rewrite(path.as_bytes())?.into(),
    };
    if path.as_bytes().split(|&byte| byte == b'/').any(|segment| matches!(segment, b"." | b"..")) {
        return Err(PathFault::DotSegment);
    }
    Ok(Target { path, query })
}

/// Unreserved characters of RFC 3986, which never need to be encoded.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Characters a path may hold as they are: `pchar` and the slash.
const fn is_path(byte: u8) -> bool {
    PATH[byte as usize]
}

const PATH: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let of_path = byte as u8;
        table[byte] = is_unreserved(of_path)
            || is_sub_delimiter(of_path)
            || matches!(of_path, b':' | b'@' | b'/');
        byte += 1;
    }
    table
};

const fn is_sub_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

/// What a path turned out to be.
enum Form {
    /// In normal form.
    Normal,
    /// The same, but that there may be dot segments: a segment begins with a dot.
    Dotted,
    /// Something is written in another way.
    Other,
}

/// Reads the path of a target, up to its query, and says where it ends.
fn read(target: &[u8]) -> (Form, usize) {
    let (mut previous, mut form) = (0, Form::Normal);
    for (at, &byte) in target.iter().enumerate() {
        if !is_path(byte) || (byte == b'/' && previous == b'/') {
            let length = target[at..].iter().position(|&byte| byte == b'?');
            return match length {
                Some(0) => (form, at),
                length => (Form::Other, length.map_or(target.len(), |length| at + length)),
            };
        }
        if byte == b'.' && previous == b'/' {
            form = Form::Dotted;
        }
        previous = byte;
    }
    (form, target.len())
}

fn rewrite(path: &[u8]) -> Result<String, PathFault> {
    let mut out = String::with_capacity(path.len() + 8);
    let mut rest = path.iter().copied();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => push_escape(&mut out, rest.next(), rest.next())?,
            b'/' if out.ends_with('/') => {}
            b'\\' => return Err(PathFault::Backslash),
            byte if is_path(byte) => out.push(char::from(byte)),
            // Not allowed by the grammar, yet clients send them; one way to write them.
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => {
                encode(&mut out, byte);
            }
            _ => return Err(PathFault::BadCharacter),
        }
    }
    Ok(out)
}

fn push_escape(out: &mut String, high: Option<u8>, low: Option<u8>) -> Result<(), PathFault> {
    let byte = hex(high)? << 4 | hex(low)?;
    match byte {
        b'/' | b'\\' => Err(PathFault::EncodedSlash),
        0..=0x1f | 0x7f => Err(PathFault::Control),
        byte if is_unreserved(byte) => {
            out.push(char::from(byte));
            Ok(())
        }
        byte => {
            encode(out, byte);
            Ok(())
        }
    }
}

fn encode(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 0xf)]));
}

fn hex(digit: Option<u8>) -> Result<u8, PathFault> {
    digit
        .and_then(|digit| char::from(digit).to_digit(16))
        .and_then(|value| u8::try_from(value).ok())
        .ok_or(PathFault::BadEscape)
}

/// A query is forwarded as it came, so only what cannot stand in a request line is refused.
fn check_query(query: &[u8]) -> Result<(), PathFault> {
    match query.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
        true => Ok(()),
        false => Err(PathFault::BadCharacter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_normal_form() {
        let cases = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b///c", "/a/b/c"),
            ("//", "/"),
            ("/%41%7e%2D", "/A~-"),
            ("/%c3%a9", "/%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a|b", "/a%7Cb"),
            ("/a%3Fb", "/a%3Fb"),
            ("/...", "/..."),
            ("/a;v=1,2", "/a;v=1,2"),
        ];
        for (from, to) in cases {
            assert_eq!(normalize(from).unwrap().path, to, "{from}");
            let again = normalize(to).unwrap();
            assert_eq!((again.path.as_ref(), again.is_unchanged() || to.contains('%')), (to, true));
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let cases = [
            ("/..", PathFault::DotSegment),
            ("/a/./b", PathFault::DotSegment),
            ("/a/%2e%2E/b", PathFault::DotSegment),
            ("/a/.%2e", PathFault::DotSegment),
            ("/a%2fb", PathFault::EncodedSlash),
            ("/a%5Cb", PathFault::EncodedSlash),
            ("/a\\b", PathFault::Backslash),
            ("/%00", PathFault::Control),
            ("/%0d%0a", PathFault::Control),
            ("/%7f", PathFault::Control),
            ("/%", PathFault::BadEscape),
            ("/%4", PathFault::BadEscape),
            ("/%zz", PathFault::BadEscape),
            ("a", PathFault::NotAbsolute),
            ("", PathFault::NotAbsolute),
            ("*", PathFault::NotAbsolute),
            ("/a#b", PathFault::BadCharacter),
            ("/a?b#c", PathFault::BadCharacter),
            ("/é", PathFault::BadCharacter),
        ];
        for (target, fault) in cases {
            assert_eq!(normalize(target), Err(fault), "{target}");
        }
    }

    #[test]
    fn the_query_is_left_alone() {
        let target = normalize("/a//b?x=%2f..%zz&y=//").unwrap();
        assert_eq!((target.path.as_ref(), target.query), ("/a/b", Some("x=%2f..%zz&y=//")));
        assert!(!target.is_unchanged());
    }
}
