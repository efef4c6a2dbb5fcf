use super::*;

fn check<T: ToString>(parse: impl Fn(&str) -> Result<T, String>, cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let got = match parse(text) {
            Ok(value) => value.to_string(),
            Err(message) => message,
        };
        let wrong = format!("{text:?}: {got}");
        match expected.strip_prefix('!') {
            Some(part) => assert!(got.contains(part), "{wrong}"),
            None => assert_eq!(&got, expected, "{wrong}"),
        }
    }
}

#[test]
fn integers() {
    check(
        |text| integer(text, 1..=100),
        &[
            ("1", "1"),
            ("100", "100"),
            ("0", "!is not between 1 and 100"),
            ("-3", "!is not between 1 and 100"),
            ("101", "!is not between 1 and 100"),
            ("99999999999999999999999", "!is not between 1 and 100"),
            ("1.5", "!is not a whole number"),
            ("two", "!is not a whole number"),
            ("0x10", "!is not a whole number"),
            ("", "!is not a whole number"),
        ],
    );
}

#[test]
fn durations() {
    check(
        |text| duration(text, MIN_TIMEOUT..=MAX_TIMEOUT).map(duration_text),
        &[
            ("10ms", "10ms"),
            ("1500ms", "1500ms"),
            ("2000ms", "2s"),
            ("90s", "90s"),
            ("5m", "5m"),
            ("24h", "24h"),
            ("25h", "!is not between 1ms and 24h"),
            ("0s", "!is not between 1ms and 24h"),
            ("18446744073709551615h", "!is not between"),
            ("30", "!has no unit; write for example 30s"),
            ("1.5s", "!is not a duration"),
            ("-1s", "!is not a duration"),
            ("s", "!is not a duration"),
            ("1 day", "!is not a duration"),
            ("", "!is not a duration"),
        ],
    );
}

#[test]
fn durations_of_policies_are_in_nanoseconds() {
    check(
        |text| nanos(text, Duration::ZERO..=MAX_TIMEOUT),
        &[
            ("0s", "0"),
            ("0ms", "0"),
            ("250ms", "250000000"),
            ("24h", "86400000000000"),
            ("0", "!has no unit"),
            ("25h", "!is not between 0s and 24h"),
        ],
    );
}

#[test]
fn counts() {
    check(
        |text| count(text, 0..=u32::MAX),
        &[("0", "0"), ("4294967295", "4294967295"), ("4294967296", "!is not between")],
    );
}

#[test]
fn shares() {
    check(
        |text| share(text, Share::from_percent(1)..=Share::ALL),
        &[
            ("0.5", "0.5"),
            ("0.50", "0.5"),
            ("50%", "0.5"),
            ("50 %", "0.5"),
            ("1", "1"),
            ("1.0000000", "1"),
            ("100%", "1"),
            ("0.01", "0.01"),
            ("1%", "0.01"),
            ("33.3333%", "0.333333"),
            ("0.123457", "0.123457"),
            ("12.5%", "0.125"),
            ("0", "!is not between 0.01 and 1"),
            ("0.9%", "!is not between 0.01 and 1"),
            ("1.000001", "!is not between 0.01 and 1"),
            ("101%", "!is not between 0.01 and 1"),
            ("50", "!is not between 0.01 and 1; did you mean 50%?"),
            ("12.5", "!did you mean 12.5%?"),
            ("-0.5", "!is not between 0.01 and 1"),
            ("99999999999999999999999", "!is not between 0.01 and 1"),
            ("99999999999999999999999%", "!is not between 0.01 and 1"),
            ("0.1234567", "!exact to a millionth"),
            ("33.33333%", "!exact to a millionth"),
            ("half", "!is not a share"),
            ("1e-2", "!is not a share"),
            (".5", "!is not a share"),
            ("1.", "!is not a share"),
            ("%", "!is not a share"),
            ("--1", "!is not a share"),
            ("", "!is not a share"),
        ],
    );
    assert_eq!(share("0%", Share::NONE..=Share::ALL), Ok(Share::NONE));
    assert_eq!(share("-0", Share::NONE..=Share::ALL), Ok(Share::NONE));
}

