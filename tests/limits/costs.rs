//! What a request costs, and what costs nothing.

use crate::rig::{
    BY_HEADER, admitted, assert_limited, assert_near, get_as, hashed, left, rate_limit,
};
use crate::support::{Gateway, GatewayBuilder, Upstream, free_addresses};

/// Everybody is a client by header; nothing refills while a test runs.
fn frozen(upstream: &Upstream, burst: u32, routes: &str) -> GatewayBuilder {
    Gateway::builder()
        .upstream("main", upstream.address())
        .clients(BY_HEADER)
        .tiers(&format!("free: {{rate: 1/h, burst: {burst}}}"))
        .routes(routes)
}

#[test]
fn the_method_decides_the_cost() {
    let upstream = Upstream::new();
    let routes = "- {name: all, path: /, upstream: main, cost: {GET: 2, POST: 5, DELETE: 0}}";
    let gateway = frozen(&upstream, 20, routes).start();
    for (method, left_then) in
        [("GET", 18), ("POST", 13), ("PUT", 12), ("DELETE", 12), ("OPTIONS", 11)]
    {
        let reply = gateway.client().request(method, "/", &[("X-Client-ID", "c")], b"");
        assert_eq!((reply.status, rate_limit(&reply).1.tokens), (200, left_then), "{method}");
        assert_eq!(left(&gateway, "c", "tier"), left_then, "{method}");
    }
}

#[test]
fn a_request_that_is_dearer_than_what_is_left_waits_for_all_of_its_cost() {
    let upstream = Upstream::new();
    let routes = "- {name: all, path: /, upstream: main, cost: {GET: 1, POST: 5}}";
    let gateway = frozen(&upstream, 6, routes).start();
    assert_eq!(get_as(&gateway, "c", "/").status, 200);
    assert_eq!(get_as(&gateway, "c", "/").status, 200);
    let post = gateway.client().post("/", &[("X-Client-ID", "c")], b"");
    assert_limited(&post, "tier", 3_600);
    assert_eq!(rate_limit(&post).1.tokens, 4, "what is left is said, and stays");
    assert_eq!(get_as(&gateway, "c", "/").status, 200, "a cheaper request still passes");
}

#[test]
fn what_is_free_passes_an_empty_bucket() {
    let upstream = Upstream::new();
    let routes = "
        - {name: all, path: /, upstream: main}
        - {name: free, path: /free, upstream: main, cost: 0}";
    let gateway = frozen(&upstream, 1, routes).start();
    assert_eq!(get_as(&gateway, "c", "/").status, 200);
    assert_eq!(get_as(&gateway, "c", "/").status, 429);
    for _ in 0..5 {
        let reply = get_as(&gateway, "c", "/free");
        assert_eq!((reply.status, rate_limit(&reply).1.tokens), (200, 0));
    }
    assert_eq!(get_as(&gateway, "c", "/").status, 429);
}

#[test]
fn a_cost_above_the_burst_is_refused_without_a_time_to_come_back() {
    let upstream = Upstream::new();
    let routes = "- {name: dear, path: /, upstream: main, cost: 11}";
    let gateway = frozen(&upstream, 10, routes)
        .limits("- {name: wide, key: client, rate: 1/h, burst: 100}")
        .start();
    let reply = get_as(&gateway, "c", "/");
    assert_eq!((reply.status, reply.header("retry-after")), (429, None));
    let problem = reply.json();
    assert_eq!((&problem["policy"], problem.get("retry_after_seconds")), (&"tier".into(), None));
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("burst"), "{detail}");
    let (policy, now) = rate_limit(&reply);
    assert_eq!((policy.tokens, now.tokens), (10, 10), "nothing was taken");
    assert_eq!((left(&gateway, "c", "tier"), left(&gateway, "c", "wide")), (10, 100));
}

#[test]
fn a_limit_may_count_requests_instead_of_tokens() {
    let upstream = Upstream::new();
    let gateway = frozen(&upstream, 100, "- {name: all, path: /, upstream: main, cost: 7}")
        .limits(
            "
            - {name: tokens, key: client, rate: 1/h, burst: 50}
            - {name: requests, key: client, rate: 1/h, burst: 50, cost: 1}",
        )
        .start();
    for _ in 0..3 {
        assert_eq!(get_as(&gateway, "c", "/").status, 200);
    }
    assert_eq!(left(&gateway, "c", "tier"), 79);
    assert_eq!(left(&gateway, "c", "tokens"), 29);
    assert_eq!(left(&gateway, "c", "requests"), 47);
}

