//! `tollgate check` as somebody meets it who wrote a configuration: good ones pass, and whatever
//! is wrong is said at once, with file, line and key.

// The helpers of a test are test code too; clippy sees only the tests themselves as such.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What the command said.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(file: &Path, env: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    // Variables of whoever runs the tests must not change what the files say.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOLLGATE_") {
            command.env_remove(name);
        }
    }
    let output = command.arg("check").arg("-c").arg(file).envs(env.iter().copied()).output();
    let Output { status, stdout, stderr } = output.unwrap();
    Said {
        code: status.code(),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// A file with this text, in a directory that goes away with the test.
fn written(text: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tollgate.yaml");
    fs::write(&file, text).unwrap();
    (dir, file)
}

fn check(text: impl AsRef<[u8]>) -> Said {
    let (_dir, file) = written(text);
    run(&file, &[])
}

/// Each text is refused with 64 and one line that contains the words.
fn refused(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let said = check(text);
        assert_eq!(said.code, Some(64), "{text}\n{}", said.err);
        assert_eq!(said.err.lines().count(), 1, "{text}\n{}", said.err);
        assert!(said.err.contains(expected), "{text}\n{}", said.err);
        assert!(said.err.contains("tollgate.yaml"), "{}", said.err);
    }
}

const GOOD: &str = "\
upstreams:
  users: {servers: [127.0.0.1:9001]}
routes:
  - {name: users, path: /users, upstream: users}
";

#[test]
fn a_good_file_is_ok() {
    let (_dir, file) = written(GOOD);
    let said = run(&file, &[]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    assert_eq!(said.out.trim(), format!("{}: ok", file.display()));
}

#[test]
fn the_shipped_file_is_ok_and_takes_variables() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/tollgate.yaml");
    let said = run(&shipped, &[]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));

    let said = run(&shipped, &[("TOLLGATE_LISTEN", "nonsense"), ("TOLLGATE_WORKERS", "-1")]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("server.listen: \"nonsense\" is not an address"), "{}", said.err);
    assert!(said.err.contains("server.workers: \"-1\" is not between 1 and"), "{}", said.err);

    let said = run(&shipped, &[("TOLLGATE_ADMIN_LISTEN", "0.0.0.0:9901")]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("set admin.token"), "{}", said.err);
}

#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let binary = Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .args(["completions", "bash"])
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&binary.stderr);
    assert_eq!(binary.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write to standard output"), "{said}");
}

#[test]
fn a_file_that_is_not_there_is_66() {
    let dir = tempfile::tempdir().unwrap();
    let said = run(&dir.path().join("nowhere.yaml"), &[]);
    assert_eq!(said.code, Some(66));
    assert!(said.err.contains("nowhere.yaml"), "{}", said.err);
    assert_eq!(run(dir.path(), &[]).code, Some(66), "a directory");
}

#[test]
fn what_is_not_a_configuration_is_refused() {
    refused(&[
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("hello", "expected a mapping"),
        ("server: [1, 2", "this is not YAML"),
        ("{\"server\": ", "this is not YAML"),
        ("a: 1\n---\nb: 1\n", "second document"),
    ]);
    let said = check(b"\xff\xfe\x00binary");
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("is not UTF-8"), "{}", said.err);
    let said = check("#".repeat((16 << 20) + 1));
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("longer than 16 MiB"), "{}", said.err);
}

#[test]
fn a_megabyte_of_nesting_is_refused_at_once() {
    for opening in ["[", "{a: ", "- ", "a:\n "] {
        let begin = Instant::now();
        let said = check(opening.repeat((1 << 20) / opening.len()));
        assert_eq!(said.code, Some(64), "{opening:?}");
        assert!(said.err.len() < 1_000, "{opening:?}");
        assert!(begin.elapsed() < Duration::from_secs(10), "{opening:?}");
    }
}

