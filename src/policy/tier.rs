//! Tiers: the named buckets that clients are put into.

use super::rate::{Period, Rate, TokenBucket};
use siphasher::sip::SipHasher13;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::hash::Hasher;
use std::sync::Arc;
use thiserror::Error;

/// The most tiers there can be; a tier is one label value of several metrics.
pub const MAX_TIERS: usize = 1_024;

/// One tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tier {
    /// Its name as written.
    pub name: Arc<str>,
    /// The bucket that each of its clients gets.
    pub bucket: TokenBucket,
    /// Requests each of its clients may have in flight at a time; none: any number.
    pub concurrency: Option<u32>,
}

/// A tier's place among [`Tiers`]; a higher number is a higher tier. It means something only
/// together with the `Tiers` it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TierId(pub u16);

/// What stands for a tier's name, in any case: 64 bits of a hash of it.
///
/// Two names meet with a probability of 2⁻⁶⁴; names are the operator's own, and there are few.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TierName(u64);

impl TierName {
    /// Of this name.
    pub fn of(name: &str) -> TierName {
        let mut hasher = SipHasher13::new();
        name.bytes().for_each(|byte| hasher.write_u8(byte.to_ascii_lowercase()));
        TierName(hasher.finish())
    }
}

/// All tiers from the lowest to the highest sustained rate, and which one strangers get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiers {
    tiers: Vec<Tier>,
    by_name: foldhash::HashMap<TierName, TierId>,
    default: TierId,
}

/// Why tiers do not make a set of tiers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TiersError {
    /// The default tier is not among them.
    #[error("there is no tier {0:?}")]
    UnknownDefault(String),
    /// Two names differ in case at most.
    #[error("there are two tiers named {0:?} (names are compared in any case)")]
    Duplicate(String),
    /// More than [`MAX_TIERS`].
    #[error("there are more than {MAX_TIERS} tiers")]
    TooMany,
}

impl Tiers {
    /// Orders the tiers and remembers the default one.
    ///
    /// # Errors
    /// When two share a name, the default is not among them, or there are too many.
    pub fn new(mut tiers: Vec<Tier>, default: &str) -> Result<Self, TiersError> {
        if tiers.len() > MAX_TIERS {
            return Err(TiersError::TooMany);
        }
        let mut names = HashSet::new();
        if let Some(again) = tiers.iter().find(|tier| !names.insert(TierName::of(&tier.name))) {
            return Err(TiersError::Duplicate(again.name.to_string()));
        }
        tiers.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.name.cmp(&b.name)));
        let by_name = by_name(&tiers);
        let Some(&default) = by_name.get(&TierName::of(default)) else {
            return Err(TiersError::UnknownDefault(default.to_owned()));
        };
        Ok(Self { tiers, by_name, default })
    }

    /// The tier of clients that nobody registered.
    pub fn default_tier(&self) -> TierId {
        self.default
    }

    /// The tier with this id. An id of another set that is out of range gets the default tier: a
    /// wrong limit is better than a panic on somebody's request.
    pub fn get(&self, id: TierId) -> &Tier {
        let index = usize::from(if self.contains(id) { id.0 } else { self.default.0 });
        &self.tiers[index]
    }

    /// The tier of this name, in any case.
    pub fn find(&self, name: &str) -> Option<TierId> {
        self.named(TierName::of(name))
    }

    /// The tier of this name.
    #[inline]
    pub fn named(&self, name: TierName) -> Option<TierId> {
        self.by_name.get(&name).copied()
    }

    /// All tiers with their ids, lowest first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (TierId, &Tier)> {
        self.tiers.iter().enumerate().map(|(i, tier)| (TierId(i as u16), tier))
    }

    /// Whether tier `a` grants more than tier `b`: a higher rate, or the same and a larger burst.
    pub fn is_above(&self, a: TierId, b: TierId) -> bool {
        rank(self.get(a)) > rank(self.get(b))
    }

    fn contains(&self, id: TierId) -> bool {
        usize::from(id.0) < self.tiers.len()
    }

    /// The four tiers of an empty configuration, as (name, tokens per second, burst).
    pub const STANDARD: [(&'static str, u64, u64); 4] =
        [("free", 1, 10), ("basic", 5, 50), ("premium", 20, 200), ("enterprise", 100, 1_000)];

    /// `free`, `basic`, `premium` and `enterprise`, with `free` for strangers.
    pub fn standard() -> Self {
        let tiers: Vec<Tier> = Self::STANDARD
            .iter()
            .filter_map(|&(name, count, burst)| {
                let bucket =
                    TokenBucket::new(Rate { count, period: Period::Second }, burst).ok()?;
                Some(Tier { name: name.into(), bucket, concurrency: None })
            })
            .collect();
        // Written in rising order, so `free` is the first.
        Self { by_name: by_name(&tiers), tiers, default: TierId(0) }
    }
}

impl Default for Tiers {
    fn default() -> Self {
        Self::standard()
    }
}

/// The order of tiers: a shorter emission interval is a higher rate.
fn rank(tier: &Tier) -> (Reverse<u64>, u64) {
    (Reverse(tier.bucket.emission_interval_ns()), tier.bucket.burst())
}

fn by_name(tiers: &[Tier]) -> foldhash::HashMap<TierName, TierId> {
    let numbers = (0..).map(TierId);
    tiers.iter().map(|tier| TierName::of(&tier.name)).zip(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(name: &str, count: u64, burst: u64) -> Tier {
        let rate = Rate { count, period: Period::Second };
        Tier {
            name: name.into(),
            bucket: TokenBucket::new(rate, burst).unwrap(),
            concurrency: None,
        }
    }

    #[test]
    fn the_standard_tiers_rise_and_strangers_are_free() {
        let tiers = Tiers::standard();
        let names: Vec<_> = tiers.iter().map(|(_, tier)| tier.name.to_string()).collect();
        assert_eq!(names, ["free", "basic", "premium", "enterprise"]);
        assert_eq!(&*tiers.get(tiers.default_tier()).name, "free");
        let ids: Vec<_> = tiers.iter().map(|(id, _)| id).collect();
        for pair in ids.windows(2) {
            assert!(tiers.is_above(pair[1], pair[0]));
            assert!(!tiers.is_above(pair[0], pair[1]));
        }
    }

    #[test]
    fn tiers_are_ordered_by_rate_and_found_in_any_case() {
        let tiers =
            Tiers::new(vec![tier("gold", 9, 9), tier("Tin", 1, 1), tier("lead", 1, 5)], "TIN");
        let tiers = tiers.unwrap();
        assert_eq!(tiers.default_tier(), TierId(0));
        assert_eq!(tiers.find("GOLD"), Some(TierId(2)));
        assert_eq!(tiers.find("silver"), None);
        assert!(tiers.is_above(TierId(1), TierId(0)), "same rate, larger burst");
        assert_eq!(&*tiers.get(TierId(77)).name, "Tin");
    }

    #[test]
    fn names_that_differ_in_case_only_are_one_name() {
        let result = Tiers::new(vec![tier("a", 1, 1), tier("A", 2, 2)], "a");
        assert_eq!(result, Err(TiersError::Duplicate("A".into())));
        let result = Tiers::new(vec![tier("a", 1, 1)], "b");
        assert_eq!(result, Err(TiersError::UnknownDefault("b".into())));
    }
}
