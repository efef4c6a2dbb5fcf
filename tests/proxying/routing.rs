//! Which route a request takes, and what the upstream is then asked for.

use std::net::SocketAddr;

use crate::support::{Answer, Client, Gateway, GatewayBuilder, Upstream, ok};

/// One upstream for each name, which answers with that name: the answer says
/// which route was taken.
struct Signposts {
    upstreams: Vec<(String, Upstream)>,
}

impl Signposts {
    fn new(names: &[&str]) -> Self {
        let upstreams =
            names.iter().map(|name| ((*name).to_owned(), Upstream::answering(ok(*name)))).collect();
        Self { upstreams }
    }

    fn gateway(&self) -> GatewayBuilder {
        let add = |builder: GatewayBuilder, (name, upstream): &(String, Upstream)| {
            builder.upstream(name, upstream.address())
        };
        self.upstreams.iter().fold(Gateway::builder(), add)
    }
}

#[track_caller]
fn expect(gateway: &Gateway, rows: &[(&str, &str, &str, &str)]) {
    for (method, host, path, wanted) in rows {
        let reply = gateway.client().request(method, path, &[("Host", host)], b"");
        let got = if reply.status == 200 { reply.text() } else { reply.status.to_string() };
        assert_eq!(got, *wanted, "{method} {host} {path}");
    }
}

#[test]
fn exact_wins_over_pattern_and_pattern_over_the_longest_prefix() {
    let signs = Signposts::new(&["root", "short", "long", "pattern", "exact"]);
    let gateway = signs
        .gateway()
        .routes(
            "
            - {name: root, path: /, upstream: root}
            - {name: short, path: /shop, upstream: short}
            - {name: long, path: {prefix: /shop/cart/items}, upstream: long}
            - {name: pattern, path: {pattern: '/shop/{id}'}, upstream: pattern}
            - {name: exact, path: {exact: /shop/cart}, upstream: exact}
            ",
        )
        .start();
    let host = "a.test";
    expect(
        &gateway,
        &[
            ("GET", host, "/shop/cart", "exact"),
            ("GET", host, "/shop/cart?x=1", "exact"),
            ("GET", host, "/shop/other", "pattern"),
            ("GET", host, "/shop/cart/items", "long"),
            ("GET", host, "/shop/cart/items/7", "long"),
            ("GET", host, "/shop/cart/itemsX", "short"),
            ("GET", host, "/shop/x/y", "short"),
            ("GET", host, "/shop", "short"),
            ("GET", host, "/", "root"),
            ("GET", host, "/elsewhere", "root"),
        ],
    );
}

#[test]
fn the_order_in_the_file_does_not_matter() {
    let signs = Signposts::new(&["wide", "narrow"]);
    let routes = [
        "- {name: wide, path: /a, upstream: wide}",
        "- {name: narrow, path: /a/b, upstream: narrow}",
    ];
    for order in [[0, 1], [1, 0]] {
        let yaml = order.map(|index| routes[index]).join("\n");
        let gateway = signs.gateway().routes(&yaml).start();
        assert_eq!(gateway.get("/a/b/c").text(), "narrow");
        assert_eq!(gateway.get("/a/c").text(), "wide");
    }
}

#[test]
fn prefixes_end_on_segment_borders() {
    let signs = Signposts::new(&["users"]);
    let routes = "- {name: users, path: /api/users, upstream: users}";
    let gateway = signs.gateway().routes(routes).start();
    let host = "a.test";
    expect(
        &gateway,
        &[
            ("GET", host, "/api/users", "users"),
            ("GET", host, "/api/users/", "users"),
            ("GET", host, "/api/users/1", "users"),
            ("GET", host, "/api/users?page=2", "users"),
            ("GET", host, "/api/usersX", "404"),
            ("GET", host, "/api/users%20", "404"),
            ("GET", host, "/api/user", "404"),
            ("GET", host, "/x/api/users", "404"),
            ("GET", host, "/", "404"),
        ],
    );
}

#[test]
fn patterns_match_one_segment_for_each_name() {
    let signs = Signposts::new(&["orders"]);
    let routes = "- {name: orders, path: {pattern: '/u/{id}/orders'}, upstream: orders}";
    let gateway = signs.gateway().routes(routes).start();
    let host = "a.test";
    expect(
        &gateway,
        &[
            ("GET", host, "/u/7/orders", "orders"),
            ("GET", host, "/u/a%20b/orders", "orders"),
            ("GET", host, "/u/7/8/orders", "404"),
            ("GET", host, "/u//orders", "404"),
            ("GET", host, "/u/7/orders/1", "404"),
            ("GET", host, "/u/7", "404"),
        ],
    );
}

#[test]
fn hosts_choose_among_routes() {
    let signs = Signposts::new(&["any", "shop", "wild"]);
    let gateway = signs
        .gateway()
        .routes(
            "
            - {name: any, path: /, upstream: any}
            - {name: shop, path: /, hosts: [shop.test, store.test], upstream: shop}
            - {name: wild, path: /, hosts: ['*.wild.test'], upstream: wild}
            ",
        )
        .start();
    expect(
        &gateway,
        &[
            ("GET", "shop.test", "/", "shop"),
            ("GET", "store.test", "/x", "shop"),
            ("GET", "SHOP.Test", "/", "shop"),
            ("GET", "shop.test:8080", "/", "shop"),
            ("GET", "a.wild.test", "/", "wild"),
            ("GET", "A.WILD.test:80", "/", "wild"),
            ("GET", "wild.test", "/", "any"),
            ("GET", "awild.test", "/", "any"),
            ("GET", "shop.test.evil.test", "/", "any"),
            ("GET", "xshop.test", "/", "any"),
            ("GET", "127.0.0.1", "/", "any"),
        ],
    );
}

