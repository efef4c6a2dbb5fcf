//! Places polled by hand where one moment matters, on virtual time, and under threads.

use super::*;
use crate::metrics::Metrics;
use fastrand::Rng;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;
use std::task::Waker;
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;
use tokio::time::{self, Instant};

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);

fn places(max: u32, queue: u32, queue_timeout: Duration) -> Arc<Places> {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let config = config::Concurrency { max, queue, queue_timeout };
    Places::new(&config, metrics.concurrency("users"))
}

/// Places used and requests that wait, which the gauges and the line tell alike.
fn counted(places: &Places) -> (u32, u32) {
    let counted = (places.used(), places.waiting());
    let gauges = (places.metrics.used.get(), places.metrics.waiting.get());
    assert_eq!(gauges, (counted.0.into(), counted.1.into()));
    assert_eq!(places.line().len(), counted.1 as usize);
    counted
}

fn on_virtual_time() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

/// A request that goes on only when it is polled.
struct Request {
    future: Pin<Box<dyn Future<Output = Result<Place, NoPlace>>>>,
    outcome: Option<Result<Place, NoPlace>>,
}

impl Request {
    /// A request that has taken a place or stands in the line, if it could.
    fn of(places: &Arc<Places>, rank: u16) -> Request {
        let places = places.clone();
        let future = Box::pin(async move { places.take(rank, LONG).await });
        let mut request = Request { future, outcome: None };
        request.poll();
        request
    }

    /// `None` while it waits, else whether it has a place.
    fn poll(&mut self) -> Option<Result<(), NoPlace>> {
        if self.outcome.is_none()
            && let Poll::Ready(outcome) =
                self.future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        {
            self.outcome = Some(outcome);
        }
        self.outcome.as_ref().map(|outcome| outcome.as_ref().map(|_| ()).map_err(|why| *why))
    }
}

#[test]
fn as_many_as_the_cap_pass_and_one_more_when_one_is_done() {
    let places = places(3, 0, LONG);
    let mut held: Vec<_> = (0..5).map_while(|_| places.try_take()).collect();
    assert_eq!((held.len(), counted(&places)), (3, (3, 0)));
    held.pop();
    assert_eq!(counted(&places), (2, 0));
    assert!(places.try_take().is_some());
    drop(held);
    assert_eq!((counted(&places), places.max()), ((0, 0), 3));
}

