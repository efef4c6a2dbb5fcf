mod body;
mod connections;
mod guard;
mod head;
mod pace;

use super::head::HeadLimits;

/// Small enough to reach.
const LIMITS: HeadLimits = HeadLimits { max_head: 512, max_headers: 4, max_uri: 64 };
