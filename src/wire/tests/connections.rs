//! Counts of connections, exact on every way out.

use crate::wire::connections::{Connections, Crowd, Quota};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

fn from(host: u32, max: u32, max_of_holder: Option<u32>) -> Quota {
    Quota { max, holder: Some(IpAddr::V4(Ipv4Addr::from_bits(host))), max_of_holder }
}

#[test]
fn as_many_connections_as_allowed_and_no_more() {
    let connections = Arc::new(Connections::default());
    let quota = from(1, 2, None);
    let (first, second) = (connections.enter(&quota).unwrap(), connections.enter(&quota).unwrap());
    assert_eq!(connections.enter(&quota).unwrap_err(), Crowd::All);
    assert_eq!(connections.open(), 2, "one that is refused does not count");
    drop(first);
    let third = connections.enter(&quota).unwrap();
    assert_eq!(connections.enter(&quota).unwrap_err(), Crowd::All);
    drop((second, third));
    assert_eq!(connections.open(), 0);
}

#[test]
fn each_peer_has_a_count_of_its_own() {
    let connections = Arc::new(Connections::default());
    let seats: Vec<_> = (0..100)
        .flat_map(|host| {
            [connections.enter(&from(host, 1_000, Some(2))).unwrap(), {
                connections.enter(&from(host, 1_000, Some(2))).unwrap()
            }]
        })
        .collect();
    for host in 0..100 {
        assert_eq!(connections.enter(&from(host, 1_000, Some(2))).unwrap_err(), Crowd::Peer);
    }
    assert_eq!(connections.open(), 200);
    connections.enter(&from(7, 1_000, None)).expect("an exempt peer has no bound");
    drop(seats);
    assert_eq!(connections.open(), 0);
    connections.enter(&from(7, 1_000, Some(1))).expect("all were given back");
}

#[test]
fn the_counts_are_exact_under_contention() {
    const MAX: usize = 5;
    let connections = Arc::new(Connections::default());
    let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for host in 0..4 {
            let (connections, now, most) = (&connections, &now, &most);
            scope.spawn(move || {
                for _ in 0..5_000 {
                    let seats: Vec<_> = (0..3)
                        .filter_map(|_| connections.enter(&from(host, MAX as u32, Some(2))).ok())
                        .collect();
                    let held = now.fetch_add(seats.len(), Ordering::SeqCst) + seats.len();
                    most.fetch_max(held, Ordering::SeqCst);
                    assert!(seats.len() <= 2);
                    now.fetch_sub(seats.len(), Ordering::SeqCst);
                }
            });
        }
    });
    assert!(most.into_inner() <= MAX);
    assert_eq!(connections.open(), 0);
    let seats: Vec<_> =
        (0..4).map(|host| connections.enter(&from(host, 4, Some(1))).unwrap()).collect();
    assert_eq!(seats.len(), 4);
}
