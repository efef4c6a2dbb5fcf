//! The registry that several share through one Redis, without gateways around.

use redis::FromRedisValue;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tollgate::fleet::registry;
use tollgate::policy::tier::Tiers;
use tollgate::registry::{Bounds, Change, KnownClients, Record, Registry};

use crate::rig::Attended;
use crate::support::{DEADLINE, Link, RedisCluster, RedisSentinels, RedisServer};

/// One who shares a registry.
struct Member {
    attended: Attended,
    registry: Arc<Registry>,
    task: JoinHandle<()>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Member {
    fn of(section: &str, folder: Option<&Path>, writer: u64) -> Member {
        let attended = Attended::to(section);
        let registry = Registry::open_shared(folder, Bounds::default(), writer).unwrap();
        let (link, registry) = (attended.link.clone(), Arc::new(registry));
        let shared = registry.clone();
        let task = tokio::spawn(async move { registry::attend(&link, &shared).await });
        Member { attended, registry, task }
    }

    fn to(server: &RedisServer, writer: u64) -> Member {
        Member::of(&url(server), None, writer)
    }

    async fn set_tier(&self, client: &str, tier: &str) {
        let change = Change::Tier { client: client.into(), tier: Some(tier.into()) };
        self.registry.change(change).await.unwrap();
    }

    async fn forget(&self, client: &str) {
        self.registry.change(Change::Forget { client: client.into() }).await.unwrap();
    }

    fn tier(&self, client: &str) -> String {
        let tiers = Tiers::standard();
        let standing = self.registry.standing(client, &KnownClients::default(), &tiers);
        tiers.get(standing.tier).name.to_string()
    }

    /// Waits until a client is in a tier.
    async fn until_tier(&self, client: &str, tier: &str) {
        until(&format!("{client} is {tier}"), || self.tier(client) == tier).await;
    }

    async fn until_all_shared(&self) {
        until("all is shared", || self.registry.unshared_count() == 0).await;
    }
}

fn url(server: &RedisServer) -> String {
    format!("url: \"{}\"", server.url())
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

fn ask<T: FromRedisValue>(server: &RedisServer, command: &[&str]) -> T {
    server.ask(command)
}

const ENTRIES: &str = "tollgate:{registry}:entries";
const LOG: &str = "tollgate:{registry}:log";
const ENDS: &str = "tollgate:{registry}:ends";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_sets_all_have_within_a_second() {
    let server = RedisServer::start();
    let members = [1, 2, 3].map(|writer| Member::to(&server, writer));
    for (index, writer) in members.iter().enumerate() {
        writer.attended.until_up(true).await;
        let client = format!("of{index}");
        writer.set_tier(&client, "premium").await;
        let told = Instant::now();
        for member in &members {
            member.until_tier(&client, "premium").await;
        }
        assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
    }
    members[1].forget("of0").await;
    for member in &members {
        member.until_tier("of0", "free").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_lost_is_made_up_for() {
    let server = RedisServer::start();
    let [one, other] = [1, 2].map(|writer| Member::to(&server, writer));
    one.set_tier("a", "premium").await;
    other.until_tier("a", "premium").await;
    server.ask::<String>(&["ACL", "SETUSER", "default", "-publish"]);
    one.set_tier("a", "basic").await;
    let told = Instant::now();
    other.until_tier("a", "basic").await;
    assert!(told.elapsed() < Duration::from_secs(1), "{:?}", told.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_answered_once_others_can_have_it_or_after_a_short_patience() {
    let server = RedisServer::start();
    let member = Member::to(&server, 1);
    member.set_tier("first", "premium").await;
    member.until_all_shared().await;
    let entries = || ask::<usize>(&server, &["HLEN", ENTRIES]);
    for number in 0..20 {
        member.set_tier(&format!("c{number}"), "premium").await;
        assert_eq!(entries(), number + 2, "it is there when it is answered");
    }
    server.freeze();
    let asked = Instant::now();
    member.set_tier("late", "premium").await;
    assert!(asked.elapsed() < Duration::from_millis(600), "{:?}", asked.elapsed());
    member.attended.until_up(false).await;
    until("nobody waits for a Redis that is away", || {
        let asked = Instant::now();
        let change = Change::Tier { client: "later".into(), tier: Some("basic".into()) };
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(member.registry.change(change)).unwrap();
        });
        asked.elapsed() < Duration::from_millis(100)
    })
    .await;
    server.thaw();
    member.until_all_shared().await;
    assert_eq!(entries(), 23);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_empty_gets_all_of_it_again() {
    let mut server = RedisServer::start();
    let folder = tempfile::tempdir().unwrap();
    let one = Member::of(&url(&server), Some(folder.path()), 1);
    let other = Member::to(&server, 2);
    for number in 0..500 {
        let record = Record { tier: Some("premium".into()), own_limit: None };
        let change = Change::Import(vec![(format!("c{number}").into(), record)]);
        if number % 100 == 0 { &other } else { &one }.registry.change(change).await.unwrap();
    }
    one.forget("c1").await;
    one.until_all_shared().await;
    other.until_tier("c499", "premium").await;
    server.kill();
    one.attended.until_up(false).await;
    one.set_tier("c2", "basic").await;
    other.forget("c3").await;
    server.run();
    one.until_tier("c3", "free").await;
    other.until_tier("c2", "basic").await;
    let third = Member::to(&server, 3);
    until("all is there", || third.registry.counts()[0] == 498).await;
    for member in [&one, &other] {
        until("all is everywhere", || member.registry.counts()[0] == 498).await;
    }
    third.until_tier("c2", "basic").await;
    for gone in ["c1", "c3"] {
        for member in [&one, &other, &third] {
            member.until_tier(gone, "free").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_flushed_or_loses_a_part_is_made_whole() {
    let server = RedisServer::start();
    let [one, other] = [1, 2].map(|writer| Member::to(&server, writer));
    for client in ["a", "b", "c"] {
        one.set_tier(client, "premium").await;
        other.until_tier(client, "premium").await;
    }
    let state = "tollgate:{registry}:state";
    let losses: [&[&str]; 6] = [
        &["FLUSHALL"],
        &["DEL", ENTRIES],
        &["DEL", LOG],
        &["DEL", state],
        &["DEL", ENDS],
        &["HDEL", ENTRIES, "client/b"],
    ];
    let mut names = HashSet::from([server.ask::<String>(&["HGET", state, "epoch"])]);
    for (number, loss) in losses.into_iter().enumerate() {
        server.ask::<redis::Value>(loss);
        let is_whole = || {
            let [entries, log] =
                [["HLEN", ENTRIES], ["ZCARD", LOG]].map(|ask| server.ask::<usize>(&ask));
            entries == log && entries == 3 + number
        };
        until(&format!("{loss:?} is made up for"), is_whole).await;
        // A copy that was lost has another name than any before.
        if loss != ["DEL", ENDS] {
            let name = || server.ask::<Option<String>>(&["HGET", state, "epoch"]);
            until("it has a name", || name().is_some_and(|name| names.insert(name))).await;
        }
        let client = format!("after{number}");
        other.set_tier(&client, "basic").await;
        one.until_tier(&client, "basic").await;
        let newcomer = Member::to(&server, 9);
        until("a newcomer has all", || newcomer.registry.counts()[0] == 4 + number).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_entries_come_in_pages() {
    const CLIENTS: usize = 5_000;
    let server = RedisServer::start();
    let one = Member::to(&server, 1);
    for chunk in 0..CLIENTS / 500 {
        let row = |number: usize| {
            let record = Record { tier: Some("premium".into()), own_limit: None };
            (format!("client{}", chunk * 500 + number).into(), record)
        };
        one.registry.change(Change::Import((0..500).map(row).collect())).await.unwrap();
    }
    one.until_all_shared().await;
    server.ask::<String>(&["CONFIG", "RESETSTAT"]);
    let other = Member::to(&server, 2);
    until("all came", || other.registry.counts()[0] == CLIENTS).await;
    let stats: String = server.ask(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_zrangebyscore:calls="));
    let calls = line.and_then(|line| line.split(['=', ',']).nth(1)).unwrap();
    assert!(calls.parse::<usize>().unwrap() >= CLIENTS / 200, "{stats}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_away_for_too_long_brings_nothing_back() {
    let server = RedisServer::start();
    let way = Link::to(server.address());
    let away = Member::of(&format!("url: \"redis://{}\"", way.address()), None, 1);
    let here = Member::to(&server, 2);
    for client in ["removed", "kept", "changed"] {
        here.set_tier(client, "premium").await;
        away.until_tier(client, "premium").await;
    }
    way.cut();
    away.attended.until_up(false).await;
    here.forget("removed").await;
    here.until_all_shared().await;
    away.set_tier("changed", "basic").await;
    away.set_tier("made", "basic").await;
    // The removal is long ago.
    server.ask::<i64>(&["ZADD", ENDS, "1", "client/removed"]);
    here.set_tier("other", "basic").await;
    until("it is forgotten", || !server.ask::<bool>(&["HEXISTS", ENTRIES, "client/removed"])).await;
    way.restore();
    away.until_tier("removed", "free").await;
    here.until_tier("made", "basic").await;
    here.until_tier("changed", "basic").await;
    assert_eq!(here.tier("removed"), "free");
    away.until_tier("other", "basic").await;
    assert_eq!(away.tier("kept"), "premium");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_gateway_wrote_is_left_alone() {
    let server = RedisServer::start();
    let [one, other] = [1, 2].map(|writer| Member::to(&server, writer));
    one.set_tier("a", "premium").await;
    other.until_tier("a", "premium").await;
    let junk = [("client/a", "9"), ("client/\u{1}", "x"), ("future/kind", "y")];
    for (score, (name, text)) in junk.iter().enumerate() {
        server.ask::<i64>(&["HSET", ENTRIES, name, text]);
        server.ask::<i64>(&["ZADD", LOG, &(100 + score).to_string(), name]);
    }
    server.ask::<i64>(&["HSET", "tollgate:{registry}:state", "sequence", "200"]);
    one.set_tier("b", "basic").await;
    other.until_tier("b", "basic").await;
    one.set_tier("a", "basic").await;
    one.until_all_shared().await;
    assert_eq!((one.tier("a"), other.tier("a")), ("basic".into(), "premium".into()));
}

/// `TOLLGATE_ENTRIES=1000000 cargo test --release --test fleet -- --ignored --nocapture many_more`
/// prints the figures of docs/SHARED-LIMITS.md.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes; run it by hand, in release"]
async fn many_more_entries_come_in_pages() {
    let entries = std::env::var("TOLLGATE_ENTRIES").ok().and_then(|text| text.parse().ok());
    let entries: usize = entries.unwrap_or(1_000_000);
    let server = RedisServer::start();
    let memory = || {
        let info: String = server.ask(&["INFO", "memory"]);
        let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
        used.trim().parse::<usize>().unwrap()
    };
    let per_call = || {
        let info: String = server.ask(&["INFO", "commandstats"]);
        let evals = info.lines().filter(|line| line.starts_with("cmdstat_eval"));
        evals.map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let patience = async |what: &str, is_so: &dyn Fn() -> bool| {
        let begun = Instant::now();
        while !is_so() {
            sleep(Duration::from_millis(50)).await;
        }
        println!("{what} in {:?}; {}", begun.elapsed(), per_call());
        server.ask::<String>(&["CONFIG", "RESETSTAT"]);
    };
    let before = memory();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let alone = Registry::open(Some(folders[0].path())).unwrap();
    for chunk in 0..entries / 500 {
        let row = |number: usize| {
            let record = Record { tier: Some("premium".into()), own_limit: None };
            (format!("client-{:016x}", chunk * 500 + number).into(), record)
        };
        alone.change(Change::Import((0..500).map(row).collect())).await.unwrap();
    }
    drop(alone);
    let one = Member::of(&url(&server), Some(folders[0].path()), 1);
    let copied = || server.ask::<usize>(&["HLEN", ENTRIES]) == entries;
    patience("all of a registry from before was shared", &copied).await;
    one.until_all_shared().await;
    println!("{} bytes of Redis an entry", (memory() - before) / entries);
    let size = std::fs::metadata(folders[0].path().join("registry.redb")).unwrap().len();
    println!("{} bytes on disk an entry", size as usize / entries);
    let other = Member::of(&url(&server), Some(folders[1].path()), 2);
    patience("a newcomer had all", &|| other.registry.counts()[0] == entries).await;
    let asked = Instant::now();
    one.set_tier("client-0000000000000007", "basic").await;
    other.until_tier("client-0000000000000007", "basic").await;
    println!("a change reached the other in {:?}", asked.elapsed());
    server.ask::<String>(&["FLUSHALL"]);
    patience("a lost copy was whole again, from two", &copied).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_will_do() {
    let cluster = RedisCluster::start();
    let section = format!("url: {}, cluster: true", cluster.urls());
    let [one, other] = [1, 2].map(|writer| Member::of(&section, None, writer));
    one.set_tier("a", "premium").await;
    other.until_tier("a", "premium").await;
    other.set_tier("a", "basic").await;
    one.until_tier("a", "basic").await;
    // What is shared moves to another node.
    let slot: u16 = cluster.nodes[0].ask(&["CLUSTER", "KEYSLOT", ENTRIES]);
    let has = |node: usize| {
        let found = cluster.nodes[node].try_ask::<Vec<String>>(&[
            "CLUSTER",
            "GETKEYSINSLOT",
            &slot.to_string(),
            "9",
        ]);
        found.is_ok_and(|keys| !keys.is_empty())
    };
    let from = (0..3).find(|&node| has(node)).unwrap();
    let to = (from + 1) % 3;
    tokio::task::block_in_place(|| cluster.move_slot(slot, from, to));
    one.set_tier("a", "premium").await;
    other.until_tier("a", "premium").await;
    one.until_all_shared().await;
    assert!(has(to) && !has(from));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_comes_back_with_what_it_had_earlier_loses_nothing() {
    let mut server = RedisServer::start();
    let [one, other] = [1, 2].map(|writer| Member::to(&server, writer));
    one.set_tier("a", "premium").await;
    one.set_tier("b", "premium").await;
    one.until_all_shared().await;
    server.ask::<String>(&["SAVE"]);
    one.set_tier("a", "basic").await;
    other.forget("b").await;
    one.until_all_shared().await;
    other.until_all_shared().await;
    other.until_tier("a", "basic").await;
    server.kill();
    one.attended.until_up(false).await;
    server.run();
    // Somebody without memory, to whom what Redis has is all there is.
    let newcomer = Member::to(&server, 3);
    newcomer.until_tier("a", "basic").await;
    newcomer.until_tier("b", "free").await;
    for member in [&one, &other] {
        member.until_tier("a", "basic").await;
        member.until_tier("b", "free").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_takes_over_without_the_last_writes_gets_them_again() {
    let mut all = RedisSentinels::start();
    let section = format!("url: {}, sentinel: {{master: {}}}", all.urls(), RedisSentinels::MASTER);
    let [one, other] = [1, 2].map(|writer| Member::of(&section, None, writer));
    one.set_tier("a", "premium").await;
    other.until_tier("a", "premium").await;
    all.servers[1].freeze();
    one.set_tier("a", "basic").await;
    other.until_tier("a", "basic").await;
    one.until_all_shared().await;
    all.servers[0].kill();
    all.servers[1].thaw();
    one.set_tier("b", "basic").await;
    other.until_tier("b", "basic").await;
    let has = |name: &str, tier: &str| {
        let text = all.servers[1].ask::<Option<String>>(&["HGET", ENTRIES, name]);
        text.is_some_and(|text| text.contains(tier))
    };
    until("the new one has all", || has("client/a", "basic") && has("client/b", "basic")).await;
}
