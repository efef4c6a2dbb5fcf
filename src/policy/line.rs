//! The waiting line in front of a full upstream: who is served next, and who has to go when
//! there is no room for all.
//!
//! Waiters stand in one order, by rank and then by arrival. The next to be served is the first
//! of that order. When the line is full, the one to go is its last: of the lowest rank, the
//! one that has waited least. So neither choice searches, and a rank nobody waits in costs
//! nothing.
//!
//! A rank is served only while no higher one waits. Under lasting overload the lowest ranks
//! are not served at all: that is what they are for, and their wait is bounded by whoever
//! keeps the line.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// A bounded line of waiters. Every operation takes O(log n) of the waiters, memory is
/// proportional to them, and there are never more than the bound.
#[derive(Debug)]
pub struct Line<T> {
    waiters: BTreeMap<Ticket, T>,
    bound: usize,
    /// Waiters that ever joined; a 64-bit number is not used up.
    arrivals: u64,
}

/// A waiter's place in the line; no two waiters of a line ever have the same. Tickets are
/// ordered as they are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket {
    /// A higher rank comes first.
    rank: Reverse<u16>,
    arrival: u64,
}

/// What became of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Joining<T> {
    /// It stands in the line.
    Waits(Ticket),
    /// It stands in the line, and this waiter of a lower rank had to make room.
    Displaces(Ticket, T),
    /// The line is full of waiters of its rank and above.
    Refused(T),
}

impl<T> Line<T> {
    /// An empty line for at most `bound` waiters. With 0 nobody waits.
    pub const fn new(bound: usize) -> Line<T> {
        Line { waiters: BTreeMap::new(), bound, arrivals: 0 }
    }

    /// Waiters in the line.
    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// A newcomer joins; a higher `rank` is served first.
    pub fn join(&mut self, rank: u16, waiter: T) -> Joining<T> {
        let ticket = Ticket { rank: Reverse(rank), arrival: self.arrivals };
        if self.waiters.len() < self.bound {
            self.admit(ticket, waiter);
            return Joining::Waits(ticket);
        }
        match self.waiters.last_entry() {
            Some(last) if last.key().rank > ticket.rank => {
                let displaced = last.remove();
                self.admit(ticket, waiter);
                Joining::Displaces(ticket, displaced)
            }
            _ => Joining::Refused(waiter),
        }
    }

    /// The next to be served leaves the line: the first to come of the highest rank.
    pub fn serve_next(&mut self) -> Option<T> {
        self.waiters.pop_first().map(|(_, waiter)| waiter)
    }

    /// A waiter leaves unserved; `None` when it is not in the line any more.
    pub fn leave(&mut self, ticket: Ticket) -> Option<T> {
        self.waiters.remove(&ticket)
    }

