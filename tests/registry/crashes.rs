//! The process is killed at random moments, in the middle of changes and traffic. Each time, what
//! was acknowledged is there, and what was not is there whole or not at all.
//!
//! `TOLLGATE_CRASHES=200` says how often, `TOLLGATE_SEED` with which moments.

use crate::rig::{all_of, lasting};
use crate::support::{Client, DEADLINE, Gateway, RedisServer, Upstream, eventually};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Threads that make changes, each to clients of its own.
const WRITERS: usize = 3;
/// Clients of each.
const CLIENTS: usize = 12;

/// What is set for a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Standing {
    tier: Option<String>,
    capacity: Option<u64>,
    is_blocked: bool,
    keys: BTreeSet<String>,
}

/// A client as it was last acknowledged, and as it may be besides: a change to it was sent and
/// never answered.
#[derive(Clone, Debug, Default)]
struct Expected {
    known: Standing,
    perhaps: Option<Standing>,
    /// A key may have been made whose name nobody was told.
    one_more_key: bool,
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A connection to the admin port; nothing where the gateway is gone.
struct Admin(Option<Client>);

impl Admin {
    /// The status and the body of the answer, where one came.
    fn ask(&mut self, method: &str, target: &str, body: &str) -> Option<(u16, String)> {
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let client = self.0.as_mut()?;
        client.try_send(request).ok()?;
        let reply = client.try_reply().ok()??;
        Some((reply.status, reply.text()))
    }
}

/// Makes changes until the gateway is gone.
fn write(address: SocketAddr, mine: &mut BTreeMap<String, Expected>, seed: u64) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut admin = Admin(Client::try_connect(address));
    let ids: Vec<String> = mine.keys().cloned().collect();
    for acknowledged in 0.. {
        let id = &ids[random.usize(..ids.len())];
        let expected = mine.get_mut(id).expect("one of mine");
        let mut next = expected.known.clone();
        let (method, target, body) = change(&mut next, id, &mut random);
        let makes_key = method == "POST";
        let answer = admin.ask(method, &target, &body);
        match answer {
            None => {
                expected.one_more_key = makes_key;
                expected.perhaps = Some(next);
                return acknowledged;
            }
            Some((200, text)) if makes_key => {
                let made: Value = serde_json::from_str(&text).expect(&text);
                expected.known.keys.insert(made["key"].as_str().expect("a name").to_owned());
            }
            // There was no room for a key, or no block to take back.
            Some((507 | 404, _)) => {}
            Some((200, _)) => expected.known = next,
            Some((status, text)) => panic!("{method} {target} is {status}: {text}"),
        }
    }
    0
}

