//! A restatement of [`Table::charge`](crate::store::table::Table::charge) in which every access
//! to a shared word is one step of its own. What is left out: costs above one, classes, and
//! more than a few lost claims in a row.

use std::collections::HashSet;

/// Emission interval of every bucket here.
const INTERVAL: u8 = 4;
/// Claims a thread may lose; more than that only lengthens the paths.
const ROUNDS: u8 = 3;

/// The second half of a slot: a time, or the unique mark of an announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum State {
    Tat(u8),
    Pending(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) key: u8,
    pub(super) state: State,
}

pub(super) const EMPTY: Slot = Slot { key: 0, state: State::Tat(0) };

impl Slot {
    fn is_free(self, now: u8) -> bool {
        matches!(self.state, State::Tat(tat) if tat <= now)
    }

    fn is_pending(self) -> bool {
        matches!(self.state, State::Pending(_))
    }
}

/// Slot 0 of a set: the time of the latest takeover and the overflow bucket, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Shared {
    pub(super) takeover: u8,
    pub(super) overflow: u8,
}

pub(super) type Chosen = (usize, Slot);

/// What a thread does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Step {
    /// Load slot by slot, looking for the key.
    Find(usize),
    /// Charge the bucket that was found.
    Charge(usize, Slot),
    /// Load slot by slot, looking for room.
    Choose {
        at: usize,
        free: Option<Chosen>,
        pending: Option<Chosen>,
    },
    /// Before a takeover: load the latest, then publish a later one.
    ReadTakeover(usize, Slot),
    PublishTakeover(usize, Slot, Shared),
    /// Step one of a claim.
    Announce(usize, Slot),
    /// Step two: load slot by slot, erasing other announcements of the key.
    LookAgain {
        own: usize,
        announced: Slot,
        at: usize,
    },
    Erase {
        own: usize,
        announced: Slot,
        at: usize,
        found: Slot,
    },
    Withdraw(usize, Slot),
    /// Step three.
    ReadStart(usize, Slot),
    Promote(usize, Slot, u8),
    ReadOverflow,
    ChargeOverflow(Shared),
    Done(Outcome),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    /// Admitted by the key's own bucket, as of this time.
    Own(u8),
    Overflow,
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Thread {
    pub(super) key: u8,
    pub(super) now: u8,
    pub(super) rounds: u8,
    pub(super) announcements: u8,
    pub(super) step: Step,
}

/// What a variant of the protocol leaves out, to show that the search would notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Without {
    Nothing,
    /// Step two of a claim.
    LookAgain,
    /// The time of the latest takeover.
    TakeoverTime,
    /// That the key may come alive while room is looked for.
    Alive,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World<const SLOTS: usize, const THREADS: usize> {
    pub(super) slots: [Slot; SLOTS],
    pub(super) shared: Shared,
    pub(super) threads: [Thread; THREADS],
}

impl<const SLOTS: usize, const THREADS: usize> World<SLOTS, THREADS> {
    /// Threads that each charge one token: `(key, now)`.
    pub(super) fn new(slots: [Slot; SLOTS], threads: [(u8, u8); THREADS]) -> Self {
        let thread =
            |(key, now)| Thread { key, now, rounds: 0, announcements: 0, step: Step::Find(0) };
        let shared = Shared { takeover: 0, overflow: 0 };
        World { slots, shared, threads: threads.map(thread) }
    }

    fn swap(&mut self, index: usize, old: Slot, new: Slot) -> bool {
        let is_same = self.slots[index] == old;
        if is_same {
            self.slots[index] = new;
        }
        is_same
    }

    fn swap_shared(&mut self, old: Shared, new: Shared) -> bool {
        let is_same = self.shared == old;
        if is_same {
            self.shared = new;
        }
        is_same
    }

