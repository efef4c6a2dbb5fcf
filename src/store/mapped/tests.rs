//! The table's file: opened again, by others, after a boot, damaged, of another size; and with
//! real processes that charge it at once and are killed.

use super::*;
use crate::policy::meter::Meter;
use crate::policy::rate::{Period, Rate, TokenBucket};
use crate::store::key::{Digest, Key, KeyKind};
use crate::store::limiter::Limiter;
use crate::store::table::{Charge, Class};
use std::fs::{File, OpenOptions, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const SECOND: u64 = 1_000_000_000;
/// Since the boot, at the first opening.
const UP: u64 = 1_000 * SECOND;
/// The wall clock then.
const NOON: u64 = 1_700_000_000 * SECOND;
const BOOT: Boot = Boot([1, 2]);
const SLOTS: usize = 1_024;

/// One opening of a folder, at a time of the machine's clocks.
#[derive(Clone, Copy)]
struct Machine {
    boot: Boot,
    up: u64,
    wall: u64,
}

const FIRST: Machine = Machine { boot: BOOT, up: UP, wall: NOON };

impl Machine {
    fn later(self, ns: u64) -> Machine {
        Machine { up: self.up + ns, wall: self.wall + ns, ..self }
    }

    fn reading(self) -> Reading {
        Reading { monotonic_ns: self.up, wall_ns: self.wall }
    }

    fn try_open(
        self,
        folder: &Path,
        slots: usize,
        has_predecessor: bool,
    ) -> Result<Opened, Unavailable> {
        let now = self.reading();
        open(&Wanted { folder, slots, has_predecessor, boot: self.boot, now })
    }

    fn open(self, folder: &Path) -> Served {
        self.open_with(folder, SLOTS, false)
    }

    fn open_with(self, folder: &Path, slots: usize, has_predecessor: bool) -> Served {
        let opened = self.try_open(folder, slots, has_predecessor);
        let Opened { file, lock, warnings, .. } = opened.unwrap_or_else(|why| panic!("{why}"));
        let shift_ns = file.shift_ns();
        let now = self.up.wrapping_add(shift_ns);
        Served { limiter: Limiter::in_file(file), lock: Some(lock), warnings, now, shift_ns }
    }
}

/// A limiter at work on a file, with the limiter's time at its opening.
struct Served {
    limiter: Limiter,
    lock: Option<Lock>,
    warnings: Vec<String>,
    now: u64,
    shift_ns: u64,
}

/// A thousand tokens, one a second.
fn limit() -> TokenBucket {
    TokenBucket::new(Rate { count: 1, period: Period::Second }, 1_000).unwrap()
}

impl Served {
    fn key(&self, client: u64) -> Key {
        let policy: Digest = self.limiter.digest(KeyKind::Policy, b"tier");
        Key::new(policy, self.limiter.digest(KeyKind::Header, &client.to_le_bytes()))
    }

    fn charge_at(&self, client: u64, cost: u32, now: u64) -> bool {
        let (key, limit) = (self.key(client), limit());
        let table = self.limiter.table();
        let charge =
            table.charge(key, Class::Registered, Meter::TokenBucket(&limit), &limit, cost, now);
        matches!(charge, Charge::Taken { .. })
    }

    fn charge(&self, client: u64, cost: u32) -> bool {
        self.charge_at(client, cost, self.now)
    }

    /// How many whole tokens are left at the opening, counted by taking them.
    fn drain(&self, client: u64) -> u32 {
        (0..).take_while(|_| self.charge(client, 1)).count() as u32
    }

    fn slots(&self) -> usize {
        self.limiter.table().slots()
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn table_path(folder: &TempDir) -> PathBuf {
    folder.path().join(files::TABLE)
}

fn asides(folder: &TempDir) -> usize {
    let names = fs::read_dir(folder.path()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("aside")).count()
}

/// A folder in which client 1 has spent 900 of its tokens.
fn spent() -> TempDir {
    let folder = folder();
    let served = FIRST.open(folder.path());
    assert!(served.charge(1, 900) && served.warnings.is_empty());
    folder
}

#[test]
fn a_bucket_outlives_its_process() {
    let folder = spent();
    let again = FIRST.later(10 * SECOND).open(folder.path());
    assert_eq!(again.drain(1), 110, "what was left, and ten seconds of refill");
    assert_eq!(again.drain(2), 1_000);
    drop(again);
    assert_eq!(FIRST.later(11 * SECOND).open(folder.path()).drain(1), 1);
}

#[test]
fn the_files_are_for_this_user_alone() {
    let folder = spent();
    for entry in fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().mode() & 0o777, 0o600, "{entry:?}");
    }
    let table = fs::metadata(table_path(&folder)).unwrap();
    assert_eq!(table.len(), 4_096 + 1_024 * 16);
    assert!(table.blocks() * 512 >= table.len(), "every page has its block");
}

#[test]
fn after_a_reboot_a_bucket_has_refilled_by_the_time_that_passed() {
    let folder = spent();
    let reboot = |wall| Machine { boot: Boot([3, 4]), up: 7 * SECOND, wall };
    // Marked a minute in, then off for four.
    let at_work = FIRST.open(folder.path());
    at_work.limiter.table().mark(FIRST.later(60 * SECOND).reading());
    drop(at_work);
    let served = reboot(NOON + 300 * SECOND).open(folder.path());
    assert!(served.warnings.is_empty(), "{:?}", served.warnings);
    assert_eq!(served.drain(1), 400);
    assert_eq!(served.now, UP + 301 * SECOND, "it never goes back");
    drop(served);
    // The next boot has a wall clock that was set back.
    let served = Machine { boot: Boot([5, 6]), ..reboot(NOON) }.open(folder.path());
    assert_eq!((served.drain(1), served.now), (0, UP + 301 * SECOND));
    // And goes on from there.
    let later = Machine { boot: Boot([5, 6]), ..reboot(NOON) }.later(5 * SECOND);
    drop(served);
    assert_eq!(later.open(folder.path()).drain(1), 5);
}

#[test]
fn a_successor_shares_the_table_while_its_predecessor_serves() {
    let folder = folder();
    let old = FIRST.open(folder.path());
    assert!(old.charge(1, 400));
    let machine = FIRST.later(SECOND);
    let new = machine.open_with(folder.path(), SLOTS, true);
    assert!(new.charge(1, 400) && !new.charge(1, 202));
    assert!(!old.charge_at(1, 202, new.now) && old.charge_at(1, 201, new.now));
    assert!(!new.charge(1, 1));
    // A third has one too, while the first drains.
    drop(old);
    let third = machine.open_with(folder.path(), SLOTS, true);
    assert!(!third.charge(1, 1));
    assert_eq!(new.shift_ns, third.shift_ns);
}

#[test]
fn no_two_processes_number_their_announcements_alike() {
    let folder = folder();
    let numbers: Vec<u64> = (0..5)
        .map(|turn| FIRST.later(turn).try_open(folder.path(), SLOTS, true).ok().unwrap().file)
        .map(|file| file.process())
        .collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
}

/// What is left of a claim whose process was killed, after each of its steps.
#[test]
fn a_claim_that_was_never_finished_is_in_nobodys_way() {
    use crate::store::set::{PENDING, SLOTS_PER_SET, Set, Slot};
    let folder = folder();
    let killed = FIRST.open(folder.path());
    let keys: Vec<Key> = (0..150).map(|client| killed.key(client)).collect();
    // Announced in every slot there is, for each key also in a second one.
    for (number, set) in killed.limiter.table().sets().iter().enumerate() {
        let here = keys.iter().filter(|key| key.set() % (SLOTS / SLOTS_PER_SET) == number);
        for (mark, key) in here.flat_map(|key| [key, key]).enumerate() {
            let pending = PENDING | mark as u64;
            let announced = Slot { fingerprint: key.fingerprint(), state: pending };
            let _ = Set::indices(*key).any(|index| set.swap(index, Slot::EMPTY, announced));
        }
    }
    drop(killed);
    let next = FIRST.later(SECOND).open(folder.path());
    for client in 0..150 {
        assert!(next.charge(client, 999) && next.charge(client, 1) && !next.charge(client, 1));
    }
    assert_eq!(next.limiter.table().used_slots(next.now), 150);
}

#[test]
fn two_gateways_that_do_not_know_of_each_other_are_told() {
    let folder = folder();
    let mut first = FIRST.open(folder.path());
    let second = FIRST.try_open(folder.path(), SLOTS, false).map(|_| ());
    let error = second.unwrap_err();
    assert!(matches!(error, Unavailable::InUse(..)), "{error}");
    let (path, process) = (folder.path().display().to_string(), std::process::id().to_string());
    assert!(error.to_string().contains(&path) && error.to_string().contains(&process), "{error}");
    // One that drains has let go, and is still charged.
    first.lock = None;
    let second = FIRST.open(folder.path());
    assert!(first.charge(1, 600) && !second.charge(1, 401) && second.charge(1, 400));
}

#[test]
fn a_table_of_another_size_keeps_who_is_limited() {
    let folder = spent();
    for slots in [4_096, 2_048, 1_024, 16] {
        let served = FIRST.open_with(folder.path(), slots, false);
        assert_eq!((served.slots(), &*served.warnings), (slots, &[] as &[String]));
        assert!(!served.charge(1, 101) && served.charge(1, 1) && served.charge(1, 99));
        // Gives back what was taken, so that the next size finds the same.
        drop(served);
        fs::remove_dir_all(folder.path()).unwrap();
        fs::create_dir(folder.path()).unwrap();
        assert!(FIRST.open(folder.path()).charge(1, 900));
    }
    let served = FIRST.open(folder.path());
    (1_000..1_150).for_each(|client| assert!(served.charge(client, 1)));
    drop(served);
    let served = FIRST.open_with(folder.path(), 16, false);
    assert!(
        served.warnings[0].contains("136 buckets did not fit into 16"),
        "{:?}",
        served.warnings
    );
    assert!(!served.charge(1, 101), "who waits longest is kept");
    assert_eq!(served.drain(1), 100);
}

#[test]
fn a_successor_keeps_the_size_until_the_predecessor_has_gone() {
    let folder = folder();
    let old = FIRST.open(folder.path());
    let new = FIRST.open_with(folder.path(), 4_096, true);
    assert_eq!(new.slots(), SLOTS);
    assert!(new.warnings[0].contains("4096 take effect at a restart"), "{:?}", new.warnings);
    assert!(old.charge(1, 600) && !new.charge(1, 401));
    drop((old, new));
    assert_eq!(FIRST.open_with(folder.path(), 4_096, true).slots(), 4_096, "alone after all");
}

#[test]
fn a_successor_on_another_clock_does_not_touch_the_table() {
    let folder = folder();
    let _old = FIRST.open(folder.path());
    let before = fs::read(table_path(&folder)).unwrap();
    let elsewhere = Machine { boot: Boot([9, 9]), ..FIRST };
    let error = elsewhere.try_open(folder.path(), SLOTS, true).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Unavailable::Unusable(why) if why.contains("another clock")));
    assert_eq!(fs::read(table_path(&folder)).unwrap(), before);
}

