//! Taking one failing server out of balancing for a while.

/// When a server is taken out and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EjectionPolicy {
    /// Failures in a row that take a server out; at least 1.
    pub consecutive_failures: u32,
    /// How long it stays out the first time, in nanoseconds; it grows with each time in a row.
    pub base_ns: u64,
    /// The longest it stays out, in nanoseconds; not below `base_ns`.
    pub max_ns: u64,
}

impl Default for EjectionPolicy {
    fn default() -> Self {
        Self { consecutive_failures: 5, base_ns: 10_000_000_000, max_ns: 300_000_000_000 }
    }
}
