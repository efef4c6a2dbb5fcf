//! What goes wrong between a gateway and Redis, and what that tells of Redis.

use super::connector::Connection;
use redis::{ErrorKind, RedisError};
use thiserror::Error;

/// Why there is no answer.
#[derive(Debug, Clone, Error)]
pub enum LinkError {
    /// Redis is not asked at the moment. Nothing was sent.
    #[error("Redis is not asked")]
    Down,
    /// Redis may have executed it, or may yet.
    #[error("no answer in time")]
    Timeout,
    /// Others found that Redis does not answer while this call waited. It may have been executed,
    /// or may yet.
    #[error("it stopped answering")]
    Cut,
    /// The connection broke. It may have been executed.
    #[error("the connection broke: {0}")]
    Broken(RedisError),
    /// Redis answered by an error. Commands and scripts that check before they write have
    /// changed nothing.
    #[error("it refused: {0}")]
    Refused(RedisError),
}

impl LinkError {
    /// Whether Redis may have executed what was asked, or may yet.
    pub fn may_have_run(&self) -> bool {
        matches!(self, LinkError::Timeout | LinkError::Cut | LinkError::Broken(_))
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> LinkError {
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => LinkError::Timeout,
            ErrorKind::Io | ErrorKind::Parse => LinkError::Broken(error),
            _ => LinkError::Refused(error),
        }
    }
}

/// What an error tells of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symptom {
    /// Nothing: it is about this call alone.
    None,
    /// It is not well, or not in time.
    Ill,
    /// This connection is no more; another may do.
    Gone,
    /// What is asked is not who should be: after a failover, or before it can serve.
    Misplaced,
}

impl Symptom {
    pub(super) fn of(error: &LinkError, connection: &Connection) -> Symptom {
        match error {
            LinkError::Down | LinkError::Cut => Symptom::None,
            LinkError::Timeout => Symptom::Ill,
            LinkError::Broken(_) if connection.mends_itself() => Symptom::Ill,
            LinkError::Broken(_) => Symptom::Gone,
            LinkError::Refused(error) => Symptom::of_refusal(error),
        }
    }

    fn of_refusal(error: &RedisError) -> Symptom {
        match error.code() {
            // A mistake in a script, or a key that holds something else.
            Some("ERR" | "WRONGTYPE") => Symptom::None,
            Some(
                "READONLY" | "LOADING" | "MASTERDOWN" | "CLUSTERDOWN" | "NOAUTH" | "WRONGPASS",
            ) => Symptom::Misplaced,
            // OOM, MISCONF, NOREPLICAS, BUSY, NOPERM, TRYAGAIN and what there will be.
            _ => Symptom::Ill,
        }
    }
}
