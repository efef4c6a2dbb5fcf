//! An upstream's places and the line in front of them.

use crate::tally::{Happening, Tally};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tollgate::config::Concurrency;
use tollgate::metrics::ConcurrencyMetrics;
use tollgate::upstream::places::{NoPlace, Place, Places};

/// How exactly Tokio's timers go off, and to spare.
const TIMER_NS: u64 = 2_000_000;

/// A request that waits for a place, polled by hand.
pub(crate) type Waiting = Pin<Box<dyn Future<Output = Result<Place, NoPlace>>>>;

/// What a request finds that needs a place.
pub(crate) enum Arrival {
    Place(Place),
    Waits(Waiting),
    Refused,
}

/// The places, and who is expected to have one and to stand where in the line.
///
/// The wait is bounded by a timer of Tokio's, whose clock stands still unless it is turned
/// here, to the time of the simulation.
pub(crate) struct WatchedPlaces {
    real: Arc<Places>,
    config: Concurrency,
    gauges: ConcurrencyMetrics,
    used: u32,
    /// Rank, number of arrival and request.
    line: Vec<(u16, u64, u64)>,
    arrivals: u64,
    waits: BTreeMap<u64, Wait>,
    rung: Arc<Mutex<Vec<u64>>>,
    runtime: Runtime,
    clock_ns: u64,
}

struct Wait {
    state: WaitState,
    due_ns: u64,
    is_woken: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitState {
    InLine,
    /// It was given a place and does not know yet.
    Served,
    Displaced,
}

struct Bell {
    request: u64,
    rung: Arc<Mutex<Vec<u64>>>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.lock().unwrap().push(self.request);
    }
}

impl WatchedPlaces {
    pub(crate) fn new(
        real: Arc<Places>,
        config: Concurrency,
        gauges: ConcurrencyMetrics,
        now_ns: u64,
    ) -> WatchedPlaces {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
        WatchedPlaces {
            real,
            config,
            gauges,
            used: 0,
            line: Vec::new(),
            arrivals: 0,
            waits: BTreeMap::new(),
            rung: Arc::default(),
            runtime: runtime.unwrap(),
            clock_ns: now_ns,
        }
    }

    /// Turns Tokio's clock, if anybody looks at it.
    pub(crate) fn turn_clock(&mut self, now_ns: u64) {
        if !self.waits.is_empty() && now_ns > self.clock_ns {
            let left = Duration::from_nanos(now_ns - self.clock_ns);
            self.runtime.block_on(tokio::time::advance(left));
            self.clock_ns = now_ns;
        }
    }

    /// A request asks for a place and would wait for `limit` at most.
    pub(crate) fn arrive(
        &mut self,
        request: u64,
        rank: u16,
        limit: Duration,
        now_ns: u64,
        tally: &mut Tally,
    ) -> Arrival {
        if self.used < self.config.max {
            self.used += 1;
            return Arrival::Place(self.real.try_take().expect("a place is free"));
        }
        assert!(self.real.try_take().is_none(), "more than {} places", self.config.max);
        let limit = limit.min(self.config.queue_timeout);
        let expected = self.join(request, rank, limit, now_ns, tally);
        self.turn_clock(now_ns);
        let places = self.real.clone();
        let mut waiting: Waiting = Box::pin(async move { places.take(rank, limit).await });
        match (self.polled(request, &mut waiting), expected) {
            (Poll::Pending, Ok(())) => Arrival::Waits(waiting),
            (Poll::Ready(Err(real)), Err(expected)) => {
                assert_eq!(real, expected);
                Arrival::Refused
            }
            (Poll::Ready(real), expected) => panic!("{:?} and not {expected:?}", real.err()),
            (Poll::Pending, Err(expected)) => panic!("it waits and is not told {expected:?}"),
        }
    }

    /// The request gets its turn. `None`: it goes on waiting.
    pub(crate) fn turn(
        &mut self,
        request: u64,
        waiting: &mut Waiting,
        now_ns: u64,
        tally: &mut Tally,
    ) -> Option<Result<Place, NoPlace>> {
        let wait = self.waits.get_mut(&request).expect("it waits");
        wait.is_woken = false;
        let (state, due_ns) = (wait.state, wait.due_ns);
        let Poll::Ready(real) = self.polled(request, waiting) else {
            assert!(state == WaitState::InLine, "it was served or displaced and waits");
            return None;
        };
        let expected = match state {
            WaitState::Served => Ok(()),
            WaitState::Displaced => Err(NoPlace::Displaced),
            WaitState::InLine => Err(NoPlace::TimedOut),
        };
        assert_eq!(real.as_ref().map(|_| ()).map_err(|why| *why), expected);
        match state {
            WaitState::Served => tally.note(Happening::ServedFromLine),
            WaitState::Displaced => tally.note(Happening::Displaced),
            WaitState::InLine => {
                assert!(now_ns >= due_ns, "{} ns too early", due_ns - now_ns);
                tally.note(Happening::TimedOutInLine);
                self.line.retain(|&(_, _, other)| other != request);
            }
        }
        self.waits.remove(&request);
        Some(real)
    }

