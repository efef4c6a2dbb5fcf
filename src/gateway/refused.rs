//! The last refusals, so that a trace id from somebody's complaint says what happened.

use crate::store::key::KeyKind;
use arrayvec::ArrayString;
use jiff::Timestamp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Refusals that are kept.
pub const KEPT: usize = 4_096;

/// Bytes that are kept of a trace id, a client's id and a name of the configuration, with what
/// policies put around it.
const TRACE_ID: usize = 128;
const CLIENT: usize = 256;
const NAME: usize = 80;

/// One refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused<'a> {
    /// When.
    pub at: Timestamp,
    /// The request's trace id.
    pub trace_id: &'a str,
    /// The client; empty where the request did not come so far.
    pub client: &'a str,
    /// How the client was named.
    pub identified_by: Option<KeyKind>,
    /// The client's tier; empty as above.
    pub tier: &'a str,
    /// The route; empty where none took it.
    pub route: &'a str,
    /// The problem's type.
    pub reason: &'static str,
    /// What refused: the member of the problem document and its value.
    pub policy: Option<(&'static str, &'a str)>,
    /// The status it was answered with.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after_seconds: Option<u64>,
    /// Of a limit: whole tokens left, tokens when full, seconds until it is full.
    pub tokens: Option<(u64, u64, u64)>,
}

/// A refusal as it is kept. All of it lies in one piece of fixed size: what a client sends makes
/// it no larger, and to keep it allocates nothing. The texts lie one behind the other, so that a
/// refusal with short ones touches little of the piece; under attack that is what it costs.
#[derive(Default)]
struct Kept {
    /// None where nothing was kept yet.
    at: Option<Timestamp>,
    identified_by: Option<KeyKind>,
    reason: &'static str,
    policy: Option<&'static str>,
    status: u16,
    retry_after_seconds: Option<u64>,
    tokens: Option<(u64, u64, u64)>,
    /// Where the first four texts end.
    ends: [u16; 4],
    /// Trace id, client, tier, route and the policy's name.
    texts: ArrayString<{ TRACE_ID + CLIENT + 3 * NAME }>,
}

impl Kept {
    fn set(&mut self, refused: &Refused<'_>) {
        let Refused { trace_id, client, tier, route, .. } = *refused;
        self.at = Some(refused.at);
        self.identified_by = refused.identified_by;
        self.reason = refused.reason;
        self.policy = refused.policy.map(|(kind, _)| kind);
        self.status = refused.status;
        self.retry_after_seconds = refused.retry_after_seconds;
        self.tokens = refused.tokens;
        self.texts.clear();
        let texts = [(trace_id, TRACE_ID), (client, CLIENT), (tier, NAME), (route, NAME)];
        for (end, (text, most)) in self.ends.iter_mut().zip(texts) {
            self.texts.push_str(fitting(text, most));
            *end = self.texts.len() as u16;
        }
        self.texts.push_str(fitting(refused.policy.map_or("", |(_, name)| name), NAME));
    }

    fn get(&self) -> Option<Refused<'_>> {
        let mut rest: &str = &self.texts;
        let mut begin = 0;
        let [trace_id, client, tier, route] = self.ends.map(|end| {
            let (text, behind) = rest.split_at(usize::from(end - begin));
            (rest, begin) = (behind, end);
            text
        });
        Some(Refused {
            at: self.at?,
            trace_id,
            client,
            identified_by: self.identified_by,
            tier,
            route,
            reason: self.reason,
            policy: self.policy.map(|kind| (kind, rest)),
            status: self.status,
            retry_after_seconds: self.retry_after_seconds,
            tokens: self.tokens,
        })
    }
}