#[test]
fn a_cost_above_the_burst_is_one_where_the_limit_counts_requests() {
    let upstream = Upstream::new();
    let route = "- {name: dear, path: /, upstream: main, cost: 50,
                    limit: {rate: 1/h, burst: 2, key: client, cost: 1}}";
    let gateway = frozen(&upstream, 1_000, route).start();
    assert_eq!(admitted(&gateway, 4, &[("X-Client-ID", "c")]), 2);
}

#[test]
fn a_limit_that_counts_requests_counts_the_free_ones_as_well() {
    let upstream = Upstream::new();
    let gateway = frozen(&upstream, 1, "- {name: free, path: /, upstream: main, cost: 0}")
        .limits("- {name: requests, key: client, rate: 1/h, burst: 3, cost: 1}")
        .start();
    assert_eq!(admitted(&gateway, 5, &[("X-Client-ID", "c")]), 3);
    assert_eq!(left(&gateway, "c", "tier"), 1);
}

#[test]
fn what_is_refused_before_the_limits_costs_nothing() {
    let upstream = Upstream::new();
    let routes = "
        - {name: small, path: /small, upstream: main, max_body: 10, methods: [POST]}
        - {name: keyed, path: /keyed, upstream: main, auth: required}";
    let key = hashed("right");
    let gateway = frozen(&upstream, 10, routes)
        .clients(&format!(
            "identify: [{{header: X-Client-ID}}, api_key, ip]\n\
             default_tier: free\n\
             known: {{keyed: {{api_keys: [\"{key}\"]}}}}"
        ))
        .start();
    let me = ("X-Client-ID", "c");
    let wrong = ("X-API-Key", "wrong");
    let body = [b'x'; 11].as_slice();
    for (method, target, headers, body, status) in [
        ("GET", "/nowhere", &[me][..], &b""[..], 404),
        ("GET", "/small", &[me], b"", 405),
        ("POST", "/small", &[me], body, 413),
        ("GET", "/keyed", &[me], b"", 401),
        ("POST", "/small", &[me, wrong], b"", 401),
        ("GET", "/keyed/../small", &[me], b"", 400),
        ("POST", "/small", &[me, ("Content-Length", "1"), ("Content-Length", "1")], b"x", 400),
    ] {
        let reply = gateway.client().request(method, target, headers, body);
        assert_eq!(reply.status, status, "{method} {target}");
        assert_eq!(left(&gateway, "c", "tier"), 10, "{method} {target} {status}");
        assert_eq!(reply.header("ratelimit"), None, "no limit was asked: {target}");
    }
    let by_address = gateway.admin_get("/clients?ip=127.0.0.1").json();
    assert_eq!(by_address["limits"][0]["tokens_remaining"], 10, "nor does it cost the address");
    assert!(upstream.requests().is_empty());
}

#[test]
fn a_refusal_of_the_limit_costs_nothing() {
    let upstream = Upstream::new();
    let gateway = frozen(&upstream, 2, "- {name: all, path: /, upstream: main}").start();
    assert_eq!(admitted(&gateway, 200, &[("X-Client-ID", "c")]), 2);
    let reply = get_as(&gateway, "c", "/");
    assert_limited(&reply, "tier", 3_600);
    assert_near(rate_limit(&reply).1.seconds, 7_200);
}

#[test]
fn after_the_first_attempt_nothing_is_given_back() {
    let upstream = Upstream::new();
    let [nobody] = free_addresses();
    let gateway = frozen(&upstream, 10, "- {name: dead, path: /, upstream: dead}")
        .upstream("dead", nobody)
        .start();
    let reply = get_as(&gateway, "c", "/");
    assert_eq!((reply.status, rate_limit(&reply).1.tokens), (502, 9));
    assert_eq!(left(&gateway, "c", "tier"), 9);
}

#[test]
fn the_health_path_is_outside_of_all_limits() {
    let upstream = Upstream::new();
    let gateway = frozen(&upstream, 1, "- {name: all, path: /, upstream: main}")
        .server("health_path: /healthz")
        .limits("- {name: per-ip, key: ip, rate: 1/h, burst: 1}")
        .start();
    for _ in 0..5 {
        assert_eq!(gateway.get("/healthz").status, 200);
    }
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(gateway.get("/").status, 429);
    assert_eq!(gateway.get("/healthz").status, 200);
}
