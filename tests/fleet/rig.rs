//! A link without a gateway around it, and what tests ask of it.

use prometheus::Registry;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tollgate::config::{Redis, parse};
use tollgate::fleet::{Link, LinkError, Script};
use tollgate::metrics::Metrics;

use crate::support::DEADLINE;

/// Longer than any server needs on a machine that is busy with other tests.
pub(crate) const TIMEOUT: Duration = Duration::from_millis(200);

/// What a file with this `redis:` says.
pub(crate) fn config(section: &str) -> Redis {
    let text = format!(
        "redis: {{{section}, timeout: {}ms}}\nupstreams: {{a: {{servers: [127.0.0.1:1]}}}}\n\
         routes: [{{name: all, path: /, upstream: a}}]\n",
        TIMEOUT.as_millis()
    );
    parse(&text, &|_| None).unwrap_or_else(|errors| panic!("{errors:?}")).0.redis.unwrap()
}

/// A link that is attended, and the metrics it counts in.
pub(crate) struct Attended {
    pub(crate) link: Link,
    registry: Registry,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Attended {
    pub(crate) fn to(section: &str) -> Attended {
        let registry = Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let link = Link::new(&config(section), metrics.redis()).unwrap();
        let kept = link.clone();
        let task = tokio::spawn(async move { kept.attend().await });
        Attended { link, registry, task }
    }

    /// Waits until Redis is asked, or is not.
    #[track_caller]
    pub(crate) fn until_up(&self, is_up: bool) -> impl Future<Output = ()> + use<> {
        let mut changes = self.link.changes();
        async move {
            let change = tokio::time::timeout(DEADLINE, changes.wait_for(|now| *now == is_up));
            change.await.unwrap_or_else(|_| panic!("not {is_up} in time")).unwrap();
        }
    }

    /// Adds one to a counter in Redis.
    pub(crate) async fn count(&self, key: &str) -> Result<i64, LinkError> {
        self.count_until(key, self.link.deadline()).await
    }

    /// The same for a request that may wait until then.
    pub(crate) async fn count_until(&self, key: &str, until: Instant) -> Result<i64, LinkError> {
        let script = Script::new("return redis.call('INCR', KEYS[1])");
        let key = format!("{}{key}", self.link.prefix());
        let value = self.link.call(&script, &[key], &[] as &[&str], until).await?;
        Ok(redis::from_redis_value(value).unwrap())
    }

    /// How long a call takes that cannot succeed, and what it says.
    pub(crate) async fn failing(&self) -> (Duration, LinkError) {
        let begun = Instant::now();
        let error = self.count("failing").await.expect_err("Redis is not there");
        (begun.elapsed(), error)
    }

    /// A sample of its metrics.
    pub(crate) fn sample(&self, name: &str, outcome: Option<&str>) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("a family");
        let of_outcome = family
            .get_metric()
            .iter()
            .find(|metric| outcome.is_none_or(|outcome| metric.get_label()[0].value() == outcome));
        let metric = of_outcome.expect("a sample");
        metric.get_counter().value() + metric.get_gauge().value()
    }
}
