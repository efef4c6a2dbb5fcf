//! What gateways have in common, through Redis.
//!
//! Every gateway can do without: what is shared here makes many gateways act as one, and each
//! decides alone while Redis is not reached.

pub mod channels;
mod connector;
mod gate;
pub mod hints;
mod keeper;
pub mod limits;
pub mod link;
pub mod registry;
pub mod roster;
pub mod script;
pub mod symptom;

pub use connector::Unusable;
pub use hints::Hints;
pub use link::Link;
pub use roster::Roster;
pub use script::Script;
pub use symptom::LinkError;

use crate::config;
use crate::metrics::Metrics;
use limits::SharedLimits;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// This gateway among the others. It exists where `redis` is configured.
pub struct Fleet {
    /// Which one this is.
    pub id: GatewayId,
    /// The way to Redis.
    pub link: Link,
    /// Which ones live.
    pub roster: Arc<Roster>,
    /// The limits they have in common.
    pub limits: Arc<SharedLimits>,
    /// What circuits tell each other.
    pub hints: Hints,
}

/// Why a gateway cannot join the others.
#[derive(Debug, Error)]
pub enum CannotJoin {
    /// What the configuration says of Redis cannot be used.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// The system has no randomness to give.
    #[error("the system has no randomness to give: {0}")]
    Randomness(getrandom::Error),
}

impl Fleet {
    /// Prepares to join those who share this Redis. Nothing is opened and nothing is said before
    /// it is [attended](Fleet::attend).
    ///
    /// # Errors
    /// When what the configuration names cannot be used. A Redis that is not there is no error.
    pub fn new(config: &config::Redis, metrics: &Metrics) -> Result<Arc<Fleet>, CannotJoin> {
        let id = GatewayId::random().map_err(CannotJoin::Randomness)?;
        let link = Link::new(config, metrics.redis())?;
        let roster = Arc::new(Roster::new(link.clone(), id, config.expected_gateways));
        let limits = Arc::new(SharedLimits::new(
            link.clone(),
            roster.clone(),
            id,
            metrics.shared_limits.clone(),
        ));
        Ok(Arc::new(Fleet { id, link, roster, limits, hints: Hints::default() }))
    }

    /// Keeps the way to Redis up and this gateway in the roster; settles accounts of limits; tells
    /// `hear` the circuits that other gateways have opened. To be run once, on the runtime of the
    /// requests; it ends with that. From `shutdown` on this gateway does not count any more, and
    /// Redis is still asked for those that are finished.
    pub async fn attend(&self, hear: impl Fn(&str), shutdown: watch::Receiver<bool>) {
        tokio::join!(
            self.link.attend(),
            self.roster.attend(shutdown.clone()),
            self.limits.attend(shutdown),
            self.hints.attend(&self.link, self.id, hear),
        );
    }
}

/// Which gateway of a fleet: random at the start of each process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GatewayId(pub u64);

impl GatewayId {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn random() -> Result<GatewayId, getrandom::Error> {
        getrandom::u64().map(GatewayId)
    }
}

impl fmt::Display for GatewayId {
    /// As 16 hexadecimal digits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
