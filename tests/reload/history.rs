//! The last generations, and going back to one of them.

use serde_json::json;

use crate::support::{Gateway, GatewayBuilder, Upstream, ok, run_to_exit};

fn named(text: &str) -> (Upstream, GatewayBuilder) {
    let upstream = Upstream::answering(ok(text));
    let builder = Gateway::before(&upstream);
    (upstream, builder)
}

fn go_back(gateway: &Gateway, to: &str) -> crate::support::Reply {
    gateway.admin_request("POST", &format!("/config/history/{to}"), &[], "")
}

#[test]
fn a_generation_can_be_gone_back_to_as_a_new_one() {
    let (_first, builder) = named("first");
    let gateway = builder.start();
    let (_second, second) = named("second");
    gateway.rewrite(&second);
    assert_eq!(gateway.reload().status, 200);
    assert_eq!(gateway.get("/").text(), "second");

    let reply = go_back(&gateway, "1");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["generation"], 3);
    assert_eq!(reply.json()["changed"], json!(["upstreams.main: changed"]));
    assert_eq!(gateway.get("/").text(), "first");
    let reply = go_back(&gateway, "2");
    assert_eq!(reply.json()["generation"], 4);
    assert_eq!(gateway.get("/").text(), "second");

    let history = gateway.admin_get("/config/history").json();
    let column = |name: &str| -> Vec<_> {
        history["generations"].as_array().unwrap().iter().map(|g| g[name].clone()).collect()
    };
    assert_eq!(column("generation"), [4, 3, 2, 1]);
    assert_eq!(column("cause"), ["restored", "restored", "reload", "start"]);
    assert_eq!(column("goes_back_to"), [json!(2), json!(1), json!(null), json!(null)]);
    assert_eq!(column("serving"), [true, false, false, false]);
    assert_eq!(column("kept"), [true, true, true, true]);
    for at in column("at") {
        let at = at.as_str().unwrap();
        assert!(at.ends_with('Z') && at.contains('T'), "{at}");
    }
    assert_eq!(history["last_rejection"], json!(null));
    assert!(gateway.stderr().contains("went back to the configuration of generation 1"));
}

#[test]
fn going_back_keeps_what_is_used() {
    let upstream = Upstream::new();
    let builder = Gateway::before(&upstream).tiers("free: {rate: 1/h, burst: 3}");
    let gateway = builder.start();
    gateway.rewrite(&builder.clone().server("health_path: /alive"));
    assert_eq!(gateway.reload().status, 200);
    let mut client = gateway.client();
    let mut get = || client.get("/").status;
    assert_eq!([get(), get(), get()], [200, 200, 200]);
    assert_eq!(go_back(&gateway, "1").status, 200);
    assert_eq!(get(), 429);
}

#[test]
fn only_what_is_kept_can_be_gone_back_to() {
    let (_upstream, builder) = named("x");
    let gateway = builder.start();
    for _ in 0..11 {
        assert_eq!(gateway.reload().status, 200);
    }
    let history = gateway.admin_get("/config/history").json();
    assert_eq!(history["generations"].as_array().unwrap().len(), 10);
    for gone in ["2", "13", "0", "18446744073709551615"] {
        let reply = go_back(&gateway, gone);
        assert_eq!((reply.status, &reply.json()["field"]), (404, &json!("generation")), "{gone}");
        assert!(reply.text().contains("3, 4, 5, 6, 7, 8, 9, 10, 11, 12"), "{}", reply.text());
    }
    for wrong in ["one", "-1", "18446744073709551616", "1.0"] {
        assert_eq!(go_back(&gateway, wrong).status, 400, "{wrong}");
    }
    assert_eq!(go_back(&gateway, "3").json()["generation"], 13);
}

#[test]
fn the_last_rejection_is_shown_and_no_secret_ever() {
    let (_upstream, builder) = named("x");
    let gateway = builder.admin("token: letmein-letmein").start();
    let bearer = [("Authorization", "Bearer letmein-letmein")];
    let ask = |method: &str, path: &str| gateway.admin_request(method, path, &bearer, "");
    gateway.rewrite_as("admin: {token: letmein-letmein}\nroutes: 5\nupstreams: []\n");
    assert_eq!(ask("POST", "/reload").status, 422);
    let reply = ask("GET", "/config/history");
    let rejection = &reply.json()["last_rejection"];
    assert_eq!(rejection["cause"], "reload");
    assert!(rejection["detail"].as_str().unwrap().contains("routes"), "{rejection}");
    assert!(!reply.text().contains("letmein"), "{}", reply.text());
    assert_eq!(gateway.admin_get("/config/history").status, 401, "without the token");
    assert_eq!(ask("GET", "/health").json()["last_reload"]["result"], "rejected");
}

#[test]
fn the_status_fits_a_screen_and_says_what_matters() {
    let (_upstream, builder) = named("x");
    let builder = builder.limits("- {name: per-ip, key: ip, rate: 1/h, burst: 5}");
    let gateway = builder.start();
    let mut client = gateway.client();
    let statuses: Vec<u16> = (0..7).map(|_| client.get("/").status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
    gateway.rewrite_as("routes: 5");
    assert_eq!(gateway.reload().status, 422);
    gateway.rewrite(&builder);
    let shown = run_to_exit(&gateway.path("."), &["status", "-c", "tollgate.yaml"]);
    assert_eq!(shown.code, Some(0), "{shown:?}");
    for part in ["generation 1", "pid ", "rejected", "routes", "1 closed", "per-ip", "main"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let limited = shown.stdout.lines().find(|line| line.starts_with("per-ip")).unwrap();
    assert_eq!(limited.split_whitespace().collect::<Vec<_>>(), ["per-ip", "1/h", "2", "5"]);
    assert!(shown.stdout.lines().all(|line| line.chars().count() <= 100), "{}", shown.stdout);
    assert!(shown.stdout.lines().count() <= 30, "{}", shown.stdout);
}
