//! Trials on virtual time: real generations, counted by hand.

use super::*;
use crate::config::{Config, parse};
use crate::gateway::Gateway;
use crate::metrics::Metrics;
use crate::reload::history::Source;
use crate::store::key::KeyHasher;
use std::sync::Arc;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// A gateway whose configurations are on trial, and the time.
struct Rig {
    gateway: Gateway,
    trials: Trials,
    now_ns: u64,
}

fn config(routes: &[&str]) -> Config {
    let routes: String = routes
        .iter()
        .map(|route| format!("  - {{name: {route}, path: /{route}, upstream: main}}\n"))
        .collect();
    let text = format!(
        "server: {{reload_watch: {{window: 8s}}}}\nupstreams: {{main: {{servers: [127.0.0.1:1]}}}}\n\
         limiter: {{slots: 1024}}\nroutes:\n{routes}"
    );
    parse(&text, &|_| None).unwrap().0
}

impl Rig {
    fn new(routes: &[&str]) -> Rig {
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let hasher = KeyHasher::with_secret(&[7; 16]);
        let gateway = Gateway::new(config(routes), hasher, metrics);
        Rig { gateway, trials: Trials::default(), now_ns: S }
    }

    /// Looks every quarter of a second while each route is answered 10 requests in it, those in
    /// `failing` with 502; gives what is found.
    fn serve(&mut self, ms: u64, failing: &[&str]) -> Option<Risen> {
        for _ in 0..ms / 250 {
            let serving = self.gateway.generation();
            for (config, route) in serving.config.routes.iter().zip(&serving.routes) {
                let status = if failing.contains(&&*config.name) { 502 } else { 200 };
                (0..10).for_each(|_| route.outcomes.count(status));
            }
            self.now_ns += 250 * MS;
            let risen = self.trials.look(&serving, self.now_ns);
            if risen.is_some() {
                return risen;
            }
        }
        None
    }

    fn take(&mut self, config: Config) -> u64 {
        self.swap(config, false)
    }

    fn swap(&mut self, config: Config, is_rollback: bool) -> u64 {
        let old = self.gateway.generation();
        let new = self.gateway.prepare(config);
        let source = Source::Checked(old.config.clone());
        self.trials.swap(Swap {
            old: &old,
            new: &new,
            serving: Kept { generation: old.number, source },
            is_changed: old.config.routes != new.config.routes,
            is_rollback,
            now_ns: self.now_ns,
        });
        let number = new.number;
        self.gateway.swap(new);
        number
    }
}

#[test]
fn a_route_that_fails_since_the_swap_is_found_and_named() {
    let mut rig = Rig::new(&["a", "b"]);
    assert!(rig.serve(10_000, &[]).is_none());
    // Another order: a route is known by its name.
    rig.take(config(&["c", "b", "a"]));
    let risen = rig.serve(8_000, &["b"]).expect("it is found");
    assert_eq!((risen.generation, risen.good.generation), (2, 1));
    let text = risen.to_string();
    assert!(text.starts_with("route b answered 30 of 30 requests with 5xx (100 %)"), "{text}");
    assert!(
        text.contains("before the reload 0 of 3") && text.ends_with("2 % are allowed"),
        "{text}"
    );
}

#[test]
fn the_baseline_is_the_window_before_the_swap() {
    let mut rig = Rig::new(&["a"]);
    // A long time ago it failed; of late it did not.
    assert!(rig.serve(60_000, &["a"]).is_none(), "nothing was taken, so nothing is on trial");
    rig.serve(10_000, &[]);
    rig.take(config(&["a", "b"]));
    let risen = rig.serve(8_000, &["a"]).expect("it is found");
    assert_eq!(risen.before.failed, 0, "{risen}");
    assert!((280..=400).contains(&risen.before.all), "8 s and at most a part more: {risen}");
}

#[test]
fn a_route_that_failed_before_may_go_on_failing() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &["a"]);
    rig.take(config(&["a", "b"]));
    assert!(rig.serve(20_000, &["a"]).is_none());
    assert!(rig.trials.current(rig.now_ns).is_none(), "the trial is over");
}

#[test]
fn a_route_that_is_new_is_measured_by_the_floor() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &["a"]);
    rig.take(config(&["a", "b"]));
    let risen = rig.serve(8_000, &["a", "b"]).expect("it is found");
    assert!(risen.to_string().starts_with("route b "), "{risen}");
}

#[test]
fn a_trial_ends_with_its_window() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    rig.take(config(&["a", "b"]));
    rig.serve(3_000, &[]);
    let trial = rig.trials.current(rig.now_ns).unwrap();
    assert_eq!(trial, OnTrial { generation: 2, goes_back_to: 1, left_ns: 5 * S });
    rig.serve(5_000, &[]);
    assert!(rig.trials.current(rig.now_ns).is_none());
    assert!(rig.serve(8_000, &["a"]).is_none(), "what fails later is not the reload's doing");
    rig.take(config(&["a"]));
    assert_eq!(rig.trials.current(rig.now_ns).unwrap().goes_back_to, 2, "it has passed");
}

