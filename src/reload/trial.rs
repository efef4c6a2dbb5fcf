//! A configuration on trial: what its routes answer, against what they answered before.
//!
//! Counts are read from the generation that serves, in which they began with it. What they
//! were before is carried from generation to generation by the routes' names.

use super::history::Kept;
use crate::gateway::Generation;
use crate::policy::reload_watch::{Answers, RouteWatch, WatchPolicy};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::iter::{self, repeat};

/// Parts of a window: counts are kept this often, and the window before a swap is exact to
/// one part.
const PARTS: u64 = 8;

/// Changes that can be unproven at a time. Where reloads are so frequent that there would be
/// more, the latest ones are proven together.
const MAX_UNPROVEN: usize = 8;

/// The routes' counts over time, and the trial of the configuration that serves.
///
/// At most `PARTS` + 2 counts of 16 bytes a route, and during a trial 32 bytes a route for each
/// of the [`MAX_UNPROVEN`] changes and 32 more; nothing while the configuration has no
/// `reload_watch`.
#[derive(Debug, Default)]
pub(super) struct Trials {
    /// What the generation's routes were answered before it, by route.
    earlier: Vec<Answers>,
    /// All their answers at some times, the oldest first.
    samples: VecDeque<(u64, Vec<Answers>)>,
    trial: Option<Trial>,
}

#[derive(Debug)]
struct Trial {
    policy: WatchPolicy,
    generation: u64,
    /// The changes that came one after the other and have not served for a window yet, the
    /// oldest first; never empty. The generation is measured by what was before the oldest.
    unproven: VecDeque<Change>,
    /// By route.
    routes: Vec<RouteWatch>,
}

/// A change of the configuration that may be taken back; counts by route.
#[derive(Debug)]
struct Change {
    /// What to go back to.
    good: Kept,
    since_ns: u64,
    /// The answers in the window before it.
    before: Vec<Answers>,
    /// All answers until then.
    earlier: Vec<Answers>,
}

/// Of each route of a new generation, which of the old one's has its name.
struct Heirs(Vec<Option<usize>>);

impl Heirs {
    fn of(old: &Generation, new: &Generation) -> Heirs {
        let old = old.config.routes.iter().enumerate();
        let old: HashMap<&str, usize> = old.map(|(index, route)| (&*route.name, index)).collect();
        let new = new.config.routes.iter();
        Heirs(new.map(|route| old.get(&*route.name).copied()).collect())
    }

    /// The old routes' counts for the new ones; a route that is new begins with none.
    fn inherit(&self, counts: &[Answers]) -> Vec<Answers> {
        let count = |index: &Option<usize>| index.and_then(|index| counts.get(index).copied());
        self.0.iter().map(|index| count(index).unwrap_or_default()).collect()
    }
}

/// A trial that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnTrial {
    /// The generation that is watched.
    pub generation: u64,
    /// The generation whose configuration would serve again.
    pub goes_back_to: u64,
    /// How much longer it is watched, in nanoseconds.
    pub left_ns: u64,
}

/// A route that fails too much since a swap.
#[derive(Debug)]
pub(super) struct Risen {
    /// The generation that is to be taken back.
    pub(super) generation: u64,
    /// What to go back to.
    pub(super) good: Kept,
    route: String,
    before: Answers,
    after: Answers,
    allowed: f64,
}

impl fmt::Display for Risen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Risen { route, before, after, allowed, .. } = self;
        let percent = |share: f64| (share * 1e4).round() / 1e2;
        write!(
            f,
            "route {route} answered {} of {} requests with 5xx ({} %); before the reload {} of {} \
             ({} %), so that {} % are allowed",
            after.failed,
            after.all,
            percent(after.share()),
            before.failed,
            before.all,
            percent(before.share()),
            percent(*allowed),
        )
    }
}

/// A swap that is about to happen.
pub(super) struct Swap<'a> {
    pub(super) old: &'a Generation,
    pub(super) new: &'a Generation,
    /// What the old one is made from again.
    pub(super) serving: Kept,
    /// Whether the new one says something else; another trial of the same would prove nothing.
    pub(super) is_changed: bool,
    /// Whether it takes the old one back, and so is known to be good.
    pub(super) is_rollback: bool,
    pub(super) now_ns: u64,
}

impl Trials {
    /// Hands the counts on to the new generation's routes and begins its trial. Takes time in
    /// the number of routes: a millisecond for some thousands.
    pub(super) fn swap(&mut self, swap: Swap<'_>) {
        let Swap { old, new, .. } = swap;
        let running = self.trial.take();
        let Some(policy) = new.config.server.reloading.watch else {
            *self = Trials::default();
            return;
        };
        let mut unproven = running.map_or_else(VecDeque::new, |trial| trial.unproven);
        if swap.is_rollback {
            // Of what is taken back nothing counts.
            self.forget(unproven.drain(..).next());
        } else {
            self.earlier = self.totals(old);
        }
        if swap.is_changed && !swap.is_rollback {
            let change = Change {
                good: swap.serving,
                since_ns: swap.now_ns,
                before: self.window(&self.earlier),
                earlier: self.earlier.clone(),
            };
            let is_full = unproven.len() >= MAX_UNPROVEN;
            match unproven.back_mut().filter(|_| is_full) {
                Some(last) => last.since_ns = change.since_ns,
                None => unproven.push_back(change),
            }
        }
        self.hand_on(&Heirs::of(old, new), &mut unproven);
        // The same again goes on with the trial there is, as long as that takes.
        self.trial = (!unproven.is_empty()).then(|| Trial {
            policy,
            generation: new.number,
            unproven,
            routes: vec![RouteWatch::default(); new.routes.len()],
        });
    }

