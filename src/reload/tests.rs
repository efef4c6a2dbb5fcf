//! The transaction from inside: who is told what, and who holds what for how long.

use super::*;
use crate::metrics::Metrics;
use crate::store::key::KeyHasher;
use prometheus::proto::MetricFamily;
use std::fs;
use std::sync::Weak;
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
    registry: prometheus::Registry,
    gateway: Arc<Gateway>,
    reloader: Arc<Reloader>,
}

fn text(routes: usize) -> String {
    let route = |n| format!("  - {{name: r{n}, path: /r{n}, upstream: main}}\n");
    let routes: String = (0..routes).map(route).collect();
    format!(
        "upstreams: {{main: {{servers: [127.0.0.1:1]}}}}\nlimiter: {{slots: 1024}}\nroutes:\n{routes}"
    )
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tollgate.yaml");
        fs::write(&file, text(1)).unwrap();
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let config = config::load(&file).unwrap().config;
        let hasher = KeyHasher::with_secret(&[7; 16]);
        let gateway = Arc::new(Gateway::new(config, hasher, metrics));
        let reloader = Arc::new(Reloader::new(gateway.clone(), Some(file)));
        Rig { dir, registry, gateway, reloader }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("tollgate.yaml"), text).unwrap();
    }

    async fn reload_to(&self, text: &str) {
        self.write(text);
        self.reloader.reload().await.unwrap();
    }

    /// The values of the series with this label.
    fn series(&self, label: &str, value: &str) -> Vec<f64> {
        let families = self.registry.gather();
        let metrics = families.iter().flat_map(MetricFamily::get_metric);
        let named = metrics.filter(|metric| {
            metric.get_label().iter().any(|has| has.name() == label && has.value() == value)
        });
        named.map(|metric| metric.get_counter().value()).collect()
    }

    fn all_series(&self) -> usize {
        self.registry.gather().iter().map(|family| family.get_metric().len()).sum()
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let wait = async {
            while !is_so() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(Duration::from_secs(10), wait).await.is_ok(), "not so: {what}");
    }

    fn latest(&self) -> Progress {
        self.reloader.progress().borrow().clone()
    }
}

#[tokio::test]
async fn whoever_watches_is_told_how_far_it_is() {
    let rig = Rig::new();
    let mut progress = rig.reloader.progress();
    assert_eq!(*progress.borrow_and_update(), Progress { begun: 0, phase: Phase::Started });
    rig.write(&text(2));
    let begins = progress.wait_for(|progress| progress.phase == Phase::Reloading);
    let (reloaded, begun) = tokio::join!(rig.reloader.reload(), async { begins.await.is_ok() });
    assert!(reloaded.is_ok() && begun, "{reloaded:?}");
    let taken = Phase::Taken { generation: 2, changes: 1 };
    assert_eq!(rig.latest(), Progress { begun: 1, phase: taken });

    rig.write("routes: 5\nlimit: 5\n");
    let rejected = rig.reloader.reload().await.unwrap_err();
    let Phase::Rejected { generation: 2, why } = rig.latest().phase else {
        panic!("{:?}", rig.latest())
    };
    assert_eq!(*why, rejected.summary());
    assert!(why.contains("more error") && !why.contains('\n'), "{why}");
    assert_eq!(rig.latest().begun, 2);

    rig.reloader.restore(1).await.unwrap();
    let taken = Phase::Taken { generation: 3, changes: 1 };
    assert_eq!(rig.latest(), Progress { begun: 3, phase: taken });
    let missing = rig.reloader.restore(9).await.unwrap_err();
    assert!(matches!(*missing, Rejected::NotKept { .. }), "{missing}");
    assert_eq!(rig.latest().begun, 3, "what is not kept does not begin");
}

