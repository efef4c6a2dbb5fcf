use super::LIMITS;
use crate::wire::alarm::UPGRADED_IDLE;
use crate::wire::answers::{Answers, Bounds, Ending};
use crate::wire::connections::{Crowd, Quota};
use crate::wire::fault::Fault;
use crate::wire::guard::{GuardedStream, Rescue, Rescued};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl,
    TimingDigest, UniqueID, UniqueIDType,
};
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex,
};

const GET: &[u8] = b"GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n";
const POST: &[u8] = b"POST /two HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello";
const CHUNKED: &[u8] =
    b"PUT /three HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

/// One end of a pipe in memory, as far as Pingora takes it for a connection.
#[derive(Debug)]
struct Pipe(DuplexStream);

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Pipe {
    async fn shutdown(&mut self) {}
}

impl UniqueID for Pipe {
    fn id(&self) -> UniqueIDType {
        0
    }
}

impl GetTimingDigest for Pipe {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Pipe {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Pipe {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        None
    }
}

impl Ssl for Pipe {}
impl Peek for Pipe {}

/// Answers with the fault's name, and remembers what it was told.
#[derive(Default)]
struct Recorder {
    refused: Mutex<Vec<Fault>>,
    parser_refused: Mutex<usize>,
    ended: Mutex<Vec<Ending>>,
}

/// Long enough that no test reaches it by accident.
const LONG: Duration = Duration::from_secs(3_600);
/// How soon a head must be whole in [`Rig::hurried`], and silence end.
const SOON: Duration = Duration::from_millis(40);

impl Answers for Recorder {
    fn refuse(&self, fault: Fault, _peer: Option<IpAddr>) -> Bytes {
        self.refused.lock().unwrap().push(fault);
        Bytes::from(format!("refused: {fault:?}"))
    }

    fn parser_refused(&self) {
        *self.parser_refused.lock().unwrap() += 1;
    }

    fn turn_away(&self, _crowd: Crowd) -> Bytes {
        Bytes::new()
    }

    fn bounds(&self) -> Bounds {
        Bounds {
            header_timeout: LONG,
            idle_timeout: LONG,
            min_body_rate: None,
            max_requests: Some(4),
        }
    }

    fn quota(&self, _peer: Option<IpAddr>) -> Quota {
        Quota { max: 1, holder: None, max_of_holder: None }
    }

    fn is_draining(&self) -> bool {
        false
    }

    fn accepted(&self) {}

    fn ended(&self, why: Ending) {
        self.ended.lock().unwrap().push(why);
    }
}

/// A client, and the guard that its connection is read through.
struct Rig {
    client: DuplexStream,
    guard: GuardedStream,
    answers: Arc<Recorder>,
    rescue: Rescue,
}

impl Rig {
    fn new() -> Rig {
        let (client, server) = duplex(1 << 16);
        let (answers, rescue) = (Arc::new(Recorder::default()), Rescue::default());
        let guard = GuardedStream::new(
            Rescued::new(Box::new(Pipe(server))),
            LIMITS,
            answers.clone(),
            rescue.clone(),
        );
        Rig { client, guard, answers, rescue }
    }

    /// The same with little time for anything.
    fn hurried() -> Rig {
        let mut rig = Rig::new();
        (rig.guard.bounds.header_timeout, rig.guard.bounds.idle_timeout) = (SOON, SOON);
        rig
    }

    fn ended(&self) -> Vec<Ending> {
        self.answers.ended.lock().unwrap().clone()
    }

    fn send(&mut self, bytes: &[u8]) {
        at_once(self.client.write_all(bytes)).unwrap().unwrap();
    }

    async fn wait(&mut self) -> bool {
        poll_fn(|cx| self.guard.poll_next(cx)).await
    }

    /// Whether there is a next request; none while it has not come whole.
    fn next_request(&mut self) -> Option<bool> {
        at_once(self.wait())
    }

    /// What Pingora would read before it has to wait.
    fn read(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buf = [0; 7];
        while let Some(Ok(count @ 1..)) = at_once(self.guard.read(&mut buf)) {
            all.extend_from_slice(&buf[..count]);
        }
        all
    }

    /// What the client is answered, to the end of the connection.
    fn answer(&mut self) -> String {
        let mut answer = String::new();
        at_once(self.client.read_to_string(&mut answer)).unwrap().unwrap();
        answer
    }
}

/// Where the guard's timers run.
static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap()
});