/// The first bytes of a text: no more than `most`, and no part of a character.
fn fitting(text: &str, most: usize) -> &str {
    let end = (0..=text.len().min(most)).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

/// The last [`KEPT`] refusals in a ring: 3.2 MB at the most, taken at the first one.
///
/// Each has a place with a lock of its own, for which two threads meet only if one of them is a
/// whole round behind.
#[derive(Default)]
pub struct RefusedRing {
    next: AtomicUsize,
    places: OnceLock<Box<[Mutex<Kept>]>>,
}

impl RefusedRing {
    /// Keeps a refusal and forgets the oldest one.
    pub fn keep(&self, refused: &Refused<'_>) {
        let places = self.places.get_or_init(|| (0..KEPT).map(|_| Mutex::default()).collect());
        let place = self.next.fetch_add(1, Ordering::Relaxed) % KEPT;
        if let Some(place) = places.get(place) {
            place.lock().unwrap_or_else(PoisonError::into_inner).set(refused);
        }
    }

    /// What `read` makes of the refusals of a trace id, the latest first. Looks at all of them.
    pub fn of_trace<T>(&self, trace_id: &str, read: impl Fn(&Refused<'_>) -> T) -> Vec<T> {
        let places = self.places.get().into_iter().flatten();
        let mut found: Vec<(Timestamp, T)> = places
            .filter_map(|place| {
                let kept = place.lock().unwrap_or_else(PoisonError::into_inner);
                let refused = kept.get().filter(|refused| refused.trace_id == trace_id)?;
                Some((refused.at, read(&refused)))
            })
            .collect();
        found.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        found.into_iter().map(|(_, read)| read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: usize, trace_id: &str) -> Refused<'_> {
        Refused {
            at: Timestamp::from_second(number as i64).unwrap(),
            trace_id,
            client: "",
            identified_by: None,
            tier: "",
            route: "",
            reason: "no-route",
            policy: None,
            status: 404,
            retry_after_seconds: None,
            tokens: None,
        }
    }

    #[test]
    fn the_last_ones_are_found_by_their_trace_id_and_older_ones_are_gone() {
        let ring = RefusedRing::default();
        let times = |trace_id: &str| ring.of_trace(trace_id, |refused| refused.at.as_second());
        assert!(times("1").is_empty());
        for number in 0..KEPT + 10 {
            ring.keep(&refused(number, &number.to_string()));
        }
        assert!(times("9").is_empty());
        assert_eq!(times("10"), [10]);
        assert_eq!(times(&(KEPT + 9).to_string()), [KEPT as i64 + 9]);
        ring.keep(&refused(9_999, "4000"));
        assert_eq!(times("4000"), [9_999, 4_000]);
    }

    #[test]
    fn what_is_kept_is_what_is_read_whatever_was_there_before() {
        let (ring, long) = (RefusedRing::default(), "é".repeat(300));
        let whole = Refused {
            client: "client-1",
            identified_by: Some(KeyKind::Header),
            tier: "basic",
            route: "users",
            policy: Some(("policy", "tier")),
            retry_after_seconds: Some(3),
            tokens: Some((0, 10, 9)),
            ..refused(1, "a")
        };
        let cut = Refused {
            client: &long,
            tier: &long,
            route: &long,
            policy: Some(("circuit", &long)),
            ..refused(2, &long)
        };
        for _ in 0..KEPT {
            ring.keep(&cut);
        }
        ring.keep(&whole);
        ring.keep(&refused(3, "b"));
        ring.of_trace("a", |read| assert_eq!(read, &whole));
        ring.of_trace("b", |read| assert_eq!(read, &refused(3, "b")));
        assert_eq!(ring.of_trace("a", |_| ()).len() + ring.of_trace("b", |_| ()).len(), 2);
        let found = ring.of_trace(fitting(&long, TRACE_ID), |read| {
            let [client, tier, route] = [read.client, read.tier, read.route].map(str::len);
            (client, tier, route, read.policy.map(|(kind, name)| (kind, name.len())))
        });
        assert_eq!(found.len(), KEPT - 2);
        assert!(found.iter().all(|found| *found == (256, 80, 80, Some(("circuit", 80)))));
        assert_eq!(fitting("äöü", 3), "ä");
    }

    #[test]
    fn all_of_them_take_as_much_memory_as_is_said() {
        assert!(KEPT * size_of::<Mutex<Kept>>() <= 3_200_000);
    }
}
