use crate::wire::body::BodyTracker;
use crate::wire::fault::Fault;
use crate::wire::head::Framing;
use proptest::prelude::*;

/// Feeds `bytes` in pieces of the given lengths, the rest in one; how many belong to the body,
/// and whether it ended.
fn follow(framing: Framing, bytes: &[u8], pieces: &[usize]) -> Result<(usize, bool), Fault> {
    let mut tracker = BodyTracker::new(framing);
    let mut at = 0;
    let mut pieces = pieces.iter().copied();
    while at < bytes.len() && !tracker.is_done() {
        let end = pieces.next().map_or(bytes.len(), |piece| bytes.len().min(at + piece.max(1)));
        let taken = tracker.advance(&bytes[at..end])?;
        at += taken;
        if taken == 0 {
            break;
        }
    }
    Ok((at, tracker.is_done()))
}

fn chunked(text: &str) -> Result<(usize, bool), Fault> {
    let whole = follow(Framing::Chunked, text.as_bytes(), &[]);
    let by_byte = follow(Framing::Chunked, text.as_bytes(), &vec![1; text.len()]);
    assert_eq!(whole, by_byte, "{text:?}");
    whole
}

#[test]
fn a_length_ends_after_its_bytes() {
    assert!(BodyTracker::new(Framing::Length(0)).is_done());
    assert_eq!(follow(Framing::Length(5), b"hello", &[]), Ok((5, true)));
    assert_eq!(follow(Framing::Length(5), b"helloGET /", &[2, 9]), Ok((5, true)));
    assert_eq!(follow(Framing::Length(5), b"hell", &[]), Ok((4, false)));
    assert_eq!(follow(Framing::Length(u64::MAX), b"hell", &[]), Ok((4, false)));
}

#[test]
fn chunks_end_after_the_last_one_and_its_trailers() {
    for body in [
        "0\r\n\r\n",
        "000\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n",
        "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        "2\r\n\r\n\r\n0\r\n\r\n",
        "0\r\nX-Sum: 1\r\nY: \t2\r\n\r\n",
    ] {
        assert_eq!(chunked(body), Ok((body.len(), true)));
        let surplus = format!("{body}GET / HTTP/1.1\r\n");
        assert_eq!(chunked(&surplus), Ok((body.len(), true)), "what follows is not its own");
        for end in 1..body.len() {
            assert_eq!(chunked(&body[..end]), Ok((end, false)));
        }
    }
}

#[test]
fn chunk_framing_that_can_be_read_in_two_ways_is_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        "0x5\r\nhello",
        "-1\r\n",
        " 5\r\nhello",
        "5 \r\nhello",
        "5\nhello",
        "5\r\rhello",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        ";a\r\n",
        "5;a\0\r\nhello",
        "5;a\nhello",
        "1000000000000000\r\n",
    ] {
        assert_eq!(chunked(body), Err(Fault::Chunk), "{body:?}");
    }
    assert_eq!(chunked("fffffffffffffff\r\nx"), Ok((18, false)), "15 digits are a size");
}

#[test]
fn extensions_and_trailers_are_bounded_to_the_byte() {
    let extended = |bytes: usize| format!("0;{}\r\n\r\n", "a".repeat(bytes - 1));
    assert_eq!(chunked(&extended(256)).map(|(_, is_done)| is_done), Ok(true));
    assert_eq!(chunked(&extended(257)), Err(Fault::ChunkExtension));

    let line = |bytes: usize| format!("0\r\nX:{}\r\n\r\n", "a".repeat(bytes - 3));
    assert_eq!(chunked(&line(4_096)).map(|(_, is_done)| is_done), Ok(true));
    assert_eq!(chunked(&line(4_097)), Err(Fault::Trailer));

    let trailers = |count: usize| format!("0\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(chunked(&trailers(32)).map(|(_, is_done)| is_done), Ok(true));
    assert_eq!(chunked(&trailers(33)), Err(Fault::Trailer));
}

#[test]
fn trailers_carry_no_framing_and_no_malformed_line() {
    for line in [
        "Content-Length: 5",
        "transfer-encoding: chunked",
        "HOST: a.test",
        "Authorization: x",
        "TE: trailers",
        "no colon",
        "space : y",
        " folded",
        ": y",
        "X: a\0b",
        "X: a\u{7f}b",
        "X: a\rb",
    ] {
        assert_eq!(chunked(&format!("0\r\n{line}\r\n\r\n")), Err(Fault::Trailer), "{line:?}");
    }
    assert_eq!(chunked("0\r\nX: y\n\r\n"), Err(Fault::Trailer), "a bare LF");
}

#[test]
fn a_body_that_was_refused_never_ends() {
    let mut tracker = BodyTracker::new(Framing::Chunked);
    assert_eq!(tracker.advance(b"5\r\nhelloGET"), Err(Fault::Chunk));
    assert!(!tracker.is_done(), "or what follows would be taken for a request");
    assert!(tracker.advance(b"\r\n0\r\n\r\n").is_err());
}

/// Chunked bodies as people send them, and some that are broken somewhere.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    let chunk = (0..40_usize, prop::bool::weighted(0.2)).prop_map(|(length, is_extended)| {
        let extension = if is_extended { ";name=value" } else { "" };
        format!("{length:x}{extension}\r\n{}\r\n", "\r\n0".repeat(length)[..length].to_owned())
    });
    let chunk = chunk.prop_filter("the last chunk is the last", |chunk| !chunk.starts_with('0'));
    let body =
        (prop::collection::vec(chunk, 0..5), prop::bool::ANY).prop_map(|(chunks, trailed)| {
            let trailer = if trailed { "X-Sum: 1\r\n" } else { "" };
            format!("{}0\r\n{trailer}\r\nGET /next HTTP/1.1\r\n", chunks.concat()).into_bytes()
        });
    (body, prop::option::weighted(0.4, (any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(mut body, broken)| {
            if let Some((place, byte)) = broken {
                let place = place.index(body.len());
                body[place] = byte;
            }
            body
        },
    )
}

proptest! {
    #[test]
    fn a_body_is_the_same_however_it_is_cut(
        body in bodies(),
        pieces in prop::collection::vec(1..20_usize, 0..40),
    ) {
        let whole = follow(Framing::Chunked, &body, &[]);
        let by_byte = follow(Framing::Chunked, &body, &vec![1; body.len()]);
        prop_assert_eq!(whole, by_byte);
        prop_assert_eq!(whole, follow(Framing::Chunked, &body, &pieces));
        if let Ok((taken, true)) = whole {
            prop_assert!(taken < body.len());
        }
    }
}
