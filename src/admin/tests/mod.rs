//! The admin API as its users see it: requests into the router, answers out of it.

mod changes;
mod circuits;
mod document;
mod guarding;
mod listener;
mod reading;
mod upstreams;

use super::{AdminState, router};
use crate::clock;
use crate::config::{
    Admin, Auth, Clients, Config, Cost, KnownClient, Limiter, Metrics as MetricsListener, Route,
    Secret, Server, ServerAddress, Timeouts, Upstream, UpstreamServer,
};
use crate::gateway::Gateway;
use crate::handover::{Estate, Upgrader};
use crate::lifecycle::Stage;
use crate::metrics::Metrics;
use crate::policy::limit::{Limit, LimitCost, LimitKey, Role, Store};
use crate::policy::meter::{Algorithm, Meter};
use crate::policy::rate::{Period, Rate, TokenBucket};
use crate::policy::route::{HostMatch, PathMatch};
use crate::policy::tier::Tiers;
use crate::reload::Reloader;
use crate::store::key::{Key, KeyHasher, KeyKind};
use crate::store::limiter::{Demand, Receipt, Verdict};
use crate::store::table::Class;
use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

const LISTEN: &str = "127.0.0.1:9901";

/// A gateway with two tiers' worth of everything, and its admin API.
struct Rig {
    gateway: Arc<Gateway>,
    router: Router,
}

/// An answer, read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks that this is a problem of its status, and hands out its `field` and `detail`.
    fn problem(&self) -> (Option<String>, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["type"], "about:blank");
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["title"], self.status.canonical_reason().unwrap());
        let field = problem.get("field").map(|field| field.as_str().unwrap().to_owned());
        (field, problem["detail"].as_str().unwrap().to_owned())
    }
}

impl Rig {
    fn new() -> Rig {
        Rig::with(LISTEN, None)
    }

    fn with(listen: &str, token: Option<&str>) -> Rig {
        let rig = Rig::starting(listen, token);
        rig.gateway.lifecycle.advance(Stage::Ready);
        rig
    }

    fn starting(listen: &str, token: Option<&str>) -> Rig {
        Rig::of(config(), listen, token)
    }

    /// One that serves `config`.
    fn serving(config: Config) -> Rig {
        let rig = Rig::of(config, LISTEN, None);
        rig.gateway.lifecycle.advance(Stage::Ready);
        rig
    }

    fn of(config: Config, listen: &str, token: Option<&str>) -> Rig {
        let registry = prometheus::Registry::new();
        let metrics = Arc::new(Metrics::register(&registry).unwrap());
        let gateway = Arc::new(Gateway::new(config, KeyHasher::with_secret(&[7; 16]), metrics));
        let router = router(AdminState {
            gateway: gateway.clone(),
            reloader: Arc::new(Reloader::new(gateway.clone(), None)),
            upgrader: Upgrader::new(
                Ok("unused.sock".into()),
                Vec::new(),
                None,
                |_| (),
                Estate::none(),
            ),
            listen: listen.parse().unwrap(),
            token: token.map(|token| Secret::new(token.to_owned())),
            metrics: registry,
        });
        Rig { gateway, router }
    }

    async fn get(&self, target: &str) -> Answer {
        self.send(Method::GET, target, &[], "").await
    }

    async fn json(&self, target: &str) -> Value {
        let answer = self.get(target).await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        answer.json()
    }

