use super::gate::MOST_SUCCESSES;
use super::*;
use crate::metrics::Metrics;
use crate::policy::breaker::SlowCalls;
use crate::policy::share::Share;
use prometheus::{Encoder, Registry, TextEncoder};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 3_600 * SECOND;
const THREADS: usize = 4;
const FAILURE: Outcome = Outcome::Failure { retry_after_ns: None };

/// Opens after three failures in a row, for a second at first.
fn three_in_a_row() -> BreakerPolicy {
    BreakerPolicy {
        consecutive_failures: Some(3),
        cooldown_ns: SECOND,
        max_cooldown_ns: 8 * SECOND,
        probes: 2,
        ramp_ns: 4 * SECOND,
        ..BreakerPolicy::default()
    }
}

/// A circuit and the registry of its metrics.
fn observed(policy: Option<BreakerPolicy>) -> (Arc<Circuit>, Registry) {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    (Arc::new(Circuit::new("users".into(), policy, metrics.circuit("users"))), registry)
}

fn circuit(policy: BreakerPolicy) -> Arc<Circuit> {
    observed(Some(policy)).0
}

fn pass(circuit: &Arc<Circuit>, now: u64) -> Ticket {
    circuit.ask(now).unwrap_or_else(|refused| panic!("{refused:?}"))
}

fn calls(circuit: &Arc<Circuit>, count: u32, outcome: Outcome, now: u64) {
    (0..count).for_each(|_| pass(circuit, now).tell(outcome, 0, now));
}

/// Opens it at `START` and returns when its cooldown is over.
fn open(circuit: &Arc<Circuit>) -> u64 {
    calls(circuit, 3, FAILURE, START);
    let Err(refused) = circuit.ask(START) else { panic!("it let a call through") };
    START + refused.retry_after_ns
}

/// Runs `work` in every thread at once.
fn in_threads(work: impl Fn(usize) + Sync) {
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for id in 0..THREADS {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                work(id);
            });
        }
    });
}

#[test]
fn a_ticket_is_small() {
    assert!(size_of::<Ticket>() <= 40, "{} bytes", size_of::<Ticket>());
}

#[test]
fn the_gate_counts_for_its_generation_and_sub_window_alone() {
    let gate = Gate::default();
    assert_eq!(gate.generation(), None);
    assert!(!gate.count(0, 0));
    for (generation, tick) in [(0, 0), (7, 3_600), (u32::MAX, (1 << 21) - 1)] {
        gate.set(Some(generation), tick);
        assert_eq!(gate.generation(), Some(generation));
        assert!(!gate.count(generation.wrapping_add(1), tick));
        assert!(!gate.count(generation, tick + 1));
        assert!((0..MOST_SUCCESSES).all(|_| gate.count(generation, tick)));
        assert!(!gate.count(generation, tick), "full");
        assert_eq!(gate.generation(), Some(generation), "what is full stays up");
        assert_eq!((gate.take(), gate.take()), (MOST_SUCCESSES, 0));
        assert!(gate.count(generation, tick));
    }
    assert_eq!(gate.set(None, 0), 1);
    assert_eq!(gate.generation(), None);
}

