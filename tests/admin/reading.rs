//! What each resource shows.

use serde_json::{Value, json};

use crate::support::{Client, Gateway, Upstream};

#[track_caller]
fn get(gateway: &Gateway, target: &str) -> Value {
    let reply = gateway.admin_get(target);
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    assert_eq!(reply.header("content-type"), Some("application/json"), "{target}");
    reply.json()
}

#[test]
fn health_tells_about_upstreams_and_uptime() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .upstreams(&format!(
            "main: {{servers: [\"{}\"]}}\nmany: {{servers: [127.0.0.1:9, 127.0.0.1:11]}}",
            upstream.address()
        ))
        .start();
    let health = get(&gateway, "/health");
    assert_eq!((&health["status"], &health["redis"]), (&json!("ok"), &json!("off")));
    assert_eq!(health["upstreams"]["main"], json!({"healthy": 1, "total": 1}));
    assert_eq!(health["upstreams"]["many"], json!({"healthy": 2, "total": 2}));
    assert!(health["uptime_seconds"].is_u64(), "{health}");
    assert_eq!(gateway.admin_get("/ready").status, 200);
}

#[test]
fn head_is_get_without_the_body() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    for target in ["/health", "/ready", "/routes", "/clients/c", "/openapi.json", "/docs/"] {
        let reply = gateway.admin_request("HEAD", target, &[], "");
        assert_eq!((reply.status, reply.body.len()), (200, 0), "{target}");
    }
}

#[test]
fn idle_connections_keep_nobody_from_asking() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let idle: Vec<Client> = (0..200).map(|_| Client::connect(gateway.admin)).collect();
    let scrapers: Vec<Client> = (0..200).map(|_| Client::connect(gateway.metrics)).collect();
    assert_eq!(gateway.admin_get("/health").status, 200);
    assert_eq!(Client::connect(gateway.metrics).get("/metrics").status, 200);
    assert_eq!(gateway.get("/").status, 200);
    drop((idle, scrapers));
}

#[test]
fn routes_come_in_matching_order() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .routes(
            "
            - {name: everything, path: /, upstream: main}
            - {name: short, path: /a, upstream: main}
            - {name: pattern, path: {pattern: \"/a/{id}\"}, upstream: main}
            - {name: long, path: /a/b/c, upstream: main, cost: {GET: 2}, methods: [GET]}
            - {name: exact, path: {exact: /a/b}, upstream: main, auth: none, timeout: 3s,
               retry: {attempts: 1, per_try_timeout: 1s}, breaker: {slow_call: 2s}}
            - {name: hosted, path: /, hosts: [\"*.example.com\"], upstream: main,
               limit: {rate: 100/m, burst: 5, key: ip}}",
        )
        .start();
    let routes = get(&gateway, "/routes");
    let names: Vec<&str> =
        routes.as_array().unwrap().iter().map(|route| route["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["hosted", "exact", "pattern", "long", "short", "everything"]);
    assert!(routes.as_array().unwrap().iter().all(|route| route["upstream"] == "main"));
    assert_eq!(routes[0]["hosts"], json!(["*.example.com"]));
    assert_eq!(routes[0]["limit"]["policy"], "route:hosted");
    assert_eq!(routes[3]["methods"], json!(["GET"]));
    assert_eq!(routes[3]["cost"]["GET"], 2);
    assert_eq!(routes[1]["retry"]["per_try_timeout_seconds"], 1.0);
    assert_eq!(routes[1]["retry"]["when"], json!(["connect", "timeout", 502, 503, 504]));
    assert_eq!(routes[1]["breaker"]["slow_call_seconds"], 2.0);
    assert_eq!(
        (&routes[1]["circuit"], &routes[0]["circuit"]),
        (&json!("route:exact"), &json!("main"))
    );
    assert_eq!((&routes[0]["retry"], &routes[0]["breaker"]), (&Value::Null, &Value::Null));
    // The order shown is the order that requests meet.
    for (target, route) in [("/a/b", "exact"), ("/a/x", "pattern"), ("/a/b/c", "long")] {
        assert_eq!(gateway.get(target).status, 200);
        let sample = format!("gateway_requests_total{{route=\"{route}\",status=\"200\"}}");
        gateway.series_once(&sample, 1.0);
    }
}

#[test]
fn limits_and_tiers_count_what_they_decided() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .clients("identify: [{header: X-Client-ID}, ip]\nknown: {vip: {tier: gold}}")
        .tiers("free: {rate: 1/h, burst: 2}\ngold: {rate: 2/h, burst: 100, concurrency: 7}")
        .limits("- {name: all, key: global, rate: 100/m, burst: 6}")
        .routes("- {name: r, path: /, upstream: main, limit: {rate: 1/h, burst: 50, key: route}}")
        .start();
    for (client, count) in [("a", 3), ("vip", 6)] {
        for _ in 0..count {
            gateway.client().get_with("/", &[("X-Client-ID", client)]);
        }
    }
    let limits = get(&gateway, "/limits");
    let tier = |name: &str| {
        let tiers = limits["tiers"].as_array().unwrap();
        let tier = tiers.iter().find(|tier| tier["name"] == name).expect(name);
        (tier["allowed"].as_u64().unwrap(), tier["limited"].as_u64().unwrap())
    };
    let limit = |policy: &str| {
        let all = limits["limits"].as_array().unwrap();
        let limit = all.iter().find(|limit| limit["policy"] == policy).expect(policy);
        (limit["allowed"].as_u64().unwrap(), limit["limited"].as_u64().unwrap())
    };
    let caps: Vec<&Value> =
        limits["tiers"].as_array().unwrap().iter().map(|tier| &tier["concurrency"]).collect();
    assert!(caps.contains(&&json!(7)) && caps.contains(&&Value::Null), "{limits}");
    assert_eq!(tier("free"), (2, 1));
    assert_eq!(tier("gold"), (4, 0));
    assert_eq!(limit("all"), (6, 2));
    assert_eq!(limit("route:r"), (6, 0));
    assert_eq!(limits["store"], "local");
    let table = &limits["table"];
    assert_eq!((&table["slots"], &table["bytes"]), (&json!(1 << 20), &json!(16 << 20)));
    assert_eq!(table["used"], 4, "two clients, everything, the route");
}

#[test]
fn a_client_is_shown_as_it_stands() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients("identify: [{header: X-Client-ID}, ip]\nknown: {vip: {tier: gold}}")
        .tiers("free: {rate: 1/h, burst: 2}\ngold: {rate: 90/m, burst: 100}")
        .limits("- {name: mine, key: client, rate: 1/h, burst: 1}")
        .start();
    assert_eq!(gateway.client().get_with("/", &[("X-Client-ID", "vip")]).status, 200);
    let vip = get(&gateway, "/clients/vip");
    assert_eq!((&vip["client"], &vip["tier"]), (&json!("vip"), &json!("gold")));
    let [tier, mine] = [&vip["limits"][0], &vip["limits"][1]];
    assert_eq!((&tier["policy"], &tier["capacity"]), (&json!("tier"), &json!(100)));
    assert_eq!(tier["refill_rate"], 1.5, "tokens a second");
    assert_eq!((&mine["policy"], &mine["tokens_remaining"]), (&json!("mine"), &json!(0)));
    assert!((3_590..=3_600).contains(&mine["retry_after_seconds"].as_u64().unwrap()), "{mine}");
    assert_eq!(gateway.get("/").status, 200);
    let me = get(&gateway, "/clients?ip=127.0.0.1");
    assert_eq!((&me["client"], &me["tier"]), (&json!("127.0.0.1"), &json!("free")));
    assert_eq!(me["limits"][0]["tokens_remaining"], 1);
    assert_eq!(get(&gateway, "/clients?ip=203.0.113.9")["limits"][0]["tokens_remaining"], 2);
}

#[test]
fn both_metrics_pages_are_one_registry() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.get("/").status, 200);
    gateway.series_once("gateway_requests_total{route=\"all\",status=\"200\"}", 1.0);
    let here = gateway.admin_get("/metrics");
    let kind = here.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    let there = Client::connect(gateway.metrics).get("/metrics");
    let stable = |text: &str| -> Vec<String> {
        let moving = |line: &&str| !line.contains("process_");
        text.lines().filter(moving).map(str::to_owned).collect()
    };
    assert_eq!(stable(&here.text()), stable(&there.text()));
    assert!(here.text().contains("gateway_requests_total{route=\"all\",status=\"200\"} 1"));
}

