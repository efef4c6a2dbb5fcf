//! The id that ties a client's request, the upstream's and the log line together.

use super::values;
use http::{HeaderName, HeaderValue};

/// The header that carries it, in both directions.
pub static TRACE_ID: HeaderName = HeaderName::from_static("x-trace-id");

/// The longest id accepted from a client.
const MAX_LENGTH: usize = 128;

/// The request's trace id: its `X-Trace-ID` if that is usable, else the trace id of its
/// `traceparent` (W3C Trace Context), else a new one of 32 hexadecimal digits.
pub fn of_request(given: Option<&HeaderValue>, parent: Option<&HeaderValue>) -> HeaderValue {
    if let Some(given) = given.filter(|value| is_usable(value.as_bytes())) {
        return given.clone();
    }
    parent.and_then(|value| trace_of_parent(value.as_bytes())).unwrap_or_else(new)
}

/// A new id. Random, not secret: it only has to be different.
pub fn new() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut id = [0; 32];
    let random = fastrand::u128(..).to_le_bytes();
    for (pair, byte) in id.chunks_exact_mut(2).zip(random) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
    values::joined(&[&id])
}

/// The id as text; empty when it somehow is none.
pub fn text(id: &HeaderValue) -> &str {
    id.to_str().unwrap_or_default()
}

/// Letters, digits and a few marks: safe in a log line, a header and JSON alike.
fn is_usable(id: &[u8]) -> bool {
    (1..=MAX_LENGTH).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
}

/// `version-traceid-parentid-flags`; version `ff` and an all-zero id are invalid.
fn trace_of_parent(parent: &[u8]) -> Option<HeaderValue> {
    let mut parts = parent.split(|&b| b == b'-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let is_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    let is_valid = version.len() == 2
        && version.iter().all(is_hex)
        && version != b"ff"
        && trace.len() == 32
        && trace.iter().all(is_hex)
        && trace.iter().any(|&b| b != b'0')
        && parts.next().is_some_and(|parent| parent.len() == 16)
        && parts.next().is_some_and(|flags| flags.len() == 2);
    is_valid.then(|| values::joined(&[trace]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_of(headers: &[(&'static str, &'static str)]) -> String {
        let value = |wanted| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| HeaderValue::from_static(value))
        };
        let (given, parent) = (value("x-trace-id"), value("traceparent"));
        text(&of_request(given.as_ref(), parent.as_ref())).to_owned()
    }

    #[test]
    fn an_id_that_came_with_the_request_is_kept() {
        const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(id_of(&[("x-trace-id", "abc.1:2-3")]), "abc.1:2-3");
        assert_eq!(id_of(&[("traceparent", PARENT)]), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(id_of(&[("traceparent", PARENT), ("x-trace-id", "mine")]), "mine");
    }

    #[test]
    fn an_id_that_is_no_id_is_replaced() {
        for header in [
            ("x-trace-id", "a b"),
            ("x-trace-id", "\"x\""),
            ("x-trace-id", ""),
            ("traceparent", "00-00000000000000000000000000000000-b7ad6b7169203331-01"),
            ("traceparent", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("traceparent", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"),
            ("traceparent", "nonsense"),
        ] {
            let id = id_of(&[header]);
            assert_eq!(id.len(), 32, "{header:?} gave {id}");
            assert_ne!(id, id_of(&[header]), "new each time");
        }
    }
}