#[tokio::test]
async fn a_reload_goes_on_when_nobody_waits_for_it() {
    let rig = Rig::new();
    rig.write(&text(2));
    let mut progress = rig.reloader.progress();
    let abandoned = timeout(Duration::ZERO, rig.reloader.reload()).await;
    assert!(abandoned.is_err(), "it takes longer than no time");
    let ended = |progress: &Progress| matches!(progress.phase, Phase::Taken { generation: 2, .. });
    timeout(Duration::from_secs(10), progress.wait_for(ended)).await.unwrap().unwrap();
    assert_eq!(rig.gateway.generation().number, 2);
}

#[tokio::test]
async fn a_request_that_ends_is_never_the_last_to_hold_its_generation() {
    let rig = Rig::new();
    let request = rig.gateway.generation();
    let old: Weak<Generation> = Arc::downgrade(&request);
    rig.write(&text(2));
    rig.reloader.reload().await.unwrap();
    // One hold is the request's, the other that of whoever drops it.
    assert_eq!(old.strong_count(), 2);
    drop(request);
    assert_eq!(old.strong_count(), 1);
    let gone = async {
        while old.strong_count() > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.unwrap();
}

#[tokio::test]
async fn a_file_that_says_what_serves_is_not_new() {
    let rig = Rig::new();
    let looks = || rig.reloader.is_file_new();
    assert_eq!([looks(), looks(), looks()], [false, false, false], "what the start has read");
    rig.write(&text(2));
    assert_eq!([looks(), looks(), looks()], [false, true, false]);
    rig.reloader.reload().await.unwrap();
    rig.write(&text(2));
    assert_eq!([looks(), looks(), looks()], [false, false, false], "the same once more");
    rig.write("routes: 5");
    assert_eq!([looks(), looks()], [false, true]);
    assert!(rig.reloader.reload().await.is_err());
    rig.write("routes: 5");
    assert_eq!([looks(), looks()], [false, false], "it is broken, and told");
    fs::remove_file(rig.reloader.file().unwrap()).unwrap();
    assert_eq!([looks(), looks()], [false, false]);
}

#[tokio::test]
async fn a_file_that_changed_before_the_first_look_is_new() {
    let rig = Rig::new();
    rig.write(&text(2));
    assert_eq!([rig.reloader.is_file_new(), rig.reloader.is_file_new()], [false, true]);
}

#[tokio::test]
async fn a_directory_in_place_of_the_file_is_told_once_and_looked_at_again_and_again() {
    let rig = Rig::new();
    let file = rig.reloader.file().unwrap();
    fs::remove_file(file).unwrap();
    fs::create_dir(file).unwrap();
    let looks = || rig.reloader.is_file_new();
    assert_eq!([looks(), looks()], [false, true]);
    assert!(rig.reloader.reload().await.is_err());
    assert_eq!([looks(), looks()], [false, false], "it is told");
    // As if it were readable all of a sudden, with nothing else changed.
    rig.reloader.record().read = Some(0);
    assert!(looks(), "it is read again");
}

#[tokio::test]
async fn reloads_that_wait_are_one() {
    let rig = Rig::new();
    let turn = rig.reloader.turn.lock().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let reloader = rig.reloader.clone();
        waiting.spawn(async move { reloader.reload().await });
        rig.reloader.ask_reload();
    }
    tokio::task::yield_now().await;
    rig.write(&text(2));
    drop(turn);
    let outcomes = waiting.join_all().await;
    assert!(outcomes.iter().all(|outcome| outcome.as_ref().unwrap().generation == 2));
    assert_eq!(rig.latest().begun, 1);
    // What waits for it next is another one.
    assert_eq!(rig.reloader.reload().await.unwrap().generation, 3);
}

#[tokio::test]
async fn a_wrong_file_is_told_to_all_who_asked() {
    let rig = Rig::new();
    rig.write("routes: 5");
    let (one, other) = tokio::join!(rig.reloader.reload(), rig.reloader.reload());
    assert_eq!(one.unwrap_err().to_string(), other.unwrap_err().to_string());
    assert_eq!(rig.latest().begun, 1);
}