#[test]
fn the_configuration_is_shown_whole_and_without_secrets() {
    let upstream = Upstream::new();
    let key = "sha256:".to_owned() + &"0123456789abcdef".repeat(4);
    let gateway = Gateway::before(&upstream)
        .admin("token: \"${THE_TOKEN}\"")
        .env("THE_TOKEN", "hush-hush-hush")
        .clients(&format!("identify: [api_key, ip]\nknown: {{c: {{api_keys: [\"{key}\"]}}}}"))
        .start();
    let with_token = |accept: &str| {
        let headers = [("Authorization", "Bearer hush-hush-hush"), ("Accept", accept)];
        gateway.admin_request("GET", "/config", &headers, "")
    };
    let as_json = with_token("*/*");
    assert_eq!(as_json.header("content-type"), Some("application/json"));
    let config = as_json.json();
    assert_eq!(config["server"]["listen"], json!([gateway.data.to_string()]));
    assert_eq!(config["server"]["max_uri"], "8KiB", "defaults are filled in");
    assert_eq!(config["routes"][0]["name"], "all");
    assert_eq!(config["tiers"]["free"]["burst"], 100_000);
    let as_yaml = with_token("application/yaml");
    assert_eq!(as_yaml.header("content-type"), Some("application/yaml"));
    let parsed: Value = serde_yaml::from_str(&as_yaml.text()).expect("YAML");
    assert_eq!(parsed, config, "one configuration in two forms");
    for text in [as_json.text(), as_yaml.text()] {
        assert!(!text.contains("hush") && !text.contains("0123456789abcdef"), "{text}");
        assert!(text.contains("***"), "{text}");
    }
}

#[test]
fn what_is_shown_can_be_served_again() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .limits("- {name: mine, key: {header: X-T}, rate: 100/m, burst: 7, cost: 1}")
        .start();
    let headers = [("Accept", "application/yaml")];
    let shown = gateway.admin_request("GET", "/config", &headers, "").text();
    let file = gateway.path("shown.yaml");
    std::fs::write(&file, &shown).unwrap();
    let checked = crate::support::run_to_exit(
        file.parent().unwrap(),
        &["check", "-c", file.to_str().unwrap()],
    );
    assert_eq!(checked.code, Some(0), "{}{shown}", checked.stderr);
}