/// Damages the file of a folder in which client 1 is limited.
fn damaged(damage: impl FnOnce(&File, &Path)) -> TempDir {
    let folder = spent();
    let path = table_path(&folder);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    damage(&file, &path);
    folder
}

/// Whether the folder serves, and the file was put aside with a warning that names it.
#[track_caller]
fn is_put_aside(folder: &TempDir, what: &str) {
    let served = FIRST.open(folder.path());
    let warning = served.warnings.first().unwrap_or_else(|| panic!("{what}: no warning"));
    assert!(warning.contains(files::TABLE) && warning.contains("aside-2023"), "{what}: {warning}");
    assert_eq!((served.warnings.len(), asides(folder)), (1, 1), "{what}");
    assert!(served.charge(1, 1_000) && !served.charge(1, 1), "{what}: it serves");
    drop(served);
    let again = FIRST.open(folder.path());
    assert!(again.warnings.is_empty() && !again.charge(1, 1), "{what}: and keeps what it has");
}

#[test]
fn every_field_that_is_flipped_puts_the_file_aside() {
    for at in 0..=8 {
        let folder = damaged(|file, _| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, at * 8 + 3).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], at * 8 + 3).unwrap();
        });
        is_put_aside(&folder, &format!("word {at}"));
    }
    let folder = damaged(|file, _| file.write_all_at(&[0xaa; 16 * 8], 24 * 8).unwrap());
    is_put_aside(&folder, "both marks");
}

