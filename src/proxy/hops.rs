//! Headers that concern one connection only (RFC 9110, section 7.6.1) and do not go on.
//!
//! Pingora would remove them too, a look-up for each, on every attempt; here the walk that
//! gathers the facts has told what is there.

use super::facts::{Present, is_hop_by_hop};
use super::forward::claims_identity;
use super::trace;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};

static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Fields that `Connection` must not take away.
const PROTECTED: [HeaderName; 4] =
    [header::HOST, header::VIA, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// Names `Connection` may hold.
const MAX_NOMINATIONS: usize = 9;

/// Whether `Connection` names what must not be removed on the way: the host, what the
/// framing, what the gateway itself tells the upstream, or no field at all.
pub(super) fn nominates_protected(headers: &HeaderMap) -> bool {
    let names = headers.get_all(header::CONNECTION).iter().flat_map(|value| {
        value
            .as_bytes()
            .split(|&b| b == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|name| !name.is_empty())
    });
    let mut count = 0;
    names.into_iter().any(|name| {
        count += 1;
        match HeaderName::from_bytes(name) {
            _ if count > MAX_NOMINATIONS || name.contains(&b'"') => true,
            Ok(name) => {
                PROTECTED.contains(&name)
                    || name == trace::TRACE_ID
                    || claims_identity(name.as_str())
            }
            Err(_) => true,
        }
    })
}

/// Removes a request's headers for one connection. Of upgrades only the one to WebSocket
/// goes on, of `TE` only `trailers`.
pub(super) fn strip_request(headers: &mut HeaderMap, has: Present, version: Version) {
    let trailers = has.te && wants_trailers(headers);
    let websocket = has.upgrade && version == Version::HTTP_11 && asks_for_websocket(headers);
    if has.connection {
        remove_nominated(headers);
        headers.remove(header::CONNECTION);
    }
    if has.hop_by_hop {
        let others: Vec<HeaderName> =
            headers.keys().filter(|name| is_hop_by_hop(name)).cloned().collect();
        for name in others {
            headers.remove(name);
        }
    }
    if has.te {
        headers.remove(header::TE);
    }
    if has.upgrade {
        headers.remove(header::UPGRADE);
    }
    if websocket {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    } else if trailers {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn asks_for_websocket(headers: &HeaderMap) -> bool {
    let upgrade = headers.get(header::UPGRADE);
    upgrade.is_some_and(|protocol| protocol.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Removes the fields that `Connection` names, but for those that mean something else here.
fn remove_nominated(headers: &mut HeaderMap) {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        // That names no field that is still there when the headers for one connection are gone.
        .filter(|name| !is_persistence(name.as_bytes()))
        .filter_map(|name| HeaderName::try_from(name).ok())
        .filter(|name| *name != header::UPGRADE && !PROTECTED.contains(name))
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

/// Whether a name in `Connection` only says whether the connection goes on.
fn is_persistence(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"keep-alive") || name.eq_ignore_ascii_case(b"close")
}

fn wants_trailers(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::TE).iter().filter_map(|te| te.to_str().ok());
    values.flat_map(|te| te.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Leaves one length of several that say the same; of others Pingora has failed the answer.
fn make_one_length(headers: &mut HeaderMap) {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let length = length.and_then(|value| value.split(',').next()).map(str::trim);
    if let Some(length) = length.and_then(|length| HeaderValue::from_str(length).ok()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
}

/// Removes from a response's headers what concerns only the connection to the upstream, what
/// does not follow here, and what the client's protocol version does not know.
pub(super) fn clean_response(headers: &mut HeaderMap, is_switch: bool, version: Version) {
    let (mut nominates, mut has_others, mut lengths) = (false, false, 0);
    for (name, value) in &*headers {
        nominates |= *name == header::CONNECTION && !is_persistence(value.as_bytes());
        has_others |= is_hop_by_hop(name) || *name == header::UPGRADE || *name == header::TRAILER;
        if *name == header::CONTENT_LENGTH {
            lengths += 1 + usize::from(value.as_bytes().contains(&b','));
        }
    }
    if lengths > 1 {
        make_one_length(headers);
    }
    if nominates {
        remove_nominated(headers);
    }
    if has_others {
        headers.remove(&PROXY_CONNECTION);
        headers.remove(&KEEP_ALIVE);
        // Trailers end here.
        headers.remove(header::TRAILER);
        if !is_switch {
            headers.remove(header::UPGRADE);
        }
    }
    if version == Version::HTTP_10 {
        // The end of the connection ends the body.
        headers.remove(header::TRANSFER_ENCODING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(fields: &[(&'static str, &'static str)], is_switch: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        clean_response(&mut headers, is_switch, Version::HTTP_11);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn an_offer_to_upgrade_and_a_promise_of_trailers_end_here() {
        let fields = [("upgrade", "h2c"), ("trailer", "x-sum"), ("vary", "accept")];
        assert_eq!(cleaned(&fields, false), ["vary: accept"]);
        assert_eq!(cleaned(&[("upgrade", "websocket")], true), ["upgrade: websocket"]);
    }

    #[test]
    fn a_length_that_is_said_twice_goes_on_once() {
        for fields in [
            &[("content-length", "5"), ("content-length", "5")][..],
            &[("content-length", "5, 5")],
            &[("content-length", "5,5"), ("content-length", "5")],
            &[("content-length", "5")],
        ] {
            assert_eq!(cleaned(fields, false), ["content-length: 5"], "{fields:?}");
        }
    }
}