#[test]
fn failures_open_it_probes_close_it_and_the_metrics_follow() {
    let (circuit, registry) = observed(Some(three_in_a_row()));
    let text = || {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let state = |value| format!("gateway_circuit_state{{circuit=\"users\"}} {value}\n");
    let changes = |to: &str, count| {
        format!("gateway_circuit_transitions_total{{circuit=\"users\",to=\"{to}\"}} {count}\n")
    };
    assert!(text().contains(&state(0)));
    let now = open(&circuit);
    assert!((START + SECOND..=START + SECOND + SECOND / 10).contains(&now));
    assert!(text().contains(&state(1)));
    circuit.refresh(now - 1);
    assert!(text().contains(&state(1)));
    circuit.refresh(now);
    assert!(text().contains(&state(2)), "time alone made it half-open");
    calls(&circuit, 2, Outcome::Success, now);
    let text = text();
    assert!(text.contains(&state(0)));
    for to in ["open", "half_open", "closed"] {
        assert!(text.contains(&changes(to, 1)), "{to}: {text}");
    }
}

#[test]
fn while_it_is_closed_nobody_takes_the_lock() {
    let circuit = circuit(three_in_a_row());
    calls(&circuit, 1, Outcome::Success, START);
    let (done, is_done) = mpsc::channel();
    let lock = circuit.core.lock().unwrap();
    let other = Arc::clone(&circuit);
    thread::spawn(move || {
        calls(&other, MOST_SUCCESSES, Outcome::Success, START);
        drop(pass(&other, START));
        other.refresh(START);
        assert!(!other.would_refuse(START));
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(20)).expect("it goes by without the lock");
    drop(lock);
    assert_eq!(circuit.view(START).window.calls, 1 + MOST_SUCCESSES);
}

#[test]
fn without_a_policy_a_call_costs_one_load_whatever_comes_of_it() {
    let (circuit, _) = observed(None);
    let (done, is_done) = mpsc::channel();
    let lock = circuit.core.lock().unwrap();
    let other = Arc::clone(&circuit);
    thread::spawn(move || {
        calls(&other, 1_000, FAILURE, START);
        done.send(()).unwrap();
    });
    is_done.recv_timeout(Duration::from_secs(20)).expect("it goes by without the lock");
    drop(lock);
    assert_eq!(circuit.view(START).state, State::Closed);
    assert!(circuit.policy().is_none());
}

#[test]
fn successes_reach_the_window_in_their_sub_window_and_leave_it_with_it() {
    let circuit = circuit(three_in_a_row());
    for step in 0..20 {
        calls(&circuit, 2_000, Outcome::Success, START + step * SECOND);
    }
    assert_eq!(circuit.view(START + 19 * SECOND).window.calls, 20_000, "the last ten seconds");
    assert_eq!(circuit.view(START + 28 * SECOND).window.calls, 2_000);
    assert_eq!(circuit.view(START + 29 * SECOND).window.calls, 0);
}

#[test]
fn a_success_that_took_no_lock_still_ends_a_row_of_failures() {
    let circuit = circuit(three_in_a_row());
    calls(&circuit, 2, FAILURE, START);
    calls(&circuit, 1, Outcome::Success, START);
    calls(&circuit, 2, FAILURE, START);
    let view = circuit.view(START);
    assert_eq!((view.state, view.failures, view.window.calls), (State::Closed, 2, 5));
}

#[test]
fn a_slow_success_is_told_as_slow() {
    let slow_calls = SlowCalls { longer_than_ns: 10, ratio: Share::from_percent(50) };
    let circuit = circuit(BreakerPolicy {
        consecutive_failures: None,
        slow_calls: Some(slow_calls),
        min_requests: 10,
        ..three_in_a_row()
    });
    (0..10).for_each(|_| pass(&circuit, START).tell(Outcome::Success, 11, START));
    assert_eq!(circuit.view(START).state, State::Open);
}

#[test]
fn answers_of_an_earlier_generation_count_nothing() {
    let circuit = circuit(three_in_a_row());
    let early: Vec<Ticket> = (0..10).map(|_| pass(&circuit, START)).collect();
    let now = open(&circuit);
    calls(&circuit, 2, Outcome::Success, now);
    // After the ramp the gate is up again, for another generation.
    let now = now + 5 * SECOND;
    circuit.refresh(now);
    for ticket in early {
        ticket.tell(Outcome::Success, 0, now);
    }
    assert_eq!(circuit.view(now).window.calls, 0);
}

#[test]
fn a_peek_reserves_nothing() {
    let circuit = circuit(three_in_a_row());
    let now = open(&circuit);
    assert!(circuit.would_refuse(now - 1));
    assert!((0..100).all(|_| !circuit.would_refuse(now)));
    let _probes = [pass(&circuit, now), pass(&circuit, now)];
    assert!(circuit.would_refuse(now));
}

#[test]
fn a_dropped_ticket_gives_its_probe_back_even_while_unwinding() {
    let circuit = circuit(three_in_a_row());
    let now = open(&circuit);
    for round in 0..1_000 {
        let ticket = pass(&circuit, now);
        if round % 10 == 0 {
            let unwound = catch_unwind(AssertUnwindSafe(|| {
                let _ticket = ticket;
                panic!("on purpose");
            }));
            assert!(unwound.is_err());
        } else {
            drop(ticket);
        }
        assert_eq!(circuit.view(now).probes_out, 0, "round {round}");
    }
    calls(&circuit, 2, Outcome::Success, now);
    assert_eq!(circuit.view(now).state, State::Closed);
}

#[test]
fn an_operator_opens_and_closes_any_circuit() {
    for policy in [None, Some(three_in_a_row())] {
        let (circuit, _) = observed(policy);
        calls(&circuit, 1, Outcome::Success, START);
        circuit.force(ForceTo::Open { until_ns: START + 60 * SECOND }, START);
        let Err(refused) = circuit.ask(START) else { panic!("it let a call through") };
        assert_eq!(refused, Refused { retry_after_ns: 60 * SECOND });
        circuit.force(ForceTo::Closed { until_ns: START + 60 * SECOND }, START);
        calls(&circuit, 100, FAILURE, START);
        circuit.force(ForceTo::Auto, START);
        let view = circuit.view(START);
        assert_eq!((view.state, view.forced_until_ns), (State::Closed, None));
        assert!(circuit.gate.generation().is_some(), "the way without the lock is back");
    }
}

#[test]
fn many_threads_count_every_call_exactly() {
    let most = u32::try_from(THREADS).unwrap() * 20_000;
    let circuit = circuit(BreakerPolicy {
        consecutive_failures: None,
        failure_ratio: Some(Share::from_percent(90)),
        window_ns: 1_000 * SECOND,
        ..three_in_a_row()
    });
    let clock = AtomicU64::new(START);
    in_threads(|id| {
        for number in 0..20_000 {
            // Now and then a new sub-window begins, ten in all, so that none is dropped.
            let now = clock.fetch_add(10_000_000, Ordering::Relaxed);
            let ticket = pass(&circuit, now);
            let is_failure = (number + id) % 4 == 0;
            ticket.tell(if is_failure { FAILURE } else { Outcome::Success }, 0, now);
        }
    });
    let view = circuit.view(clock.into_inner());
    assert_eq!((view.window.calls, view.window.failures), (most, most / 4));
}

#[test]
fn no_more_probes_are_ever_out_than_allowed_and_none_is_left_out() {
    let circuit = circuit(BreakerPolicy { probes: 3, ..three_in_a_row() });
    let now = open(&circuit);
    let (out, most) = (AtomicU32::new(0), AtomicU32::new(0));
    in_threads(|id| {
        let mut random = fastrand::Rng::with_seed(id as u64);
        let mut held = Vec::new();
        for _ in 0..20_000 {
            if let Ok(ticket) = circuit.ask(now) {
                most.fetch_max(out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                held.push(ticket);
            }
            if random.bool() {
                thread::yield_now();
            }
            // Counted as back before it is, so that the count is never above what is out.
            if let Some(ticket) = held.pop_if(|_| random.bool()) {
                out.fetch_sub(1, Ordering::SeqCst);
                drop(ticket);
            }
        }
        out.fetch_sub(u32::try_from(held.len()).unwrap(), Ordering::SeqCst);
    });
    assert_eq!(most.into_inner(), 3);
    assert_eq!(circuit.view(now).probes_out, 0);
    calls(&circuit, 3, Outcome::Success, now);
    assert_eq!(circuit.view(now).state, State::Closed);
}

#[test]
fn threads_that_ask_tell_and_drop_in_any_order_leave_a_circuit_that_works() {
    let circuit = circuit(three_in_a_row());
    let clock = AtomicU64::new(START);
    in_threads(|id| {
        let mut random = fastrand::Rng::with_seed(id as u64);
        let mut held = Vec::new();
        for _ in 0..30_000 {
            let now = clock.fetch_add(random.u64(..SECOND / 1_000), Ordering::Relaxed);
            held.extend(circuit.ask(now));
            if held.len() > 8 || random.bool() {
                let Some(ticket) = held.pop() else { continue };
                match random.u8(..4) {
                    0 => drop(ticket),
                    1 => ticket.tell(FAILURE, 0, now),
                    _ => ticket.tell(Outcome::Success, 0, now),
                }
            }
            let view = circuit.view(now);
            assert!(view.probes_out <= 2, "{view:?}");
        }
    });
    let now = clock.into_inner() + 8 * SECOND;
    while circuit.view(now).state != State::Closed {
        calls(&circuit, 1, Outcome::Success, now);
    }
    let now = now + 4 * SECOND;
    calls(&circuit, 1_000, Outcome::Success, now);
    let view = circuit.view(now);
    assert_eq!((view.probes_out, view.ramp), (0, None));
}