    fn admit(&mut self, ticket: Ticket, waiter: T) {
        self.arrivals += 1;
        self.waiters.insert(ticket, waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line_of(bound: usize, ranks: &[u16]) -> Line<usize> {
        let mut line = Line::new(bound);
        for (number, &rank) in ranks.iter().enumerate() {
            assert!(matches!(line.join(rank, number), Joining::Waits(_)));
        }
        line
    }

    fn served(mut line: Line<usize>) -> Vec<usize> {
        std::iter::from_fn(|| line.serve_next()).collect()
    }

    #[test]
    fn higher_ranks_come_first_and_within_a_rank_who_came_first() {
        assert_eq!(served(line_of(9, &[1, 0, 3, 1, 3, 0])), [2, 4, 0, 3, 1, 5]);
    }

    #[test]
    fn a_newcomer_displaces_the_most_recent_of_the_lowest_rank() {
        let mut line = line_of(4, &[0, 2, 0, 1]);
        assert!(matches!(line.join(1, 4), Joining::Displaces(_, 2)));
        assert!(matches!(line.join(2, 5), Joining::Displaces(_, 0)));
        assert_eq!(served(line), [1, 5, 3, 4]);
    }

    #[test]
    fn a_newcomer_is_refused_by_waiters_of_its_own_rank() {
        let mut line = line_of(2, &[1, 2]);
        assert_eq!(line.join(1, 7), Joining::Refused(7));
        assert_eq!(line.join(0, 8), Joining::Refused(8));
        assert_eq!(served(line), [1, 0]);
    }

    #[test]
    fn a_line_without_room_for_anybody_refuses_everybody() {
        assert_eq!(Line::new(0).join(u16::MAX, ()), Joining::Refused(()));
    }

    #[test]
    fn who_left_or_was_served_or_displaced_is_not_in_the_line() {
        let mut line = Line::new(2);
        let Joining::Waits(first) = line.join(1, 'a') else { panic!() };
        let Joining::Waits(second) = line.join(0, 'b') else { panic!() };
        let Joining::Displaces(third, 'b') = line.join(2, 'c') else { panic!() };
        assert_eq!(line.leave(second), None);
        assert_eq!(line.serve_next(), Some('c'));
        assert_eq!(line.leave(third), None);
        assert_eq!(line.leave(first), Some('a'));
        assert_eq!(line.leave(first), None);
        assert!(line.is_empty());
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Join(u16),
        Serve,
        /// The waiter at this position of all that ever joined goes.
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0..4_u16).prop_map(Step::Join),
            1 => Just(Step::Serve),
            1 => any::<prop::sample::Index>().prop_map(Step::Leave),
        ]
    }

    /// What the line does, said the long way: (rank, number of arrival), in order of arrival.
    #[derive(Default)]
    struct Model(Vec<(u16, u64)>);

    impl Model {
        fn serve_next(&mut self) -> Option<u64> {
            let highest = self.0.iter().map(|waiter| waiter.0).max()?;
            let next = self.0.iter().position(|waiter| waiter.0 == highest)?;
            Some(self.0.remove(next).1)
        }

        /// Whether the newcomer waits, and who had to go.
        fn join(&mut self, bound: usize, rank: u16, number: u64) -> (bool, Option<u64>) {
            let mut displaced = None;
            if self.0.len() == bound {
                let Some(lowest) = self.0.iter().map(|waiter| waiter.0).min() else {
                    return (false, None);
                };
                if lowest >= rank {
                    return (false, None);
                }
                let last = self.0.iter().rposition(|waiter| waiter.0 == lowest);
                displaced = last.map(|last| self.0.remove(last).1);
            }
            self.0.push((rank, number));
            (true, displaced)
        }

        fn leave(&mut self, number: u64) -> Option<u64> {
            let at = self.0.iter().position(|waiter| waiter.1 == number)?;
            Some(self.0.remove(at).1)
        }
    }

    proptest! {
        #[test]
        fn the_line_does_what_its_naive_model_does(
            bound in 0..6_usize,
            steps in prop::collection::vec(step(), 0..80),
        ) {
            let mut line = Line::new(bound);
            let mut model = Model::default();
            let mut tickets = Vec::new();
            for (number, step) in (0_u64..).zip(steps) {
                match step {
                    Step::Join(rank) => {
                        let (waits, displaced) = match line.join(rank, number) {
                            Joining::Waits(ticket) => (Some(ticket), None),
                            Joining::Displaces(ticket, other) => (Some(ticket), Some(other)),
                            Joining::Refused(own) => {
                                prop_assert_eq!(own, number);
                                (None, None)
                            }
                        };
                        let expected = model.join(bound, rank, number);
                        prop_assert_eq!((waits.is_some(), displaced), expected);
                        tickets.extend(waits.map(|ticket| (ticket, number)));
                    }
                    Step::Serve => prop_assert_eq!(line.serve_next(), model.serve_next()),
                    Step::Leave(_) if tickets.is_empty() => {}
                    Step::Leave(index) => {
                        let (ticket, number) = tickets[index.index(tickets.len())];
                        prop_assert_eq!(line.leave(ticket), model.leave(number));
                    }
                }
                prop_assert_eq!(line.len(), model.0.len());
                prop_assert!(line.len() <= bound);
            }
        }
    }
}