#[test]
fn a_host_nobody_serves_is_404() {
    let signs = Signposts::new(&["shop"]);
    let routes = "- {name: shop, path: /, hosts: [shop.test], upstream: shop}";
    let gateway = signs.gateway().routes(routes).start();
    expect(&gateway, &[("GET", "shop.test", "/", "shop"), ("GET", "other.test", "/", "404")]);
}

#[test]
fn methods_choose_among_routes_and_the_rest_is_405() {
    let signs = Signposts::new(&["read", "write"]);
    let gateway = signs
        .gateway()
        .routes(
            "
            - {name: read, path: /things, methods: [GET], upstream: read}
            - {name: write, path: /things, methods: [POST, PUT], upstream: write}
            ",
        )
        .start();
    assert_eq!(gateway.get("/things").text(), "read");
    assert_eq!(gateway.client().post("/things", &[], b"x").text(), "write");
    let refused = gateway.client().request("DELETE", "/things", &[], b"");
    assert_eq!(refused.status, 405);
    let allow = refused.header("Allow").expect("405 says what would be allowed").to_owned();
    let allowed: Vec<_> = allow.split(',').map(str::trim).collect();
    for method in ["GET", "POST", "PUT"] {
        assert!(allowed.contains(&method), "{allow}");
    }
    assert!(!allowed.contains(&"DELETE"), "{allow}");
    assert_eq!(gateway.get("/nothing").status, 404, "not on path and method both");
}

#[test]
fn a_prefix_can_be_stripped() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: users, path: /api/users, upstream: main, strip_prefix: /api}")
        .start();
    for (sent, wanted) in [
        ("/api/users", "/users"),
        ("/api/users/", "/users/"),
        ("/api/users/1?x=/api/y", "/users/1?x=/api/y"),
        ("/api//users/api/2", "/users/api/2"),
        ("/%61pi/users/3", "/users/3"),
    ] {
        assert_eq!(gateway.get(sent).text(), format!("GET {wanted}"), "{sent}");
    }
}

#[test]
fn stripping_the_whole_path_leaves_the_root() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes("- {name: api, path: /api, upstream: main, strip_prefix: /api}")
        .start();
    for (sent, wanted) in
        [("/api", "/"), ("/api/", "/"), ("/api?x=1", "/?x=1"), ("/api/x", "/x"), ("/apix", "404")]
    {
        let reply = gateway.get(sent);
        let got = if reply.status == 200 { reply.text() } else { format!("GET {}", reply.status) };
        assert_eq!(got, format!("GET {wanted}"), "{sent}");
    }
}

fn weighted(heavy: SocketAddr, light: SocketAddr) -> Gateway {
    let upstreams = format!(
        "main:\n  servers: [{{address: \"{heavy}\", weight: 2}}, \"{light}\"]\n  balance: round_robin"
    );
    Gateway::builder()
        .upstreams(&upstreams)
        .routes("- {name: all, path: /, upstream: main}")
        .start()
}

#[test]
fn servers_get_their_share_by_weight_exactly() {
    let (heavy, light) = (Upstream::answering(ok("h")), Upstream::answering(ok("l")));
    let gateway = weighted(heavy.address(), light.address());
    let mut client = gateway.client();
    let turns: String = (0..300).map(|_| client.get("/").text()).collect();
    let count = |server: char| turns.chars().filter(|turn| *turn == server).count();
    assert_eq!((count('h'), count('l')), (200, 100), "{turns}");
    assert_eq!((heavy.requests().len(), light.requests().len()), (200, 100));
    assert!(!turns.contains("hhh"), "spread, not in blocks: {turns}");
}

#[test]
fn the_routing_table_is_shown_as_loaded() {
    let signs = Signposts::new(&["a"]);
    let gateway = signs
        .gateway()
        .routes(
            "
            - {name: wide, path: /, upstream: a}
            - {name: narrow, path: {exact: /n}, upstream: a}
            ",
        )
        .start();
    let routes = gateway.admin_get("/routes").json();
    let text = routes.to_string();
    let at = |name: &str| text.find(&format!("\"{name}\"")).unwrap_or_else(|| panic!("{text}"));
    assert!(at("narrow") < at("wide"), "in matching order: {text}");
}

#[test]
fn the_health_path_answers_outside_of_limits_and_routes() {
    let upstream = Upstream::answering(Answer::Hangup);
    let gateway = Gateway::before(&upstream)
        .server("health_path: /healthz")
        .tiers("free: {rate: 1/d, burst: 1}")
        .start();
    let mut client = gateway.client();
    for _ in 0..20 {
        assert_eq!(client.get("/healthz").status, 200);
    }
    assert_eq!(upstream.transcript(), "");
    let elsewhere = Client::connect(gateway.data).get("/healthz/x");
    assert_eq!(elsewhere.status, 502, "only the very path is taken from the routes");
}
