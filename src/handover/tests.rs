//! Both sides in one process, over a real socket.

use super::channel::{Channel, Message};
use super::predecessor::{Heir, offer};
use super::*;
use crate::clock;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

fn socket(role: Option<Role>, address: &str) -> Socket {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Socket { role, address: address.parse().unwrap(), listener }
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("upgrade.sock");
    (folder, path)
}

fn channels() -> (Channel, Channel) {
    let (a, b) = UnixStream::pair().unwrap();
    (Channel::new(a).unwrap(), Channel::new(b).unwrap())
}

fn soon() -> std::time::Instant {
    clock::now() + Duration::from_secs(5)
}

#[test]
fn the_successor_gets_every_socket_with_its_name_and_both_agree() {
    let (_folder, path) = place();
    let sockets = [socket(Some(Role::Data), "0.0.0.0:80"), socket(Some(Role::Admin), "[::1]:9901")];
    let first = sockets[0].listener.local_addr().unwrap();
    let waiting = Waiting::at(&path).unwrap();
    let successor = thread::spawn(move || {
        let inheritance = waiting.receive().unwrap();
        let names: Vec<_> =
            inheritance.sockets.iter().map(|s| (s.role, s.address.to_string())).collect();
        inheritance.link.confirm().unwrap();
        (names, inheritance.sockets)
    });
    let serving =
        offer(&path, &sockets, &mut Heir::Waiting, &mut Estate::none().loan(), &|| false).unwrap();
    assert_eq!(serving.process, rustix::process::getpid().as_raw_pid());
    serving.release().unwrap();
    let (names, taken) = successor.join().unwrap();
    let expected =
        [(Some(Role::Data), "0.0.0.0:80".into()), (Some(Role::Admin), "[::1]:9901".into())];
    assert_eq!(names, expected);
    // The same socket, still open when the first process lets go of it.
    drop(sockets);
    let mut client = TcpStream::connect(first).unwrap();
    let (mut accepted, _) = taken[0].listener.accept().unwrap();
    client.write_all(b"x").unwrap();
    let mut byte = [0];
    accepted.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
}

/// What was done with an estate.
fn watched() -> (Estate, Arc<Mutex<Vec<&'static str>>>) {
    let done = Arc::new(Mutex::new(Vec::new()));
    let note = |what| {
        let done = done.clone();
        Box::new(move || done.lock().unwrap().push(what))
    };
    (Estate { let_go: note("let go"), take_back: note("taken back") }, done)
}

#[test]
fn the_estate_is_let_go_when_asked_for_and_stays_with_a_successor_that_serves() {
    let (_folder, path) = place();
    let (estate, done) = watched();
    let waiting = Waiting::at(&path).unwrap();
    let seen = done.clone();
    let successor = thread::spawn(move || {
        let mut link = waiting.receive().unwrap().link;
        assert!(seen.lock().unwrap().is_empty(), "not before it is asked for");
        link.take_estate().unwrap();
        assert_eq!(*seen.lock().unwrap(), ["let go"]);
        link.confirm().unwrap();
    });
    let mut loan = estate.loan();
    let socket = socket(None, "0.0.0.0:80");
    offer(&path, &[socket], &mut Heir::Waiting, &mut loan, &|| false).unwrap().release().unwrap();
    loan.leave();
    successor.join().unwrap();
    assert_eq!(*done.lock().unwrap(), ["let go"]);
}

#[test]
fn the_estate_comes_back_from_a_successor_that_fails() {
    let endings: [fn(Predecessor); 2] = [drop, |link| link.decline("no memory")];
    for end in endings {
        let (_folder, path) = place();
        let (estate, done) = watched();
        let waiting = Waiting::at(&path).unwrap();
        let successor = thread::spawn(move || {
            let mut link = waiting.receive().unwrap().link;
            link.take_estate().unwrap();
            end(link);
        });
        let socket = socket(None, "0.0.0.0:80");
        let mut loan = estate.loan();
        assert!(offer(&path, &[socket], &mut Heir::Waiting, &mut loan, &|| false).is_err());
        drop(loan);
        successor.join().unwrap();
        assert_eq!(*done.lock().unwrap(), ["let go", "taken back"]);
    }
}

