//! What failures mean: for the client, for the metrics, for another try.

use super::context::Context;
use super::guard;
use super::refusal::Refusal;
use crate::metrics::AttemptOutcome;
use pingora_core::upstreams::peer::PeerOptions;
use pingora_core::{Error, ErrorSource, ErrorType};
use pingora_proxy::Session;
use std::time::Duration;

/// How long either side of an upgraded connection may be silent.
pub(super) const UPGRADED_IDLE: Duration = Duration::from_secs(3_600);

/// Keeps an attempt within what is left of its request's time. An upgraded connection
/// outlives both the request and the upstream's timeouts.
pub(super) fn limit_timeouts(options: &mut PeerOptions, left: Option<Duration>, is_upgrade: bool) {
    let limit = |timeout: &mut Option<Duration>| {
        if let Some(left) = left {
            *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
        }
    };
    limit(&mut options.connection_timeout);
    limit(&mut options.total_connection_timeout);
    if is_upgrade {
        options.read_timeout = Some(UPGRADED_IDLE);
        options.write_timeout = Some(UPGRADED_IDLE);
    } else {
        limit(&mut options.read_timeout);
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

/// What an attempt that ended in `error` counts as.
pub(super) fn outcome_of(error: &Error, ctx: &Context) -> AttemptOutcome {
    match (&ctx.refusal, error.esource(), error.etype()) {
        (Some(Refusal::UpstreamTimeout), ..) => AttemptOutcome::Timeout,
        (Some(Refusal::UpstreamFailed), ..) => AttemptOutcome::Reset,
        (Some(_), ..) | (None, ErrorSource::Downstream, _) => AttemptOutcome::Cancelled,
        (None, _, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => AttemptOutcome::Timeout,
        (None, ..) => AttemptOutcome::Reset,
    }
}

/// What an error means for the client; none when the client is gone.
pub(super) fn refusal_of(error: &Error, session: &Session) -> Option<Refusal> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ErrorType::ConnectTimedout)
        | (ErrorSource::Upstream, ErrorType::ReadTimedout)
        | (ErrorSource::Upstream, ErrorType::WriteTimedout) => Some(Refusal::UpstreamTimeout),
        (ErrorSource::Upstream, _) => Some(Refusal::UpstreamFailed),
        (ErrorSource::Downstream, ErrorType::InvalidHTTPHeader) => Some(Refusal::Connection),
        (ErrorSource::Downstream, _) => guard(session)?.body_fault().map(Refusal::Malformed),
        _ => Some(Refusal::Internal),
    }
}