#[test]
fn one_mark_that_is_damaged_is_no_matter() {
    for at in [24, 32] {
        let folder = damaged(|file, _| file.write_all_at(&[0xaa; 56], at * 8).unwrap());
        let served = FIRST.later(SECOND).open(folder.path());
        assert_eq!((served.warnings.len(), served.drain(1)), (0, 101));
    }
}

#[test]
fn a_file_of_any_other_length_is_put_aside() {
    let whole = 4_096 + 1_024 * 16;
    for length in [0, 1, 8, 71, 72, 4_095, 4_096, 4_112, whole - 16, whole - 1, whole + 1, 1 << 20]
    {
        let folder = damaged(|file, _| file.set_len(length).unwrap());
        is_put_aside(&folder, &format!("{length} bytes"));
    }
}

#[test]
fn what_is_not_ours_is_put_aside() {
    is_put_aside(&damaged(|_, path| fs::write(path, "tiers: {}\n").unwrap()), "text");
    is_put_aside(&damaged(|_, path| fs::write(path, vec![0xff; 20_480]).unwrap()), "ones");
    let others = |_: &File, path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    };
    is_put_aside(&damaged(others), "writable by others");
    let link = |_: &File, path: &Path| {
        fs::rename(path, path.with_extension("elsewhere")).unwrap();
        symlink(path.with_extension("elsewhere"), path).unwrap();
    };
    is_put_aside(&damaged(link), "a link");
    let directory = |_: &File, path: &Path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    };
    is_put_aside(&damaged(directory), "a folder");
}

