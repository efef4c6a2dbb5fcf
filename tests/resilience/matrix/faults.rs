//! The faults of the matrix, each as a server that has it.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::run::ROUTE_TIMEOUT;
use crate::rig::PATIENCE;
use crate::support::{Answer, Ending, Link, Upstream, fault, ok};

/// A server with a fault.
pub(super) struct Faulty {
    /// Where the gateway finds it.
    pub(super) address: SocketAddr,
    /// Who is there, or behind the link.
    pub(super) upstream: Upstream,
    _link: Option<Arc<OnceLock<Link>>>,
}

impl Faulty {
    fn server(upstream: Upstream) -> Self {
        Self { address: upstream.address(), upstream, _link: None }
    }

    fn answering(answer: Answer) -> Self {
        Self::server(Upstream::answering(answer))
    }

    /// A server behind a link that `strike` breaks as soon as a request has come through.
    fn behind_link(strike: fn(&Link)) -> Self {
        let cell: Arc<OnceLock<Link>> = Arc::default();
        let link = Arc::clone(&cell);
        let upstream = Upstream::scripted(move |_| {
            strike(link.get().expect("requests come through the link"));
            ok("too late")
        });
        let link = Link::to(upstream.address());
        let address = link.address();
        cell.set(link).expect("set once");
        Self { address, upstream, _link: Some(cell) }
    }

    /// A server behind a link that was broken before.
    fn behind_broken_link(strike: fn(&Link)) -> Self {
        let faulty = Self::behind_link(|_| {});
        faulty._link.iter().filter_map(|link| link.get()).for_each(strike);
        faulty
    }
}

pub(super) fn refused() -> Faulty {
    Faulty::server(Upstream::refusing())
}

pub(super) fn cut() -> Faulty {
    Faulty::behind_broken_link(Link::cut)
}

pub(super) fn cut_later() -> Faulty {
    Faulty::behind_link(Link::cut)
}

pub(super) fn frozen() -> Faulty {
    Faulty::behind_broken_link(Link::freeze)
}

pub(super) fn freezing() -> Faulty {
    Faulty::behind_link(Link::freeze)
}

pub(super) fn silent() -> Faulty {
    Faulty::answering(fault::silent())
}

pub(super) fn late() -> Faulty {
    Faulty::answering(fault::slow(PATIENCE * 20, ok("late")))
}

pub(super) fn hangup() -> Faulty {
    Faulty::answering(fault::hangup())
}

pub(super) fn reset() -> Faulty {
    Faulty::answering(fault::reset())
}

pub(super) fn head_silent() -> Faulty {
    Faulty::answering(fault::mid_head(Ending::Silence))
}

pub(super) fn head_closed() -> Faulty {
    Faulty::answering(fault::mid_head(Ending::Close))
}

pub(super) fn head_reset() -> Faulty {
    Faulty::answering(fault::mid_head(Ending::Reset))
}

/// Each drop comes within `read`, all of them together do not.
pub(super) fn head_drips() -> Faulty {
    Faulty::answering(fault::drip_head(1, PATIENCE / 6))
}

pub(super) fn not_http() -> Faulty {
    Faulty::answering(Answer::Last(b"SSH-2.0-OpenSSH_9.6\r\n\r\n".to_vec()))
}

pub(super) fn bad_length() -> Faulty {
    Faulty::answering(Answer::Last(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello".to_vec()))
}

pub(super) fn body_silent() -> Faulty {
    Faulty::answering(fault::mid_body(Ending::Silence))
}

pub(super) fn body_closed() -> Faulty {
    Faulty::answering(fault::mid_body(Ending::Close))
}

pub(super) fn body_reset() -> Faulty {
    Faulty::answering(fault::mid_body(Ending::Reset))
}

/// Each drop comes within `read`, and all 36 together take twice as long as the route allows.
pub(super) fn body_endless() -> Faulty {
    Faulty::answering(fault::drip_body(1, ROUTE_TIMEOUT / 18))
}

pub(super) fn status_500() -> Faulty {
    Faulty::answering(fault::status(500))
}

pub(super) fn status_503() -> Faulty {
    Faulty::answering(fault::unavailable("7"))
}

pub(super) fn surplus() -> Faulty {
    Faulty::answering(fault::surplus())
}

pub(super) fn body_drips() -> Faulty {
    Faulty::answering(fault::drip_body(12, Duration::from_millis(50)))
}