#[test]
fn all_errors_are_said_at_once_each_with_its_line_and_key() {
    let (_dir, file) = written(
        "\
server:
  lisen: 127.0.0.1:80
  trusted_proxies: [10.0.0.0/99]
tiers:
  free: {rate: 0/s, burst: 10}
upstreams:
  users: {servers: [127.0.0.1:9001]}
routes:
  - {name: a, path: /a, upstream: user}
  - {name: a, path: /b, upstream: users, cost: -1}
",
    );
    let said = run(&file, &[]);
    assert_eq!(said.code, Some(64));
    let expected = [
        ":2: server.lisen: there is no key \"lisen\"; did you mean \"listen\"?",
        ":3: server.trusted_proxies[0]: \"10.0.0.0/99\" is not a network",
        ":5: tiers.free.rate: \"0/s\" is not a rate",
        ":9: routes[0].upstream: there is no upstream \"user\"; did you mean \"users\"?",
        ":10: routes[1].name: the name \"a\" is used twice",
        ":10: routes[1].cost: \"-1\" is not between",
    ];
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{}", said.err);
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("{}{expected}", file.display())), "{line}\n{expected}");
    }
}

#[test]
fn everything_that_is_wrong_about_containing_failures_is_said_at_once() {
    let (_dir, file) = written(
        "\
tiers:
  gold: {rate: 1/s, burst: 1, concurrency: 0}
upstreams:
  users:
    servers:
      - users.internal
      - 10.0.0.256:9001
      - {address: http://users:80}
    balance: {consistent: cookie}
    concurrency: {queue: -1}
    health_check:
      type: tcp
      path: /health
    breaker:
      failure_ratio: 50
      slow_ratio: 0.8
      cooldown: 10m
      max_cooldown: 5m
    ejection: off
routes:
  - name: users
    path: /users
    upstream: users
    retry:
      attempts: 11
      backoff: {base: 1s, max: 250ms}
      when: [conect, 302, 503, 503]
      budget: 20
    breaker: {windw: 10s}
",
    );
    let said = run(&file, &[]);
    assert_eq!((said.code, said.out.as_str()), (Some(64), ""));
    let expected = [
        ":2: tiers.gold.concurrency: \"0\" is not between 1 and 1000000",
        ":6: upstreams.users.servers[0]: \"users.internal\" has no port",
        ":7: upstreams.users.servers[1]: \"10.0.0.256:9001\" looks like an IP address and is none",
        ":8: upstreams.users.servers[2].address: \"http://users:80\" has a scheme",
        ":9: upstreams.users.balance.consistent: \"cookie\" is not one of client, ip, path",
        ":10: upstreams.users.concurrency: max is missing; write for example max: 200",
        ":10: upstreams.users.concurrency.queue: \"-1\" is not between 0 and 100000",
        ":13: upstreams.users.health_check.path: a tcp check asks for no path",
        ":15: upstreams.users.breaker.failure_ratio: \"50\" is not between 0.01 and 1; did you \
         mean 50%?",
        ":16: upstreams.users.breaker.slow_ratio: there is no slow_call",
        ":18: upstreams.users.breaker.max_cooldown: \"5m\" is shorter than cooldown, which is 10m",
        ":19: upstreams.users.ejection: expected a mapping of keys, or none, found \"off\"",
        ":25: routes[0].retry.attempts: \"11\" is not between 0 and 10",
        ":26: routes[0].retry.backoff.max: \"250ms\" is shorter than base, which is 1s",
        ":27: routes[0].retry.when[0]: \"conect\" is not one of connect, timeout, reset or a \
         status from 400 to 599; did you mean \"connect\"?",
        ":27: routes[0].retry.when[1]: \"302\" is not one of connect, timeout, reset or a status",
        ":27: routes[0].retry.when[3]: the condition \"503\" is used twice",
        ":28: routes[0].retry.budget: \"20\" is not between 0 and 1; did you mean 20%?",
        ":29: routes[0].breaker.windw: there is no key \"windw\"; did you mean \"window\"?",
    ];
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{}", said.err);
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("{}{expected}", file.display())), "{line}\n{expected}");
    }
}

#[test]
fn everything_that_contains_failures_can_be_written() {
    let said = check(
        "\
tiers:
  free: {rate: 1/s, burst: 10, concurrency: 5}
upstreams:
  users:
    servers: [users.internal:9001, {address: '[::1]:9002', weight: 2}]
    balance: {consistent: {header: X-Tenant}}
    concurrency: {max: 200, queue: 100, queue_timeout: 100ms}
    health_check: {type: http, path: /health, interval: 5s, timeout: 1s, healthy_after: 2, unhealthy_after: 3}
    breaker: {consecutive_failures: 5, failure_ratio: 0.5, slow_call: 2s, slow_ratio: 0.8,
              min_requests: 20, window: 10s, cooldown: 30s, max_cooldown: 5m, probes: 3, ramp: 5s}
    ejection: {consecutive_failures: 5, base: 10s, max: 5m}
  others: {servers: 127.0.0.1:9003, balance: least_loaded, breaker: none, ejection: none}
routes:
  - name: users
    path: /users
    upstream: users
    timeout: 3s
    retry: {attempts: 2, per_try_timeout: 1s, backoff: {base: 25ms, max: 250ms},
            when: [connect, timeout, 502, 503, 504], budget: 20%}
    breaker: {consecutive_failures: 5, cooldown: 30s}
",
    );
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
}

