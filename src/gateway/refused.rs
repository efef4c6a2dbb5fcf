//! The last refusals, so that a trace id from somebody's complaint says what happened.

use crate::store::key::KeyKind;
use arrayvec::ArrayString;
use jiff::Timestamp;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Refusals that are kept.
pub const KEPT: usize = 4_096;

/// A name from the configuration, with what policies put around it.
pub type Name = ArrayString<80>;

/// One refusal. All of it lies in one piece of fixed size: what a client sends makes it no
/// larger, and to keep it allocates nothing.
#[derive(Debug, Clone, Copy)]
pub struct Refused {
    /// When.
    pub at: Timestamp,
    /// The request's trace id.
    pub trace_id: ArrayString<128>,
    /// The client; empty where the request did not come so far.
    pub client: ArrayString<256>,
    /// How the client was named.
    pub identified_by: Option<KeyKind>,
    /// The client's tier; empty as above.
    pub tier: Name,
    /// The route; empty where none took it.
    pub route: Name,
    /// The problem's type.
    pub reason: &'static str,
    /// What refused: the member of the problem document and its value.
    pub policy: Option<(&'static str, Name)>,
    /// The status it was answered with.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after_seconds: Option<u64>,
    /// Of a limit: whole tokens left, tokens when full, seconds until it is full.
    pub tokens: Option<(u64, u64, u64)>,
}

/// The first bytes of a text, as far as they fit.
pub fn fitting<const N: usize>(text: &str) -> ArrayString<N> {
    let mut fitting = ArrayString::new();
    let end = (0..=text.len().min(N)).rev().find(|&end| text.is_char_boundary(end));
    fitting.push_str(&text[..end.unwrap_or(0)]);
    fitting
}

/// The last [`KEPT`] refusals in a ring: 3.2 MB at the most, taken at the first one.
///
/// Each has a place with a lock of its own, which is held while some 700 bytes are copied, and
/// for which two threads meet only if one of them is a whole round behind.
#[derive(Default)]
pub struct RefusedRing {
    next: AtomicUsize,
    places: OnceLock<Box<[Mutex<Option<Refused>>]>>,
}

impl RefusedRing {
    /// Keeps a refusal and forgets the oldest one.
    pub fn keep(&self, refused: Refused) {
        let places = self.places.get_or_init(|| (0..KEPT).map(|_| Mutex::default()).collect());
        let place = self.next.fetch_add(1, Ordering::Relaxed) % KEPT;
        if let Some(place) = places.get(place) {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(refused);
        }
    }

    /// The refusals of a trace id, the latest first. Looks at all of them.
    pub fn of_trace(&self, trace_id: &str) -> Vec<Refused> {
        let places = self.places.get().into_iter().flatten();
        let mut found: Vec<Refused> = places
            .filter_map(|place| *place.lock().unwrap_or_else(PoisonError::into_inner))
            .filter(|refused| &*refused.trace_id == trace_id)
            .collect();
        found.sort_by_key(|refused| std::cmp::Reverse(refused.at));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: usize) -> Refused {
        Refused {
            at: Timestamp::from_second(number as i64).unwrap(),
            trace_id: fitting(&number.to_string()),
            client: ArrayString::new(),
            identified_by: None,
            tier: Name::new(),
            route: Name::new(),
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
        assert!(ring.of_trace("1").is_empty());
        (0..KEPT + 10).for_each(|number| ring.keep(refused(number)));
        assert!(ring.of_trace("9").is_empty());
        assert_eq!(ring.of_trace("10").len(), 1);
        assert_eq!(ring.of_trace(&(KEPT + 9).to_string()).len(), 1);
        ring.keep(Refused { at: Timestamp::from_second(9_999).unwrap(), ..refused(4_000) });
        let times: Vec<i64> = ring.of_trace("4000").iter().map(|r| r.at.as_second()).collect();
        assert_eq!(times, [9_999, 4_000]);
    }

    #[test]
    fn all_of_them_take_as_much_memory_as_is_said() {
        assert!(KEPT * size_of::<Mutex<Option<Refused>>>() <= 3_200_000);
        assert_eq!(&*fitting::<4>("äöü"), "äö");
        assert_eq!(&*fitting::<3>("äöü"), "ä");
    }
}
