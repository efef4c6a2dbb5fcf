//! The rules of the house, held by reading the sources: who may know whom, how
//! long a file may be, and what must not be in it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what tests share fails them by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines a source file may have without its tests.
const MAX_LINES: usize = 450;

/// Which modules of the crate each may import. Who is not here may import everything.
const ALLOWED: [(&str, &[&str]); 24] = [
    ("policy", &[]),
    ("cli", &[]),
    ("clock", &[]),
    ("metrics", &["policy"]),
    ("lifecycle", &["clock"]),
    ("strict_json", &[]),
    ("wire", &["clock"]),
    ("handover", &["clock"]),
    ("store", &["policy"]),
    ("config", &["policy"]),
    ("registry", &["clock", "config", "policy", "store"]),
    ("upstream", &["clock", "config", "metrics", "policy"]),
    ("telemetry", &["clock", "config"]),
    ("fleet", &["clock", "config", "metrics", "policy", "registry", "store"]),
    (
        "gateway",
        &[
            "clock",
            "config",
            "fleet",
            "lifecycle",
            "metrics",
            "policy",
            "registry",
            "store",
            "upstream",
        ],
    ),
    (
        "decision",
        &["clock", "config", "fleet", "gateway", "policy", "registry", "store", "upstream", "wire"],
    ),
    (
        "proxy",
        &[
            "clock",
            "config",
            "decision",
            "fleet",
            "gateway",
            "lifecycle",
            "metrics",
            "policy",
            "registry",
            "store",
            "telemetry",
            "upstream",
            "wire",
        ],
    ),
    (
        "admin",
        &[
            "clock",
            "config",
            "decision",
            "fleet",
            "gateway",
            "handover",
            "lifecycle",
            "metrics",
            "policy",
            "registry",
            "reload",
            "store",
            "strict_json",
            "telemetry",
            "upstream",
        ],
    ),
    ("reload", &["clock", "config", "gateway", "metrics", "policy"]),
    ("remote", &["cli", "clock", "config", "strict_json"]),
    ("simulate", &["clock", "config", "decision", "gateway", "metrics", "policy", "store"]),
    ("demo", &["app", "config"]),
    (
        "app",
        &[
            "admin",
            "clock",
            "config",
            "decision",
            "demo",
            "fleet",
            "gateway",
            "handover",
            "lifecycle",
            "metrics",
            "policy",
            "proxy",
            "registry",
            "reload",
            "store",
            "telemetry",
            "upstream",
            "wire",
        ],
    ),
    // Only names them.
    ("lib", &[]),
];

/// What the pure core must not contain: it decides, and somebody else reads clocks,
/// waits, locks, parses and speaks to the world.
const NOT_IN_POLICY: [&str; 13] = [
    "async fn",
    ".await",
    "std::fs",
    "std::io",
    "std::net::Tcp",
    "std::thread",
    "Mutex",
    "RwLock",
    "Instant::now",
    "SystemTime",
    "serde",
    "tokio",
    "pingora",
];

/// One file of `src`, without its tests.
struct Source {
    /// Relative to `src`.
    path: PathBuf,
    /// The top-level module it belongs to.
    module: String,
    text: String,
}

/// Every file of `src` that is not tests.
fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 30, "{files:?}");
    let is_test = |path: &Path| {
        path.components()
            .any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
    };
    let relative = files.into_iter().map(|file| file.strip_prefix(&root).unwrap().to_owned());
    let sources = relative.filter(|path| !is_test(path)).map(|path| {
        let text = without_tests(&fs::read_to_string(root.join(&path)).unwrap());
        let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
        Source { module: first.trim_end_matches(".rs").to_owned(), path, text }
    });
    sources.collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The text without what is compiled for tests only: each item after `#[cfg(test)]`, to
/// the end of its line or of its braces, which rustfmt closes in the column they began in.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim_start() != "#[cfg(test)]" {
            kept.push_str(line);
            kept.push('\n');
            continue;
        }
        let indent = &line[..line.len() - line.trim_start().len()];
        let end = format!("{indent}}}");
        for line in lines.by_ref() {
            if line == end || line.ends_with(';') && !line.starts_with(&format!("{indent} ")) {
                break;
            }
        }
    }
    kept
}