    /// A request gives its place back: the first in line gets it.
    pub(crate) fn give_back(&mut self, place: Place) {
        self.pass_on();
        drop(place);
    }

    /// A request goes away while it waits.
    pub(crate) fn abandon(&mut self, request: u64, waiting: Waiting, tally: &mut Tally) {
        let wait = self.waits.remove(&request).expect("it waits");
        match wait.state {
            WaitState::InLine => {
                tally.note(Happening::GoneInLine);
                self.line.retain(|&(_, _, other)| other != request);
            }
            WaitState::Served => {
                tally.note(Happening::GoneWithPlaceUnread);
                self.pass_on();
            }
            WaitState::Displaced => {}
        }
        drop(waiting);
    }

    /// Compares, and returns the requests that were woken since.
    pub(crate) fn check(&mut self, now_ns: u64) -> Vec<u64> {
        let (used, waiting) = (self.real.used(), self.real.waiting());
        assert_eq!((used, waiting as usize), (self.used, self.line.len()), "used and waiting");
        assert!(used <= self.config.max && waiting <= self.config.queue);
        assert!(waiting == 0 || used == self.config.max, "they wait beside a free place");
        assert_eq!(
            (self.gauges.used.get(), self.gauges.waiting.get()),
            (used.into(), waiting.into())
        );
        let rung = std::mem::take(&mut *self.rung.lock().unwrap());
        for request in &rung {
            if let Some(wait) = self.waits.get_mut(request) {
                let is_due = wait.state != WaitState::InLine || now_ns >= wait.due_ns;
                assert!(is_due, "request {request} was woken for nothing");
                wait.is_woken = true;
            }
        }
        for (request, wait) in &self.waits {
            let must_know = wait.state != WaitState::InLine || now_ns >= wait.due_ns + TIMER_NS;
            assert!(wait.is_woken || !must_know, "request {request} was not woken");
        }
        rung
    }

    /// At the end nobody has a place or waits for one.
    pub(crate) fn check_idle(&mut self) {
        assert_eq!((self.used, self.waits.len()), (0, 0), "used and waiting");
    }

    /// What becomes of a request for which no place is free.
    fn join(
        &mut self,
        request: u64,
        rank: u16,
        limit: Duration,
        now_ns: u64,
        tally: &mut Tally,
    ) -> Result<(), NoPlace> {
        let is_full = self.line.len() >= self.config.queue as usize;
        let last = self.line.iter().max_by_key(|&&(rank, arrival, _)| (u16::MAX - rank, arrival));
        let displaced = last.copied().filter(|&(lowest, ..)| is_full && lowest < rank);
        if self.config.queue > 0 && limit.is_zero() {
            return Err(NoPlace::TimedOut);
        }
        if is_full && displaced.is_none() {
            tally.note(Happening::LineFull);
            return Err(NoPlace::Full);
        }
        if let Some((_, _, displaced)) = displaced {
            self.line.retain(|&(_, _, other)| other != displaced);
            self.change(displaced, WaitState::Displaced);
        }
        tally.note(Happening::Queued);
        self.arrivals += 1;
        self.line.push((rank, self.arrivals, request));
        let due_ns = now_ns + limit.as_nanos() as u64;
        self.waits.insert(request, Wait { state: WaitState::InLine, due_ns, is_woken: false });
        Ok(())
    }

    /// A place goes to the first in line, of the highest rank.
    fn pass_on(&mut self) {
        let first = self.line.iter().min_by_key(|&&(rank, arrival, _)| (u16::MAX - rank, arrival));
        let Some(&(_, _, first)) = first else {
            self.used -= 1;
            return;
        };
        self.line.retain(|&(_, _, other)| other != first);
        self.change(first, WaitState::Served);
    }

    fn change(&mut self, request: u64, state: WaitState) {
        self.waits.get_mut(&request).expect("who is in the line waits").state = state;
    }

    fn polled(&self, request: u64, waiting: &mut Waiting) -> Poll<Result<Place, NoPlace>> {
        let _runtime = self.runtime.enter();
        let bell = Waker::from(Arc::new(Bell { request, rung: self.rung.clone() }));
        waiting.as_mut().poll(&mut Context::from_waker(&bell))
    }
}
