//! Keeps the connection to Redis up: connects, probes, connects again.

use super::connector::Connection;
use super::link::{Link, Way, run_on};
use super::script::Script;
use super::symptom::{LinkError, Symptom};
use crate::clock;
use redis::RedisResult;
use std::pin::pin;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often Redis is probed, asked or not.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// Probes without an answer after which a connection is given up. Behind a silent one there may
/// be a machine that is gone, while another has its address by now.
const MOST_MISSES: u32 = 4;
/// A connection that lasted so long was a good one: the next is made at once.
const LASTED: Duration = Duration::from_secs(1);
/// How long the mark of a probe stays in Redis.
const MARK_MS: u64 = 10_000;

/// Writes, for a server that only reads is as good as none: a replica, or one whose memory is
/// full.
///
/// KEYS: the mark. ARGV: how long it stays, in milliseconds.
static PROBE: LazyLock<Script> =
    LazyLock::new(|| Script::new("return redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])"));

/// The waits before one attempt to connect after another: none, then 50 ms and doubling up to a
/// second, each shortened by up to half at random so that gateways do not come all at once.
#[derive(Debug, Default)]
struct Backoff {
    attempts: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    /// The next wait; `chance` is from 0 to 1.
    fn next(&mut self, chance: f64) -> Duration {
        let attempt = self.attempts;
        self.attempts = attempt.saturating_add(1).min(16);
        if attempt == 0 {
            return Duration::ZERO;
        }
        let full = (Backoff::FIRST * (1 << (attempt - 1))).min(Backoff::LONGEST);
        full.mul_f64(1.0 - chance / 2.0)
    }

    fn begin_anew(&mut self) {
        self.attempts = 0;
    }
}

impl Link {
    /// Never ends.
    pub(super) async fn keep_up(&self) {
        let mut backoff = Backoff::default();
        loop {
            sleep(backoff.next(fastrand::f64())).await;
            match self.connect().await {
                Ok(connection) => {
                    let begun = clock::now();
                    let end = self.keep(&connection).await;
                    if begun.elapsed() >= LASTED {
                        // Whoever asks goes without for as long as connecting anew takes.
                        backoff.begin_anew();
                    } else {
                        self.shared.shut(&end.err().unwrap_or(LinkError::Cut));
                    }
                }
                Err(error) => self.shared.shut(&error),
            }
        }
    }

    /// A connection. Requests are not left in the belief that there is one for longer than they
    /// would wait for an answer.
    async fn connect(&self) -> Result<Connection, LinkError> {
        let mut connecting = pin!(self.shared.connector.connect());
        let connected = match timeout(self.shared.timeout, &mut connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                self.shared.shut(&LinkError::Timeout);
                connecting.await
            }
        };
        connected.map_err(LinkError::from)
    }

    /// Probes a connection until another is needed.
    async fn keep(&self, connection: &Connection) -> Result<(), LinkError> {
        let mut way = None;
        let mut misses = 0;
        loop {
            let probe = timeout(self.shared.timeout, self.probe(connection)).await;
            let result = match probe {
                Ok(answer) => answer.map_err(LinkError::from),
                Err(_) => Err(LinkError::Timeout),
            };
            way = self.shared.probed(connection, way, &result);
            misses = if result.is_ok() { 0 } else { misses + 1 };
            if let Err(error) = result {
                let symptom = Symptom::of(&error, connection);
                let is_useless = matches!(symptom, Symptom::Gone | Symptom::Misplaced);
                if is_useless || misses >= MOST_MISSES {
                    self.shared.withdraw(way.as_ref());
                    return Err(error);
                }
                if way.is_none() {
                    self.shared.shut(&error);
                }
            }
            if self.is_needed_no_more(way.as_deref()).await {
                return Ok(());
            }
        }
    }

    /// Waits for the time of the next probe, or until no call takes this way any longer, which it
    /// says.
    async fn is_needed_no_more(&self, way: Option<&Way>) -> bool {
        let Some(way) = way else {
            sleep(PROBE_EVERY).await;
            return false;
        };
        tokio::select! {
            () = sleep(PROBE_EVERY) => {}
            () = way.ended.notified() => {}
        }
        way.is_over()
    }

    /// Whether every master answers, and one of them writes.
    async fn probe(&self, connection: &Connection) -> RedisResult<()> {
        if connection.mends_itself() {
            connection.ask(&redis::cmd("PING")).await?;
        }
        let mark = format!("{}probe", self.shared.prefix);
        run_on(connection, &PROBE, &[mark], &[MARK_MS]).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_made_at_once_and_later_ones_after_ever_longer_waits() {
        let mut backoff = Backoff::default();
        let ms: Vec<u128> = (0..8).map(|_| backoff.next(0.0).as_millis()).collect();
        assert_eq!(ms, [0, 50, 100, 200, 400, 800, 1_000, 1_000]);
        backoff.begin_anew();
        assert_eq!(backoff.next(0.0), Duration::ZERO);
    }

    #[test]
    fn chance_shortens_a_wait_by_half_at_most_and_no_number_of_attempts_overflows() {
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            backoff.next(0.5);
        }
        assert_eq!(backoff.next(1.0), Duration::from_millis(500));
        assert_eq!(backoff.next(0.0), Duration::from_secs(1));
    }
}