/// A change to a client, which makes it what is written to `next`.
fn change(
    next: &mut Standing,
    id: &str,
    random: &mut fastrand::Rng,
) -> (&'static str, String, String) {
    match random.u8(..8) {
        0 | 1 => {
            let tier = ["free", "gold"][random.usize(..2)];
            next.tier = Some(tier.to_owned());
            ("PUT", format!("/clients/{id}/tier"), format!(r#"{{"tier":"{tier}"}}"#))
        }
        2 => {
            next.tier = None;
            ("DELETE", format!("/clients/{id}/tier"), String::new())
        }
        3 => {
            let capacity = random.u64(1..1_000);
            next.capacity = Some(capacity);
            let body = format!(r#"{{"capacity":{capacity},"refill_rate":2.5}}"#);
            ("PUT", format!("/clients/{id}/limit"), body)
        }
        4 => {
            next.capacity = None;
            ("DELETE", format!("/clients/{id}/limit"), String::new())
        }
        5 => {
            next.is_blocked = true;
            ("PUT", format!("/blocks/client/{id}"), "{}".to_owned())
        }
        6 => {
            next.is_blocked = false;
            ("DELETE", format!("/blocks/client/{id}"), String::new())
        }
        _ if next.keys.len() < 4 => ("POST", format!("/clients/{id}/keys"), "{}".to_owned()),
        _ => {
            let key = next.keys.pop_first().expect("four of them");
            ("DELETE", format!("/clients/{id}/keys/{key}"), String::new())
        }
    }
}

/// What the gateway says of all clients.
fn found(gateway: &Gateway) -> BTreeMap<String, Standing> {
    let mut found: BTreeMap<String, Standing> = BTreeMap::new();
    let mut admin = Admin(Client::try_connect(gateway.admin));
    for client in all_of(gateway, "clients", 7) {
        let id = client["client"].as_str().unwrap();
        let standing = found.entry(id.to_owned()).or_default();
        standing.tier = client["changed"]["tier"].as_str().map(str::to_owned);
        standing.capacity = client["changed"]["capacity"].as_u64();
        let (_, keys) = admin.ask("GET", &format!("/clients/{id}/keys"), "").expect("an answer");
        let keys: Value = serde_json::from_str(&keys).expect("JSON");
        let names = keys["keys"].as_array().unwrap().iter();
        standing.keys = names.map(|key| key["key"].as_str().unwrap().to_owned()).collect();
    }
    for block in all_of(gateway, "blocks", 7) {
        let id = block["value"].as_str().unwrap().to_owned();
        found.entry(id).or_default().is_blocked = true;
    }
    found
}

/// Whether a gateway says the same before long.
fn until_found(gateway: &Gateway, wanted: &BTreeMap<String, Standing>) -> bool {
    eventually(DEADLINE, || (found(gateway) == *wanted).then_some(())).is_some()
}

/// Checks each client, and goes on from what was found.
fn settle(expected: &mut BTreeMap<String, Expected>, found: &BTreeMap<String, Standing>, at: &str) {
    for (id, expected) in expected {
        let standing = found.get(id).cloned().unwrap_or_default();
        let is_known = standing == expected.known;
        let is_other = expected.perhaps.as_ref() == Some(&standing);
        let has_one_more = expected.one_more_key && {
            let without =
                |standing: &Standing| Standing { keys: BTreeSet::new(), ..standing.clone() };
            without(&standing) == without(&expected.known)
                && standing.keys.is_superset(&expected.known.keys)
                && standing.keys.len() == expected.known.keys.len() + 1
        };
        assert!(
            is_known || is_other || has_one_more,
            "{at}: {id} is {standing:?}, not {expected:?}"
        );
        *expected = Expected { known: standing, ..Expected::default() };
    }
}

#[test]
fn every_acknowledged_change_outlives_a_kill_at_any_moment() {
    let upstream = Upstream::new();
    kill_again_and_again(lasting(&upstream).start(), None, variable("TOLLGATE_CRASHES", 30));
}

/// Now the changes are on their way to another gateway when the process is killed. That one has
/// them all in the end, and no other.
#[test]
fn every_acknowledged_change_reaches_another_gateway_whatever_kill_comes_between() {
    let (redis, upstream) = (RedisServer::start(), Upstream::new());
    let shared = || lasting(&upstream).redis(&format!("url: \"{}\"", redis.url())).start();
    kill_again_and_again(shared(), Some(&shared()), variable("TOLLGATE_CRASHES", 30) / 3);
}

fn kill_again_and_again(mut gateway: Gateway, other: Option<&Gateway>, crashes: u64) {
    let seed = variable("TOLLGATE_SEED", fastrand::u64(..));
    eprintln!("TOLLGATE_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut parts: Vec<BTreeMap<String, Expected>> = (0..WRITERS)
        .map(|writer| {
            let ids = (0..CLIENTS).map(|client| format!("w{writer}-c{client}"));
            ids.map(|id| (id, Expected::default())).collect()
        })
        .collect();
    let mut acknowledged = 0;
    for crash in 0..crashes {
        let moment = Duration::from_micros(random.u64(2_000..120_000));
        let seeds: Vec<u64> = (0..WRITERS).map(|_| random.u64(..)).collect();
        let is_over = AtomicBool::new(false);
        let (data, admin) = (gateway.data, gateway.admin);
        thread::scope(|scope| {
            let writers: Vec<_> = parts
                .iter_mut()
                .zip(seeds)
                .map(|(part, seed)| scope.spawn(move || write(admin, part, seed)))
                .collect();
            scope.spawn(|| {
                let mut client = Client::try_connect(data);
                while let (Some(client), false) = (&mut client, is_over.load(Ordering::Relaxed)) {
                    let request = "GET / HTTP/1.1\r\nHost: x\r\nX-Client-ID: w0-c0\r\n\r\n";
                    if client.try_send(request).is_err()
                        || !matches!(client.try_reply(), Ok(Some(_)))
                    {
                        break;
                    }
                }
            });
            // The moment itself is what is tried, not something that is waited for.
            thread::sleep(moment);
            gateway.kill();
            is_over.store(true, Ordering::Relaxed);
            acknowledged += writers.into_iter().map(|writer| writer.join().unwrap()).sum::<usize>();
        });
        gateway = gateway.another();
        let health = gateway.admin_get("/health").json();
        assert_eq!(health["registry"], "durable", "crash {crash}, seed {seed}");
        let found = found(&gateway);
        for part in &mut parts {
            settle(part, &found, &format!("crash {crash}, seed {seed}"));
        }
        if let Some(other) = other {
            let is_same = until_found(other, &found);
            assert!(is_same, "crash {crash}, seed {seed}: {found:#?}");
        }
    }
    assert!(acknowledged > crashes as usize, "{acknowledged} changes were acknowledged");
}