#[test]
fn a_successor_that_declines_says_why() {
    let (_folder, path) = place();
    let waiting = Waiting::at(&path).unwrap();
    let successor =
        thread::spawn(move || waiting.receive().unwrap().link.decline("no room in the log"));
    let refused = offer(
        &path,
        &[socket(None, "0.0.0.0:80")],
        &mut Heir::Waiting,
        &mut Estate::none().loan(),
        &|| false,
    )
    .unwrap_err();
    successor.join().unwrap();
    assert!(refused.to_string().contains("no room in the log"), "{refused}");
}

#[test]
fn a_successor_whose_predecessor_went_on_must_not_serve() {
    let (_folder, path) = place();
    let waiting = Waiting::at(&path).unwrap();
    let successor = thread::spawn(move || waiting.receive().unwrap().link.confirm());
    let serving = offer(
        &path,
        &[socket(None, "0.0.0.0:80")],
        &mut Heir::Waiting,
        &mut Estate::none().loan(),
        &|| false,
    )
    .unwrap();
    drop(serving);
    assert!(successor.join().unwrap().unwrap_err().to_string().contains("serves on"));
}

#[test]
fn who_only_looks_whether_somebody_waits_does_not_end_the_wait() {
    let (_folder, path) = place();
    let waiting = Waiting::at(&path).unwrap();
    let successor = thread::spawn(move || waiting.receive().map(|given| given.sockets.len()));
    drop(UnixStream::connect(&path).unwrap());
    drop(UnixStream::connect(&path).unwrap());
    let outcome = offer(
        &path,
        &[socket(None, "0.0.0.0:80")],
        &mut Heir::Waiting,
        &mut Estate::none().loan(),
        &|| false,
    );
    assert_eq!(successor.join().unwrap().unwrap(), 1);
    assert!(outcome.is_err(), "it was given up without a word");
}

#[test]
fn another_protocol_is_refused_with_a_reason() {
    let (_folder, path) = place();
    let waiting = Waiting::at(&path).unwrap();
    let successor = thread::spawn(move || waiting.receive().map(|_| ()));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(b"{\"sockets\":{\"protocol\":99,\"sockets\":[]}}\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("failed"), "{answer}");
    assert!(successor.join().unwrap().is_err());
}

#[test]
fn a_message_that_never_ends_is_given_up() {
    let (mut a, b) = UnixStream::pair().unwrap();
    let mut channel = Channel::new(b).unwrap();
    let writer = thread::spawn(move || while a.write_all(&[b'x'; 1_024]).is_ok() {});
    assert!(channel.receive(soon()).is_err());
    drop(channel);
    writer.join().unwrap();
}

#[test]
fn waiting_has_an_end_and_so_has_the_other_side() {
    let (mut a, b) = channels();
    let error = a.receive(clock::now() + Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    drop(b);
    assert_eq!(a.receive(soon()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
}

#[test]
fn messages_sent_at_once_are_read_one_by_one() {
    let (mut a, mut b) = channels();
    a.send(&Message::Ready, &[]).unwrap();
    a.send(&Message::Yours, &[]).unwrap();
    assert_eq!(b.receive(soon()).unwrap().0, Message::Ready);
    assert_eq!(b.receive(soon()).unwrap().0, Message::Yours);
}

#[test]
fn a_socket_fits_its_own_address_and_role_and_v6_stands_for_v4() {
    let fits = |role, own: &str, wanted, address: &str| {
        socket(role, own).fits(wanted, address.parse::<SocketAddr>().unwrap())
    };
    assert!(fits(None, "127.0.0.1:80", Role::Data, "127.0.0.1:80"));
    assert!(fits(Some(Role::Admin), "127.0.0.1:80", Role::Admin, "127.0.0.1:80"));
    assert!(!fits(Some(Role::Admin), "127.0.0.1:80", Role::Data, "127.0.0.1:80"));
    assert!(!fits(None, "127.0.0.1:80", Role::Data, "127.0.0.1:81"));
    assert!(!fits(None, "0.0.0.0:80", Role::Data, "127.0.0.1:80"));
    assert!(fits(None, "[::]:80", Role::Data, "0.0.0.0:80"));
    assert!(!fits(None, "[::]:80", Role::Data, "127.0.0.1:80"));
}

#[test]
fn a_path_too_long_for_a_socket_is_named() {
    let long = PathBuf::from("/tmp").join("x".repeat(200));
    let error = meeting_point(Some(&long), "127.0.0.1:9901".parse().unwrap()).unwrap_err();
    assert!(error.to_string().contains("107 bytes"), "{error}");
}
