use super::*;
use crate::config::parse;

const BASE: &str = "
upstreams: {a: {servers: [127.0.0.1:1]}, b: {servers: [127.0.0.1:2]}}
tiers: {free: {rate: 1/s, burst: 10}}
limits: [{name: per-ip, key: ip, rate: 5/s, burst: 5}]
routes:
  - {name: one, path: /one, upstream: a}
  - {name: two, path: /two, upstream: b}
";

fn config(text: &str) -> Config {
    parse(text, &|_| None).unwrap().0
}

fn changed(edit: impl Fn(&str) -> String) -> Vec<String> {
    changes(&config(BASE), &config(&edit(BASE)))
}

#[test]
fn what_stays_is_not_named() {
    assert!(changed(str::to_owned).is_empty());
    // Another upstream in front moves the index of the others, which changes no route.
    assert_eq!(
        changed(|text| text.replace("{a: {", "{_: {servers: [127.0.0.1:9]}, a: {")),
        ["upstreams._: added"]
    );
}

#[test]
fn what_changes_is_named_by_its_key() {
    let cases = [
        ("127.0.0.1:2", "127.0.0.1:3", "upstreams.b: changed"),
        ("burst: 10", "burst: 20", "tiers.free: changed"),
        ("burst: 5", "burst: 6", "limits.per-ip: changed"),
        ("path: /two", "path: /three", "routes.two: changed"),
        ("upstream: b", "upstream: a", "routes.two: changed"),
        ("tiers:", "server: {health_path: /x}\ntiers:", "server: changed"),
        ("tiers:", "clients: {default_tier: basic}\ntiers:", "clients.default_tier: changed"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(changed(|text| text.replace(from, to)), [expected], "{to}");
    }
    assert_eq!(
        changed(|text| text.replace("name: two", "name: new")),
        ["routes.new: added", "routes.two: removed"]
    );
}

#[test]
fn what_is_fixed_stays_and_is_warned_of() {
    let old = config(BASE);
    let text = format!(
        "{BASE}server: {{listen: 127.0.0.1:1234, workers: 7, max_head: 64KiB, health_path: /x}}\n\
         limiter: {{slots: 2048}}\nstate_dir: /elsewhere\n"
    );
    let mut new = config(&text);
    let warnings = keep_fixed(&old, &mut new);
    let paths: Vec<&str> = warnings.iter().map(|warning| &*warning.path).collect();
    let fixed =
        ["server.listen", "server.workers", "server.max_head", "limiter.slots", "state_dir"];
    assert_eq!(paths, fixed);
    assert_eq!(new.server.health_path.as_deref(), Some("/x"), "the rest takes effect");
    let health_path = new.server.health_path.clone();
    assert_eq!(new.server, Server { health_path, ..old.server.clone() });
    assert_eq!((new.limiter, new.state_dir), (old.limiter, None));
}

#[test]
fn a_table_in_a_file_is_said_to_change_at_a_restart_alone() {
    let warning = |state_dir: &str| {
        let old = config(&format!("{BASE}{state_dir}"));
        let mut new = config(&format!("{BASE}{state_dir}limiter: {{slots: 2048}}\n"));
        keep_fixed(&old, &mut new).remove(0).message
    };
    assert!(warning("").contains("or with tollgate upgrade"), "{}", warning(""));
    let of_file = warning("state_dir: /there\n");
    assert!(of_file.contains("keeps its size over tollgate upgrade"), "{of_file}");
}