    /// Lets thread `id` do one step.
    pub(super) fn advance(&mut self, id: usize, burst: u8, without: Without) {
        let Thread { key, now, .. } = self.threads[id];
        let index_at = |at: usize| (usize::from(key) + at) % SLOTS;
        self.threads[id].step = match self.threads[id].step {
            Step::Find(at) if at == SLOTS => Step::Choose { at: 0, free: None, pending: None },
            Step::Find(at) => {
                let (index, slot) = (index_at(at), self.slots[index_at(at)]);
                match slot.key == key && !slot.is_pending() {
                    true => ask(slot, now, burst)
                        .map_or(Step::Done(Outcome::Refused), |_| Step::Charge(index, slot)),
                    false => Step::Find(at + 1),
                }
            }
            Step::Charge(index, slot) => {
                let tat = ask(slot, now, burst).unwrap();
                match self.swap(index, slot, Slot { key, state: State::Tat(tat) }) {
                    true => Step::Done(Outcome::Own(now)),
                    false => Step::Find(0),
                }
            }
            Step::Choose { at, free, pending } if at == SLOTS => match free.or(pending) {
                None => Step::ReadOverflow,
                Some((index, old))
                    if old == EMPTY || old.is_pending() || without == Without::TakeoverTime =>
                {
                    Step::Announce(index, old)
                }
                Some((index, old)) => Step::ReadTakeover(index, old),
            },
            Step::Choose { at, free, pending } => {
                let (index, slot) = (index_at(at), self.slots[index_at(at)]);
                let here = Some((index, slot));
                match (slot.key == key, slot.is_pending(), slot.is_free(now)) {
                    (true, true, _) => Step::LookAgain { own: index, announced: slot, at: 0 },
                    (true, false, _) if without != Without::Alive => self.start_over(id),
                    (false, true, _) => {
                        Step::Choose { at: at + 1, free, pending: pending.or(here) }
                    }
                    (false, _, true) => Step::Choose { at: at + 1, free: free.or(here), pending },
                    _ => Step::Choose { at: at + 1, free, pending },
                }
            }
            Step::ReadTakeover(index, old) => match self.shared.takeover >= now {
                true => Step::Announce(index, old),
                false => Step::PublishTakeover(index, old, self.shared),
            },
            Step::PublishTakeover(index, old, seen) => {
                match self.swap_shared(seen, Shared { takeover: now, ..seen }) {
                    true => Step::Announce(index, old),
                    false => Step::ReadTakeover(index, old),
                }
            }
            Step::Announce(index, old) => {
                // Unique, as the counter makes it, but independent of the other threads.
                let mark = (id as u8) << 4 | self.threads[id].announcements;
                self.threads[id].announcements += 1;
                let announced = Slot { key, state: State::Pending(mark) };
                match self.swap(index, old, announced) {
                    false => self.start_over(id),
                    true if without == Without::LookAgain => Step::ReadStart(index, announced),
                    true => Step::LookAgain { own: index, announced, at: 0 },
                }
            }
            Step::LookAgain { own, announced, at } if at == SLOTS => {
                Step::ReadStart(own, announced)
            }
            Step::LookAgain { own, announced, at } => {
                let found = self.slots[at];
                match at != own && found.key == key {
                    false => Step::LookAgain { own, announced, at: at + 1 },
                    true if found.is_pending() => Step::Erase { own, announced, at, found },
                    true => Step::Withdraw(own, announced),
                }
            }
            Step::Erase { own, announced, at, found } => match self.swap(at, found, EMPTY) {
                true => Step::LookAgain { own, announced, at: at + 1 },
                false => Step::Withdraw(own, announced),
            },
            Step::Withdraw(index, announced) => {
                self.swap(index, announced, EMPTY);
                self.start_over(id)
            }
            Step::ReadStart(index, announced) => {
                Step::Promote(index, announced, now.max(self.shared.takeover))
            }
            Step::Promote(index, announced, start) => {
                let live = Slot { key, state: State::Tat(start + INTERVAL) };
                match self.swap(index, announced, live) {
                    true => Step::Done(Outcome::Own(start)),
                    false => self.start_over(id),
                }
            }
            Step::ReadOverflow => Step::ChargeOverflow(self.shared),
            Step::ChargeOverflow(seen) => {
                let overflow = seen.overflow.max(now) + INTERVAL;
                match self.swap_shared(seen, Shared { overflow, ..seen }) {
                    true => Step::Done(Outcome::Overflow),
                    false => Step::ReadOverflow,
                }
            }
            done @ Step::Done(_) => done,
        };
    }

    fn start_over(&mut self, id: usize) -> Step {
        self.threads[id].rounds += 1;
        if self.threads[id].rounds < ROUNDS { Step::Find(0) } else { Step::ReadOverflow }
    }

    pub(super) fn is_done(&self, id: usize) -> bool {
        matches!(self.threads[id].step, Step::Done(_))
    }

    /// No key has two live slots, whatever happened so far.
    pub(super) fn check_slots(&self) -> Result<(), String> {
        let live = self.slots.iter().filter(|slot| slot.key != 0 && !slot.is_pending());
        let keys: HashSet<u8> = live.clone().map(|slot| slot.key).collect();
        match keys.len() == live.count() {
            true => Ok(()),
            false => Err(format!("two buckets for one key: {self:?}")),
        }
    }

    /// No window holds more than burst and rate allow; `earlier` was admitted before.
    pub(super) fn check_admissions(&self, burst: u8, earlier: &[(u8, u8)]) -> Result<(), String> {
        let own = self.threads.iter().filter_map(|thread| match thread.step {
            Step::Done(Outcome::Own(at)) => Some((thread.key, at)),
            _ => None,
        });
        let all: Vec<(u8, u8)> = earlier.iter().copied().chain(own).collect();
        for &(key, from) in &all {
            for &(_, to) in all.iter().filter(|(other, to)| *other == key && *to >= from) {
                let window = all.iter().filter(|(k, at)| *k == key && (from..=to).contains(at));
                if window.count() > usize::from(burst + (to - from) / INTERVAL) {
                    return Err(format!("one token too many in {from}..={to}: {self:?}"));
                }
            }
        }
        Ok(())
    }

    /// With all others killed where they are, thread `id` comes to its end, and in a bucket of
    /// its own wherever the set has room for one.
    pub(super) fn check_alone(&self, id: usize, burst: u8) -> Result<(), String> {
        let mut world = self.clone();
        world.threads[id].rounds = 0;
        let Thread { key, now, step, .. } = world.threads[id];
        let has_room = self.slots.iter().any(|s| s.is_pending() || s.is_free(now) || s.key == key);
        let is_lost = matches!(step, Step::ReadOverflow | Step::ChargeOverflow(_));
        for _ in 0..40 {
            if world.is_done(id) {
                break;
            }
            world.advance(id, burst, Without::Nothing);
        }
        match world.threads[id].step {
            Step::Done(Outcome::Overflow) if has_room && !is_lost => {
                Err(format!("thread {id} found no room: {self:?}"))
            }
            Step::Done(_) => Ok(()),
            _ => Err(format!("thread {id} is wedged: {self:?}")),
        }
    }
}

/// GCRA for one token.
fn ask(slot: Slot, now: u8, burst: u8) -> Option<u8> {
    let State::Tat(tat) = slot.state else { return None };
    let next = tat.max(now) + INTERVAL;
    (next <= now + burst * INTERVAL).then_some(next)
}
