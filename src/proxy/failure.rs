//! What failures mean: for the client, for the metrics, for another try.

use super::context::Context;
use super::guard;
use crate::decision::refusal::{Breach, Refusal, Stage};
use crate::metrics::AttemptOutcome;
use crate::policy::retry::Failure;
use crate::upstream::shortage;
use crate::wire::alarm::{Ring, UPGRADED_IDLE};
use crate::wire::guard::GuardedStream;
use pingora_core::upstreams::peer::PeerOptions;
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::time::Duration;

/// What became of an attempt that failed.
pub(super) struct Fate {
    /// What it counts as.
    pub(super) outcome: AttemptOutcome,
    /// What the client is told unless there is another attempt; none when the client is gone.
    pub(super) refusal: Option<Refusal>,
    /// What another attempt depends on; none where there must not be another.
    pub(super) failure: Option<Failure>,
}

impl Fate {
    fn upstream(outcome: AttemptOutcome, failure: Failure, refusal: Refusal) -> Fate {
        Fate { outcome, refusal: Some(refusal), failure: Some(failure) }
    }

    fn cancelled(refusal: Option<Refusal>) -> Fate {
        Fate { outcome: AttemptOutcome::Cancelled, refusal, failure: None }
    }

    fn too_slow(stage: Stage) -> Fate {
        Fate::upstream(AttemptOutcome::Timeout, Failure::Timeout, Refusal::UpstreamTimeout(stage))
    }

    /// The attempt that found no connection.
    pub(super) fn unconnected(error: &Error) -> Fate {
        if error.root_cause().downcast_ref().is_some_and(shortage::is_ours) {
            return Fate::cancelled(Some(Refusal::Exhausted));
        }
        let refusal = match error.etype() {
            ErrorType::ConnectTimedout => Refusal::UpstreamTimeout(Stage::Connect),
            _ => Refusal::UpstreamFailed(Breach::Connect),
        };
        Fate::upstream(AttemptOutcome::Connect, Failure::Connect, refusal)
    }

    /// The attempt that had a connection and ended in `error`.
    pub(super) fn of(error: &Error, session: &Session, ctx: &Context) -> Fate {
        if let Some(refusal) = &ctx.refusal {
            return Fate::given_up(refusal);
        }
        match guard(session).and_then(GuardedStream::ring) {
            Some(Ring::Silence) => return Fate::too_slow(Stage::Read),
            Some(Ring::Overdue) if ctx.is_overdue() => return Fate::overdue(ctx),
            Some(Ring::Overdue) => return Fate::too_slow(Stage::Attempt),
            Some(Ring::OverdueByClient | Ring::SlowClient) => {
                return Fate::cancelled(Some(Refusal::ClientTimeout));
            }
            None => {}
        }
        let reset = |breach| {
            let refusal = Refusal::UpstreamFailed(breach);
            Fate::upstream(AttemptOutcome::Reset, Failure::Reset, refusal)
        };
        match (error.esource(), error.etype()) {
            (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => {
                Fate::cancelled(Some(Refusal::Connection))
            }
            (ErrorSource::Downstream, _) => {
                let fault = guard(session).and_then(GuardedStream::body_fault);
                Fate::cancelled(fault.map(Refusal::Malformed))
            }
            (ErrorSource::Upstream, ErrorType::ReadTimedout) => Fate::too_slow(Stage::Read),
            (ErrorSource::Upstream, ErrorType::WriteTimedout) => Fate::too_slow(Stage::Write),
            (ErrorSource::Upstream, ErrorType::InvalidHTTPHeader) => reset(Breach::Invalid),
            (ErrorSource::Upstream, _) => reset(Breach::Reset),
            _ => Fate::cancelled(Some(Refusal::Internal)),
        }
    }

    /// The attempt at whose end the whole request's time was over. If that was mostly over when
    /// it began, for the queue or other attempts had it, nothing is held against the upstream.
    fn overdue(ctx: &Context) -> Fate {
        let timeout = ctx.route.and_then(|route| ctx.generation.route_config(route).timeout);
        let had = ctx.deadline.zip(ctx.attempts.started());
        let had = had.map(|(deadline, started)| deadline.saturating_duration_since(started));
        match (timeout, had) {
            (Some(timeout), Some(had)) if had < timeout / 2 => {
                Fate::cancelled(Some(Refusal::UpstreamTimeout(Stage::Request)))
            }
            _ => Fate::too_slow(Stage::Request),
        }
    }

    /// The attempt that we ended ourselves; the refusal is in the context already.
    fn given_up(refusal: &Refusal) -> Fate {
        let outcome = match refusal {
            Refusal::UpstreamTimeout(_) => AttemptOutcome::Timeout,
            Refusal::UpstreamFailed(_) => AttemptOutcome::Reset,
            _ => AttemptOutcome::Cancelled,
        };
        Fate { outcome, refusal: None, failure: None }
    }
}

/// How long a client may pause in the middle of its body; Pingora's own bound.
const CLIENT_PAUSE: Duration = Duration::from_secs(60);
/// How much later the backstop of reading comes than everything it stands behind.
const BACKSTOP_DELAY: Duration = Duration::from_secs(1);

/// Keeps an attempt within what is `left` of its time.
pub(super) fn limit_timeouts(options: &mut PeerOptions, left: Option<Duration>) {
    let Some(left) = left else { return };
    for timeout in [&mut options.connection_timeout, &mut options.write_timeout] {
        *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
    }
}

/// Lets an upgraded connection be as silent as it likes.
pub(super) fn outlive(options: &mut PeerOptions) {
    options.read_timeout = Some(UPGRADED_IDLE);
    options.write_timeout = Some(UPGRADED_IDLE);
}

/// Sets Pingora's bound on reading from the upstream to what may be left to do for it, the
/// request having the `whole` of that left.
///
/// Reading is bounded from the client's side (see [`Alarm`](crate::wire::alarm)), for silence
/// may be the client's. But when an upstream no longer takes the body, Pingora stops reading
/// from the client and waits for an answer all the same, and then no alarm can ring. Where none
/// of it has come, the connection ends that wait; where it has begun to come, only a bound on
/// reading does. It lies behind every other, so that it ends nothing else. Requests without a
/// body need none, and are spared the timer.
pub(super) fn back_up(options: &mut PeerOptions, whole: Option<Duration>, has_body: bool) {
    let silence = options.read_timeout.map_or(CLIENT_PAUSE, |read| read.max(CLIENT_PAUSE));
    let longest = whole.map_or(silence, |whole| whole.min(silence));
    options.read_timeout = has_body.then_some(longest + BACKSTOP_DELAY);
}

/// Ends the attempt with a refusal of our own.
pub(super) fn give_up(ctx: &mut Context, refusal: Refusal) -> Box<Error> {
    let status = refusal.status().as_u16();
    ctx.refusal = Some(refusal);
    let mut error = Error::new(ErrorType::HTTPStatus(status));
    error.set_retry(false);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_on_reading_lies_behind_every_other_where_there_is_a_body() {
        let second = Duration::from_secs;
        for (read, whole, expected) in [
            (second(30), None, second(61)),
            (second(90), None, second(91)),
            (second(30), Some(second(3)), second(4)),
            (second(90), Some(second(600)), second(91)),
        ] {
            let mut options = PeerOptions::new();
            options.read_timeout = Some(read);
            back_up(&mut options, whole, true);
            assert_eq!(options.read_timeout, Some(expected), "{read:?} {whole:?}");
            back_up(&mut options, whole, false);
            assert_eq!(options.read_timeout, None, "the alarm alone");
        }
    }
}
