//! The claim protocol, explored to the end: all interleavings of two and three threads on one
//! small set. A thread that is killed is one that is never scheduled again.

mod model;

use model::{EMPTY, Outcome, Slot, State, Step, Thread, Without, World};
use std::collections::HashSet;

struct Search {
    burst: u8,
    /// What was admitted before: `(key, time)`.
    earlier: &'static [(u8, u8)],
    without: Without,
}

/// What a search saw.
#[derive(Debug)]
struct Seen {
    states: usize,
    /// How many tokens own buckets admitted in the end.
    least: usize,
    most: usize,
}

fn searching(burst: u8) -> Search {
    Search { burst, earlier: &[], without: Without::Nothing }
}

impl Search {
    /// Visits every state that any interleaving can reach.
    fn explore<const SLOTS: usize, const THREADS: usize>(
        &self,
        first: World<SLOTS, THREADS>,
    ) -> Result<Seen, String> {
        let mut visited = HashSet::from([first.clone()]);
        let mut open = vec![first];
        let (mut least, mut most) = (THREADS, 0);
        while let Some(world) = open.pop() {
            world.check_slots()?;
            world.check_admissions(self.burst, self.earlier)?;
            let running: Vec<usize> = (0..THREADS).filter(|&id| !world.is_done(id)).collect();
            if running.is_empty() {
                let is_own = |thread: &&Thread| matches!(thread.step, Step::Done(Outcome::Own(_)));
                let own = world.threads.iter().filter(is_own).count();
                (least, most) = (least.min(own), most.max(own));
            }
            for id in running {
                if THREADS == 2 && self.without == Without::Nothing {
                    world.check_alone(id, self.burst)?;
                }
                let mut next = world.clone();
                next.advance(id, self.burst, self.without);
                if visited.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Ok(Seen { states: visited.len(), least, most })
    }
}

const fn live(key: u8, tat: u8) -> Slot {
    Slot { key, state: State::Tat(tat) }
}

#[test]
fn threads_that_meet_over_a_new_key_make_one_bucket_of_it() {
    let two = searching(1).explore(World::new([EMPTY; 3], [(1, 10), (1, 10)])).unwrap();
    assert_eq!((two.least, two.most), (1, 1), "exactly the burst, in every interleaving");
    let three = searching(2).explore(World::new([EMPTY; 2], [(1, 10), (1, 10), (1, 10)])).unwrap();
    assert_eq!((three.least, three.most), (2, 2));
    assert!(three.states > 1_000, "only {} states", three.states);
}

/// Slots in which a late thread of key 1 chooses another one than a thread that is not late.
const CONTESTED: [Slot; 2] = [EMPTY, live(9, 10)];

#[test]
fn threads_that_see_room_in_different_slots_make_one_bucket_all_the_same() {
    for slots in [CONTESTED, [live(8, 9), live(9, 10)]] {
        let two = searching(1).explore(World::new(slots, [(1, 9), (1, 10)])).unwrap();
        assert_eq!((two.least, two.most), (1, 1));
    }
    searching(2).explore(World::new(CONTESTED, [(1, 9), (1, 10), (1, 10)])).unwrap();
}

#[test]
fn threads_of_two_keys_may_take_each_others_announcements() {
    for slots in [[EMPTY, EMPTY], [EMPTY, live(9, 50)], CONTESTED] {
        searching(1).explore(World::new(slots, [(1, 9), (1, 10), (2, 10)])).unwrap();
    }
}

#[test]
fn announcements_of_the_dead_are_in_nobodys_way() {
    let dead = |key, mark: u8| Slot { key, state: State::Pending(0xf0 | mark) };
    for slots in [[dead(1, 0), dead(2, 1)], [dead(1, 0), dead(1, 1)], [dead(9, 0), live(8, 50)]] {
        let two = searching(1).explore(World::new(slots, [(1, 10), (1, 10)])).unwrap();
        assert_eq!((two.least, two.most), (1, 1));
    }
}

/// Key 1 took its only token at 6 and is full at 10; key 2 comes at 12, and a thread of key 1
/// is late.
fn late(without: Without) -> Result<(), String> {
    let search = Search { earlier: &[(1, 6)], without, ..searching(1) };
    search.explore(World::new([live(1, 10), EMPTY], [(2, 12), (1, 9), (1, 12)]))?;
    search.explore(World::new([EMPTY, live(1, 10)], [(3, 12), (1, 9), (1, 12)]))?;
    Ok(())
}

#[test]
fn a_late_thread_admits_nobody_too_many() {
    late(Without::Nothing).unwrap();
}

#[test]
fn a_bucket_that_is_there_is_charged_exactly() {
    let first = World::new([live(1, 14), EMPTY], [(1, 10), (1, 10), (1, 10)]);
    let three = searching(2).explore(first).unwrap();
    assert_eq!((three.least, three.most), (1, 1), "one of two tokens was left");
}

#[test]
fn a_key_that_comes_alive_in_the_last_slot_is_not_charged_elsewhere() {
    let first = World::new([EMPTY, live(9, 50)], [(1, 10), (1, 10), (1, 10)]);
    let three = searching(3).explore(first).unwrap();
    assert_eq!((three.least, three.most), (3, 3), "none from the overflow bucket");
}

#[test]
fn the_search_notices_a_step_left_out() {
    let search = Search { without: Without::LookAgain, ..searching(2) };
    let found = search.explore(World::new(CONTESTED, [(1, 9), (1, 10)]));
    assert!(found.unwrap_err().starts_with("two buckets for one key"));
    let found = late(Without::TakeoverTime);
    assert!(found.unwrap_err().starts_with("one token too many"));
    let search = Search { without: Without::Alive, ..searching(3) };
    let first = World::new([EMPTY, live(9, 50)], [(1, 10), (1, 10), (1, 10)]);
    assert!(search.explore(first).unwrap().least < 3, "charged to the overflow bucket");
}
