//! What goes wrong with upstreams: each fault an answer, or a script of answers.
//!
//! Faults that are no answer to a request are elsewhere: a port that refuses is
//! [`super::Upstream::refusing`] or one that was closed, and the network between the
//! gateway and an upstream is a [`super::Link`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::answer::{Answer, Drops, Ending};
use super::wire::Head;

/// The body of every answer here that has one.
pub const BODY: &str = "0123456789abcdefghijklmnopqrstuvwxyz";

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 36\r\n\r\n";

/// Accepts, reads and never answers.
pub fn silent() -> Answer {
    Answer::Silent
}

/// This answer, so much later.
pub fn slow(delay: Duration, answer: Answer) -> Answer {
    Answer::After(delay, Box::new(answer))
}

/// Closes the connection instead of an answer.
pub fn hangup() -> Answer {
    Answer::Hangup
}

/// Resets the connection instead of an answer.
pub fn reset() -> Answer {
    Answer::Cut(Vec::new(), Ending::Reset)
}

/// Stops within the head, after the status line.
pub fn mid_head(ending: Ending) -> Answer {
    Answer::Cut(HEAD.as_bytes()[..30].to_vec(), ending)
}

/// Stops within the body, after a third of what Content-Length said.
pub fn mid_body(ending: Ending) -> Answer {
    Answer::Cut([HEAD, &BODY[..12]].concat().into_bytes(), ending)
}

/// Sends more than Content-Length said: a whole answer, and bytes that nobody asked for.
pub fn surplus() -> Answer {
    Answer::Bytes([HEAD, BODY, BODY].concat().into_bytes())
}

/// This status, which may not be one without a body.
pub fn status(code: u16) -> Answer {
    respond(code, "")
}

/// 503 with this Retry-After: seconds, or a date.
pub fn unavailable(retry_after: &str) -> Answer {
    respond(503, &format!("Retry-After: {retry_after}\r\n"))
}

/// 200, its head in drops of `size` bytes and its body at once with the last of them.
pub fn drip_head(size: usize, every: Duration) -> Answer {
    let (bytes, after) = (HEAD.into(), BODY.into());
    Answer::Drip(Drops { bytes, size, every, after, ..Drops::default() })
}

/// 200, its head at once and its body in drops of `size` bytes.
pub fn drip_body(size: usize, every: Duration) -> Answer {
    let (before, bytes) = (HEAD.into(), BODY.into());
    Answer::Drip(Drops { before, bytes, size, every, ..Drops::default() })
}

/// Every fault by name, for tests that try them all. What takes time here takes a minute,
/// longer than any test allows.
pub fn every() -> Vec<(&'static str, Answer)> {
    const A_MINUTE: Duration = Duration::from_secs(60);
    vec![
        ("silent", silent()),
        ("slow", slow(A_MINUTE, status(200))),
        ("hangup", hangup()),
        ("reset", reset()),
        ("silent within the head", mid_head(Ending::Silence)),
        ("closed within the head", mid_head(Ending::Close)),
        ("reset within the head", mid_head(Ending::Reset)),
        ("silent within the body", mid_body(Ending::Silence)),
        ("closed within the body", mid_body(Ending::Close)),
        ("reset within the body", mid_body(Ending::Reset)),
        ("surplus", surplus()),
        ("500", status(500)),
        ("503 with Retry-After", unavailable("2")),
        ("head in drops", drip_head(8, A_MINUTE)),
        ("body in drops", drip_body(8, A_MINUTE)),
    ]
}

/// A script: `failing` so many times, then `fine` for ever.
pub fn run(count: usize, failing: Answer, fine: Answer) -> impl Fn(&Head) -> Answer {
    let requests = AtomicUsize::new(0);
    move |_| match requests.fetch_add(1, Ordering::SeqCst) < count {
        true => failing.clone(),
        false => fine.clone(),
    }
}

/// A script: `fine` for `period` requests, `failing` for as many, and so on.
pub fn flapping(period: usize, fine: Answer, failing: Answer) -> impl Fn(&Head) -> Answer {
    let requests = AtomicUsize::new(0);
    move |_| match (requests.fetch_add(1, Ordering::SeqCst) / period.max(1)) % 2 {
        0 => fine.clone(),
        _ => failing.clone(),
    }
}

fn respond(code: u16, lines: &str) -> Answer {
    let start = format!("HTTP/1.1 {code} Scripted\r\nContent-Type: text/plain\r\n");
    let end = format!("{lines}Content-Length: {}\r\n\r\n{BODY}", BODY.len());
    Answer::Bytes([start, end].concat().into_bytes())
}
