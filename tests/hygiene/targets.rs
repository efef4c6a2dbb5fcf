//! Request targets: their forms, and the one normal form of a path that routes
//! and the upstream both see.

use crate::rig::{Rig, report, still_serves};
use crate::support::{Gateway, Upstream, ok};

/// A GET of this target.
fn get(target: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET ", target.as_ref(), b" HTTP/1.1\r\nHost: tollgate.test\r\n\r\n"].concat()
}

#[test]
fn absolute_form_of_the_same_host_is_forwarded_in_origin_form() {
    let rig = Rig::new();
    for (name, target, wanted) in [
        ("plain", "http://tollgate.test/a/b?c=d", "/a/b?c=d"),
        ("another case", "HTTP://TollGate.Test/a", "/a"),
        ("without a path", "http://tollgate.test", "/"),
    ] {
        let seen = rig.forwards(name, get(target));
        assert_eq!(seen.head.target(), wanted, "{name}");
        let host = seen.head.header("host").map(str::to_ascii_lowercase);
        assert_eq!(host.as_deref(), Some("tollgate.test"), "{name}");
    }
}

#[test]
fn targets_of_other_forms_are_refused() {
    Rig::new().refuses(
        400,
        &[
            ("absolute form of another host", get("http://other.test/victim")),
            ("absolute form of another port", get("http://tollgate.test:81/victim")),
            ("absolute form with a user", get("http://user@tollgate.test/victim")),
            ("absolute form without a host", get("http:///victim")),
            ("authority form", get("tollgate.test:80")),
            ("asterisk with GET", get("*")),
            ("no slash before it", get("victim")),
            ("empty", get("")),
            ("a query alone", get("?a=b")),
            ("a blank inside", get("/victim x")),
            ("a fragment", get("/victim#part")),
            ("a fragment after a query", get("/victim?a=b#part")),
            ("NUL", get(b"/victim\0")),
            ("a tab", get(b"/vic\ttim")),
            ("a control byte", get(b"/victim\x01")),
            ("delete", get(b"/victim\x7f")),
            ("NUL in the query", get(b"/victim?a=\0")),
        ],
    );
}

#[test]
fn connect_is_turned_away() {
    Rig::new().turns_away(&[
        ("authority form", "CONNECT tollgate.test:443 HTTP/1.1\r\nHost: tollgate.test:443\r\n\r\n"),
        ("origin form", "CONNECT /victim HTTP/1.1\r\nHost: tollgate.test\r\n\r\n"),
    ]);
}

