//! Whatever is the matter with the file, the gateway serves and says what it is.

use crate::rig::{Life, durable, logged};
use crate::support::{Gateway, Upstream};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// A way to spoil a table.
type Damage = (&'static str, fn(&Path));

fn write_at(path: &Path, bytes: &[u8], at: u64) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn set_length(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

const DAMAGES: [Damage; 10] = [
    ("empty", |path| set_length(path, 0)),
    ("cut within the header", |path| set_length(path, 100)),
    ("cut within the table", |path| set_length(path, 40_000)),
    ("longer", |path| set_length(path, 1 << 20)),
    ("another magic", |path| write_at(path, b"tollgate", 0)),
    ("another version", |path| write_at(path, &[99], 8)),
    ("another width of slots", |path| write_at(path, &[8], 24)),
    ("another count of slots", |path| write_at(path, &[1], 43)),
    ("marks overwritten", |path| write_at(path, &[0x5a; 128], 192)),
    ("a text", |path| fs::write(path, "routes: []\n").unwrap()),
];

#[test]
fn a_damaged_file_is_put_aside_with_a_warning_and_the_gateway_serves() {
    let upstream = Upstream::new();
    let mut life = Life::of(&durable(&upstream, "{rate: 1/d, burst: 5}"));
    for (what, damage) in DAMAGES {
        assert_eq!(life.admitted(7), 5, "before: {what}");
        life.end_by("KILL");
        damage(&life.table());
        life.start();
        let log = logged(life.gateway(), "limiter.table is no table to go on with");
        assert!(
            log.contains("WARN") && log.contains("kept as state/limiter.table.aside-"),
            "{log}"
        );
    }
    assert_eq!(life.admitted(7), 5);
    let names = fs::read_dir(life.gateway().path("state")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    let asides = names.iter().filter(|name| name.to_string_lossy().contains("aside"));
    assert!(asides.count() <= 3, "{names:?}");
}

#[test]
fn slots_that_hold_nonsense_do_no_harm() {
    let upstream = Upstream::new();
    let mut life = Life::of(&durable(&upstream, "{rate: 1/d, burst: 5}"));
    for byte in [0xff, 0x7f, 0x41] {
        life.end_by("KILL");
        write_at(&life.table(), &[byte; 65_536], 4_096);
        life.start();
        assert!(life.admitted(30) <= 10);
    }
}

#[test]
fn what_cannot_be_opened_leaves_its_place_to_a_new_file() {
    let upstream = Upstream::new();
    let mut life = Life::of(&durable(&upstream, "{rate: 1/d, burst: 5}"));
    let spoil: [Damage; 3] = [
        ("a folder", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("a link", |path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
            symlink(path.with_extension("moved"), path).unwrap();
        }),
        ("for everybody", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        }),
    ];
    for (what, spoil) in spoil {
        life.end_by("TERM");
        spoil(&life.table());
        life.start();
        logged(life.gateway(), "is no table to go on with");
        assert_eq!(life.admitted(7), 5, "{what}");
    }
}

/// Where the system allows no file, not even to root.
#[test]
fn a_folder_that_cannot_be_written_leaves_the_buckets_in_memory() {
    let upstream = Upstream::new();
    let tier = "{rate: 1/d, burst: 5}";
    let serve = |folder: &str, words: &str| {
        let gateway: Gateway = durable(&upstream, tier).state_dir(folder).start();
        let log = logged(&gateway, words);
        assert!(log.contains("WARN") && log.contains(folder), "{log}");
        assert_eq!((0..7).filter(|_| gateway.get("/").status == 200).count(), 5);
    };
    serve("/proc", "buckets stay in memory");
    serve("/proc/tollgate", "cannot be made");
    // Which binds everybody but root.
    let closed = tempfile::tempdir().unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let is_bound = fs::write(closed.path().join("probe"), "").is_err();
    if is_bound {
        serve(&closed.path().display().to_string(), "buckets stay in memory");
    }
}
