//! What every request meets before its limits: the head, the path, the routes.

use criterion::Criterion;
use http::Method;
use std::hint::black_box;
use tollgate::policy::path::normalize;
use tollgate::policy::route::{PathMatch, RouteMatch};
use tollgate::policy::router::{Found, Router};
use tollgate::wire::head::{HeadLimits, inspect};

const ROUTES: usize = 10_000;

pub(crate) fn bench(criterion: &mut Criterion) {
    router(criterion);
    path(criterion);
    head(criterion);
}

fn path_of(number: usize) -> PathMatch {
    // Services with versions and resources, as in the route tables people have.
    let (service, resource) = (number % 100, number / 300);
    let path = format!("/service-{service}/v1/resource-{resource}");
    match number / 100 % 3 {
        0 => PathMatch::Exact(format!("{path}/health")),
        1 => PathMatch::Prefix(path),
        _ => PathMatch::Pattern(format!("{path}/items/{{id}}/parts/{{part}}")),
    }
}

fn router(criterion: &mut Criterion) {
    let paths: Vec<PathMatch> = (0..ROUTES).map(path_of).collect();
    let router =
        Router::new(paths.iter().map(|path| RouteMatch { path, hosts: &[], methods: &[] }));
    let cases = [
        ("exact", "/service-57/v1/resource-21/health", true),
        ("prefix", "/service-57/v1/resource-21/anything/below/it", true),
        ("pattern", "/service-57/v1/resource-21/items/4711/parts/12", true),
        ("miss", "/service-57/v2/resource-21/items/4711/parts/12", false),
        ("long_miss", "/a/b/c/d/e/f/g/h/i/j/k/l/m/n/o/p/q/r/s/t/u/v/w/x/y/z/1/2/3/4/5", false),
    ];
    let mut group = criterion.benchmark_group("router_10000");
    for (name, path, exists) in cases {
        let found = router.find("api.example.com", &Method::GET, path);
        assert_eq!(found != Found::Nothing, exists, "{path}: {found:?}");
        group.bench_function(name, |b| {
            b.iter(|| router.find(black_box("api.example.com"), &Method::GET, black_box(path)));
        });
    }
    group.finish();
}

fn path(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path");
    for (name, target) in [
        ("plain", "/service-57/v1/resource-21/items/4711?page=2&sort=name"),
        ("rewritten", "/service-57//v1/%72esource-21/caf%c3%a9/items?page=2"),
    ] {
        group.bench_function(name, |b| b.iter(|| normalize(black_box(target)).is_ok()));
    }
    group.finish();
}

fn head(criterion: &mut Criterion) {
    let limits = HeadLimits { max_head: 32_768, max_headers: 100, max_uri: 8_192 };
    let small = "GET /users/42 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/8.5.0\r\n\
                 Accept: */*\r\nX-Client-ID: client-123\r\n\r\n";
    let fields: String = (0..20)
        .map(|n| format!("X-Field-{n}: {}\r\n", "a value of some length ".repeat(2)))
        .collect();
    let browser =
        format!("POST /users HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n{fields}\r\n");
    let mut group = criterion.benchmark_group("head");
    for (name, head) in [("curl", small), ("browser", &browser)] {
        assert!(inspect(head.as_bytes(), &limits).is_ok());
        group.bench_function(name, |b| b.iter(|| inspect(black_box(head.as_bytes()), &limits)));
    }
    group.finish();
}