#[tokio::test]
async fn operators_who_go_back_all_at_once_are_refused_beyond_a_few() {
    let rig = Rig::new();
    let turn = rig.reloader.turn.lock().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let reloader = rig.reloader.clone();
        waiting.spawn(async move { reloader.restore(1).await });
    }
    for _ in 0..92 {
        let outcome = timeout(Duration::from_secs(10), waiting.join_next()).await;
        let why = outcome.expect("it does not wait").unwrap().unwrap().unwrap_err();
        assert!(matches!(*why, Rejected::Busy), "{why}");
    }
    assert_eq!(waiting.len(), 8);
    drop(turn);
    assert!(waiting.join_all().await.iter().all(Result::is_ok));
    assert!(rig.reloader.restore(1).await.is_ok(), "there is room again");
}

/// The route `a` and upstream `main`, and one more of each.
fn text_with(name: &str) -> String {
    format!(
        "upstreams: {{main: {{servers: [127.0.0.1:1]}},\n  \
         {name}: {{servers: [127.0.0.1:1], concurrency: {{max: 5}}}}}}\n\
         limiter: {{slots: 1024}}\nroutes:\n  - {{name: a, path: /a, upstream: main}}\n  \
         - {{name: {name}, path: /b, upstream: {name}, limit: {{rate: 1/s, burst: 1}}, \
         breaker: {{consecutive_failures: 5}}}}\n"
    )
}

fn finish(generation: &Generation, status: u16) {
    for route in &generation.routes {
        route.metrics.finish(status, Duration::ZERO);
    }
}

#[tokio::test]
async fn what_a_reload_removes_is_no_more_in_the_metrics() {
    let rig = Rig::new();
    rig.reload_to(&text(1)).await;
    let before = rig.all_series();
    rig.reload_to(&text_with("dead")).await;
    let serving = rig.gateway.generation();
    finish(&serving, 502);
    // Not one of the statuses whose counters are kept at hand.
    finish(&serving, 418);
    serving.count_refusal(&rig.gateway.metrics, crate::policy::router::RouteId(1), 0, 1);
    drop(serving);
    let has = |label| !rig.series(label, "dead").is_empty();
    assert!(has("route") && has("upstream") && has("circuit"));
    assert!(!rig.series("circuit", "route:dead").is_empty());
    assert!(!rig.series("policy", "route:dead").is_empty());

    rig.reload_to(&text(1)).await;
    rig.until("all of it is gone", || rig.all_series() == before).await;
    let totals = rig.gateway.metrics.requests_by_status();
    let total = |status| totals.iter().filter(|of| of.0 == status).map(|of| of.1).sum::<u64>();
    assert_eq!((total(502), total(418)), (2, 2), "totals go on");
    assert_eq!(rig.gateway.metrics.rate_limited_total(), 1);

    rig.reload_to(&text_with("dead")).await;
    finish(&rig.gateway.generation(), 502);
    assert!(rig.series("route", "dead").contains(&1.0), "it begins anew");
    for number in 0..20 {
        rig.reload_to(&text_with(&format!("n{number}"))).await;
    }
    rig.reload_to(&text(1)).await;
    rig.until("all of them are gone", || rig.all_series() == before).await;
}

#[tokio::test]
async fn series_stay_while_a_request_counts_under_them_or_a_name_has_come_back() {
    let rig = Rig::new();
    rig.reload_to(&text_with("dead")).await;
    let request = rig.gateway.generation();
    let guard = request.routes[1].metrics.enter();
    let last: Weak<Generation> = Arc::downgrade(&request);
    // The next one has the name too, and goes before.
    rig.reload_to(&text_with("dead")).await;
    let between = Arc::downgrade(&rig.gateway.generation());
    rig.reload_to(&text(1)).await;
    rig.until("the one between is gone", || between.strong_count() == 0).await;
    assert_eq!(rig.gateway.inflight(), 1, "a drain must wait for it");

    rig.reload_to(&text_with("dead")).await;
    drop((guard, request));
    rig.until("the last is gone", || last.strong_count() == 0).await;
    finish(&rig.gateway.generation(), 502);
    assert!(rig.series("route", "dead").contains(&1.0), "what came back counts");
}
