//! Thresholds of health checks: how many checks in a row change a server's health.

/// Checks in a row that change a server's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthThresholds {
    /// Good ones that make an unhealthy server healthy; at least 1.
    pub healthy_after: u32,
    /// Bad ones that make a healthy server unhealthy; at least 1.
    pub unhealthy_after: u32,
}

/// A server's health as its checks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It may be asked.
    Healthy {
        /// Bad checks in a row since the last good one.
        bad: u32,
    },
    /// It must not be asked.
    Unhealthy {
        /// Good checks in a row since the last bad one.
        good: u32,
    },
}

impl Default for Health {
    /// Healthy: that is what users of other gateways expect, and a process that just started
    /// can serve before every server has been checked. A server that is down costs a few
    /// attempts until its checks or its failures take it out.
    fn default() -> Self {
        Self::Healthy { bad: 0 }
    }
}

impl Health {
    /// Whether the server may be asked.
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Healthy { .. })
    }

    /// After one more check.
    #[must_use]
    pub fn after(self, is_good: bool, thresholds: HealthThresholds) -> Health {
        match (self, is_good) {
            (Self::Healthy { .. }, true) => Self::Healthy { bad: 0 },
            (Self::Unhealthy { .. }, false) => Self::Unhealthy { good: 0 },
            (Self::Healthy { bad }, false) if bad + 1 >= thresholds.unhealthy_after => {
                Self::Unhealthy { good: 0 }
            }
            (Self::Healthy { bad }, false) => Self::Healthy { bad: bad + 1 },
            (Self::Unhealthy { good }, true) if good + 1 >= thresholds.healthy_after => {
                Self::Healthy { bad: 0 }
            }
            (Self::Unhealthy { good }, true) => Self::Unhealthy { good: good + 1 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THRESHOLDS: HealthThresholds = HealthThresholds { healthy_after: 2, unhealthy_after: 3 };

    /// The health after each check; `+` is a good one.
    fn course(checks: &str) -> String {
        let mut health = Health::default();
        let mark = |check| {
            health = health.after(check == '+', THRESHOLDS);
            if health.is_healthy() { 'h' } else { 'u' }
        };
        checks.chars().map(mark).collect()
    }

    #[test]
    fn a_server_is_healthy_until_enough_checks_in_a_row_were_bad() {
        assert!(Health::default().is_healthy());
        assert_eq!(course("--+--+---"), "hhhhhhhhu");
    }

    #[test]
    fn an_unhealthy_server_is_healthy_after_enough_good_checks_in_a_row() {
        assert_eq!(course("---+-+-++"), "hhuuuuuuh");
    }

    #[test]
    fn a_recovered_server_gets_its_full_patience_again() {
        assert_eq!(course("---++--+---"), "hhuuhhhhhhu");
    }

    #[test]
    fn thresholds_of_one_follow_every_check() {
        let once = HealthThresholds { healthy_after: 1, unhealthy_after: 1 };
        let down = Health::default().after(false, once);
        assert!(!down.is_healthy());
        assert!(down.after(true, once).is_healthy());
    }
}
