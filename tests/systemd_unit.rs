//! The systemd unit is sound and hardened, and `make install` puts everything
//! where it looks.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what these tests share fails a test by panicking, outside of the test function too"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TOLLGATE: &str = env!("CARGO_BIN_EXE_tollgate");
const UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/tollgate.service");

const SOCKET_UNIT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/tollgate.socket");

/// The contract with operators, as `systemd-analyze` counts it: tenths of the
/// exposure it prints.
const LARGEST_EXPOSURE_TENTHS: u32 = 20;

/// A copy of the unit that starts the binary under test, as `verify` wants the
/// command to exist. The folder must outlive the path.
fn unit_with_this_binary() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tollgate.service");
    let unit = fs::read_to_string(UNIT).unwrap();
    let unit = unit.replace("/usr/local/bin/tollgate", TOLLGATE);
    assert!(unit.contains(TOLLGATE), "the unit no longer starts /usr/local/bin/tollgate");
    fs::write(&path, unit).unwrap();
    (folder, path)
}

fn systemd_analyze(arguments: &[&str], unit: &Path) -> Output {
    Command::new("systemd-analyze").args(arguments).arg(unit).output().unwrap_or_else(|error| {
        panic!("systemd-analyze does not start ({error}): install Debian's package `systemd`")
    })
}

fn text(output: &Output) -> String {
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|b| String::from_utf8_lossy(b));
    format!("{}\n{stdout}{stderr}", output.status)
}

#[test]
fn the_unit_verifies_without_a_word_about_it() {
    let (_folder, unit) = unit_with_this_binary();
    let output = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no"], &unit);
    // Other units of the machine may be complained about; a misspelt key of
    // this one is only ever a warning, so the status alone does not tell.
    let about_us = text(&output).contains("tollgate");
    assert!(output.status.success() && !about_us, "{}", text(&output));
}

/// systemd kills a main process that is not its own child, as a successor is not, as soon as
/// it has sent TERM; so the unit itself waits for the drain.
#[test]
fn the_unit_waits_for_the_drain_of_a_process_that_another_one_started() {
    let unit = fs::read_to_string(UNIT).unwrap();
    let stop = unit.lines().find_map(|line| line.strip_prefix("ExecStop=-/bin/sh -c '"));
    let script = stop.and_then(|stop| stop.strip_suffix('\'')).expect("the unit's own stop");
    let mut other = Command::new("sleep").arg("0.5").spawn().unwrap();
    let stopped = Command::new("sh")
        .args(["-c", script])
        .env("MAINPID", other.id().to_string())
        .spawn()
        .and_then(|mut stop| {
            // It sees the end once somebody has asked for it, as systemd does at once.
            let ended = other.wait()?;
            assert!(!ended.success(), "TERM came before the end of its own: {ended}");
            stop.wait()
        });
    assert!(stopped.unwrap().code().is_some(), "the wait has an end");
}

#[test]
fn the_socket_unit_verifies_beside_the_service() {
    let (folder, _service) = unit_with_this_binary();
    let socket = folder.path().join("tollgate.socket");
    fs::copy(SOCKET_UNIT, &socket).unwrap();
    let output = systemd_analyze(&["verify", "--man=no", "--recursive-errors=no"], &socket);
    let about_us = text(&output).contains("tollgate");
    assert!(output.status.success() && !about_us, "{}", text(&output));
}

#[test]
fn the_unit_is_no_more_exposed_than_promised() {
    let (_folder, unit) = unit_with_this_binary();
    let threshold = format!("--threshold={LARGEST_EXPOSURE_TENTHS}");
    let output = systemd_analyze(&["security", "--offline=true", "--no-pager", &threshold], &unit);
    let judged = text(&output).contains("Overall exposure level");
    assert!(
        output.status.success() && judged,
        "{}\n(--offline needs systemd 250 or later)",
        text(&output)
    );
}

/// `make TARGET` of the packaging into `destination`, with the binary under test
/// in place of a release build.
fn make(target: &str, destination: &Path) {
    let output = Command::new("make")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg(target)
        .arg(format!("DESTDIR={}", destination.display()))
        .arg(format!("BINARY={TOLLGATE}"))
        // What a surrounding `make test` was given is not meant for this one.
        .env_remove("MAKEFLAGS")
        .env_remove("MFLAGS")
        .env_remove("MAKELEVEL")
        .env_remove("PREFIX")
        .env_remove("SYSCONFDIR")
        .env_remove("UNITDIR")
        .output()
        .unwrap_or_else(|error| panic!("make does not start ({error}): install `make`"));
    assert!(output.status.success(), "make {target}: {}", text(&output));
}

#[test]
fn install_puts_everything_where_the_unit_looks() {
    let root = tempfile::tempdir().unwrap();
    make("install", root.path());
    let inside = |path: &str| root.path().join(path.trim_start_matches('/'));
    let unit =
        fs::read_to_string(inside("/usr/local/lib/systemd/system/tollgate.service")).unwrap();
    let commands: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("ExecStart"))
        .filter_map(|line| line.split_once('=').map(|(_, command)| command))
        .collect();
    assert_eq!(commands.len(), 1, "{commands:?}");
    for command in commands {
        let paths: Vec<&str> = command.split(' ').filter(|word| word.starts_with('/')).collect();
        assert_eq!(paths.len(), 2, "a binary and a configuration: {command}");
        for path in paths {
            assert!(inside(path).exists(), "{path} is not installed");
        }
    }
}

#[test]
fn an_edited_configuration_outlives_a_new_installation_and_its_removal() {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("etc/tollgate/tollgate.yaml");
    make("install", root.path());
    fs::write(&config, "# mine\n").unwrap();
    make("install", root.path());
    make("uninstall", root.path());
    assert_eq!(fs::read_to_string(&config).unwrap(), "# mine\n");
    assert!(!root.path().join("usr/local/bin/tollgate").exists());
    assert!(!root.path().join("usr/local/lib/systemd/system/tollgate.service").exists());
}