#[tokio::test(start_paused = true)]
async fn a_place_goes_to_who_waits_and_nobody_overtakes() {
    let places = places(1, 4, LONG);
    let first = places.try_take();
    let mut second = Request::of(&places, 0);
    assert!(places.try_take().is_none());
    drop(first);
    assert_eq!(counted(&places), (1, 0));
    assert!(places.try_take().is_none(), "handed over, though not yet noticed");
    assert_eq!(second.poll(), Some(Ok(())));
    drop(second);
    assert_eq!(counted(&places), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn higher_ranks_are_served_first_and_within_a_rank_who_came_first() {
    let places = places(1, 6, LONG);
    let mut held = places.take(0, LONG).await;
    let ranks = [1, 0, 3, 1, 3, 0].into_iter().enumerate();
    let mut waiting: Vec<_> =
        ranks.map(|(number, rank)| (number, Request::of(&places, rank))).collect();
    let mut order = Vec::new();
    while !waiting.is_empty() {
        drop(held);
        let served = waiting.extract_if(.., |(_, request)| request.poll().is_some());
        let [(number, request)] = <[_; 1]>::try_from(served.collect::<Vec<_>>()).ok().unwrap();
        order.push(number);
        held = request.outcome.unwrap();
    }
    assert_eq!(order, [2, 4, 0, 3, 1, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_equals_and_makes_room_for_higher_ranks() {
    let places = places(1, 2, LONG);
    let held = places.try_take();
    let mut low = Request::of(&places, 1);
    let mut most_recent = Request::of(&places, 1);
    assert_eq!(Request::of(&places, 1).poll(), Some(Err(NoPlace::Full)));
    let mut high = Request::of(&places, 2);
    assert_eq!(counted(&places), (1, 2));
    assert_eq!(most_recent.poll(), Some(Err(NoPlace::Displaced)));
    assert_eq!((low.poll(), high.poll()), (None, None));
    drop(held);
    assert_eq!((low.poll(), high.poll()), (None, Some(Ok(()))));
}

#[tokio::test(start_paused = true)]
async fn who_may_not_wait_is_refused_at_once_and_displaces_nobody() {
    let no_line = places(1, 0, LONG);
    let _held = no_line.try_take();
    assert_eq!(Request::of(&no_line, 9).poll(), Some(Err(NoPlace::Full)));

    let places = places(1, 1, LONG);
    let _held = places.try_take();
    let mut low = Request::of(&places, 0);
    assert_eq!(places.take(9, Duration::ZERO).await.err(), Some(NoPlace::TimedOut));
    assert_eq!((low.poll(), counted(&places)), (None, (1, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_queue_timeout_or_the_limit_whichever_is_shorter() {
    let places = places(1, 4, Duration::from_millis(100));
    let _held = places.try_take();
    for (limit_ms, waited_ms) in [(30, 30), (500, 100)] {
        let start = Instant::now();
        let taken = places.take(0, Duration::from_millis(limit_ms)).await;
        assert_eq!(taken.err(), Some(NoPlace::TimedOut));
        let waited = start.elapsed().as_millis();
        assert!((waited_ms..=waited_ms + 1).contains(&waited), "{waited} ms");
        assert_eq!(counted(&places), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_goes_away_leaves_the_line() {
    let places = places(1, 4, LONG);
    let held = places.try_take();
    let gone = Request::of(&places, 3);
    let mut stays = Request::of(&places, 0);
    drop(gone);
    assert_eq!(counted(&places), (1, 1));
    drop(held);
    assert_eq!(stays.poll(), Some(Ok(())));
}

#[tokio::test(start_paused = true)]
async fn a_place_handed_to_who_goes_away_in_that_moment_goes_on() {
    let places = places(1, 4, LONG);
    let held = places.try_take();
    let gone = [Request::of(&places, 3), Request::of(&places, 2)];
    let mut stays = Request::of(&places, 0);
    drop(held);
    assert_eq!(counted(&places), (1, 2));
    drop(gone);
    assert_eq!((stays.poll(), counted(&places)), (Some(Ok(())), (1, 0)));

    let gone = Request::of(&places, 0);
    drop(stays);
    assert_eq!(counted(&places), (1, 0));
    drop(gone);
    assert_eq!(counted(&places), (0, 0));
}

#[test]
fn who_finds_a_place_free_on_the_way_to_the_line_takes_it() {
    let places = places(1, 4, LONG);
    drop(places.try_take());
    let arrival = places.arrive(0);
    assert!(matches!(arrival, Ok(Arrival::Taken(_))));
    assert_eq!(counted(&places), (1, 0));
}

#[test]
fn a_place_offered_to_many_that_are_just_going_away_goes_on() {
    let places = places(1, 10_000, LONG);
    let held = places.try_take();
    let wait = |_| match places.arrive(0) {
        Ok(Arrival::Waits(wait)) => Some(wait),
        _ => None,
    };
    let mut waits: Vec<Wait<'_>> = (0..10_000).map_while(wait).collect();
    let mut stays = waits.pop().unwrap();
    for gone in &mut waits {
        // It has closed its channel and was served before it could leave the line.
        gone.turn.close();
    }
    drop(held);
    assert_eq!(counted(&places), (1, 0));
    assert!(stays.turn.try_recv().is_ok());
    assert_eq!(counted(&places), (0, 0));
}

#[test]
fn a_panic_gives_the_place_back() {
    let places = places(1, 0, LONG);
    let place = places.try_take();
    let request = std::thread::spawn(move || {
        let _held = place;
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(request.join().is_err());
    assert_eq!(counted(&places), (0, 0));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// A request of this rank comes.
    Come(u16),
    /// One of those that came notices what became of it.
    Poll(prop::sample::Index),
    /// One of them goes, with its place, out of the line, or before it noticed.
    Go(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..4_u16).prop_map(Step::Come),
        1 => any::<prop::sample::Index>().prop_map(Step::Poll),
        2 => any::<prop::sample::Index>().prop_map(Step::Go),
    ]
}

/// What should become of requests, by their numbers.
struct Model {
    max: usize,
    inside: BTreeSet<usize>,
    line: Line<usize>,
    tickets: BTreeMap<usize, Ticket>,
    displaced: BTreeSet<usize>,
}

impl Model {
    fn come(&mut self, number: usize, rank: u16) {
        if self.inside.len() < self.max {
            self.inside.insert(number);
            return;
        }
        let ticket = match self.line.join(rank, number) {
            Joining::Refused(_) => return,
            Joining::Waits(ticket) => ticket,
            Joining::Displaces(ticket, other) => {
                self.tickets.remove(&other);
                self.displaced.insert(other);
                ticket
            }
        };
        self.tickets.insert(number, ticket);
    }

    fn go(&mut self, number: usize) {
        if let Some(ticket) = self.tickets.remove(&number) {
            self.line.leave(ticket);
        }
        if self.inside.remove(&number)
            && let Some(next) = self.line.serve_next()
        {
            self.tickets.remove(&next);
            self.inside.insert(next);
        }
    }

    fn outcome(&self, number: usize) -> Option<Result<(), NoPlace>> {
        if self.tickets.contains_key(&number) {
            None
        } else if self.inside.contains(&number) {
            Some(Ok(()))
        } else if self.displaced.contains(&number) {
            Some(Err(NoPlace::Displaced))
        } else {
            Some(Err(NoPlace::Full))
        }
    }
}

proptest! {
    #[test]
    fn whoever_comes_and_goes_whenever_places_are_conserved(
        max in 1..4_u32,
        queue in 0..5_u32,
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let time = on_virtual_time();
        let _context = time.enter();
        let places = places(max, queue, LONG);
        let mut model = Model {
            max: max as usize,
            inside: BTreeSet::new(),
            line: Line::new(queue as usize),
            tickets: BTreeMap::new(),
            displaced: BTreeSet::new(),
        };
        let mut requests = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Come(rank) => {
                    requests.push((number, Request::of(&places, rank)));
                    model.come(number, rank);
                }
                Step::Poll(_) | Step::Go(_) if requests.is_empty() => {}
                Step::Poll(index) => {
                    let (number, request) = index.get_mut(&mut requests);
                    prop_assert_eq!(request.poll(), model.outcome(*number));
                }
                Step::Go(index) => {
                    let (number, request) = requests.swap_remove(index.index(requests.len()));
                    drop(request);
                    model.go(number);
                }
            }
            let expected = (model.inside.len() as u32, model.line.len() as u32);
            prop_assert_eq!(counted(&places), expected);
        }
        for (number, request) in &mut requests {
            prop_assert_eq!(request.poll(), model.outcome(*number));
        }
        drop(requests);
        prop_assert_eq!(counted(&places), (0, 0));
    }
}

/// Who is inside at the same time, counted apart from the places.
#[derive(Default)]
struct Witness {
    inside: AtomicU32,
    most: AtomicU32,
    served: AtomicU32,
    refused: AtomicU32,
    displaced: AtomicU32,
    timed_out: AtomicU32,
}

struct Inside {
    witness: Arc<Witness>,
    /// Given back after the witness has counted.
    _place: Place,
}

impl Inside {
    fn with(place: Place, witness: &Arc<Witness>) -> Inside {
        let inside = witness.inside.fetch_add(1, Ordering::SeqCst) + 1;
        witness.most.fetch_max(inside, Ordering::SeqCst);
        witness.served.fetch_add(1, Ordering::Relaxed);
        Inside { witness: witness.clone(), _place: place }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.witness.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One request that waits as long or short as it likes and may end in a panic.
async fn request(places: Arc<Places>, witness: Arc<Witness>, mut random: Rng) {
    let taken = match random.u8(..4) {
        0 => places.try_take().ok_or(NoPlace::Full),
        1 => places.take(random.u16(..4), Duration::from_micros(random.u64(..1_500))).await,
        _ => places.take(random.u16(..4), LONG).await,
    };
    let counter = match taken {
        Ok(place) => {
            let _inside = Inside::with(place, &witness);
            match random.u8(..8) {
                // So long that others run out of patience.
                6..8 => time::sleep(Duration::from_millis(2)).await,
                yields => {
                    for _ in 0..yields {
                        yield_now().await;
                    }
                }
            }
            if random.u8(..20) == 0 {
                std::panic::resume_unwind(Box::new(()));
            }
            return;
        }
        Err(NoPlace::Full) => &witness.refused,
        Err(NoPlace::Displaced) => &witness.displaced,
        Err(NoPlace::TimedOut) => &witness.timed_out,
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Sends requests a few at a time, and calls some of them off at any moment.
async fn client(places: Arc<Places>, witness: Arc<Witness>, seed: u64) {
    let mut random = Rng::with_seed(seed);
    for _ in 0..150 {
        let sent: Vec<_> = (0..random.u8(1..6))
            .map(|_| tokio::spawn(request(places.clone(), witness.clone(), random.fork())))
            .collect();
        for request in sent {
            for _ in 0..random.u8(..8) {
                yield_now().await;
            }
            if random.u8(..3) == 0 {
                request.abort();
            }
            // Called off, panicked or done: it is over when this returns.
            _ = request.await;
        }
    }
}

fn in_threads(test: impl Future<Output = ()>) {
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    let within = Duration::from_secs(120);
    runtime.block_on(async { time::timeout(within, test).await }).expect("somebody waits forever");
}

#[test]
fn threads_and_requests_called_off_at_any_moment_neither_lose_nor_gain_a_place() {
    const MAX: u32 = 5;
    let places = places(MAX, 12, Duration::from_millis(20));
    let witness = Arc::new(Witness::default());
    in_threads(async {
        let clients: Vec<_> = (0..16)
            .map(|seed| tokio::spawn(client(places.clone(), witness.clone(), seed)))
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    });
    assert_eq!(counted(&places), (0, 0));
    assert_eq!(witness.inside.load(Ordering::SeqCst), 0);
    assert_eq!(witness.most.load(Ordering::SeqCst), MAX);
    // Were there no crowd, the test would say nothing.
    for seen in [&witness.served, &witness.refused, &witness.displaced, &witness.timed_out] {
        assert!(seen.load(Ordering::Relaxed) > 20, "{}", seen.load(Ordering::Relaxed));
    }
}

#[test]
fn everybody_with_patience_and_room_is_served() {
    let places = places(2, 64, LONG);
    let client = |places: Arc<Places>| async move {
        for rank in (0..4).cycle().take(2_000) {
            let place = places.take(rank, LONG).await.unwrap();
            yield_now().await;
            drop(place);
        }
    };
    in_threads(async {
        let clients: Vec<_> = (0..32).map(|_| tokio::spawn(client(places.clone()))).collect();
        for client in clients {
            client.await.unwrap();
        }
    });
    assert_eq!(counted(&places), (0, 0));
}

async fn overload_request(
    places: Arc<Places>,
    completed: Arc<[AtomicU32; 4]>,
    rank: u16,
    work: Duration,
) {
    if let Ok(_place) = places.take(rank, LONG).await {
        time::sleep(work).await;
        completed[usize::from(rank)].fetch_add(1, Ordering::Relaxed);
    }
}

/// One request a millisecond, 90 ms of work each on average: three times what 30 places do.
#[tokio::test(start_paused = true)]
async fn threefold_overload_is_shed_from_the_lowest_rank_up_and_the_cap_stays_used() {
    const MAX: u32 = 30;
    const WORK_MS: u64 = 90;
    const OFFERED: u64 = 20_000;
    let places = places(MAX, 60, Duration::from_millis(200));
    let completed: Arc<[AtomicU32; 4]> = Arc::default();
    let mut random = Rng::with_seed(3);
    let mut ranks = [0, 1, 2, 3];
    let mut every_ms = time::interval(Duration::from_millis(1));
    for number in 0..OFFERED {
        every_ms.tick().await;
        if number % 4 == 0 {
            random.shuffle(&mut ranks);
        }
        let rank: u16 = ranks[(number % 4) as usize];
        let work = Duration::from_millis(random.u64(WORK_MS - 40..=WORK_MS + 40));
        // Runs before the next millisecond: virtual time waits for it.
        tokio::spawn(overload_request(places.clone(), completed.clone(), rank, work));
        let used = places.used();
        assert!(used <= MAX && (used == MAX || number < 2 * u64::from(MAX)), "{used} at {number}");
    }
    let completed = completed.each_ref().map(|count| count.load(Ordering::Relaxed));
    let offered = (OFFERED / 4) as f64;
    let share = completed.map(|completed| f64::from(completed) / offered);
    assert!(share[3] >= 0.99, "{share:?}");
    assert!(share[0] <= share[1] + 0.01 && share[1] <= share[2] && share[0] <= 0.02, "{share:?}");
    let at_cap = (u64::from(MAX) * OFFERED) as f64 / WORK_MS as f64;
    let ratio = f64::from(completed.iter().sum::<u32>()) / at_cap;
    assert!((0.98..=1.02).contains(&ratio), "{ratio} of the cap");
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(counted(&places), (0, 0));
}