#[test]
fn options_for_the_server_as_a_whole_never_becomes_a_path() {
    let rig = Rig::new();
    let outcome = rig.outcome(b"OPTIONS * HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    let status = outcome.reply.map(|reply| reply.status);
    assert!(status.is_some_and(|status| (200..500).contains(&status)), "{status:?}");
    let targets = rig.upstream.targets();
    assert!(targets.iter().all(|target| target == "*"), "the upstream got {targets:?}");
}

#[test]
fn paths_outside_the_normal_form_are_400() {
    let paths = [
        "/..",
        "/.",
        "/../victim",
        "/a/../victim",
        "/a/./victim",
        "/a/..",
        "/a/.",
        "/a//../victim",
        "/a/%2e%2e/victim",
        "/a/%2E%2E/victim",
        "/a/.%2e/victim",
        "/a/%2E./victim",
        "/a/%2e/victim",
        "/%2e%2e",
        "/a/..?b=c",
        "/a%2fvictim",
        "/a%2Fvictim",
        "/a%2f..%2fvictim",
        "/a%5cvictim",
        "/a%5Cvictim",
        "/a\\victim",
        "/a\\..\\victim",
        "/victim%00",
        "/victim%00.png",
        "/victim%zz",
        "/victim%",
        "/victim%4",
        "/victim%g0",
        "/victim%%41",
        "/victim%u0041",
    ];
    let rows: Vec<_> = paths.iter().map(|path| (*path, get(path))).collect();
    Rig::new().declines(400, &rows);
}

#[test]
fn a_path_refused_for_its_form_leaves_the_connection_usable() {
    let rig = Rig::new();
    let mut client = rig.gateway.client();
    let reply = client.get("/a/../victim");
    assert_eq!(reply.status, 400);
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    if !reply.says_close() {
        still_serves(&mut client, "/next");
    }
}

/// Target as sent, target as forwarded.
const NORMAL_FORMS: [(&str, &str); 28] = [
    ("/", "/"),
    ("//", "/"),
    ("//a", "/a"),
    ("///a", "/a"),
    ("/a//b///c", "/a/b/c"),
    ("/a/", "/a/"),
    ("/a//", "/a/"),
    ("/%41bc", "/Abc"),
    ("/%61%62%63", "/abc"),
    ("/a%7Eb", "/a~b"),
    ("/a%7eb", "/a~b"),
    ("/a%2Db%5Fc", "/a-b_c"),
    ("/%30", "/0"),
    ("/a%2Eb", "/a.b"),
    ("/file%2etxt", "/file.txt"),
    ("/...", "/..."),
    ("/a/..b/c..", "/a/..b/c.."),
    ("/a%2E%2E", "/a.."),
    ("/a%20b", "/a%20b"),
    ("/a%3Fb", "/a%3Fb"),
    ("/a%23b", "/a%23b"),
    ("/a%25b", "/a%25b"),
    ("/a/%252E%252E/b", "/a/%252E%252E/b"),
    ("/caf%C3%A9", "/caf%C3%A9"),
    ("/a;b=c,d:e@f!$&'()*+", "/a;b=c,d:e@f!$&'()*+"),
    ("/a?b=../c//d&e=%2F%2e", "/a?b=../c//d&e=%2F%2e"),
    ("//a?b", "/a?b"),
    ("/a?", "/a?"),
];

#[test]
fn the_upstream_sees_the_normal_form() {
    let rig = Rig::new();
    report(NORMAL_FORMS.iter().map(|(sent, wanted)| {
        rig.upstream.forget();
        let status = rig.outcome(&get(sent)).reply.map(|reply| reply.status);
        let targets = rig.upstream.targets();
        if status == Some(200) && targets == [*wanted] {
            return Ok(());
        }
        Err(format!("  {sent}: {status:?}, the upstream got {targets:?}, not {wanted}"))
    }));
}

#[test]
fn routes_match_the_normal_form() {
    let (open, private) = (Upstream::answering(ok("open")), Upstream::answering(ok("private")));
    let gateway = Gateway::builder()
        .upstream("open", open.address())
        .upstream("private", private.address())
        .routes(
            "
            - {name: open, path: /, upstream: open}
            - {name: private, path: /private/area, upstream: private}
            ",
        )
        .start();
    for path in [
        "/private/area",
        "/private//area/x",
        "//private/area",
        "/%70rivate/area",
        "/private/%61rea/x",
        "/privat%65//%61rea",
    ] {
        assert_eq!(gateway.get(path).text(), "private", "{path}");
    }
    assert_eq!(gateway.get("/private/%2561rea").text(), "open", "decoded once, not twice");
    assert_eq!(gateway.get("/PRIVATE/area").text(), "open", "paths know case");
}

#[test]
fn a_path_of_bytes_beyond_ascii_is_refused_or_forwarded_encoded() {
    let rig = Rig::new();
    for path in [b"/caf\xc3\xa9".as_slice(), b"/\xff"] {
        rig.upstream.forget();
        let status = rig.outcome(&get(path)).reply.map(|reply| reply.status);
        assert!(matches!(status, Some(200 | 400)), "{status:?}");
        for target in rig.upstream.targets() {
            assert!(target.is_ascii(), "the upstream got {target:?}");
        }
    }
}