#[test]
fn every_share_is_read_back_from_percent() {
    for millionths in (0..=1_000_000).step_by(37).chain([1, 10, 999_999, 1_000_000]) {
        let exact = Share::from_millionths(millionths);
        assert_eq!(share(&percent_text(exact), Share::NONE..=Share::ALL), Ok(exact));
    }
    assert_eq!(percent_text(Share::from_percent(20)), "20%");
    assert_eq!(percent_text(Share::from_millionths(125_000)), "12.5%");
    assert_eq!(percent_text(Share::from_millionths(1)), "0.0001%");
}

#[test]
fn sizes() {
    check(
        |text| size(text, 64..=1 << 40).map(size_text),
        &[
            ("1024", "1KiB"),
            ("100", "100"),
            ("8KiB", "8KiB"),
            ("10 MiB", "10MiB"),
            ("1GiB", "1GiB"),
            ("2000000GiB", "!is not between 64 and 1024GiB"),
            ("99999999999999GiB", "!is not between"),
            ("1", "!is not between"),
            ("10MB", "!is not a size"),
            ("10mib", "!is not a size"),
            ("-1", "!is not a size"),
            ("KiB", "!is not a size"),
        ],
    );
}

#[test]
fn rates() {
    check(
        rate,
        &[
            ("10/s", "10/s"),
            ("100/m", "100/m"),
            ("7 / h", "7/h"),
            ("1/d", "1/d"),
            ("0/s", "!a rate of zero lets nothing through"),
            ("-5/s", "!it is negative"),
            ("0.5/s", "!tokens are whole; write 30/m"),
            ("1.5/m", "!tokens are whole; write 90/h"),
            ("0.001/s", "!must be whole"),
            ("0.01/h", "!must be whole"),
            ("1e400/s", "!must be whole"),
            ("99999999999999999999/s", "!too large"),
            ("10", "!per s, m, h or d"),
            ("10/w", "!the period must be"),
            ("ten/s", "!must be whole"),
            ("/s", "!must be whole"),
        ],
    );
}

#[test]
fn addresses_and_networks() {
    check(
        socket_address,
        &[
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("127.0.0.1", "!has no port"),
            ("127.0.0.1:0", "!has port 0"),
            ("127.0.0.1:65536", "!is not an address"),
            ("localhost:80", "!has a host name, and only an address can be bound"),
            (":80", "!is not an address"),
            ("http://127.0.0.1:80", "!is not an address"),
        ],
    );
    check(
        network,
        &[
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("10.0.0.1/8", "!write 10.0.0.0/8 or 10.0.0.1/32"),
            ("10.0.0.0/33", "!is not a network"),
            ("10.0.0/8", "!is not a network"),
            ("everything", "!is not a network"),
        ],
    );
}

#[test]
fn names_headers_and_methods() {
    let long = "x".repeat(65);
    check(
        |text| name(text).map(str::to_owned),
        &[
            ("a.B_c-9", "a.B_c-9"),
            ("", "!is not a name"),
            ("a b", "!is not a name"),
            (&long, "!is not"),
        ],
    );
    check(
        header,
        &[
            ("X-Client-ID", "x-client-id"),
            ("Host", "!HTTP itself needs it"),
            ("Content-Length", "!HTTP itself needs it"),
            ("X Client", "!is not a header name"),
            ("", "!is not a header name"),
        ],
    );
    check(
        method,
        &[
            ("GET", "GET"),
            ("PROPFIND", "PROPFIND"),
            ("get", "!did you mean \"GET\"?"),
            ("G E T", "!is not a method"),
            ("CONNECT", "!always refused"),
            ("", "!is not a method"),
        ],
    );
    check(
        |text| client_id(text).map(str::to_owned),
        &[("client-123", "client-123"), ("", "!is not"), ("ä", "!is not"), ("a b", "!is not")],
    );
}
