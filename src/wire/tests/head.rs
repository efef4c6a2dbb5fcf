use super::LIMITS;
use crate::wire::fault::Fault;
use crate::wire::head::{Framing, check_beginning, check_target, end_of_head, inspect, too_large};

/// A head of these lines, each ended as it should be.
fn head(lines: &[&str]) -> Vec<u8> {
    let mut head = lines.join("\r\n").into_bytes();
    head.extend_from_slice(b"\r\n\r\n");
    head
}

fn fault(lines: &[&str]) -> Option<Fault> {
    inspect(&head(lines), &LIMITS).err()
}

#[test]
fn what_all_implementations_agree_on_passes() {
    let host = "Host: a.test";
    let cases: [(&[&str], Framing); 16] = [
        (&["GET / HTTP/1.1", host], Framing::Length(0)),
        (&["GET / HTTP/1.0"], Framing::Length(0)),
        (&["GET /a?b=c%20d;e HTTP/1.1", "host:a.test"], Framing::Length(0)),
        (&["OPTIONS * HTTP/1.1", host], Framing::Length(0)),
        (&["M-SEARCH /x HTTP/1.1", host], Framing::Length(0)),
        (&["GET / HTTP/1.1", "Host: [2001:db8::1]:8080"], Framing::Length(0)),
        (&["GET / HTTP/1.1", "Host: 192.0.2.1:80"], Framing::Length(0)),
        (&["GET / HTTP/1.1", "Host: a.test:"], Framing::Length(0)),
        (&["POST / HTTP/1.1", host, "Content-Length: 0"], Framing::Length(0)),
        (&["POST / HTTP/1.1", host, "content-length:\t42 "], Framing::Length(42)),
        (&["POST / HTTP/1.0", "Content-Length: 7"], Framing::Length(7)),
        (&["POST / HTTP/1.1", host, "Transfer-Encoding: chunked"], Framing::Chunked),
        (&["POST / HTTP/1.1", host, "TRANSFER-ENCODING: Chunked"], Framing::Chunked),
        (&["GET / HTTP/1.1", host, "X-Empty:"], Framing::Length(0)),
        (&["GET / HTTP/1.1", host, "X-Latin: caf\u{e9}"], Framing::Length(0)),
        (&["GET / HTTP/1.1", host, "X: tab\tand \"quotes\""], Framing::Length(0)),
    ];
    for (lines, framing) in cases {
        let checked = inspect(&head(lines), &LIMITS).map(|checked| checked.framing);
        assert_eq!(checked, Ok(framing), "{lines:?}");
    }
}

/// Pingora reads a target with this parser, and answers by itself where that cannot.
#[test]
fn a_target_passes_where_pingora_can_read_it() {
    for byte in 0x21..0x7f_u8 {
        for before in ["/a", "/a?b=", "/a?b=c?d"] {
            let target = [before.as_bytes(), &[byte], b"e"].concat();
            // Both keep their own counsel on fragments, which no client sends.
            let is_readable = http::uri::PathAndQuery::try_from(&*target).is_ok() && byte != b'#';
            let passes = check_target(b"GET", &target, 100).is_ok();
            assert_eq!(passes, is_readable, "{}", String::from_utf8_lossy(&target));
        }
    }
}

#[test]
fn an_absolute_target_says_what_its_host_says() {
    for (target, authority) in [
        ("http://a.test/x", "http://a.test"),
        ("HTTPS://A.TEST:80/x?y", "HTTPS://A.TEST:80"),
        ("http://a.test", "http://a.test"),
        ("http://a.test?x=http://b.test/", "http://a.test"),
    ] {
        let host = authority.split("//").nth(1).unwrap();
        let head = head(&[&format!("GET {target} HTTP/1.1"), &format!("Host: {host}")]);
        let place = inspect(&head, &LIMITS).unwrap().authority.unwrap();
        assert_eq!(std::str::from_utf8(&head[place]).unwrap(), authority);
    }
    for (target, host) in [
        ("http://a.test/", "b.test"),
        ("http://a.test:80/", "a.test"),
        ("http:///x", "a.test"),
        ("http://user@a.test/", "user@a.test"),
    ] {
        let lines = [&*format!("GET {target} HTTP/1.1"), &format!("Host: {host}")];
        let expected = if host.contains('@') { Fault::Host } else { Fault::Authority };
        assert_eq!(fault(&lines), Some(expected), "{target}");
    }
}

