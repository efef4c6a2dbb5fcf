//! How the benchmark judges what gateways admitted together: it must find what is too much, and
//! nothing else.

#[path = "../../benches/load/shared/account.rs"]
mod account;

use account::{Admission, Allowance};
use proptest::prelude::*;

const LIMIT: Allowance = Allowance { rate: 10.0, burst: 3.0 };

/// Requests that are answered as soon as they are sent.
fn at(times: &[f64]) -> Vec<Admission> {
    times.iter().map(|&time| Admission { sent: time, answered: time }).collect()
}

/// The same judgement by looking at every window one by one.
fn over_by_hand(limit: Allowance, admissions: &[Admission]) -> f64 {
    let mut most = f64::NEG_INFINITY;
    for first in admissions {
        for last in admissions.iter().filter(|last| last.answered >= first.sent) {
            let inside = admissions
                .iter()
                .filter(|one| one.sent >= first.sent && one.answered <= last.answered)
                .count();
            if inside > 0 {
                most = most.max(inside as f64 - limit.rate * (last.answered - first.sent));
            }
        }
    }
    most - limit.burst
}

#[test]
fn a_burst_and_the_rate_after_it_are_allowed_and_one_more_is_not() {
    let allowed = [0.0, 0.0, 0.0, 0.1, 0.2, 0.3];
    assert!(LIMIT.most_over(&at(&allowed)).abs() < 1e-9);
    let one_more = [&allowed[..], &[0.3]].concat();
    assert!((LIMIT.most_over(&at(&one_more)) - 1.0).abs() < 1e-9);
}

#[test]
fn what_is_too_much_is_found_in_the_middle_of_a_quiet_time() {
    let mut times: Vec<f64> = (0..50).map(f64::from).collect();
    times.extend([25.1, 25.11, 25.12, 25.13]);
    // Four in 30 ms, in which the bucket earns 0.3 tokens beside its three.
    assert!((LIMIT.most_over(&at(&times)) - 0.7).abs() < 1e-9);
}

#[test]
fn nothing_admitted_is_a_whole_burst_too_little() {
    assert!((LIMIT.most_over(&[]) + LIMIT.burst).abs() < 1e-9);
}

#[test]
fn one_bucket_lets_its_burst_pass_and_then_its_rate() {
    let sent: Vec<f64> = (0..100).map(|number| f64::from(number) * 0.02).collect();
    // 1.98 s at 10 tokens a second, and 3 before.
    assert_eq!(LIMIT.possible(&sent), 22);
    assert_eq!(LIMIT.possible(&[0.0, 1.0, 2.0]), 3);
}

proptest! {
    #[test]
    fn the_tree_finds_what_looking_at_every_window_finds(
        requests in proptest::collection::vec((0_u32..1000, 0_u32..50), 1..40),
    ) {
        let admissions: Vec<Admission> = requests
            .iter()
            .map(|&(sent, took)| Admission {
                sent: f64::from(sent) / 1e3,
                answered: f64::from(sent + took) / 1e3,
            })
            .collect();
        let by_hand = over_by_hand(LIMIT, &admissions);
        prop_assert!((LIMIT.most_over(&admissions) - by_hand).abs() < 1e-6);
    }

    #[test]
    fn what_one_bucket_admits_is_never_too_much(
        gaps in proptest::collection::vec(0_u32..200, 1..200),
    ) {
        let mut now = 0.0;
        let sent: Vec<f64> = gaps.iter().map(|&gap| { now += f64::from(gap) / 1e3; now }).collect();
        let mut admitted = Vec::new();
        // The replay itself says how many of each beginning pass.
        for count in 1..=sent.len() {
            if LIMIT.possible(&sent[..count]) > admitted.len() {
                admitted.push(sent[count - 1]);
            }
        }
        prop_assert!(LIMIT.most_over(&at(&admitted)) < 1e-6);
    }
}