/// What a future yields in the end.
fn at_last<F: Future>(future: F) -> F::Output {
    let in_time = async { tokio::time::timeout(Duration::from_secs(10), future).await };
    RUNTIME.block_on(in_time).expect("it ends")
}

/// What a future yields without waiting.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let _enter = RUNTIME.enter();
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_handed_on_whole() {
    let mut rig = Rig::new();
    for &byte in &GET[..GET.len() - 1] {
        rig.send(&[byte]);
        assert_eq!(rig.next_request(), None);
    }
    rig.send(b"\n");
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
}

#[test]
fn pipelined_requests_are_handed_on_one_at_a_time() {
    let all = [GET, POST, CHUNKED, GET].concat();
    for cut in 1..all.len() {
        let mut rig = Rig::new();
        rig.send(&all[..cut]);
        let mut is_whole = false;
        for request in [GET, POST, CHUNKED, GET] {
            while rig.next_request().is_none() {
                assert!(!std::mem::replace(&mut is_whole, true), "stuck, cut at {cut}");
                rig.send(&all[cut..]);
            }
            let mut read = rig.read();
            if read.len() < request.len() && !std::mem::replace(&mut is_whole, true) {
                rig.send(&all[cut..]);
                read.extend(rig.read());
            }
            assert_eq!(String::from_utf8(read), String::from_utf8(request.to_vec()), "{cut}");
        }
        assert!(is_whole || cut >= all.len());
        assert_eq!(rig.next_request(), None, "nothing is left");
    }
}

#[test]
fn what_comes_early_waits_until_the_request_is_finished() {
    let mut rig = Rig::new();
    rig.send(GET);
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
    rig.send(POST);
    assert_eq!(rig.read(), b"", "the first request is not finished");
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), POST);
}

#[test]
fn a_client_that_goes_away_is_noticed_while_its_request_is_served() {
    let mut rig = Rig::new();
    rig.send(GET);
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
    let mut buf = [0; 16];
    assert!(at_once(rig.guard.read(&mut buf)).is_none());
    drop(std::mem::replace(&mut rig.client, duplex(1).0));
    assert_eq!(at_once(rig.guard.read(&mut buf)).unwrap().unwrap(), 0);
}

#[test]
fn of_a_head_that_is_refused_nothing_is_handed_on() {
    let cases: [(&[u8], Fault); 6] = [
        (b"GET / HTTP/1.1\n\n", Fault::LineEnd),
        (b"GET / HTTP/1.1\r\n\r\n", Fault::Host),
        (b"\x16\x03\x01\x02\x00", Fault::RequestLine),
        (b"\r\n\r\n\r\nGET / HTTP/1.1\r\n", Fault::RequestLine),
        (&[b'A'; 40], Fault::RequestLine),
        (b"GET / HTTP/1.1\r\nX", Fault::HeadTooLarge),
    ];
    for (bytes, fault) in cases {
        let mut rig = Rig::new();
        rig.send(bytes);
        if fault == Fault::HeadTooLarge {
            assert_eq!(rig.next_request(), None);
            rig.send(&[b'a'; 512]);
        }
        assert_eq!(rig.next_request(), Some(false), "{fault:?}");
        assert_eq!(rig.read(), b"");
        assert_eq!(rig.next_request(), Some(false), "and never again");
        assert_eq!(rig.answer(), format!("refused: {fault:?}"));
        assert_eq!(*rig.answers.refused.lock().unwrap(), [fault]);
    }
}

#[test]
fn a_bad_head_behind_a_good_request_is_refused_in_its_turn() {
    let mut rig = Rig::new();
    rig.send(&[POST, b"GET  / HTTP/1.1\r\n\r\n"].concat());
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), POST);
    assert!(rig.answers.refused.lock().unwrap().is_empty());
    assert_eq!(rig.next_request(), Some(false));
    assert_eq!(rig.answer(), "refused: Target");
}

#[test]
fn two_empty_lines_before_a_request_are_skipped() {
    let mut rig = Rig::new();
    rig.send(&[b"\r\n\r\n", GET].concat());
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
}