    /// A change with JSON for a body, as a well-behaved client sends it.
    async fn change(&self, method: Method, target: &str, body: &str) -> Answer {
        let headers = [("host", LISTEN), ("content-type", "application/json")];
        self.send(method, target, &headers, body).await
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.pass(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn pass(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        for (name, value) in [("cache-control", "no-store"), ("x-content-type-options", "nosniff")]
        {
            assert_eq!(parts.headers.get(name).unwrap(), value);
        }
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Takes tokens as the proxy would: from the bucket of one policy and one holder.
    fn charge(&self, policy: &str, kind: KeyKind, holder: &str, bucket: &TokenBucket, cost: u32) {
        let limiter = &self.gateway.limiter;
        let holder = match holder.parse() {
            Ok(ip) if kind == KeyKind::Ip => limiter.ip_digest(ip),
            _ => limiter.digest(kind, holder.as_bytes()),
        };
        let key = Key::new(limiter.digest(KeyKind::Policy, policy.as_bytes()), holder);
        let meter = Meter::TokenBucket(bucket);
        let demand = Demand { policy: 0, key, class: Class::Unregistered, meter, cost, since: 0 };
        let verdict = limiter.decide(
            &[demand],
            bucket,
            &mut Receipt::default(),
            clock::now_ns(),
            clock::now_ns,
        );
        assert!(matches!(verdict, Verdict::Admitted(_)), "{verdict:?}");
    }

    fn tier_bucket(&self, name: &str) -> TokenBucket {
        let tiers = &self.gateway.generation().config.tiers;
        tiers.get(tiers.find(name).unwrap()).bucket
    }
}

/// A rate so slow that no token comes back while a test runs.
fn per_day(count: u64, burst: u64) -> TokenBucket {
    TokenBucket::new(Rate { count, period: Period::Day }, burst).unwrap()
}

fn limit(name: &str, key: LimitKey, cost: LimitCost) -> Limit {
    Limit {
        name: name.into(),
        key,
        algorithm: Algorithm::TokenBucket(per_day(10, 20)),
        cost,
        is_shadow: false,
        role: Role::Rate,
        store: Store::Local,
    }
}

fn route(name: &str, path: PathMatch) -> Route {
    Route {
        name: name.into(),
        path,
        hosts: Vec::new(),
        methods: Vec::new(),
        upstream: 0,
        strip_prefix: None,
        timeout: None,
        cost: Cost::default(),
        limits: Vec::new(),
        max_body: None,
        auth: Auth::None,
        retry: None,
        breaker: None,
    }
}

fn routes() -> Vec<Route> {
    let prefix = |path: &str| PathMatch::Prefix(path.into());
    let exact = |path: &str| PathMatch::Exact(path.into());
    let pattern = |path: &str| PathMatch::Pattern(path.into());
    let by_method = vec![(Method::POST, 5)];
    vec![
        route("everything", prefix("/")),
        Route {
            limits: vec![limit("route:users", LimitKey::Client, LimitCost::Route)],
            strip_prefix: Some("/api".into()),
            timeout: Some(Duration::from_millis(1_500)),
            max_body: Some(1 << 20),
            auth: Auth::Required,
            cost: Cost { default: 1, by_method },
            ..route("users", prefix("/api/users"))
        },
        Route { methods: vec![Method::GET], ..route("users-get", prefix("/api/users")) },
        route("any-user", pattern("/api/{kind}/{id}")),
        route("a-user", pattern("/api/users/{id}")),
        route("me", exact("/api/users/me")),
        Route {
            hosts: vec![HostMatch::Suffix("example.com".into())],
            ..route("domain", prefix("/"))
        },
        Route {
            hosts: vec![HostMatch::Suffix("eu.example.com".into())],
            ..route("longer-domain", prefix("/"))
        },
        Route {
            hosts: vec![HostMatch::Exact("www.example.com".into())],
            ..route("named-host", prefix("/"))
        },
    ]
}

fn server(address: &str) -> UpstreamServer {
    UpstreamServer { address: ServerAddress::Ip(address.parse().unwrap()), weight: 1 }
}

fn config() -> Config {
    let tiers = Tiers::standard();
    let known =
        KnownClient { id: "known-1".into(), tier: tiers.find("premium"), api_keys: Vec::new() };
    Config {
        state_dir: None,
        server: Server::default(),
        admin: Admin { listen: LISTEN.parse::<SocketAddr>().unwrap(), token: None },
        redis: None,
        metrics: MetricsListener::default(),
        clients: Clients { known: vec![known], ..Clients::default() },
        limiter: Limiter { slots: 1_024 },
        tiers,
        limits: vec![
            limit("per-ip", LimitKey::Ip, LimitCost::One),
            limit("per-client", LimitKey::Client, LimitCost::Route),
            limit("whole", LimitKey::Global, LimitCost::Route),
            limit("by-key", LimitKey::Header(http::header::ACCEPT), LimitCost::Route),
        ],
        upstreams: vec![Upstream {
            name: "users".into(),
            servers: vec![server("127.0.0.1:9001"), server("127.0.0.1:9002")],
            balance: crate::config::Balance::RoundRobin,
            timeouts: Timeouts::default(),
            concurrency: None,
            health_check: None,
            breaker: None,
            ejection: None,
        }],
        routes: routes(),
    }
}
