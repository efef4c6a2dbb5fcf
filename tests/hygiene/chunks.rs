//! Chunked bodies that could end in two places. The head has gone upstream when
//! they turn out bad, so what counts is that the upstream never sees the body
//! come to a proper end, and that nothing after the fault is taken for a request.

use crate::rig::{Rig, SMUGGLED, post, report};
use crate::support::End;

/// Sends each body and expects a 4xx or none, then the end of the connection.
#[track_caller]
fn breaks_off(rows: &[(&str, Vec<u8>)]) {
    let rig = Rig::new();
    report(rows.iter().map(|(name, body)| {
        rig.upstream.forget();
        let outcome = rig.outcome(&post("Transfer-Encoding: chunked\r\n", body));
        let status = outcome.reply.as_ref().map(|reply| reply.status);
        if status.is_some_and(|status| !(400..500).contains(&status)) {
            return Err(format!("  {name}: answered {status:?}"));
        }
        if outcome.end != End::Closed {
            return Err(format!("  {name}: the connection is {:?} after it", outcome.end));
        }
        let sentinel = rig.gateway.get("/sentinel").status;
        let requests = rig.upstream.requests();
        let victim = |target: &str| target == "/victim";
        if requests.iter().any(|seen| victim(seen.head.target()) && seen.complete) {
            return Err(format!("  {name}: the upstream got a whole request"));
        }
        let others: Vec<_> =
            rig.upstream.targets().into_iter().filter(|target| !victim(target)).collect();
        if sentinel != 200 || others != ["/sentinel"] {
            return Err(format!("  {name}: then {sentinel}, and the upstream got {others:?}"));
        }
        Ok(())
    }));
}

/// A first chunk whose size line is this, five bytes, and a proper end.
fn sized(line: &str) -> Vec<u8> {
    format!("{line}\r\nhello\r\n0\r\n\r\n{SMUGGLED}").into_bytes()
}

#[test]
fn sizes_that_are_not_plain_hexadecimal_break_off() {
    breaks_off(&[
        ("no digits", sized("")),
        ("no hexadecimal", sized("g")),
        ("0x before it", sized("0x5")),
        ("plus sign", sized("+5")),
        ("minus sign", sized("-5")),
        ("blank before it", sized(" 5")),
        ("letters after it", sized("5z")),
        ("an underscore", sized("0_5")),
        ("two numbers", sized("5 5")),
        ("a NUL after it", sized("5\0")),
        ("17 digits", sized("10000000000000005")),
        ("as large as 64 bits hold", sized("ffffffffffffffff")),
        ("100 zeros before it", sized(&format!("{}5", "0".repeat(100)))),
        ("an extension alone", sized(";a=b")),
    ]);
}

#[test]
fn lines_of_chunks_that_do_not_end_with_crlf_break_off() {
    let row = |body: &str| format!("{body}{SMUGGLED}").into_bytes();
    breaks_off(&[
        ("bare LF after the size", row("5\nhello\r\n0\r\n\r\n")),
        ("bare CR after the size", row("5\rhello\r\n0\r\n\r\n")),
        ("bare LF after the data", row("5\r\nhello\n0\r\n\r\n")),
        ("nothing after the data", row("5\r\nhello0\r\n\r\n")),
        ("other bytes after the data", row("5\r\nhelloXX0\r\n\r\n")),
        ("bare LF after the last size", row("5\r\nhello\r\n0\n\r\n")),
        ("bare LF as the empty line", row("5\r\nhello\r\n0\r\n\n")),
        ("bare LF in an extension", row("5;a\nb\r\nhello\r\n0\r\n\r\n")),
        ("bare CR in an extension", row("5;a\rb\r\nhello\r\n0\r\n\r\n")),
    ]);
}

#[test]
fn over_long_extensions_break_off() {
    let long = "e".repeat(20 * 1024);
    breaks_off(&[
        ("20 KiB in one", sized(&format!("5;{long}"))),
        ("20 KiB on the last chunk", format!("5\r\nhello\r\n0;{long}\r\n\r\n").into_bytes()),
    ]);
}

#[test]
fn an_extension_of_ordinary_length_passes() {
    let rig = Rig::new();
    let request =
        post("Transfer-Encoding: chunked\r\n", "5;name=value\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    assert_eq!(rig.forwards("an extension", request).body, b"hello world");
}

#[test]
fn a_body_cut_off_by_the_client_is_never_whole_upstream() {
    let rig = Rig::new();
    for (name, headers, body) in [
        ("chunked", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
        ("by length", "Content-Length: 10\r\n", "hello"),
    ] {
        rig.upstream.forget();
        let mut client = rig.gateway.client();
        client.send(post(headers, body));
        rig.upstream.wait_for(1);
        drop(client);
        assert_eq!(rig.gateway.get("/sentinel").status, 200, "{name}");
        assert!(!rig.upstream.requests()[0].complete, "{name}");
    }
}