#[test]
fn rates_that_cannot_be_enforced_are_refused() {
    let limit =
        |rate: &str, burst: &str| format!("limits: [{{name: l, rate: {rate}, burst: {burst}}}]");
    let cases = [
        ("0/s", "1", "a rate of zero"),
        ("-1/s", "1", "it is negative"),
        ("0.5/s", "1", "write 30/m"),
        ("1000000001/s", "1", "at most 1 token per nanosecond"),
        ("99999999999999999999999/s", "1", "too large"),
        ("1/fortnight", "1", "the period must be s, m, h or d"),
        ("1/s", "0", "is not between 1 and"),
        ("1/s", "-1", "is not between 1 and"),
        ("1/d", "9007199254740992", "more than 146 years"),
    ];
    for (rate, burst, expected) in cases {
        refused(&[(&limit(rate, burst), expected)]);
    }
}

#[test]
fn names_that_are_used_twice_and_references_to_nothing_are_refused() {
    refused(&[
        (
            "limits:\n- {name: a, rate: 1/s, burst: 1}\n- {name: a, rate: 2/s, burst: 2}",
            ":3: limits[1].name: the name \"a\" is used twice, first on line 2",
        ),
        (
            "upstreams:\n  a: {servers: 127.0.0.1:1}\n  a: {servers: 127.0.0.1:2}",
            ":3: upstreams.a: this key is written twice, first on line 2",
        ),
        ("routes: [{name: r, path: /, upstream: nobody}]", "there is no upstream \"nobody\""),
        ("clients: {default_tier: gold}", "there is no tier \"gold\""),
        ("clients: {known: {a: {tier: gold}}}", "there is no tier \"gold\""),
    ]);
}

#[test]
fn two_listeners_on_one_port_are_refused() {
    refused(&[
        ("server: {listen: [127.0.0.1:7000, 127.0.0.1:7000]}", "are one port"),
        ("server: {listen: 0.0.0.0:9902}", "are one port"),
        ("admin: {listen: 127.0.0.1:9902}", "are one port"),
    ]);
}

#[test]
fn keys_of_later_work_are_refused_by_name() {
    refused(&[
        ("server: {tls: {cert: x}}", "server.tls: tls is not available yet"),
        ("cache: {}", "cache is not available yet"),
    ]);
}

#[test]
fn a_variable_is_expanded_in_values_and_named_when_it_is_missing() {
    let text =
        GOOD.to_owned() + "server: {listen: \"${HOST}:${PORT:-8080}\", workers: \"${N:-2}\"}\n";
    let (_dir, file) = written(text);
    let said = run(&file, &[("HOST", "127.0.0.1")]);
    assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
    let said = run(&file, &[("HOST", "127.0.0.1"), ("N", "two\nlimits: []")]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("server.workers: \"two\\nlimits: []\""), "{}", said.err);
    let said = run(&file, &[]);
    assert_eq!(said.code, Some(64));
    assert!(said.err.contains("server.listen: the variable HOST is not set"), "{}", said.err);
}

#[test]
fn what_was_hardly_meant_is_a_warning_and_no_error() {
    let twice = "  - {name: again, path: /users/, upstream: users}\n";
    let (_dir, file) = written(GOOD.to_owned() + twice);
    let said = run(&file, &[]);
    assert_eq!(said.code, Some(0));
    let lines: Vec<_> = said.err.lines().collect();
    assert_eq!(lines.len(), 1, "{}", said.err);
    let expected = format!("warning: {}:5: routes[1].path: never matches", file.display());
    assert!(lines[0].starts_with(&expected), "{}", said.err);
    assert!(said.out.ends_with(": ok\n"), "{}", said.out);
}
