//! What `make install` and `make deb` put on a system: all of it, with the right modes, and gone
//! again when it is taken away.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "what these tests share fails a test by panicking, outside of the test function too"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A command of the repository that sees no variable of whoever runs the tests that would
/// change where things go.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(ROOT);
    let ours = ["PREFIX", "SYSCONFDIR", "UNITDIR", "MANDIR", "BASHDIR", "ZSHDIR", "FISHDIR"];
    let others = ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "DEB_REVISION", "DEB_MAINTAINER"];
    for name in ours.iter().chain(&others) {
        command.env_remove(name);
    }
    command
}

/// What `command` printed; it has to succeed.
fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let [stdout, stderr] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

fn make(target: &str, destination: &Path) {
    let destination = format!("DESTDIR={}", destination.display());
    output_of(command("make").args([target, &destination, &format!("BINARY={TOLLGATE}")]));
}

/// A package of the binary under test, hardly compressed, as that takes the longest.
fn package(folder: &Path) -> PathBuf {
    let build = command("make")
        .args(["deb", &format!("BINARY={TOLLGATE}")])
        .env("DEB_OUT", folder)
        .env("DEB_FLAGS", "-Zgzip -z1")
        .env("SOURCE_DATE_EPOCH", "1750000000")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&build.stderr).into_owned();
    assert!(build.status.success(), "make deb: {said}");
    let packages: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [package] = &packages[..] else { panic!("one package, not {packages:?}") };
    package.clone()
}

fn dpkg_deb(option: &str, package: &Path) -> String {
    output_of(command("dpkg-deb").arg(option).arg(package))
}

/// Every file below `root`, as a path from there.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(format!("/{}", path.strip_prefix(root).unwrap().display()));
            }
        }
    }
    found
}

/// Whether there is such a command; those that only look harder may be missing.
fn is_there(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok();
    if !found {
        eprintln!("{program} is not installed and was not asked");
    }
    found
}

#[test]
fn what_install_puts_there_uninstall_takes_away_but_for_the_configuration() {
    let root = tempfile::tempdir().unwrap();
    let log = root.path().join("usr/local/share/doc/tollgate/notes-of-mine");
    make("install", root.path());
    let installed = files(root.path());
    for path in [
        "/usr/local/bin/tollgate",
        "/usr/local/lib/systemd/system/tollgate.service",
        "/usr/local/share/man/man1/tollgate.1",
        "/usr/local/share/man/man1/tollgate-upgrade.1",
        "/usr/local/share/bash-completion/completions/tollgate",
        "/usr/local/share/zsh/site-functions/_tollgate",
        "/usr/local/share/fish/vendor_completions.d/tollgate.fish",
        "/usr/local/share/doc/tollgate/OPERATIONS.md",
        "/usr/local/share/doc/tollgate/prometheus-rules.yml",
        "/usr/local/share/doc/tollgate/grafana-dashboard.json",
        "/etc/tollgate/tollgate.yaml",
    ] {
        assert!(installed.contains(path), "{path} is missing in {installed:#?}");
    }
    for path in &installed {
        let length = fs::metadata(root.path().join(&path[1..])).unwrap().len();
        assert!(length > 0, "{path} is empty");
    }
    fs::write(&log, "kept").unwrap();
    make("uninstall", root.path());
    let kept = ["/etc/tollgate/tollgate.yaml", "/usr/local/share/doc/tollgate/notes-of-mine"];
    assert_eq!(files(root.path()), kept.map(str::to_owned).into());
    fs::remove_file(&log).unwrap();
    make("uninstall", root.path());
    assert!(!root.path().join("usr/local/share/doc/tollgate").exists());
}

#[test]
fn a_shell_accepts_its_completions_and_completes_with_them() {
    let script = "source <(\"$0\" completions bash); COMP_WORDS=(tollgate up); COMP_CWORD=1; \
                  _tollgate tollgate up tollgate; echo \"${COMPREPLY[*]}\"";
    let said = output_of(command("bash").args(["-c", script, TOLLGATE]));
    assert_eq!(said.trim(), "upgrade");
    let zsh = output_of(command(TOLLGATE).args(["completions", "zsh"]));
    assert!(zsh.starts_with("#compdef tollgate"), "{zsh}");
    let fish = output_of(command(TOLLGATE).args(["completions", "fish"]));
    assert!(fish.contains("complete -c tollgate"), "{fish}");
}

#[test]
fn a_page_of_the_manual_can_be_read() {
    if is_there("man") {
        let folder = tempfile::tempdir().unwrap();
        output_of(command(TOLLGATE).args(["man", "--out"]).arg(folder.path()));
        let page = folder.path().join("tollgate.1");
        let page = output_of(
            command("man").arg("-l").arg(page).env("MANPAGER", "cat").env("MANWIDTH", "100"),
        );
        for words in ["EXIT STATUS", "SIGNALS", "tollgate-reload(1)", "TOLLGATE_ADMIN_TOKEN"] {
            assert!(page.contains(words), "{words} is missing:\n{page}");
        }
    }
}

