//! Where a body ends and where a header field ends, beyond doubt.

use crate::rig::{Rig, SMUGGLED, get, post};

#[test]
fn content_length_that_is_not_one_plain_number_is_refused() {
    let row = |headers: &str| post(headers, "hello");
    Rig::new().refuses(
        400,
        &[
            ("two, differing", row("Content-Length: 5\r\nContent-Length: 6\r\n")),
            ("two, the same", row("Content-Length: 5\r\nContent-Length: 5\r\n")),
            ("two, far apart", row("Content-Length: 5\r\nA: b\r\ncontent-length: 0\r\n")),
            ("a list of the same", row("Content-Length: 5, 5\r\n")),
            ("a list of different", row("Content-Length: 5, 6\r\n")),
            ("a list with an empty member", row("Content-Length: 5,\r\n")),
            ("a plus sign", row("Content-Length: +5\r\n")),
            ("a minus sign", row("Content-Length: -5\r\n")),
            ("hexadecimal", row("Content-Length: 0x5\r\n")),
            ("digits and letters", row("Content-Length: 5a\r\n")),
            ("two numbers with a blank", row("Content-Length: 5 5\r\n")),
            ("a decimal point", row("Content-Length: 5.0\r\n")),
            ("empty", row("Content-Length:\r\n")),
            ("beyond 64 bits", row("Content-Length: 18446744073709551621\r\n")),
            ("far beyond 64 bits", row("Content-Length: 99999999999999999999999999\r\n")),
        ],
    );
}

