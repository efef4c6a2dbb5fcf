//! The examples in docs/ADMIN.md, pasted into a shell beside a running demo.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{eventually, free_addresses, until};

const MANUAL: &str = include_str!("../../docs/ADMIN.md");

/// The ports the manual writes: the gateway, the admin API, the metrics, the sample upstream.
const WRITTEN: [&str; 4] = ["127.0.0.1:8080", "127.0.0.1:9901", "127.0.0.1:9902", "127.0.0.1:9001"];

/// How often the demo is started anew because somebody took one of its ports.
const START_ATTEMPTS: usize = 5;

/// How long one line may take.
const LINE_DEADLINE: Duration = Duration::from_secs(20);

/// A running demo; ends with the test.
struct Demo {
    child: Child,
    dir: TempDir,
    at: [SocketAddr; 4],
}

impl Demo {
    /// Waits until it has printed what to try; somebody may take one of its ports first.
    fn start() -> Self {
        let started = (0..START_ATTEMPTS).find_map(|_| Self::spawn().ready());
        started.expect("free ports for the demo")
    }

    fn spawn() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let at: [SocketAddr; 4] = free_addresses();
        let child = Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .arg("demo")
            .current_dir(dir.path())
            .env("TOLLGATE_LISTEN", at[0].to_string())
            .env("TOLLGATE_ADMIN_LISTEN", at[1].to_string())
            .env("TOLLGATE_METRICS_LISTEN", at[2].to_string())
            .env("TOLLGATE_UPSTREAM", at[3].to_string())
            .stdin(Stdio::null())
            .stdout(fs::File::create(dir.path().join("stdout")).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo starts");
        Self { child, dir, at }
    }

    fn ready(mut self) -> Option<Self> {
        let said = self.dir.path().join("stdout");
        let is_ready = until("the demo says what to try, or ends", || {
            let has_ended = self.child.try_wait().expect("own child").is_some();
            let text = fs::read_to_string(&said).unwrap_or_default();
            (has_ended || text.contains("Ctrl-C")).then_some(!has_ended)
        });
        is_ready.then_some(self)
    }

    /// What a line of the manual prints.
    #[track_caller]
    fn paste(&self, line: &str) -> String {
        let line = WRITTEN.iter().zip(self.at).fold(line.to_owned(), |line, (written, address)| {
            line.replace(written, &address.to_string())
        });
        let out = self.dir.path().join("line");
        let mut child = Command::new("sh")
            .args(["-c", &line])
            .env("no_proxy", "*")
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).expect("a file"))
            .stderr(Stdio::null())
            .spawn()
            .expect("sh");
        let status = eventually(LINE_DEADLINE, || child.try_wait().expect("own child"));
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let printed = fs::read_to_string(&out).expect("what it printed");
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{line}\n{printed}");
        printed
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each line to paste, with what the manual says it prints.
fn examples() -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = Vec::new();
    for block in MANUAL.split("```").skip(1).step_by(2) {
        for line in block.lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push((command.to_owned(), String::new())),
                (None, Some((_, printed))) => printed.push_str(line),
                (None, None) => {}
            }
        }
    }
    examples
}

/// The members of all objects in it.
fn members(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(members).collect(),
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, of)| members(of).into_iter().chain([name.clone()]))
            .collect(),
        _ => BTreeSet::new(),
    }
}

/// The members that the manual shows.
fn shown(printed: &str) -> BTreeSet<String> {
    let parts: Vec<&str> = printed.split('"').collect();
    let names = parts.windows(2).filter(|pair| pair[1].starts_with(':'));
    names.map(|pair| pair[0].to_owned()).collect()
}

/// What the manual shows of a member with a text for a value.
fn text<'a>(printed: &'a str, member: &str) -> Option<&'a str> {
    printed.split_once(&format!("\"{member}\":\""))?.1.split('"').next()
}

#[test]
fn every_example_does_what_the_manual_says() {
    let demo = Demo::start();
    let examples = examples();
    assert!(examples.len() >= 8, "{examples:?}");
    for (line, expected) in examples {
        let printed = demo.paste(&line);
        let answer: Value = serde_json::from_str(&printed)
            .unwrap_or_else(|error| panic!("{line}\n{error}: {printed}"));
        let (shown, has) = (shown(&expected), members(&answer));
        assert!(!shown.is_empty() && shown.is_subset(&has), "{line}\n{expected}\n{printed}");
        if !expected.contains('…') {
            assert_eq!(shown, has, "{line}: the manual leaves something out");
        }
        for member in ["state", "status", "reason", "detail", "type", "title"] {
            let ours = text(&expected, member);
            assert_eq!(ours, ours.and(text(&printed, member)), "{line}: {member}\n{printed}");
        }
    }
}
