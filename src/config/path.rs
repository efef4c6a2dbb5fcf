//! Paths in the configuration, in the same normal form that requests are matched in. A path that
//! is not in normal form would never match, so it is an error that says how to write it.

use std::collections::HashSet;

use super::report::quote;

/// The longest path, in bytes.
const MAX_PATH_BYTES: usize = 2_048;

/// A path without parameters.
pub(super) fn literal(text: &str) -> Result<String, String> {
    check(text)?;
    if text.contains(['{', '}']) {
        let path = quote(text);
        return Err(format!("{path} has braces; a path with parameters is {{pattern: {path}}}"));
    }
    Ok(text.to_owned())
}

/// A prefix: a path without parameters and without a slash at its end, since `/api/` and `/api`
/// take the same paths.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let mut path = literal(text)?;
    if path.len() > 1 && path.ends_with('/') {
        path.pop();
    }
    Ok(path)
}

/// A path whose segments are literal or `{name}`.
pub(super) fn pattern(text: &str) -> Result<String, String> {
    check(text)?;
    let mut names = HashSet::new();
    for segment in text.split('/') {
        let Some(name) = parameter(segment) else {
            if segment.contains(['{', '}']) {
                return Err(format!(
                    "{} is not a parameter: braces hold a whole segment, as in /users/{{id}}",
                    quote(segment)
                ));
            }
            continue;
        };
        if !is_identifier(name) {
            return Err(format!("{} is not a parameter's name; use a-z 0-9 _", quote(name)));
        }
        if !names.insert(name) {
            return Err(format!("the parameter {} is named twice", quote(name)));
        }
    }
    Ok(text.to_owned())
}

/// The name in `{name}`.
pub(super) fn parameter(segment: &str) -> Option<&str> {
    segment.strip_prefix('{')?.strip_suffix('}')
}

/// The part of a path before its first parameter, without the slash at its end.
pub(super) fn literal_part(path: &str) -> &str {
    let literal = path.find('{').map_or(path, |at| &path[..at]);
    literal.strip_suffix('/').unwrap_or(literal)
}

/// Whether `prefix`, which has no slash at its end, is a prefix of `path` on a segment border.
pub(super) fn is_below(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn check(text: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{} cannot be matched: {why}", quote(text)));
    if !text.starts_with('/') {
        return wrong("a path begins with /");
    }
    if text.len() > MAX_PATH_BYTES {
        return wrong("it is longer than 2048 bytes");
    }
    if text.contains(['?', '#']) {
        return wrong("a query or fragment is not part of a path");
    }
    if text.contains("//") {
        return wrong("empty segments are merged in requests; write one slash");
    }
    // RFC 3986 has no place for these in a path; a client has to escape them.
    let impossible = |b: u8| {
        !b.is_ascii_graphic() || matches!(b, b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' | b'|')
    };
    if text.bytes().any(impossible) {
        return wrong("write every character that is not allowed in a URL as %XX");
    }
    check_escapes(text).or_else(|why| wrong(&why))?;
    if text.split('/').any(|segment| matches!(segment, "." | "..")) {
        return wrong("requests with the segments . and .. are refused");
    }
    Ok(())
}

fn check_escapes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let hex = rest.get(at + 1..at + 3).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return Err("% must be followed by two hex digits".to_owned());
        };
        let escape = &rest[at..at + 3];
        if matches!(byte, 0 | b'/' | b'\\') {
            return Err(format!("requests with {escape} are refused"));
        }
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            let plain = char::from(byte);
            return Err(format!("{escape} is decoded in requests; write {plain}"));
        }
        rest = &rest[at + 3..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_must_be_in_the_form_that_requests_are_matched_in() {
        for good in ["/", "/api", "/api/v1.0/users", "/a/", "/caf%C3%A9", "/a%20b", "/a:b@c;d=e,f"]
        {
            assert_eq!(literal(good).as_deref(), Ok(good));
        }
        let cases = [
            ("", "begins with /"),
            ("api", "begins with /"),
            ("/a//b", "write one slash"),
            ("/a/../b", "segments . and .."),
            ("/a/.", "segments . and .."),
            ("/%2e%2e/b", "write ."),
            ("/a%2Fb", "requests with %2F are refused"),
            ("/a%5cb", "requests with %5c are refused"),
            ("/a%00b", "requests with %00 are refused"),
            ("/a\\b", "as %XX"),
            ("/a b", "as %XX"),
            ("/café", "as %XX"),
            ("/%41", "write A"),
            ("/a%zz", "two hex digits"),
            ("/a%", "two hex digits"),
            ("/a?b=c", "query or fragment"),
            ("/a#b", "query or fragment"),
            ("/u/{id}", "{pattern:"),
        ];
        for (text, expected) in cases {
            let error = literal(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(literal(&"/a".repeat(2_000)).is_err());
    }

    #[test]
    fn a_slash_at_the_end_of_a_prefix_means_nothing() {
        assert_eq!(prefix("/api/").as_deref(), Ok("/api"));
        assert_eq!(prefix("/").as_deref(), Ok("/"));
    }

    #[test]
    fn parameters_are_whole_segments_with_names_of_their_own() {
        for good in ["/u/{id}/x", "/{a}/{b_2}", "/plain"] {
            assert_eq!(pattern(good).as_deref(), Ok(good));
        }
        for (text, expected) in [
            ("/u/{id", "whole segment"),
            ("/u/x{id}", "whole segment"),
            ("/u/{}", "name"),
            ("/u/{a-b}", "name"),
            ("/u/{*rest}", "name"),
            ("/{a}/{a}", "twice"),
        ] {
            let error = pattern(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert_eq!(literal_part("/u/{id}/x"), "/u");
        assert_eq!(literal_part("/{id}"), "");
        assert_eq!(literal_part("/u/x"), "/u/x");
    }

    #[test]
    fn a_prefix_ends_on_a_segment_border() {
        assert!(is_below("/api/users", "/api"));
        assert!(is_below("/api", "/api"));
        assert!(!is_below("/apiary", "/api"));
    }
}