#[test]
fn request_lines_that_can_be_read_in_two_ways_are_refused() {
    let cases = [
        ("", Fault::RequestLine),
        ("GET", Fault::RequestLine),
        ("GET /", Fault::RequestLine),
        (" GET / HTTP/1.1", Fault::Method),
        ("G\u{e9}T / HTTP/1.1", Fault::Method),
        ("GET\t/ HTTP/1.1", Fault::RequestLine),
        ("GET  / HTTP/1.1", Fault::Target),
        ("GET / x HTTP/1.1", Fault::Target),
        ("GET /\u{e9} HTTP/1.1", Fault::Target),
        ("GET /#x HTTP/1.1", Fault::Target),
        ("GET x HTTP/1.1", Fault::Target),
        ("GET * HTTP/1.1", Fault::Target),
        ("GET ftp://a.test/ HTTP/1.1", Fault::Target),
        ("GET  HTTP/1.1", Fault::Target),
        ("GET / HTTP/1.1 ", Fault::Version),
        ("GET / HTTP/2.0", Fault::Version),
        ("GET / http/1.1", Fault::Version),
        ("GET / HTTP/1.10", Fault::Version),
        ("CONNECT a.test:443 HTTP/1.1", Fault::Connect),
    ];
    for (line, expected) in cases {
        assert_eq!(fault(&[line, "Host: a.test"]), Some(expected), "{line:?}");
    }
    let long = format!("{} / HTTP/1.1", "A".repeat(33));
    assert_eq!(fault(&[&long, "Host: a.test"]), Some(Fault::Method));
    assert_eq!(fault(&[&long[1..], "Host: a.test"]), None);
}

#[test]
fn fields_that_can_be_read_in_two_ways_are_refused() {
    let cases = [
        ("X", Fault::HeaderName),
        (": x", Fault::HeaderName),
        ("X : y", Fault::HeaderName),
        (" X: y", Fault::HeaderName),
        ("\tfolded", Fault::HeaderName),
        ("X\u{e9}: y", Fault::HeaderName),
        ("X(y): z", Fault::HeaderName),
        ("X: a\0b", Fault::HeaderValue),
        ("X: a\u{1}b", Fault::HeaderValue),
        ("X: a\u{7f}b", Fault::HeaderValue),
        ("Host: b.test", Fault::Host),
        ("Content-Length: +1", Fault::ContentLength),
        ("Content-Length: -1", Fault::ContentLength),
        ("Content-Length: 1, 1", Fault::ContentLength),
        ("Content-Length: 0x1", Fault::ContentLength),
        ("Content-Length:", Fault::ContentLength),
        ("Content-Length: 1 1", Fault::ContentLength),
        ("Content-Length: 99999999999999999999", Fault::ContentLength),
        ("Transfer-Encoding: gzip, chunked", Fault::TransferEncoding),
        ("Transfer-Encoding: chunked, chunked", Fault::TransferEncoding),
        ("Transfer-Encoding: identity", Fault::TransferEncoding),
        ("Transfer-Encoding: chunked;q=1", Fault::TransferEncoding),
        ("Transfer-Encoding:", Fault::TransferEncoding),
        ("Transfer-Encoding: \u{b}chunked", Fault::HeaderValue),
    ];
    for (line, expected) in cases {
        assert_eq!(fault(&["GET / HTTP/1.1", "Host: a.test", line]), Some(expected), "{line:?}");
    }
}

#[test]
fn framing_that_is_said_twice_is_refused() {
    let cases: [(&[&str], Fault); 6] = [
        (&["Content-Length: 1", "Content-Length: 1"], Fault::ContentLength),
        (&["Content-Length: 1", "Content-Length: 2"], Fault::ContentLength),
        (&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], Fault::TransferEncoding),
        (&["Transfer-Encoding: chunked", "Content-Length: 1"], Fault::LengthAndChunked),
        (&["Content-Length: 0", "Transfer-Encoding: chunked"], Fault::LengthAndChunked),
        (&["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"], Fault::TransferEncoding),
    ];
    for (fields, expected) in cases {
        let lines = [&["POST / HTTP/1.1", "Host: a.test"], fields].concat();
        assert_eq!(fault(&lines), Some(expected), "{fields:?}");
    }
    let old = ["POST / HTTP/1.0", "Transfer-Encoding: chunked"];
    assert_eq!(fault(&old), Some(Fault::TransferEncoding));
}

#[test]
fn a_host_is_one_name_or_address_with_a_port_at_most() {
    assert_eq!(fault(&["GET / HTTP/1.1"]), Some(Fault::Host));
    for host in [
        "",
        "a b",
        "a.test, b.test",
        "a.test/x",
        "user@a.test",
        "a.test:x",
        "a.test:65536",
        "a.test:1:2",
        "::1",
        "[::1",
        "[a.test]",
        "[::1]x",
        "b\u{fc}cher.test",
        "a.test\\",
    ] {
        let line = format!("Host: {host}");
        assert_eq!(fault(&["GET / HTTP/1.1", &line]), Some(Fault::Host), "{host:?}");
        assert_eq!(fault(&["GET / HTTP/1.0", &line]), Some(Fault::Host), "{host:?}");
    }
}

#[test]
fn every_line_ends_in_both_characters() {
    for text in [
        "GET / HTTP/1.1\nHost: a.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r.test\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.test\r\r\n\r\n",
        "GET /\r HTTP/1.1\r\nHost: a.test\r\n\r\n",
    ] {
        let end = end_of_head(text.as_bytes(), 0).unwrap();
        assert_eq!(inspect(&text.as_bytes()[..end], &LIMITS), Err(Fault::LineEnd), "{text:?}");
    }
}

