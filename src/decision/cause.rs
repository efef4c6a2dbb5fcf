//! What made an upstream refuse or fail a request, and how a client is told.

use crate::upstream::places::NoPlace;

/// Why waiting for a place was in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// The queue was full.
    Full,
    /// The queue was full, and a request of a higher tier took the place in it.
    Displaced,
    /// No place became free in time.
    TimedOut,
}

/// What an upstream was too slow for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// To accept a connection.
    Connect,
    /// To answer, or to go on with its answer.
    Read,
    /// To take the request.
    Write,
    /// To answer within what the route allows one attempt.
    Attempt,
    /// To be done within what the route allows the whole request.
    Request,
}

/// How an upstream failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breach {
    /// It accepts no connection.
    Connect,
    /// It broke the connection off before its answer was complete.
    Reset,
    /// What it sent was not HTTP.
    Invalid,
}

impl Wait {
    /// For the problem's detail.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Wait::Full => "the upstream is busy and so is the queue for it",
            Wait::Displaced => {
                "the upstream is busy, and a request of a higher tier took the place in the queue"
            }
            Wait::TimedOut => "the upstream was busy for as long as was waited",
        }
    }
}

impl From<NoPlace> for Wait {
    fn from(why: NoPlace) -> Wait {
        match why {
            NoPlace::Full => Wait::Full,
            NoPlace::Displaced => Wait::Displaced,
            NoPlace::TimedOut => Wait::TimedOut,
        }
    }
}

impl Stage {
    /// For the problem's detail.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Stage::Connect => "the upstream accepted no connection in time",
            Stage::Read => "the upstream was silent for too long",
            Stage::Write => "the upstream did not take the request in time",
            Stage::Attempt => "the upstream did not answer within what the route allows an attempt",
            Stage::Request => "the upstream was not done within what the route allows a request",
        }
    }
}

impl Breach {
    /// For the problem's detail.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Breach::Connect => "the upstream accepts no connection",
            Breach::Reset => "the upstream closed the connection before its answer was complete",
            Breach::Invalid => "the upstream did not answer with valid HTTP",
        }
    }
}