#[test]
fn an_absolute_target_is_handed_on_in_origin_form() {
    for (target, path) in
        [("http://a.test/x?y", "/x?y"), ("http://a.test", "/"), ("http://a.test?y", "/?y")]
    {
        let mut rig = Rig::new();
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi");
        rig.send(request.as_bytes());
        assert_eq!(rig.next_request(), Some(true));
        assert_eq!(rig.read(), request.replace(target, path).as_bytes());
    }
}

#[test]
fn a_connection_that_ends_in_a_head_is_no_request_and_no_fault() {
    for bytes in [&b""[..], b"GET / HT"] {
        let mut rig = Rig::new();
        rig.send(bytes);
        assert_eq!(rig.next_request(), None);
        drop(std::mem::replace(&mut rig.client, duplex(1).0));
        assert_eq!(rig.next_request(), Some(false));
        assert!(rig.answers.refused.lock().unwrap().is_empty());
    }
}

#[test]
fn a_tunnel_passes_whatever_comes_and_what_had_come() {
    let mut rig = Rig::new();
    rig.send(&[GET, b"early"].concat());
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
    rig.guard.become_tunnel();
    assert_eq!(rig.read(), b"early");
    rig.send(b"\x81\x05later\r\n\r\n");
    assert_eq!(rig.read(), b"\x81\x05later\r\n\r\n");
    assert_eq!(rig.next_request(), Some(false), "it never speaks HTTP again");
}

/// What writing as much as `client` has not room for comes to, while that reads after a pause.
async fn stalled_tunnel(pause: Duration) -> (io::Result<()>, Duration, Rig) {
    let mut rig = Rig::new();
    rig.guard.take_request();
    rig.guard.become_tunnel();
    let began = tokio::time::Instant::now();
    let (guard, client) = (&mut rig.guard, &mut rig.client);
    let reading = async {
        tokio::time::sleep(pause).await;
        client.read_exact(&mut [0; 8]).await.unwrap();
        std::future::pending::<()>().await;
    };
    let written = tokio::select! {
        written = guard.write_all(&[0; (1 << 16) + 8]) => written,
        () = reading => unreachable!(),
    };
    (written, began.elapsed(), rig)
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_whose_client_reads_nothing_ends_after_an_hour() {
    let (written, took, rig) = stalled_tunnel(2 * UPGRADED_IDLE).await;
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert!(took.abs_diff(UPGRADED_IDLE) < Duration::from_secs(5), "{took:?}");
    assert!(rig.ended().is_empty(), "no configured bound ended it");
}

#[tokio::test(start_paused = true)]
async fn a_tunnel_whose_client_reads_late_goes_on() {
    let (written, ..) = stalled_tunnel(UPGRADED_IDLE - Duration::from_secs(60)).await;
    written.unwrap();
}

#[test]
fn a_connection_outlives_a_failed_attempt_with_what_it_had_read() {
    let mut rig = Rig::new();
    rig.send(&[POST, GET].concat());
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), POST);
    rig.guard.take_request();
    rig.guard.keep_after_failure();
    let Rig { guard, answers, rescue, client } = rig;
    drop(guard);
    let connection = rescue.lock().unwrap().take().expect("the connection");
    assert_eq!(connection.served, 1);
    let guard = GuardedStream::new(connection, LIMITS, answers.clone(), rescue.clone());
    let mut rig = Rig { guard, answers, rescue, client };
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
    assert_eq!(*rig.answers.parser_refused.lock().unwrap(), 0);
}

#[test]
fn a_connection_in_the_middle_of_a_body_is_not_kept() {
    for sent in [&POST[..POST.len() - 1], &CHUNKED[..CHUNKED.len() - 1]] {
        let mut rig = Rig::new();
        rig.send(sent);
        assert_eq!(rig.next_request(), Some(true));
        assert_eq!(rig.read(), sent);
        rig.guard.keep_after_failure();
        drop(rig.guard);
        assert!(rig.rescue.lock().unwrap().is_none());
    }
}

#[test]
fn a_malformed_body_ends_in_an_error_and_its_connection_is_not_kept() {
    let head = b"PUT / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    // At once with the head, and after it.
    for pieces in [
        vec![[&head[..], b"5\nhello", GET].concat()],
        vec![head.to_vec(), [b"5\nhello", GET].concat()],
    ] {
        let mut rig = Rig::new();
        let mut pieces = pieces.iter();
        rig.send(pieces.next().unwrap());
        assert_eq!(rig.next_request(), Some(true));
        let mut buf = [0; 512];
        let count = at_once(rig.guard.read(&mut buf)).unwrap().unwrap();
        assert_eq!(&buf[..count], head, "there is a request to answer");
        pieces.for_each(|piece| rig.send(piece));
        let error = at_once(rig.guard.read(&mut buf)).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(rig.guard.body_fault(), Some(Fault::Chunk));
        rig.guard.keep_after_failure();
        drop(rig.guard);
        assert!(rig.rescue.lock().unwrap().is_none());
    }
}