#[test]
fn content_length_beside_transfer_encoding_is_refused() {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let row = |headers: &str| post(headers, &body);
    Rig::new().refuses(
        400,
        &[
            ("length first", row("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
            ("length last", row("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n")),
            ("a length of zero", row("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n")),
            ("odd case", row("CONTENT-length: 5\r\ntransfer-ENCODING: Chunked\r\n")),
            ("an unknown coding", row("Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n")),
            ("an empty coding", row("Content-Length: 5\r\nTransfer-Encoding:\r\n")),
        ],
    );
}

#[test]
fn any_transfer_encoding_but_one_final_chunked_is_refused() {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let row = |headers: &str| post(headers, &body);
    Rig::new().refuses(
        400,
        &[
            ("gzip before chunked", row("Transfer-Encoding: gzip, chunked\r\n")),
            ("chunked twice in a list", row("Transfer-Encoding: chunked, chunked\r\n")),
            ("chunked twice in two fields", row(&"Transfer-Encoding: chunked\r\n".repeat(2))),
            ("chunked not last", row("Transfer-Encoding: chunked, identity\r\n")),
            ("identity", row("Transfer-Encoding: identity\r\n")),
            ("identity before chunked", row("Transfer-Encoding: identity, chunked\r\n")),
            (
                "identity in a second field",
                row("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"),
            ),
            ("a longer name", row("Transfer-Encoding: xchunked\r\n")),
            ("a shorter name", row("Transfer-Encoding: chunke\r\n")),
            ("quoted", row("Transfer-Encoding: \"chunked\"\r\n")),
            ("with a parameter", row("Transfer-Encoding: chunked;q=1\r\n")),
            ("tabs around another coding", row("Transfer-Encoding: chunked\t,\tgzip\r\n")),
            ("a vertical tab before it", row("Transfer-Encoding: \x0bchunked\r\n")),
            ("gzip alone", row("Transfer-Encoding: gzip\r\n")),
            ("empty", row("Transfer-Encoding:\r\n")),
            ("a comma alone", row("Transfer-Encoding: ,\r\n")),
            ("folded", row("Transfer-Encoding:\r\n chunked\r\n")),
        ],
    );
}

#[test]
fn http_1_0_with_transfer_encoding_is_refused() {
    let request = format!(
        "POST /victim HTTP/1.0\r\nHost: tollgate.test\r\nTransfer-Encoding: chunked\r\n\
         Connection: keep-alive\r\n\r\n0\r\n\r\n{SMUGGLED}"
    );
    Rig::new().refuses(400, &[("HTTP/1.0 with chunked", request)]);
}

#[test]
fn chunked_is_understood_in_any_case_and_between_any_blanks() {
    let rig = Rig::new();
    for field in ["tRANSFER-eNCODING: cHUNKED", "Transfer-Encoding:\t chunked \t"] {
        let request = post(format!("{field}\r\n"), "5\r\nhello\r\n0\r\n\r\n");
        let seen = rig.forwards(field, request);
        assert_eq!(seen.body, b"hello", "{field}");
        let fields =
            seen.head.all("transfer-encoding").len() + seen.head.all("content-length").len();
        assert_eq!(fields, 1, "{field}: one framing towards the upstream: {:?}", seen.head.headers);
    }
}

#[test]
fn a_host_that_names_nobody_or_several_is_refused() {
    let row = |fields: &str| format!("GET /victim HTTP/1.1\r\n{fields}\r\n");
    Rig::new().refuses(
        400,
        &[
            ("none", row("")),
            ("two, the same", row(&"Host: a.test\r\n".repeat(2))),
            ("two, differing", row("Host: a.test\r\nhost: b.test\r\n")),
            ("a list", row("Host: a.test, b.test\r\n")),
            ("empty", row("Host:\r\n")),
            ("a blank inside", row("Host: a b\r\n")),
            ("a slash", row("Host: a.test/x\r\n")),
            ("a backslash", row("Host: a.test\\x\r\n")),
            ("a question mark", row("Host: a.test?x\r\n")),
            ("a fragment", row("Host: a.test#x\r\n")),
            ("user information", row("Host: user@a.test\r\n")),
            ("markup", row("Host: <b>a</b>\r\n")),
            ("an open bracket", row("Host: [::1\r\n")),
            ("a port that is no number", row("Host: a.test:http\r\n")),
            ("a port too large", row("Host: a.test:99999\r\n")),
            ("a tab inside", row("Host: a\tb\r\n")),
        ],
    );
}

#[test]
fn a_host_of_odd_bytes_is_refused() {
    let row = |value: &[u8]| [b"GET /victim HTTP/1.1\r\nHost: ", value, b"\r\n\r\n"].concat();
    Rig::new().refuses(
        400,
        &[
            ("beyond ASCII", row(b"caf\xc3\xa9.test")),
            ("not UTF-8", row(b"a\xff.test")),
            ("NUL", row(b"a\0.test")),
            ("delete", row(b"a\x7f.test")),
        ],
    );
}

#[test]
fn http_1_0_without_host_reaches_the_upstream_with_one() {
    let rig = Rig::new();
    let seen = rig.forwards("HTTP/1.0", "GET /old HTTP/1.0\r\n\r\n");
    if seen.head.start[2] == "HTTP/1.1" {
        assert_eq!(seen.head.all("host").len(), 1, "{:?}", seen.head.headers);
    }
}

#[test]
fn lines_that_do_not_end_with_crlf_are_refused() {
    Rig::new().refuses(
        400,
        &[
            ("bare LF everywhere", "GET /victim HTTP/1.1\nHost: a.test\n\n"),
            ("bare LF after the request line", "GET /victim HTTP/1.1\nHost: a.test\r\n\r\n"),
            ("bare LF after a field", "GET /victim HTTP/1.1\r\nHost: a.test\nA: b\r\n\r\n"),
            ("bare LF after the last field", "GET /victim HTTP/1.1\r\nHost: a.test\n\r\n"),
            ("bare LF as the empty line", "GET /victim HTTP/1.1\r\nHost: a.test\r\n\n"),
            ("bare CR after the request line", "GET /victim HTTP/1.1\rHost: a.test\r\n\r\n"),
            ("bare CR after a field", "GET /victim HTTP/1.1\r\nHost: a.test\rA: b\r\n\r\n"),
            ("CR CR LF", "GET /victim HTTP/1.1\r\nHost: a.test\r\r\n\r\n"),
            ("bare CR before the empty line", "GET /victim HTTP/1.1\r\nHost: a.test\r\n\r\r\n\r\n"),
        ],
    );
}

#[test]
fn control_bytes_in_values_are_refused() {
    Rig::new().refuses(
        400,
        &[
            ("CR inside", get(b"X-A: a\rb\r\n")),
            ("CR and a field inside", get(b"X-A: a\rTransfer-Encoding: chunked\r\n")),
            ("NUL inside", get(b"X-A: a\0b\r\n")),
            ("NUL at the end", get(b"X-A: a\0\r\n")),
            ("start of heading", get(b"X-A: a\x01b\r\n")),
            ("escape", get(b"X-A: \x1b[31m\r\n")),
            ("delete", get(b"X-A: a\x7fb\r\n")),
        ],
    );
}

#[test]
fn folded_lines_are_refused() {
    Rig::new().refuses(
        400,
        &[
            ("with a blank", get("X-A: a\r\n b\r\n")),
            ("with a tab", get("X-A: a\r\n\tb\r\n")),
            ("a field hidden in the fold", get("X-A: a\r\n Transfer-Encoding: chunked\r\n")),
            (
                "right after the request line",
                b"GET /victim HTTP/1.1\r\n X-A: b\r\nHost: a.test\r\n\r\n".to_vec(),
            ),
        ],
    );
}

#[test]
fn field_names_that_are_no_tokens_are_refused() {
    let rows = [
        ("blank before the colon", get("X-A : b\r\n")),
        ("tab before the colon", get("X-A\t: b\r\n")),
        ("blank before the colon of Host", b"GET / HTTP/1.1\r\nHost : a.test\r\n\r\n".to_vec()),
        ("blank before the colon of the coding", get("Transfer-Encoding : chunked\r\n")),
        ("blank before the colon of the length", get("Content-Length : 5\r\n")),
        ("no colon", get("X-A\r\n")),
        ("no name", get(": b\r\n")),
        ("a blank inside", get("X A: b\r\n")),
        ("parentheses", get("X(A): b\r\n")),
        ("brackets", get("X[A]: b\r\n")),
        ("braces", get("X{A}: b\r\n")),
        ("quotes", get("\"X-A\": b\r\n")),
        ("a slash", get("X/A: b\r\n")),
        ("a comma", get("X,A: b\r\n")),
        ("a semicolon", get("X;A: b\r\n")),
        ("an equals sign", get("X=A: b\r\n")),
        ("an at sign", get("X@A: b\r\n")),
        ("a question mark", get("X?A: b\r\n")),
        ("angle brackets", get("<X>: b\r\n")),
        ("a backslash", get("X\\A: b\r\n")),
        ("beyond ASCII", get(b"X\xc3\xa9: b\r\n")),
        ("not UTF-8", get(b"X\xff: b\r\n")),
        ("NUL", get(b"X\0A: b\r\n")),
        ("delete", get(b"X\x7fA: b\r\n")),
        ("CR", get(b"X\rA: b\r\n")),
    ];
    Rig::new().refuses(400, &rows);
}

#[test]
fn values_of_any_visible_bytes_reach_the_upstream_unchanged() {
    let rig = Rig::new();
    let value = "\"q\", <a>; {b}=[c] \\ \u{e9}\u{ff}\tx";
    let bytes: Vec<u8> = value.chars().map(|char| char as u8).collect();
    let request = get([b"X-Odd: ".as_slice(), &bytes, b"\r\n"].concat());
    assert_eq!(rig.forwards("odd value", request).head.header("X-Odd"), Some(value));
}
