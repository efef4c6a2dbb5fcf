//! `reload_watch`: a configuration that makes a route fail is taken back, and everybody is told.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{DEADLINE, Gateway, GatewayBuilder, Upstream, ok, run_to_exit, until};

const ROLLED_BACK: &str = "gateway_config_reloads_total{result=\"rolled_back\"}";
const WATCHED: &str = "reload_watch: {window: 30s}";

/// Two routes, each to an upstream of its own, under watch.
fn routes(server: &str, good: &Upstream, other: &Upstream) -> GatewayBuilder {
    Gateway::builder()
        .server(server)
        .upstreams(&format!(
            "users: {{servers: [\"{}\"]}}\norders: {{servers: [\"{}\"]}}",
            good.address(),
            other.address()
        ))
        .routes(
            "- {name: users, path: /users, upstream: users}\n\
             - {name: orders, path: /orders, upstream: orders}",
        )
}

/// Asks for these targets again and again, on one connection each, while `during` goes on.
fn under_load<T>(gateway: &Gateway, targets: &[&str], during: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for target in targets {
            let is_over = &is_over;
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    gateway.get(target);
                    // Some 50 requests a second: the rate of the load and no wait for anything.
                    thread::sleep(Duration::from_millis(20));
                }
            });
        }
        // Also when the test fails, or nobody would see that it did.
        let _end = End(&is_over);
        during()
    })
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn generation(gateway: &Gateway) -> u64 {
    gateway.admin_get("/health").json()["generation"].as_u64().unwrap()
}

fn history(gateway: &Gateway) -> Value {
    gateway.admin_get("/config/history").json()
}

/// Answered a while, so that there is something to compare with.
fn seen(gateway: &Gateway, route: &str) {
    let sample = format!("gateway_requests_total{{route=\"{route}\",status=\"200\"}}");
    until("it has been asked", || (gateway.series().value(&sample) >= 20.0).then_some(()));
}