#[test]
fn times_that_no_bucket_can_have_put_the_file_aside() {
    let fill = |byte, length| {
        damaged(move |file, _| {
            file.write_all_at(&vec![byte; length], 4_096).unwrap();
        })
    };
    for byte in [0xff, 0x7f, 0x55, 0x80] {
        is_put_aside(&fill(byte, 16 * 1_024), &format!("all {byte:#x}"));
        is_put_aside(&fill(byte, 16), &format!("one bucket {byte:#x}"));
    }
}

#[test]
fn slots_full_of_nonsense_neither_crash_nor_admit_for_ever() {
    for byte in [0x11, 0x05, 0x01] {
        let folder = damaged(|file, _| file.write_all_at(&[byte; 16 * 1_024], 4_096).unwrap());
        let served = FIRST.open(folder.path());
        assert!(served.warnings.is_empty());
        for client in 0..50 {
            let admitted = (0..3_000).filter(|_| served.charge(client, 1)).count();
            assert!(admitted <= 2_000, "{admitted}");
        }
        drop(served);
        assert_eq!(FIRST.open_with(folder.path(), 64, false).slots(), 64);
    }
}

#[test]
fn of_files_put_aside_a_few_are_kept() {
    let folder = folder();
    for second in 0..10 {
        fs::write(table_path(&folder), "nothing").unwrap();
        let served = FIRST.later(second * SECOND).open(folder.path());
        assert_eq!(served.warnings.len(), 1);
        assert!(asides(&folder) <= 3);
    }
}

#[test]
fn a_new_file_that_was_begun_and_not_finished_is_in_nobodys_way() {
    let folder = spent();
    fs::write(folder.path().join("limiter.table.new"), vec![1; 100_000]).unwrap();
    assert_eq!(FIRST.open_with(folder.path(), 2 * SLOTS, false).drain(1), 100);
}