#[test]
fn bounds_hold_to_the_byte() {
    let host = "Host: a.test";
    let target = |bytes: usize| format!("GET /{} HTTP/1.1", "a".repeat(bytes - 1));
    assert_eq!(fault(&[&target(LIMITS.max_uri), host]), None);
    assert_eq!(fault(&[&target(LIMITS.max_uri + 1), host]), Some(Fault::TargetTooLong));

    let fields = |count: usize| [vec!["GET / HTTP/1.1", host], vec!["X: y"; count - 1]].concat();
    assert_eq!(fault(&fields(LIMITS.max_headers)), None);
    assert_eq!(fault(&fields(LIMITS.max_headers + 1)), Some(Fault::TooManyHeaders));

    let short = head(&["GET / HTTP/1.1", host, "X: "]).len();
    let filler = |bytes: usize| format!("X: {}", "a".repeat(bytes - short));
    assert_eq!(fault(&["GET / HTTP/1.1", host, &filler(LIMITS.max_head)]), None);
    let over = filler(LIMITS.max_head + 1);
    assert_eq!(fault(&["GET / HTTP/1.1", host, &over]), Some(Fault::HeadTooLarge));
    // A head that has not ended is too long a target as long as it is one line.
    assert_eq!(too_large(&[b'a'; 512], &LIMITS), Fault::TargetTooLong);
    assert_eq!(too_large(b"GET / HTTP/1.1\r\nX: aaaa", &LIMITS), Fault::HeadTooLarge);
}

#[test]
fn the_end_of_a_head_is_found_wherever_reading_stopped() {
    let text = b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\nGET";
    let end = text.len() - 3;
    for seen in 0..end {
        assert_eq!(end_of_head(text, seen), Some(end), "after {seen}");
        assert_eq!(end_of_head(&text[..seen], 0), None);
    }
    for (text, end) in [("a\n\n", 3), ("a\r\n\n", 4), ("a\n\r\n", 4), ("\r\n\r\n", 4)] {
        assert_eq!(end_of_head(text.as_bytes(), 0), Some(end), "{text:?}");
    }
}

#[test]
fn what_cannot_become_a_request_is_known_early() {
    for beginning in ["", "G", "GET", "GET ", "GET /", "\r", "GET / HTTP/1.1\r\nX"] {
        assert_eq!(check_beginning(beginning.as_bytes(), &LIMITS), Ok(()), "{beginning:?}");
    }
    let hello = b"\x16\x03\x01\x02\x00\x01";
    assert_eq!(check_beginning(hello, &LIMITS), Err(Fault::RequestLine), "a TLS client");
    for (beginning, expected) in [
        (" ", Fault::RequestLine),
        ("\rG", Fault::RequestLine),
        ("GET\t", Fault::RequestLine),
        ("GET / HTTP/1.1\n", Fault::LineEnd),
        ("PRI * HTTP/2.0\r\n", Fault::Version),
    ] {
        assert_eq!(check_beginning(beginning.as_bytes(), &LIMITS), Err(expected), "{beginning:?}");
    }
    let endless = [b'A'; 33];
    assert_eq!(check_beginning(&endless, &LIMITS), Err(Fault::RequestLine));
}

/// Heads are read in pieces of several bytes; none is left out, wherever a piece ends.
#[test]
fn what_is_wrong_with_a_byte_is_found_in_every_place_of_heads_of_every_length() {
    for length in 0..70 {
        let padding = format!("A: {}", "x".repeat(length));
        let good = head(&["GET / HTTP/1.1", "Host: a", &padding]);
        assert_eq!(end_of_head(&good, 0), Some(good.len()));
        assert!(inspect(&good, &LIMITS).is_ok(), "{length}");
        for at in 0..good.len() - 2 {
            let with = |byte: u8| {
                let mut bad = good.clone();
                bad[at] = byte;
                bad
            };
            assert_eq!(inspect(&with(0x1f), &LIMITS), Err(Fault::HeaderValue), "{length} {at}");
            assert_eq!(inspect(&with(0x7f), &LIMITS), Err(Fault::HeaderValue), "{length} {at}");
            if !matches!(good[at], b'\r' | b'\n') {
                assert_eq!(inspect(&with(b'\r'), &LIMITS), Err(Fault::LineEnd), "{length} {at}");
                assert_eq!(inspect(&with(b'\n'), &LIMITS), Err(Fault::LineEnd), "{length} {at}");
            }
            let mut early = good.clone();
            early.splice(at..at, *b"\n\r\n");
            let end = end_of_head(&early, 0);
            assert_eq!(end, (0..=early.len()).find(|&end| has_blank_line(&early[..end])));
        }
    }
}

fn has_blank_line(bytes: &[u8]) -> bool {
    bytes.ends_with(b"\n\r\n") || bytes.ends_with(b"\n\n")
}