#[test]
fn a_route_whose_upstream_is_gone_is_taken_back_within_seconds_and_every_channel_says_why() {
    let (good, other) = (Upstream::answering(ok("good")), Upstream::new());
    let gone = Upstream::refusing();
    let gateway = routes(WATCHED, &good, &other).start();
    under_load(&gateway, &["/users", "/orders"], || {
        seen(&gateway, "users");
        gateway.rewrite(&routes(WATCHED, &gone, &other));
        let reply = gateway.reload();
        let swapped = Instant::now();
        assert_eq!(reply.json()["generation"], 2, "{}", reply.text());
        assert_eq!(history(&gateway)["on_trial"]["goes_back_to"], 1);
        until("it is taken back", || (generation(&gateway) == 3).then_some(()));
        assert!(swapped.elapsed() < Duration::from_secs(10), "well within the window");
    });
    assert_eq!(gateway.get("/users").text(), "good");

    let told = gateway.stderr();
    for part in [
        "generation 2 is taken back, generation 1 serves again: route users answered ",
        " requests with 5xx (100 %); before the reload 0 of ",
        "so that 2 % are allowed",
        "went back to the configuration of generation 1, this is generation 3; upstreams.users",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let series = gateway.series_once(ROLLED_BACK, 1.0);
    assert!((series.value("gateway_config_reloads_total{result=\"ok\"}") - 1.0).abs() < 1e-9);
    assert_eq!(gateway.admin_get("/health").json()["last_reload"]["result"], "rolled_back");
    let history = history(&gateway);
    let generations = history["generations"].as_array().unwrap();
    assert_eq!(generations.len(), 3);
    assert_eq!(
        (&generations[0]["cause"], &generations[0]["serving"]),
        (&"rollback".into(), &true.into())
    );
    assert_eq!(generations[0]["goes_back_to"], 1);
    assert!(generations[1]["rolled_back"].as_str().unwrap().starts_with("route users answered"));
    assert_eq!(
        (&generations[2]["rolled_back"], &history["on_trial"]),
        (&Value::Null, &Value::Null)
    );
    let screen = run_to_exit(&gateway.path("."), &["status", "-c", "tollgate.yaml"]);
    assert!(screen.stdout.contains("rolled back"), "{screen:?}");
    assert!(screen.stdout.contains("route users answered"), "{screen:?}");
}

#[test]
fn hup_reads_the_file_again_after_a_rollback() {
    let (good, other) = (Upstream::answering(ok("good")), Upstream::new());
    let gone = Upstream::refusing();
    let gateway = routes(WATCHED, &good, &other).start();
    under_load(&gateway, &["/users"], || {
        seen(&gateway, "users");
        gateway.rewrite(&routes(WATCHED, &gone, &other));
        for turn in 1..=2_u32 {
            gateway.hang_up();
            gateway.series_once(ROLLED_BACK, turn.into());
        }
    });
    assert_eq!(generation(&gateway), 5, "each time a reload and a rollback");
}

#[test]
fn what_failed_before_is_no_reason() {
    let (gone, other) = (Upstream::refusing(), Upstream::new());
    let gateway = routes("reload_watch: {window: 2s}", &gone, &other).start();
    let failed = "gateway_requests_total{route=\"users\",status=\"502\"}";
    under_load(&gateway, &["/users"], || {
        until("it fails", || (gateway.series().value(failed) >= 20.0).then_some(()));
        let more = "reload_watch: {window: 2s}\nhealth_path: /alive";
        gateway.rewrite(&routes(more, &gone, &other));
        assert_eq!(gateway.reload().json()["generation"], 2);
        until("the trial is over", || history(&gateway)["on_trial"].is_null().then_some(()));
    });
    assert_eq!(generation(&gateway), 2);
}

#[test]
fn without_a_watch_nothing_is_taken_back() {
    let (good, other) = (Upstream::new(), Upstream::new());
    let gone = Upstream::refusing();
    let gateway = routes(WATCHED, &good, &other).start();
    under_load(&gateway, &["/users"], || {
        seen(&gateway, "users");
        gateway.rewrite(&routes("", &gone, &other));
        gateway.reload();
        let failed = "gateway_requests_total{route=\"users\",status=\"502\"}";
        until("it fails", || (gateway.series().value(failed) >= 100.0).then_some(()));
    });
    assert_eq!(generation(&gateway), 2);
}

#[test]
fn a_second_reload_within_the_window_goes_back_before_the_first() {
    let (good, other) = (Upstream::answering(ok("good")), Upstream::new());
    let gone = Upstream::refusing();
    let gateway = routes(WATCHED, &good, &other).start();
    under_load(&gateway, &["/users", "/orders"], || {
        seen(&gateway, "users");
        let more = format!("{WATCHED}\nhealth_path: /alive");
        gateway.rewrite(&routes(&more, &good, &other));
        assert_eq!(gateway.reload().json()["generation"], 2);
        gateway.rewrite(&routes(&more, &gone, &other));
        assert_eq!(gateway.reload().json()["generation"], 3);
        until("both are taken back", || (generation(&gateway) == 4).then_some(()));
    });
    let history = history(&gateway);
    assert_eq!(history["generations"][0]["goes_back_to"], 1, "{history}");
    assert_eq!(gateway.get("/alive").status, 404, "what the first one brought is gone as well");
    assert_eq!(gateway.get("/users").text(), "good");
}

#[test]
fn a_fix_within_the_window_stays_whatever_was_under_way() {
    let (good, other) = (Upstream::answering(ok("good")), Upstream::new());
    let silent = Upstream::answering(crate::support::Answer::Silent);
    let gateway = routes(WATCHED, &good, &other).start();
    let timed_out = "gateway_requests_total{route=\"users\",status=\"504\"}";
    thread::scope(|scope| {
        under_load(&gateway, &["/users"], || seen(&gateway, "users"));
        let slow = routes(WATCHED, &silent, &other).routes(
            "- {name: users, path: /users, upstream: users, timeout: 2s}\n\
             - {name: orders, path: /orders, upstream: orders}",
        );
        gateway.rewrite(&slow);
        assert_eq!(gateway.reload().json()["generation"], 2);
        for _ in 0..20 {
            let gateway = &gateway;
            scope.spawn(move || gateway.get("/users"));
        }
        silent.wait_for(20);
        gateway.rewrite(&routes(WATCHED, &good, &other));
        assert_eq!(gateway.reload().json()["generation"], 3);
        gateway.series_once(timed_out, 20.0);
        // Twice as long as a verdict needs.
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            assert_eq!(gateway.get("/users").text(), "good");
        }
    });
    assert_eq!(generation(&gateway), 3, "the failures were the generation's before");
    assert!(DEADLINE > Duration::from_secs(2));
}
