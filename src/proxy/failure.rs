//! What failures mean: for the client, for the metrics, for another try.

use super::context::Context;
use super::guard;
use super::refusal::{Breach, Refusal, Stage};
use crate::metrics::AttemptOutcome;
use crate::policy::retry::Failure;
use crate::wire::alarm::Ring;
use crate::wire::guard::GuardedStream;
use pingora_core::upstreams::peer::PeerOptions;
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::time::Duration;

/// How long either side of an upgraded connection may be silent.
pub(super) const UPGRADED_IDLE: Duration = Duration::from_secs(3_600);

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
            Some(Ring::Overdue) if ctx.is_overdue() => return Fate::too_slow(Stage::Request),
            Some(Ring::Overdue) => return Fate::too_slow(Stage::Attempt),
            Some(Ring::OverdueByClient) => return Fate::cancelled(Some(Refusal::ClientTimeout)),
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

/// Keeps an attempt within what is left of its time. Reading is bounded from the client's
/// side (see [`Alarm`](crate::wire::alarm)); an upgraded connection outlives all of it.
pub(super) fn limit_timeouts(options: &mut PeerOptions, left: Option<Duration>, is_upgrade: bool) {
    let limit = |timeout: &mut Option<Duration>| {
        if let Some(left) = left {
            *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
    };
    limit(&mut options.connection_timeout);
    limit(&mut options.total_connection_timeout);
    options.read_timeout = is_upgrade.then_some(UPGRADED_IDLE);
    if is_upgrade {
        options.write_timeout = Some(UPGRADED_IDLE);
    } else {
        limit(&mut options.write_timeout);
    }
}

/// Ends the attempt with a refusal of our own.
pub(super) fn give_up(ctx: &mut Context, refusal: Refusal) -> Box<Error> {
    let status = refusal.status().as_u16();
    ctx.refusal = Some(refusal);
    let mut error = Error::new(ErrorType::HTTPStatus(status));
    error.set_retry(false);
    error
}