    fn hand_on(&mut self, heirs: &Heirs, unproven: &mut VecDeque<Change>) {
        let samples = self.samples.iter_mut().map(|(_, counts)| counts);
        let changes =
            unproven.iter_mut().flat_map(|change| [&mut change.before, &mut change.earlier]);
        for counts in iter::once(&mut self.earlier).chain(samples).chain(changes) {
            *counts = heirs.inherit(counts);
        }
    }

    /// Takes out of the counts what was answered since the trial's first change, or the next
    /// one would be compared with failures that were never put up with.
    fn forget(&mut self, first: Option<Change>) {
        let Some(first) = first else { return };
        self.samples.retain(|(at_ns, _)| *at_ns < first.since_ns);
        self.earlier = first.earlier;
    }

    /// Looks at the counts of the generation that serves; gives the route that fails too much.
    /// Each change is proven when its window has passed, also when others have followed; the
    /// trial ends when all are, or when it is [given up](Self::give_up).
    pub(super) fn look(&mut self, serving: &Generation, now_ns: u64) -> Option<Risen> {
        let policy = serving.config.server.reloading.watch?;
        self.sample(serving, &policy, now_ns);
        let trial = self.trial.as_mut().filter(|trial| trial.generation == serving.number)?;
        let Some(index) = trial.risen(serving, now_ns) else {
            trial.prove(now_ns);
            self.trial.take_if(|trial| trial.unproven.is_empty());
            return None;
        };
        let first = trial.unproven.front()?;
        let before = first.before.get(index).copied().unwrap_or_default();
        Some(Risen {
            generation: trial.generation,
            good: first.good.clone(),
            route: serving.config.routes.get(index)?.name.to_string(),
            before,
            after: serving.routes.get(index)?.outcomes.answers(),
            allowed: trial.policy.allowed(before),
        })
    }

    /// Ends a generation's trial: it failed, and cannot be taken back.
    pub(super) fn give_up(&mut self, generation: u64) {
        self.trial.take_if(|trial| trial.generation == generation);
    }

    /// The trial that goes on.
    pub(super) fn current(&self, now_ns: u64) -> Option<OnTrial> {
        let trial = self.trial.as_ref()?;
        let (first, last) = (trial.unproven.front()?, trial.unproven.back()?);
        let end_ns = last.since_ns + trial.policy.window_ns;
        Some(OnTrial {
            generation: trial.generation,
            goes_back_to: first.good.generation,
            left_ns: end_ns.saturating_sub(now_ns),
        })
    }

    /// What each route was answered so far, under this generation and those before.
    fn totals(&self, generation: &Generation) -> Vec<Answers> {
        let earlier = self.earlier.iter().copied().chain(repeat(Answers::default()));
        let routes = generation.routes.iter().map(|route| route.outcomes.answers());
        routes.zip(earlier).map(|(now, earlier)| now.and(earlier)).collect()
    }

    /// What each route was answered in the window that ends now. Where nothing was sampled,
    /// the watch having been off, all there is.
    fn window(&self, totals: &[Answers]) -> Vec<Answers> {
        let Some((_, oldest)) = self.samples.front() else { return totals.to_vec() };
        totals.iter().zip(oldest).map(|(total, oldest)| total.since(*oldest)).collect()
    }

    fn sample(&mut self, serving: &Generation, policy: &WatchPolicy, now_ns: u64) {
        let part_ns = policy.window_ns / PARTS;
        let is_due = |last: &(u64, _)| now_ns.saturating_sub(last.0) >= part_ns;
        if !self.samples.back().is_none_or(is_due) {
            return;
        }
        let is_old = |sample: &(u64, _)| now_ns.saturating_sub(sample.0) >= policy.window_ns;
        // The oldest stays that is as old as the window.
        while self.samples.get(1).is_some_and(is_old) {
            self.samples.pop_front();
        }
        let totals = self.totals(serving);
        self.samples.push_back((now_ns, totals));
    }
}

impl Trial {
    fn risen(&mut self, serving: &Generation, now_ns: u64) -> Option<usize> {
        let Trial { policy, unproven, routes, .. } = self;
        let before = &unproven.front()?.before;
        let mut risen = None;
        let watched = serving.routes.iter().zip(before).zip(routes);
        for (index, ((route, before), watch)) in watched.enumerate() {
            // Each is looked at, found or not: it remembers what it saw.
            if watch.look(policy, *before, route.outcomes.answers(), now_ns) {
                risen.get_or_insert(index);
            }
        }
        risen
    }

    /// Counts as good what nothing was found against for a window.
    fn prove(&mut self, now_ns: u64) {
        let window_ns = self.policy.window_ns;
        let is_over = |change: &Change| now_ns.saturating_sub(change.since_ns) >= window_ns;
        while self.unproven.front().is_some_and(is_over) {
            self.unproven.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
