//! Heads, targets and fields beyond their bounds.

use crate::rig::{Rig, get};
use crate::support::End;

/// A GET of /victim whose fields beside Host are `count` short ones.
fn with_fields(count: usize) -> Vec<u8> {
    let fields: String = (0..count).map(|index| format!("X-{index}: v\r\n")).collect();
    get(fields)
}

/// A GET of /victim with one field of this many bytes.
fn with_value(length: usize) -> Vec<u8> {
    get(format!("X-Long: {}\r\n", "v".repeat(length)))
}

/// A GET whose target is this many bytes long.
fn with_target(length: usize) -> String {
    format!("GET /{} HTTP/1.1\r\nHost: tollgate.test\r\n\r\n", "t".repeat(length - 1))
}

#[test]
fn heads_beyond_the_default_bounds_are_431() {
    let many: String = (0..50).map(|index| format!("X-{index}: {}\r\n", "v".repeat(900))).collect();
    Rig::new().refuses(
        431,
        &[
            ("one field of 40 KiB", with_value(40 * 1024)),
            ("fifty fields of 45 KiB together", get(many)),
            ("a name of 40 KiB", get(format!("{}: v\r\n", "n".repeat(40 * 1024)))),
            ("one field of 200 KiB", with_value(200 * 1024)),
            ("101 fields", with_fields(100)),
        ],
    );
}

#[test]
fn heads_beyond_what_the_parser_takes_are_turned_away() {
    Rig::new().turns_away(&[
        ("one field of 1.5 MiB", with_value(1536 * 1024)),
        ("300 fields", with_fields(299)),
        ("3 000 fields", with_fields(2999)),
    ]);
}

#[test]
fn heads_within_the_default_bounds_pass() {
    let rig = Rig::new();
    let seen = rig.forwards("100 fields", with_fields(99));
    assert_eq!(seen.head.header("X-98"), Some("v"));
    let seen = rig.forwards("one field of 30 KiB", with_value(30 * 1024));
    assert_eq!(seen.head.header("X-Long").map(str::len), Some(30 * 1024));
    let seen = rig.forwards("a target of 8 000 bytes", with_target(8_000));
    assert_eq!(seen.head.target().len(), 8_000);
}

#[test]
fn targets_beyond_the_default_bound_are_414() {
    Rig::new().refuses(
        414,
        &[
            ("one byte more than 8 KiB", with_target(8 * 1024 + 1)),
            ("9 KiB", with_target(9 * 1024)),
            ("20 KiB of query", with_target(20 * 1024).replacen("/t", "/?", 1)),
        ],
    );
}

#[test]
fn bounds_are_configurable() {
    let rig = Rig::with(|builder| {
        builder.server(
            "
            max_head: 4KiB
            max_headers: 20
            max_uri: 1KiB
            ",
        )
    });
    rig.refuses(431, &[("5 KiB of head", with_value(5 * 1024)), ("21 fields", with_fields(20))]);
    rig.refuses(414, &[("1 025 bytes of target", with_target(1025))]);
    rig.forwards("20 fields", with_fields(19));
    rig.forwards("3 KiB of head", with_value(3 * 1024));
    rig.forwards("1 024 bytes of target", with_target(1024));
}

#[test]
fn a_head_without_end_is_refused_long_before_the_client_has_finished() {
    let rig = Rig::new();
    let mut client = rig.gateway.client();
    let before = rig.gateway.resident_bytes();
    client.send("GET /victim HTTP/1.1\r\nHost: tollgate.test\r\n");
    let line = format!("X-Endless: {}\r\n", "v".repeat(1000));
    let taken = (0..200_000).take_while(|_| client.try_send(&line).is_ok()).count();
    assert!(taken < 200_000, "the gateway took 200 MB of head");
    let status = client.try_reply().unwrap_or_default().map(|reply| reply.status);
    assert!(status.is_none_or(|status| (400..500).contains(&status)), "{status:?}");
    assert_eq!(client.end(), End::Closed);
    let grown = rig.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes");
    assert_eq!(rig.upstream.transcript(), "");
}
