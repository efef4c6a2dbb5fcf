//! One gateway before one upstream, and the judgement of tables of requests.

use std::time::Duration;

use crate::support::{Client, End, Gateway, GatewayBuilder, Recorded, Reply, Upstream};

/// Longer than any refusal takes, short enough that a table of connections
/// wrongly kept does not take minutes to say so.
const PATIENCE: Duration = Duration::from_secs(3);

/// The body of requests that hide another one.
pub(crate) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: tollgate.test\r\n\r\n";

/// A gateway, and the upstream that shows what came through it.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pub(crate) upstream: Upstream,
}

/// What a raw request met with.
pub(crate) struct Outcome {
    pub(crate) reply: Option<Reply>,
    pub(crate) end: End,
}

impl Rig {
    /// Every path goes to an upstream that answers "METHOD target".
    pub(crate) fn new() -> Self {
        Self::with(|builder| builder)
    }

    /// The same with changes.
    pub(crate) fn with(change: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        let upstream = Upstream::new();
        let gateway = change(Gateway::before(&upstream)).start();
        Self { gateway, upstream }
    }

    /// Each request gets exactly this status, then the end of the connection,
    /// and the upstream gets nothing.
    #[track_caller]
    pub(crate) fn refuses<R: AsRef<[u8]>>(&self, status: u16, rows: &[(&str, R)]) {
        self.judge(rows, |outcome| {
            expect_status(outcome, |got| got == status, &status.to_string())?;
            expect_closed(outcome)
        });
    }

    /// Each request gets exactly this status and the upstream nothing; the
    /// connection stays or is announced to end, either way consistently.
    #[track_caller]
    pub(crate) fn declines<R: AsRef<[u8]>>(&self, status: u16, rows: &[(&str, R)]) {
        self.judge(rows, |outcome| {
            expect_status(outcome, |got| got == status, &status.to_string())?;
            expect_consistent(outcome)
        });
    }

    /// Each request gets some 4xx or nothing, then the end of the connection,
    /// and the upstream gets nothing.
    #[track_caller]
    pub(crate) fn turns_away<R: AsRef<[u8]>>(&self, rows: &[(&str, R)]) {
        self.judge(rows, |outcome| {
            if outcome.reply.is_some() {
                expect_status(outcome, |got| (400..500).contains(&got), "4xx")?;
            }
            expect_closed(outcome)
        });
    }

    /// The request is answered 200 and the upstream gets it, once.
    #[track_caller]
    pub(crate) fn forwards(&self, name: &str, request: impl AsRef<[u8]>) -> Recorded {
        self.upstream.forget();
        let mut client = self.gateway.client();
        client.send(request);
        let reply = client.reply();
        assert_eq!(reply.status, 200, "{name}: {}", reply.text());
        let seen = self.upstream.requests();
        assert_eq!(seen.len(), 1, "{name}: {:?}", self.upstream.targets());
        self.upstream.last_complete()
    }

    /// Sends these bytes on a connection of their own and says what came of it.
    pub(crate) fn outcome(&self, request: &[u8]) -> Outcome {
        let mut client = self.gateway.client().patience(PATIENCE);
        // The gateway may close before it has taken everything.
        let _ = client.try_send(request);
        let reply = client.try_reply().unwrap_or_default();
        // An answer without a close leaves the connection to the client: waiting would
        // only prove that idle connections last.
        let kept = reply.as_ref().is_some_and(|reply| !reply.says_close());
        let patience = if kept { Duration::from_millis(100) } else { PATIENCE };
        let end = client.patience(patience).end();
        Outcome { reply, end }
    }

    #[track_caller]
    fn judge<R: AsRef<[u8]>>(
        &self,
        rows: &[(&str, R)],
        verdict: impl Fn(&Outcome) -> Result<(), String>,
    ) {
        let judged = rows.iter().map(|(name, request)| {
            self.upstream.forget();
            let outcome = self.outcome(request.as_ref());
            let verdict = verdict(&outcome).and_then(|()| self.only_sentinel());
            verdict.map_err(|why| format!("  {name}: {why}"))
        });
        report(judged);
    }

    /// A well-formed request that comes later has been answered, and the
    /// upstream has got its bytes and no others.
    fn only_sentinel(&self) -> Result<(), String> {
        let reply = self.gateway.get("/sentinel");
        if reply.status != 200 {
            return Err(format!("the next request got {}: {}", reply.status, reply.text()));
        }
        let own: String = self.upstream.last().head.raw.into_iter().map(char::from).collect();
        let got = self.upstream.transcript();
        if got == own { Ok(()) } else { Err(format!("the upstream got {got:?}")) }
    }
}

/// A POST to /victim with these header lines, each ended, and these body bytes.
pub(crate) fn post(headers: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    let start = b"POST /victim HTTP/1.1\r\nHost: tollgate.test\r\n";
    [start, headers.as_ref(), b"\r\n", body.as_ref()].concat()
}

/// A GET of /victim with these header lines, each ended.
pub(crate) fn get(headers: impl AsRef<[u8]>) -> Vec<u8> {
    let start = b"GET /victim HTTP/1.1\r\nHost: tollgate.test\r\n";
    [start, headers.as_ref(), b"\r\n"].concat()
}

/// Fails the test with every row that failed, not with the first one.
#[track_caller]
pub(crate) fn report(rows: impl Iterator<Item = Result<(), String>>) {
    let failed: Vec<String> = rows.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} rows failed:\n{}", failed.len(), failed.join("\n"));
}

fn expect_status(
    outcome: &Outcome,
    right: impl Fn(u16) -> bool,
    wanted: &str,
) -> Result<(), String> {
    match &outcome.reply {
        Some(reply) if right(reply.status) => Ok(()),
        Some(reply) => Err(format!("{} instead of {wanted}", reply.status)),
        None => Err(format!("no answer instead of {wanted}")),
    }
}

fn expect_closed(outcome: &Outcome) -> Result<(), String> {
    match &outcome.end {
        End::Closed => Ok(()),
        End::Open => Err("the connection stays open".to_owned()),
        End::More(bytes) => Err(format!("more than one answer: {bytes:?}")),
    }
}

fn expect_consistent(outcome: &Outcome) -> Result<(), String> {
    let says_close = outcome.reply.as_ref().is_some_and(Reply::says_close);
    match (&outcome.end, says_close) {
        (End::Closed, true) | (End::Open, false) => Ok(()),
        (End::More(bytes), _) => Err(format!("more than one answer: {bytes:?}")),
        (end, _) => Err(format!("says close: {says_close}, yet the connection is {end:?}")),
    }
}

/// For requests whose own connection goes on: the next one on it is answered.
#[track_caller]
pub(crate) fn still_serves(client: &mut Client, target: &str) {
    let reply = client.get(target);
    assert_eq!((reply.status, reply.text()), (200, format!("GET {target}")));
}
