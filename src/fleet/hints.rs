//! Hints about circuits: a gateway whose requests opened one tells the others.
//!
//! What they make of it is theirs (`policy::breaker`). A hint that is lost is no harm, and however
//! many come, a few a second are looked at.

use super::GatewayId;
use super::link::Link;
use crate::clock;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// The channel, behind the prefix.
const CHANNEL: &str = "circuits";
/// Openings that wait to be told.
const QUEUE: usize = 64;
/// Hints that are looked at in a second: each means a search among all circuits.
const MOST_A_SECOND: u32 = 64;
/// The longest name of a circuit: `route:` and a name.
const MAX_NAME: usize = 6 + 64;

/// What circuits tell other gateways, and what is heard from them.
pub struct Hints {
    trips: mpsc::Sender<Arc<str>>,
    tripped: Mutex<Option<mpsc::Receiver<Arc<str>>>>,
}

impl Default for Hints {
    fn default() -> Hints {
        let (trips, tripped) = mpsc::channel(QUEUE);
        Hints { trips, tripped: Mutex::new(Some(tripped)) }
    }
}

impl Hints {
    /// Where a circuit's name goes when it opens.
    pub fn trips(&self) -> &mpsc::Sender<Arc<str>> {
        &self.trips
    }

    /// Tells others of what opens here, and `hear` the circuits that opened there. To be run
    /// once; it never ends.
    pub(super) async fn attend(&self, link: &Link, id: GatewayId, hear: impl Fn(&str)) {
        let tripped = self.tripped.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut tripped) = tripped else { return };
        let mut messages = link.subscribe(CHANNEL);
        let mut ear = Ear::default();
        loop {
            tokio::select! {
                Some(name) = tripped.recv() => {
                    // Without Redis each finds out by itself, as it would without a hint.
                    let _ = link.publish(CHANNEL, &written(id, &name)).await;
                }
                Some(message) = messages.recv() => {
                    if let Some((from, name)) = read(&message)
                        && from != id
                        && ear.has_time(clock::now())
                    {
                        hear(name);
                    }
                }
            }
        }
    }
}

/// A hint as it is sent: the gateway, a blank, the circuit.
fn written(id: GatewayId, name: &str) -> Vec<u8> {
    format!("{id} {name}").into_bytes()
}

/// The other way around; none for what is no hint.
fn read(message: &[u8]) -> Option<(GatewayId, &str)> {
    let (id, name) = std::str::from_utf8(message).ok()?.split_once(' ')?;
    let is_name = !name.is_empty() && name.len() <= MAX_NAME;
    let id = u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16 && is_name)?;
    Some((GatewayId(id), name))
}

/// How much is heard.
#[derive(Debug, Default)]
struct Ear {
    second: Option<(Instant, u32)>,
}

impl Ear {
    /// Whether one more hint is looked at.
    fn has_time(&mut self, now: Instant) -> bool {
        let is_over =
            |(began, _): &mut (Instant, u32)| now.duration_since(*began) >= Duration::from_secs(1);
        self.second.take_if(is_over);
        let (_, heard) = self.second.get_or_insert((now, 0));
        *heard = heard.saturating_add(1);
        *heard <= MOST_A_SECOND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_read_as_it_was_written() {
        for name in ["users", "route:a.b-c_d"] {
            assert_eq!(read(&written(GatewayId(0xfe), name)), Some((GatewayId(0xfe), name)));
        }
    }

    #[test]
    fn what_is_no_hint_is_none() {
        let long = format!("00000000000000fe {}", "x".repeat(MAX_NAME + 1));
        let others: [&[u8]; 6] = [
            b"",
            b"fe users",
            b"00000000000000fe",
            b"00000000000000fe ",
            b"x0000000000000fe users",
            b"\xff0000000000000fe users",
        ];
        for message in others.into_iter().chain([long.as_bytes()]) {
            assert_eq!(read(message), None, "{message:?}");
        }
    }

    #[test]
    fn of_a_flood_of_hints_a_few_a_second_are_looked_at() {
        let (mut ear, now) = (Ear::default(), clock::now());
        let heard = |ear: &mut Ear, now| (0..10_000).filter(|_| ear.has_time(now)).count();
        assert_eq!(heard(&mut ear, now), 64);
        assert_eq!(heard(&mut ear, now + Duration::from_millis(999)), 0);
        assert_eq!(heard(&mut ear, now + Duration::from_secs(1)), 64);
    }
}
