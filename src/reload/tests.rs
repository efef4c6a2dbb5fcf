//! The transaction from inside: who is told what, and who holds what for how long.

use super::*;
use crate::metrics::Metrics;
use crate::store::key::KeyHasher;
use std::fs;
use std::sync::Weak;
use tempfile::TempDir;

struct Rig {
    dir: TempDir,
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
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let config = config::load(&file).unwrap().config;
        let hasher = KeyHasher::with_secret(&[7; 16]);
        let gateway = Arc::new(Gateway::new(config, hasher, metrics));
        let reloader = Arc::new(Reloader::new(gateway.clone(), Some(file)));
        Rig { dir, gateway, reloader }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("tollgate.yaml"), text).unwrap();
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
    assert!(matches!(rig.reloader.restore(9).await, Err(Rejected::NotKept { .. })));
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
