//! `watch_file`: a file that changes is a reload.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{Gateway, GatewayBuilder, Upstream, ok, until};

fn named(text: &str) -> (Upstream, GatewayBuilder) {
    let upstream = Upstream::answering(ok(text));
    let builder = Gateway::before(&upstream).server("watch_file: true");
    (upstream, builder)
}

fn answer_becomes(gateway: &Gateway, text: &str) {
    until(text, || (gateway.get("/").text() == text).then_some(()));
}

fn causes(gateway: &Gateway) -> Vec<String> {
    let history = gateway.admin_get("/config/history").json();
    let generations = history["generations"].as_array().unwrap();
    generations.iter().map(|g| g["cause"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_file_that_is_replaced_or_written_in_place_is_read() {
    let (_first, builder) = named("first");
    let gateway = builder.start();
    let (_second, second) = named("second");
    gateway.rewrite(&second);
    answer_becomes(&gateway, "second");
    let (_third, third) = named("third");
    let text = third.yaml(gateway.data, gateway.admin, gateway.metrics);
    fs::write(gateway.config(), text).unwrap();
    answer_becomes(&gateway, "third");
    assert_eq!(causes(&gateway), ["watch_file", "watch_file", "start"]);
}

#[test]
fn a_file_without_watch_is_left_alone_until_it_is_asked_for() {
    let upstream = Upstream::answering(ok("first"));
    let gateway = Gateway::before(&upstream).start();
    let (_second, second) = named("second");
    gateway.rewrite(&second);
    assert_eq!(gateway.reload().status, 200);
    let (_third, third) = named("third");
    gateway.rewrite(&third);
    answer_becomes(&gateway, "third");
    assert_eq!(causes(&gateway), ["watch_file", "reload", "start"]);
}

#[test]
fn a_broken_file_is_reported_once_and_a_touched_one_not_at_all() {
    let (_first, builder) = named("first");
    let gateway = builder.start();
    gateway.rewrite_as("routes: 5");
    let rejected = "gateway_config_reloads_total{result=\"rejected\"}";
    gateway.series_once(rejected, 1.0);
    // The same content in another file: a change to look at, and nothing to report.
    gateway.rewrite_as("routes: 5");
    let (_second, second) = named("second");
    // Time for further looks, which must find nothing to report.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        assert_eq!(gateway.get("/").text(), "first");
    }
    gateway.rewrite(&second);
    answer_becomes(&gateway, "second");
    assert!((gateway.series().value(rejected) - 1.0).abs() < 1e-9);
    assert_eq!(causes(&gateway), ["watch_file", "start"]);
    let history = gateway.admin_get("/config/history").json();
    assert_eq!(history["last_rejection"]["cause"], "watch_file");
}

#[test]
fn a_config_map_that_is_swapped_is_a_change() {
    let (_first, builder) = named("first");
    let gateway = builder.start();
    // As Kubernetes mounts them: FILE -> ..data/FILE, ..data -> a folder with a time for a name.
    let mount = |version: &str, builder: &GatewayBuilder| {
        let text = builder.yaml(gateway.data, gateway.admin, gateway.metrics);
        fs::create_dir(gateway.path(version)).unwrap();
        fs::write(gateway.path(version).join("tollgate.yaml"), text).unwrap();
        symlink(version, gateway.path("..new")).unwrap();
        fs::rename(gateway.path("..new"), gateway.path("..data")).unwrap();
    };
    mount("..v1", &builder);
    fs::remove_file(gateway.config()).unwrap();
    symlink("..data/tollgate.yaml", gateway.config()).unwrap();
    let (_second, second) = named("second");
    mount("..v2", &second);
    fs::remove_dir_all(gateway.path("..v1")).unwrap();
    answer_becomes(&gateway, "second");
    let (_third, third) = named("third");
    mount("..v3", &third);
    answer_becomes(&gateway, "third");
}

#[test]
fn a_file_that_is_still_written_is_waited_for() {
    let (_first, builder) = named("first");
    let gateway = builder.start();
    let (_second, second) = named("second");
    let text = second.yaml(gateway.data, gateway.admin, gateway.metrics);
    let mut file = fs::File::create(gateway.config()).unwrap();
    // Each piece is a change: as long as they come more often than looks, it is not read.
    let begun = Instant::now();
    for piece in text.as_bytes().chunks(text.len() / 30 + 1) {
        file.write_all(piece).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    let was_slow = begun.elapsed() > Duration::from_secs(8);
    answer_becomes(&gateway, "second");
    assert!(was_slow || causes(&gateway) == ["watch_file", "start"]);
    let history = gateway.admin_get("/config/history").json();
    assert!(was_slow || history["last_rejection"] == json!(null), "{history}");
}

#[test]
fn what_was_taken_back_stays_back_until_the_file_changes() {
    let watched = "watch_file: true\nreload_watch: {window: 30s}";
    let good = Upstream::answering(ok("good"));
    let gone = Upstream::refusing();
    let gateway = Gateway::before(&good).server(watched).start();
    for _ in 0..50 {
        assert_eq!(gateway.get("/").text(), "good");
    }
    gateway.rewrite(&Gateway::before(&gone).server(watched));
    let rolled_back = "gateway_config_reloads_total{result=\"rolled_back\"}";
    let taken_back = || (gateway.series().value(rolled_back) >= 1.0).then_some(());
    until("it is taken back", || {
        gateway.get("/");
        taken_back()
    });
    assert_eq!(causes(&gateway), ["rollback", "watch_file", "start"]);
    // A fresh file of the same content is looked at, and left.
    gateway.rewrite(&Gateway::before(&gone).server(watched));
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(gateway.get("/").text(), "good");
    }
    let better = Upstream::answering(ok("better"));
    gateway.rewrite(&Gateway::before(&better).server(watched));
    answer_becomes(&gateway, "better");
}