#[test]
fn a_second_reload_within_the_window_is_measured_by_what_was_before_the_first() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    rig.take(config(&["a", "b"]));
    // Too short for a verdict, and all of it failing.
    assert!(rig.serve(500, &["a"]).is_none());
    rig.take(config(&["a", "c"]));
    let risen = rig.serve(8_000, &["a"]).expect("it is found");
    assert_eq!((risen.generation, risen.good.generation, risen.before.failed), (3, 1, 0));
}

#[test]
fn what_was_taken_back_is_not_part_of_any_baseline() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    rig.take(config(&["a", "b"]));
    assert!(rig.serve(500, &["a"]).is_none());
    rig.take(config(&["a", "c"]));
    assert!(rig.serve(8_000, &["a"]).is_some());
    rig.swap(config(&["a"]), true);
    assert!(rig.trials.current(rig.now_ns).is_none(), "a rollback is not on trial");
    assert!(rig.serve(8_000, &["a"]).is_none());
    let mut rig2 = Rig::new(&["a"]);
    rig2.serve(10_000, &[]);
    for turn in 0..3 {
        rig2.take(config(&["a", "b"]));
        let risen = rig2.serve(8_000, &["a"]).expect("each time");
        assert_eq!(risen.before.failed, 0, "{turn}: {risen}");
        rig2.swap(config(&["a"]), true);
    }
}

#[test]
fn the_same_again_is_on_trial_only_where_it_was_already() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    rig.take(config(&["a"]));
    assert!(rig.trials.current(rig.now_ns).is_none(), "there is nothing to go back to");
    rig.take(config(&["a", "b"]));
    rig.serve(2_000, &[]);
    rig.take(config(&["a", "b"]));
    let trial = rig.trials.current(rig.now_ns).unwrap();
    assert_eq!(trial, OnTrial { generation: 4, goes_back_to: 2, left_ns: 6 * S });
}

#[test]
fn a_change_is_proven_after_its_window_however_many_follow() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    // The window is 8 s.
    for number in 2..=8 {
        let others = ["a".to_owned(), format!("b{number}")];
        rig.take(config(&others.each_ref().map(|name| &**name)));
        assert!(rig.serve(3_000, &[]).is_none());
    }
    let risen = rig.serve(8_000, &["a"]).expect("it is found");
    // Generation 8 came 3 s ago, 7 and 6 before it 6 s and 9 s ago.
    assert_eq!((risen.generation, risen.good.generation), (8, 6));
    assert_eq!(risen.before.failed, 0, "{risen}");
}

#[test]
fn the_same_again_however_often_is_proven_with_what_it_repeats() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    for _ in 0..6 {
        rig.take(config(&["a", "b"]));
        rig.serve(2_000, &[]);
    }
    assert!(rig.trials.current(rig.now_ns).is_none(), "it has served for 12 s");
    assert!(rig.serve(8_000, &["a"]).is_none());
}

#[test]
fn changes_too_frequent_to_be_told_apart_are_proven_together() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    let mut last = 1;
    for number in 0..100 {
        let others = ["a".to_owned(), format!("b{number}")];
        last = rig.take(config(&others.each_ref().map(|name| &**name)));
        rig.serve(250, &[]);
        let unproven = rig.trials.trial.as_ref().map_or(0, |trial| trial.unproven.len());
        assert!((1..=MAX_UNPROVEN).contains(&unproven), "{unproven}");
    }
    let trial = rig.trials.current(rig.now_ns).unwrap();
    assert!(trial.goes_back_to + 70 > last, "two windows at most: {trial:?}");
    assert!(rig.serve(8_000, &[]).is_none());
    assert!(rig.trials.current(rig.now_ns).is_none());
}

#[test]
fn an_answer_that_an_older_generation_owes_is_not_held_against_its_successor() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    let old = rig.gateway.generation();
    rig.take(config(&["a", "b"]));
    (0..1_000).for_each(|_| old.routes[0].outcomes.count(504));
    assert!(rig.serve(20_000, &[]).is_none());
}

#[test]
fn a_trial_that_was_given_up_finds_nothing_more() {
    let mut rig = Rig::new(&["a"]);
    rig.serve(10_000, &[]);
    rig.take(config(&["a", "b"]));
    let risen = rig.serve(8_000, &["a"]).unwrap();
    assert!(rig.serve(500, &["a"]).is_some(), "until then it is found again");
    rig.trials.give_up(risen.generation);
    assert!(rig.serve(8_000, &["a"]).is_none());
}

#[test]
fn counts_are_bounded() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.serve(100_000, &[]);
    assert!(rig.trials.samples.len() <= PARTS as usize + 2, "{}", rig.trials.samples.len());
    let off = parse(
        "upstreams: {main: {servers: [127.0.0.1:1]}}\nlimiter: {slots: 1024}\n\
         routes: [{name: a, path: /a, upstream: main}]",
        &|_| None,
    );
    rig.take(off.unwrap().0);
    assert!(
        rig.trials.samples.is_empty() && rig.trials.earlier.is_empty(),
        "nothing while it is off"
    );
}