#[test]
fn a_request_that_pingora_never_made_of_a_head_is_reported() {
    let mut rig = Rig::new();
    rig.send(GET);
    assert_eq!(rig.next_request(), Some(true));
    drop(rig.guard);
    assert_eq!(*rig.answers.parser_refused.lock().unwrap(), 1);

    let mut rig = Rig::new();
    rig.send(GET);
    assert_eq!(rig.next_request(), Some(true));
    rig.guard.take_request();
    drop(rig.guard);
    assert_eq!(*rig.answers.parser_refused.lock().unwrap(), 0);
}

#[test]
fn a_head_has_its_time_from_its_first_byte_however_it_drips() {
    for first in [&b"G"[..], b"\r\n", GET.split_last().unwrap().1] {
        let mut rig = Rig::hurried();
        rig.send(first);
        assert!(!at_last(rig.wait()));
        assert_eq!(rig.answer(), "refused: HeadTimeout");
        assert_eq!(rig.ended(), [Ending::HeaderTimeout]);
    }
}

#[test]
fn a_head_behind_a_request_has_its_time_from_the_end_of_that() {
    let mut rig = Rig::hurried();
    rig.send(&[GET, b"GET / HT"].concat());
    assert_eq!(rig.next_request(), Some(true));
    (rig.guard.bounds.header_timeout, rig.guard.bounds.idle_timeout) = (SOON, LONG);
    assert_eq!(rig.read(), GET);
    std::thread::sleep(2 * SOON);
    assert_eq!(rig.next_request(), None, "its time begins now");
    assert!(!at_last(rig.wait()));
    assert_eq!(rig.answer(), "refused: HeadTimeout");
}

#[test]
fn silence_ends_a_connection_without_a_word() {
    let mut rig = Rig::hurried();
    let client = std::mem::replace(&mut rig.client, duplex(1).0);
    assert!(!at_last(rig.wait()));
    assert_eq!(rig.ended(), [Ending::IdleTimeout]);
    rig.client = client;
    assert_eq!(rig.answer(), "");
    assert!(rig.answers.refused.lock().unwrap().is_empty());
}

#[test]
fn a_new_connection_is_silent_for_the_shorter_of_both_times() {
    for (header_timeout, idle_timeout) in [(SOON, LONG), (LONG, SOON)] {
        let mut rig = Rig::new();
        (rig.guard.bounds.header_timeout, rig.guard.bounds.idle_timeout) =
            (header_timeout, idle_timeout);
        assert!(!at_last(rig.wait()));
        assert_eq!(rig.answer(), "");
    }
}

#[test]
fn a_connection_that_waits_when_the_gateway_stops_is_soon_closed() {
    let mut rig = Rig::new();
    assert_eq!(rig.next_request(), None);
    let _enter = RUNTIME.enter();
    rig.guard.drain();
    assert!(!at_last(rig.wait()));
    assert_eq!(rig.ended(), [Ending::Drain]);
}

#[test]
fn a_request_that_still_comes_when_the_gateway_stops_is_served() {
    let mut rig = Rig::new();
    assert_eq!(rig.next_request(), None);
    rig.guard.drain();
    rig.send(GET);
    assert_eq!(rig.next_request(), Some(true));
    assert_eq!(rig.read(), GET);
}

#[test]
fn the_last_request_of_a_connection_is_known_and_the_connection_not_kept() {
    let mut rig = Rig::new();
    rig.send(&[GET, GET, GET, GET].concat());
    for is_last in [false, false, false, true] {
        assert_eq!(rig.next_request(), Some(true));
        assert_eq!(rig.read(), GET);
        assert_eq!(rig.guard.is_last_request(), is_last);
    }
    rig.guard.take_request();
    rig.guard.keep_after_failure();
    drop(rig.guard);
    assert!(rig.rescue.lock().unwrap().is_none());
}
