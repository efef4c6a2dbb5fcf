//! A client that has spent its tokens gets no others by what becomes of the process.

use crate::rig::{EVENTS, Event, Life, durable, is_admitted, logged, try_get};
use crate::support::{DEADLINE, Gateway, Upstream, run_to_exit, signal_process, until};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

#[test]
fn a_bucket_is_the_same_after_reload_restart_upgrade_and_kill() {
    let upstream = Upstream::new();
    let mut life = Life::of(&durable(&upstream, "{rate: 1/d, burst: 40}"));
    for event in EVENTS {
        assert_eq!(life.admitted(8), 8);
        life.pass(event);
    }
    assert_eq!(life.admitted(20), 8, "what is left of forty");
    for event in [EVENTS, [Event::Upgrade, Event::Upgrade, Event::Kill, Event::Upgrade]].concat() {
        life.pass(event);
        assert_eq!(life.admitted(3), 0, "after {event:?}");
    }
}

#[test]
fn under_load_no_request_is_admitted_beyond_burst_and_rate() {
    const BURST: usize = 30;
    const RATE: usize = 20;
    let upstream = Upstream::new();
    let tier = format!("{{rate: {RATE}/s, burst: {BURST}}}");
    let mut life = Life::of(&durable(&upstream, &tier));
    let address = life.address();
    let (is_over, admitted) = (AtomicBool::new(false), AtomicUsize::new(0));
    let start = Instant::now();
    let flood = || {
        while !is_over.load(Ordering::Relaxed) {
            // Where nobody listens, the next one is asked.
            if try_get(address).is_some_and(is_admitted) {
                admitted.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        let _over = Over(&is_over);
        (0..3).for_each(|_| drop(scope.spawn(flood)));
        for event in [EVENTS, EVENTS].concat() {
            // So that what follows begins with an empty bucket.
            until("it is limited", || (try_get(address) == Some(429)).then_some(()));
            life.pass(event);
        }
    });
    let elapsed = start.elapsed();
    let refill = (elapsed.as_secs_f64() * RATE as f64) as usize;
    let admitted = admitted.load(Ordering::Relaxed);
    assert!(admitted <= BURST + refill, "{admitted} in {elapsed:?}");
    assert!(admitted >= BURST + refill / 4, "{admitted} in {elapsed:?}: the flood was none");
}

/// Ends the flood also where what goes on meanwhile fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn without_a_folder_a_restart_begins_anew() {
    let upstream = Upstream::new();
    let builder = durable(&upstream, "{rate: 1/d, burst: 4}").state_dir("");
    let mut life = Life::of(&builder);
    assert_eq!(life.admitted(6), 4);
    life.pass(Event::Restart);
    assert_eq!(life.admitted(6), 4);
}

#[test]
fn folder_and_files_are_for_this_user_alone() {
    let upstream = Upstream::new();
    let life = Life::of(&durable(&upstream, "{rate: 1/d, burst: 4}").state_dir("a/state"));
    let folder = life.gateway().path("a/state");
    assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    for file in fs::read_dir(folder).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().mode() & 0o777, 0o600);
    }
    logged(life.gateway(), "4096 buckets of the limiter are kept in a/state/limiter.table");
}

#[test]
fn a_table_of_another_size_keeps_the_limited_client_and_waits_for_a_restart() {
    let upstream = Upstream::new();
    let builder = durable(&upstream, "{rate: 1/d, burst: 10}");
    let mut life = Life::of(&builder);
    assert_eq!(life.admitted(12), 10);
    for (slots, signal) in [(65_536, "TERM"), (1_024, "KILL")] {
        life.gateway().rewrite(&builder.clone().limiter(&format!("slots: {slots}")));
        life.pass(Event::Upgrade);
        assert_eq!((slots_of(&life), life.admitted(3)), (slots_before(slots), 0));
        life.start_after(signal);
        assert_eq!((slots_of(&life), life.admitted(3)), (slots, 0));
    }
}

fn slots_before(slots: usize) -> usize {
    if slots == 65_536 { 4_096 } else { 65_536 }
}

/// Slots of the table that is in use.
fn slots_of(life: &Life) -> usize {
    let series = life.gateway().series();
    let slots = |state| series.value(&format!("gateway_limiter_table_slots{{state=\"{state}\"}}"));
    (slots("used") + slots("free")) as usize
}

#[test]
fn a_second_gateway_does_not_serve_from_the_same_folder() {
    let upstream = Upstream::new();
    let mut first = Life::of(&durable(&upstream, "{rate: 1/d, burst: 10}"));
    let folder = first.gateway().path("state").display().to_string();
    let [data, admin, metrics] = crate::support::free_addresses();
    let yaml = durable(&upstream, "{rate: 1/d, burst: 10}").state_dir(&folder);
    let own = tempfile::tempdir().unwrap();
    fs::write(own.path().join("tollgate.yaml"), yaml.yaml(data, admin, metrics)).unwrap();
    let second = run_to_exit(own.path(), &["run", "-c", "tollgate.yaml"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    let process = first.gateway().process().to_string();
    assert!(second.stderr.contains(&format!("{folder} is in use")), "{second:?}");
    assert!(second.stderr.contains(&process), "{second:?}");
    assert_eq!(first.admitted(12), 10, "the first one is none the worse for it");
    first.pass(Event::Kill);
    assert_eq!(first.admitted(1), 0);
}

/// A process that drains has let go of the folder: when its successor dies, the next one need not
/// wait for it, and charges what both have charged.
#[test]
fn while_one_process_drains_another_may_be_killed_and_a_third_goes_on() {
    let upstream = Upstream::new();
    let mut old = durable(&upstream, "{rate: 1/d, burst: 10}").start();
    let mut kept = old.client();
    assert_eq!(kept.get("/").status, 200);
    // Without an end, this request keeps the process until the grace period is over.
    kept.send("POST / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 9\r\n\r\n");
    until("it is in flight", || {
        let series = old.series();
        (series.value("gateway_inflight_requests{route=\"all\"}") > 0.0).then_some(())
    });
    let reply = old.admin_request("POST", "/upgrade", &[], "");
    let successor = reply.json()["process"].as_u64().expect("a process") as u32;
    assert_eq!(old.get("/").status, 200);
    assert!(signal_process(successor, "KILL"));
    until("nobody listens", || try_get(old.data).is_none().then_some(()));
    let third = old.another();
    assert!(old.is_running(), "it drains");
    let admitted = (0..12).filter(|_| is_admitted(third.get("/").status)).count();
    assert_eq!(admitted, 7, "of ten, less one each of the two and one in flight");
    assert!(old.exit_within(DEADLINE).is_some());
}

#[test]
fn a_reload_cannot_move_the_folder() {
    let upstream = Upstream::new();
    let builder = durable(&upstream, "{rate: 1/d, burst: 10}");
    let gateway: Gateway = builder.start();
    gateway.rewrite(&builder.clone().state_dir("elsewhere"));
    let reply = gateway.reload();
    assert!(reply.text().contains("state_dir"), "{}", reply.text());
    assert_eq!(gateway.admin_get("/config").json()["state_dir"], "state");
    assert!(!gateway.path("elsewhere").exists());
}