#[test]
fn the_debian_package_holds_everything_with_the_modes_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let package = package(folder.path());
    let version = env!("CARGO_PKG_VERSION");
    for (field, value) in
        [("Package", "tollgate"), ("Version", &format!("{version}-1")), ("Section", "net")]
    {
        let said = output_of(command("dpkg-deb").arg("-f").arg(&package).arg(field));
        assert_eq!(said.trim(), value, "{field}");
    }
    let depends = output_of(command("dpkg-deb").arg("-f").arg(&package).arg("Depends"));
    assert!(depends.contains("libc6 (>= 2."), "{depends}");

    let listing = dpkg_deb("--contents", &package);
    let modes: BTreeMap<&str, &str> = listing
        .lines()
        .filter_map(|line| Some((line.rsplit(' ').next()?, line.split(' ').next()?)))
        .collect();
    for (path, mode) in [
        ("./", "drwxr-xr-x"),
        ("./usr/bin/tollgate", "-rwxr-xr-x"),
        ("./etc/tollgate/tollgate.yaml", "-rw-r--r--"),
        ("./usr/lib/systemd/system/tollgate.service", "-rw-r--r--"),
        ("./usr/share/man/man1/tollgate.1.gz", "-rw-r--r--"),
        ("./usr/share/man/man1/tollgate-reload.1.gz", "-rw-r--r--"),
        ("./usr/share/bash-completion/completions/tollgate", "-rw-r--r--"),
        ("./usr/share/zsh/vendor-completions/_tollgate", "-rw-r--r--"),
        ("./usr/share/fish/vendor_completions.d/tollgate.fish", "-rw-r--r--"),
        ("./usr/share/doc/tollgate/copyright", "-rw-r--r--"),
        ("./usr/share/doc/tollgate/changelog.Debian.gz", "-rw-r--r--"),
        ("./usr/share/doc/tollgate/OPERATIONS.md", "-rw-r--r--"),
    ] {
        assert_eq!(modes.get(path), Some(&mode), "{path}\n{listing}");
    }
    for line in listing.lines() {
        assert!(line.contains("root/root"), "{line}");
        assert!(!line.contains("usr/local"), "{line}");
    }

    let unpacked = folder.path().join("unpacked");
    output_of(command("dpkg-deb").arg("--raw-extract").arg(&package).arg(&unpacked));
    let read = |path: &str| fs::read_to_string(unpacked.join(path)).unwrap();
    assert_eq!(read("DEBIAN/conffiles"), "/etc/tollgate/tollgate.yaml\n");
    assert!(!read("usr/lib/systemd/system/tollgate.service").contains("/usr/local"));
    output_of(
        command("md5sum").args(["--check", "--quiet", "DEBIAN/md5sums"]).current_dir(&unpacked),
    );
    output_of(command(&unpacked.join("usr/bin/tollgate").display().to_string()).arg("--version"));
    for script in ["postinst", "prerm", "postrm"] {
        assert!(!read(&format!("DEBIAN/{script}")).contains('@'), "{script} is filled in");
        output_of(command("sh").arg("-n").arg(unpacked.join("DEBIAN").join(script)));
        assert!(read(&format!("DEBIAN/{script}")).contains("tollgate.service"), "{script}");
    }
}

/// What a maintainer script calls, with stand-ins for the tools of systemd: `helper` is the body of
/// the one that knows what was installed and enabled.
fn calls_of(script: &str, arguments: &[&str], helper: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let write = |name: &str, body: &str| {
        let path = folder.path().join(name);
        let says = format!("#!/bin/sh\necho \"$(basename \"$0\") $*\" >>{}\n", log.display());
        fs::write(&path, format!("{says}{body}\n")).unwrap();
        output_of(command("chmod").arg("+x").arg(path));
    };
    write("deb-systemd-helper", helper);
    write("deb-systemd-invoke", "");
    write("systemctl", "");
    let path = folder.path().join(script);
    let text = fs::read_to_string(format!("{ROOT}/deploy/debian/{script}")).unwrap();
    fs::write(&path, text.replace("@UNITS@", "tollgate.service")).unwrap();
    let tools = format!("{}:/usr/bin:/bin", folder.path().display());
    output_of(command("sh").arg(path).args(arguments).env("PATH", tools));
    fs::read_to_string(log).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn installing_enables_and_starts_nothing_and_upgrading_restarts_nothing() {
    // As the real one: of what was never installed it says that it was enabled.
    let never = "[ \"$1\" != debian-installed ]";
    for (arguments, helper) in [(&["configure", ""], never), (&["configure", "0.0.9-1"], "true")] {
        let calls = calls_of("postinst", arguments, helper);
        assert!(calls.iter().any(|call| call.contains("update-state")), "{calls:?}");
        let is_enabled = calls.iter().any(|call| call.contains("helper enable"));
        assert_eq!(is_enabled, helper == "true", "{arguments:?}: {calls:?}");
        for verb in [" start", " restart", " stop", " try-restart"] {
            assert!(!calls.iter().any(|call| call.contains(verb)), "{arguments:?}: {calls:?}");
        }
    }
    let stops = |argument| {
        let calls = calls_of("prerm", &[argument, "0.2.0-1"], "true");
        calls.iter().any(|call| call.contains("stop"))
    };
    assert!(!stops("upgrade"));
    // Elsewhere than under systemd there is nothing to stop.
    assert_eq!(stops("remove"), Path::new("/run/systemd/system").exists());
}

#[test]
fn the_checker_of_debian_packages_finds_no_fault() {
    if is_there("lintian") {
        let folder = tempfile::tempdir().unwrap();
        let package = package(folder.path());
        let mut lintian = command("lintian");
        lintian.args(["--allow-root", "--fail-on", "error,warning"]).arg(package);
        assert_eq!(output_of(&mut lintian), "");
    }
}