/// The code without comments, on one line for each of the file's.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// Every top-level module named after `crate::`, in `use` or in place.
fn imports(text: &str) -> BTreeSet<String> {
    let joined: String = code(text).map(|(_, line)| line.trim()).collect::<Vec<_>>().join(" ");
    let mut found = BTreeSet::new();
    for (at, _) in joined.match_indices("crate::") {
        let before = joined[..at].chars().next_back();
        if before.is_some_and(|character| character.is_alphanumeric() || character == '_') {
            continue;
        }
        let rest = &joined[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(members(group));
        } else {
            found.insert(name(rest));
        }
    }
    found
}

/// The first names of the members of a group, up to its closing brace.
fn members(group: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            ',' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
            }
            '}' if depth == 0 => {
                names.push(name(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn name(path: &str) -> String {
    let is_part = |character: &char| character.is_alphanumeric() || *character == '_';
    path.trim_start().chars().take_while(is_part).collect()
}

#[test]
fn imports_are_found_in_every_form() {
    let text = "use crate::a::B;\nuse crate::{b, c::{D, E},\n    d};\n// crate::comment\n\
                fn f() { crate::e::g(); mycrate::x() }\n#[cfg(test)]\nmod tests {\n    \
                use crate::t;\n}\nuse crate::f;\n#[cfg(test)]\nmod more;\nuse crate::g;\n";
    let found: Vec<String> = imports(&without_tests(text)).into_iter().collect();
    assert_eq!(found, ["a", "b", "c", "d", "e", "f", "g"]);
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = ALLOWED.iter().find(|(module, _)| *module == source.module) else {
            assert_eq!(source.module, "main", "{} has no rule yet", source.path.display());
            continue;
        };
        for import in imports(&source.text) {
            if import != source.module && !allowed.contains(&&*import) {
                wrong.push(format!("{} imports {import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn of_the_store_the_registry_knows_keys_and_lines_of_memory_alone() {
    for source in sources().iter().filter(|source| source.module == "registry") {
        for (number, line) in code(&source.text) {
            let known = ["crate::store::key", "crate::store::lines"];
            let beyond = line.contains("crate::store") && !known.iter().any(|k| line.contains(k));
            assert!(!beyond, "{}:{number}: {line}", source.path.display());
        }
    }
}

/// `super` stays within a module: what leaves it is written as `crate::…`, where the
/// rule above sees it.
#[test]
fn nothing_leaves_its_module_through_super() {
    for source in sources() {
        let depth = source.path.components().count();
        let is_root = source.path.ends_with("mod.rs") || depth == 1;
        let leaves = "super::".repeat(if is_root { depth - 1 } else { depth }.max(1));
        for (number, line) in code(&source.text) {
            assert!(!line.contains(&leaves), "{}:{number}: {line}", source.path.display());
        }
    }
}

#[test]
fn the_core_is_pure() {
    for source in sources().iter().filter(|source| source.module == "policy") {
        for (number, line) in code(&source.text) {
            for word in NOT_IN_POLICY {
                assert!(!line.contains(word), "{}:{number}: {line}", source.path.display());
            }
        }
    }
}

#[test]
fn one_file_reads_the_clock() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module != "clock") {
        for (number, line) in code(&source.text) {
            if ["Instant::now", "SystemTime::now", "Timestamp::now"]
                .iter()
                .any(|f| line.contains(f))
            {
                wrong.push(format!("{}:{number}: {}", source.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_likes() {
    let mut long = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > MAX_LINES {
            long.push(format!("{}: {lines} lines", source.path.display()));
        }
    }
    assert!(long.is_empty(), "over {MAX_LINES} lines without tests:\n{}", long.join("\n"));
}

#[test]
fn nothing_unwraps_or_prints() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (number, line) in code(&source.text) {
            let words = [".unwrap()", "println!(", "print!(", "dbg!(", "todo!(", "unimplemented!("];
            if words.iter().any(|word| line.contains(word)) {
                wrong.push(format!("{}:{number}: {}", source.path.display(), line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The compiler refuses unsafe code wherever nothing allows it.
#[test]
fn one_file_may_hold_unsafe_code() {
    let allowing: Vec<PathBuf> = sources()
        .into_iter()
        .filter(|source| code(&source.text).any(|(_, line)| line.contains("unsafe_code")))
        .map(|source| source.path)
        .collect();
    assert_eq!(allowing, [Path::new("store/mapped/memory.rs")]);
}
