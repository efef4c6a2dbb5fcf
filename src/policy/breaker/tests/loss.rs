//! Probes lost in every way there is, over and over.

use super::*;

/// What becomes of a probe that brings no success.
#[derive(Debug, Clone, Copy)]
enum Loss {
    /// Nobody ever hears of it again.
    Forgotten,
    /// Given back at once: the client went away, a filter panicked.
    GivenBack,
    /// Given back when its lease was over.
    GivenBackLate,
    /// Failed in time.
    Failed,
    /// Failed when its lease was over.
    FailedLate,
    /// Failed or given back when the circuit had gone on to another state.
    FromBefore,
}

const WAYS: [Loss; 6] = [
    Loss::Forgotten,
    Loss::GivenBack,
    Loss::GivenBackLate,
    Loss::Failed,
    Loss::FailedLate,
    Loss::FromBefore,
];

/// Loses one probe, if one can be had, in `way`. `kept` holds probes for later.
fn lose(rig: &mut Rig, way: Loss, kept: &mut Vec<Pass>) {
    let Ok(probe) = rig.ask() else { return };
    let lease_ns = rig.policy.lease_ns();
    match way {
        Loss::Forgotten => {}
        Loss::GivenBack => rig.breaker.give_back(probe),
        Loss::GivenBackLate => rig.after(lease_ns).breaker.give_back(probe),
        Loss::Failed => rig.tell(probe, FAILURE),
        Loss::FailedLate => rig.after(lease_ns).tell(probe, FAILURE),
        Loss::FromBefore => {
            kept.push(probe);
            if kept.len() > 3 {
                rig.tell(kept.remove(0), FAILURE);
                rig.breaker.give_back(kept.remove(0));
            }
        }
    }
}

/// Calls all the time, successfully, and returns how long it took until the circuit closed.
fn recover(rig: &mut Rig) -> u64 {
    let recovered = rig.now;
    while rig.state() != State::Closed {
        match rig.ask() {
            Ok(pass) => rig.tell(pass, Outcome::Success),
            Err(retry_after_ns) => rig.now += retry_after_ns,
        }
        assert!(rig.now - recovered <= 60 * SECOND, "not closed after a minute");
    }
    rig.now - recovered
}

#[test]
fn however_probes_are_lost_the_circuit_closes_within_a_cooldown_of_recovery() {
    for way in WAYS {
        let mut rig = Rig::new(THREE_IN_A_ROW);
        rig.half_open();
        let mut kept = Vec::new();
        for _ in 0..1_000 {
            lose(&mut rig, way, &mut kept);
            let view = rig.view();
            assert!(view.probes_out <= 2, "{way:?}: {view:?}");
            rig.now += view.next_probe_in_ns.unwrap();
        }
        // What is open may have its whole cooldown before it, what is half-open its leases.
        assert!(recover(&mut rig) <= rig.policy.max_cooldown_ns, "{way:?}");
    }
}

#[test]
fn a_mixture_of_losses_leaves_the_circuit_able_to_close_after_each_of_them() {
    let mut random = fastrand::Rng::with_seed(11);
    let mut rig = Rig::new(THREE_IN_A_ROW);
    let mut kept = Vec::new();
    for round in 0..1_000 {
        rig.random = random.u64(..);
        rig.half_open();
        for _ in 0..random.usize(1..8) {
            lose(&mut rig, WAYS[random.usize(..WAYS.len())], &mut kept);
            rig.now += random.u64(..2 * SECOND);
        }
        let took_ns = recover(&mut rig);
        assert!(took_ns <= rig.policy.max_cooldown_ns, "round {round}: {took_ns} ns");
        rig.now += random.u64(..20 * SECOND);
    }
}