#[test]
fn a_folder_that_cannot_hold_it_is_named() {
    for folder in ["/proc", "/nowhere/at/all"] {
        let error = FIRST.try_open(Path::new(folder), SLOTS, false).map(|_| ()).unwrap_err();
        assert!(matches!(&error, Unavailable::Unusable(why) if why.starts_with(folder)), "{error}");
    }
}

/// Set in the processes that the tests below start: the folder whose table they charge.
const FOLDER: &str = "TOLLGATE_TEST_TABLE";
/// Clients that all of them charge.
const CLIENTS: u64 = 200;
/// What each charges of each client, one token at a time.
const TRIES: u32 = 700;

/// Not a test by itself: what the processes below do. Charges every client in turn at a frozen
/// time, when told to, and says how often it was admitted.
#[test]
fn a_process_that_charges() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let served = FIRST.open_with(Path::new(&folder), SLOTS, true);
    println!("ready");
    std::io::stdin().lines().next();
    let mut admitted = vec![0_u32; CLIENTS as usize];
    for _ in 0..TRIES {
        for client in 0..CLIENTS {
            admitted[client as usize] += u32::from(served.charge(client, 1));
        }
    }
    println!("admitted {}", admitted.iter().map(u32::to_string).collect::<Vec<_>>().join(" "));
}

/// A process that charges the table of a folder, ended with the test.
struct Charger(Child, BufReader<std::process::ChildStdout>);

impl Charger {
    fn start(folder: &Path) -> Charger {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = concat!(module_path!(), "::a_process_that_charges");
        let name = name.split_once("::").unwrap().1;
        command.args(["--exact", name, "--nocapture"]).env(FOLDER, folder);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut charger = Charger(child, output);
        charger.line("ready");
        charger
    }

    /// The rest of its next line that holds this word.
    fn line(&mut self, word: &str) -> String {
        let lines = self.1.by_ref().lines().map(Result::unwrap);
        let found = lines.filter_map(|line| Some(line.split_once(word)?.1.to_owned())).next();
        found.expect("the process goes on")
    }

    fn go(&mut self) {
        writeln!(self.0.stdin.as_mut().unwrap()).unwrap();
    }

    fn admitted(mut self) -> Vec<u32> {
        let text = self.line("admitted ");
        text.split_whitespace().map(|count| count.parse().unwrap()).collect()
    }
}

impl Drop for Charger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_that_charge_at_once_admit_a_burst_and_not_one_more() {
    let folder = folder();
    let served = FIRST.open(folder.path());
    let mut chargers: Vec<Charger> = (0..3).map(|_| Charger::start(folder.path())).collect();
    chargers.iter_mut().for_each(Charger::go);
    let counts: Vec<Vec<u32>> = chargers.into_iter().map(Charger::admitted).collect();
    for client in 0..CLIENTS as usize {
        let admitted: u32 = counts.iter().map(|counts| counts[client]).sum();
        assert_eq!(admitted, 1_000, "client {client}");
        assert!(!served.charge(client as u64, 1));
    }
    assert_eq!(served.limiter.table().used_slots(served.now), CLIENTS as usize);
}

#[test]
fn processes_that_are_killed_anywhere_leave_a_table_that_works() {
    let folder = folder();
    let served = FIRST.open(folder.path());
    for round in 0..12_u64 {
        let mut chargers: Vec<Charger> = (0..2).map(|_| Charger::start(folder.path())).collect();
        chargers.iter_mut().for_each(Charger::go);
        // Meanwhile clients of this round come and go here, so that slots are claimed.
        for turn in 0..round * 40 {
            let now = served.now + round * 10 * SECOND;
            served.charge_at(10_000 + round * 1_000 + turn % 500, 1, now);
        }
        chargers.iter_mut().for_each(|charger| charger.0.kill().unwrap());
    }
    let survivor = FIRST.later(3_600 * SECOND).open_with(folder.path(), SLOTS, true);
    for client in 0..CLIENTS {
        assert!(survivor.drain(client) <= 1_000);
        assert!(!served.charge_at(client, 1, survivor.now), "the same bucket for both");
    }
}
