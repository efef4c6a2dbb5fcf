//! The gateways that Compose starts fit what stands around them.

use serde_yaml::Value;
use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use super::{file, yaml};

const FOLDER: &str = "deploy";

/// The services with this image, by name, with what they share merged in.
fn services(image: &str) -> Vec<(String, Value)> {
    let mut compose = yaml("deploy/compose.yml");
    compose.apply_merge().unwrap();
    let all = compose["services"].as_mapping().unwrap().clone();
    let of_image = all
        .into_iter()
        .filter(|(_, service)| service["image"].as_str().unwrap().split(':').next() == Some(image));
    of_image.map(|(name, service)| (name.as_str().unwrap().to_owned(), service)).collect()
}

fn gateways() -> Vec<(String, Value)> {
    services("tollgate")
}

/// The one service with this image.
fn service(image: &str) -> Value {
    let mut found = services(image);
    assert_eq!(found.len(), 1, "{image}");
    found.remove(0).1
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_sequence().unwrap().iter().map(|item| item.as_str().unwrap()).collect()
}

/// Where a service sees a file or folder of the host.
fn mounted(service: &Value) -> Vec<(String, String)> {
    let mounts = texts(&service["volumes"]).into_iter().map(|mount| {
        let parts: Vec<&str> = mount.split(':').collect();
        assert_eq!(parts[2], "ro", "{mount}");
        (parts[0].to_owned(), parts[1].to_owned())
    });
    mounts.collect()
}

#[test]
fn three_gateways_differ_only_in_their_ports() {
    let gateways = gateways();
    assert_eq!(gateways.len(), 3);
    let mut ports = BTreeSet::new();
    let mut rests = BTreeSet::new();
    for (_, mut gateway) in gateways {
        let port = gateway.as_mapping_mut().unwrap().remove("ports").unwrap();
        assert!(ports.insert(texts(&port)[0].to_owned()), "{port:?}");
        rests.insert(serde_yaml::to_string(&gateway).unwrap());
        let image = gateway["image"].as_str().unwrap();
        assert_eq!(image, format!("tollgate:{}", env!("CARGO_PKG_VERSION")));
        let dockerfile = gateway["build"]["dockerfile"].as_str().unwrap();
        assert!(file(dockerfile).contains("\nENTRYPOINT [\"tollgate\"]\n"));
    }
    assert_eq!(rests.len(), 1);
    assert!(ports.iter().all(|port| port.ends_with(":8080")), "{ports:?}");
    assert!(file("deploy/Dockerfile").contains("TOLLGATE_LISTEN=0.0.0.0:8080"));
}

#[test]
fn nobody_but_this_machine_reaches_any_of_it() {
    let compose = yaml("deploy/compose.yml");
    for (name, service) in compose["services"].as_mapping().unwrap() {
        if service["ports"].is_null() {
            continue;
        }
        for port in texts(&service["ports"]) {
            assert!(port.starts_with("127.0.0.1:"), "{name:?}: {port}");
        }
    }
    assert!(service("redis")["ports"].is_null());
}

#[test]
fn the_shipped_configuration_takes_what_compose_says_and_finds_redis_in_it() {
    let (_, gateway) = gateways().remove(0);
    let shipped = file("conf/tollgate.yaml");
    let mut check = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    check.args(["check", "-c", "conf/tollgate.yaml"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for (name, value) in gateway["environment"].as_mapping().unwrap() {
        let (name, value) = (name.as_str().unwrap(), value.as_str().unwrap());
        assert!(shipped.contains(&format!("${{{name}:-")), "{name} is not in conf/tollgate.yaml");
        // Compose puts in what stands behind `:-` when nothing else is said.
        let default = value.split_once(":-").map_or(value, |(_, rest)| rest.trim_end_matches('}'));
        check.env(name, default);
    }
    let checked = check.output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success(), "{said}");
    let url = gateway["environment"]["TOLLGATE_REDIS_URL"].as_str().unwrap();
    assert_eq!(url, "redis://redis:6379");
    assert!(yaml("deploy/compose.yml")["services"]["redis"].is_mapping());
}

#[test]
fn a_gateway_has_longer_to_end_than_it_takes_and_may_do_nothing_but_serve() {
    let (_, gateway) = gateways().remove(0);
    let seconds = |text: &str| text.trim_end_matches('s').parse::<u64>().unwrap();
    let config = yaml("conf/tollgate.yaml");
    let grace = seconds(config["server"]["grace_period"].as_str().unwrap());
    assert!(seconds(gateway["stop_grace_period"].as_str().unwrap()) >= grace + 5);
    assert_eq!(gateway["read_only"].as_bool(), Some(true));
    assert_eq!(texts(&gateway["cap_drop"]), ["ALL"]);
    assert_eq!(texts(&gateway["security_opt"]), ["no-new-privileges:true"]);
}

#[test]
fn prometheus_scrapes_every_gateway_as_the_alerts_expect_and_has_the_alerts() {
    let prometheus = yaml("deploy/compose/prometheus.yml");
    let job = &prometheus["scrape_configs"][0];
    assert_eq!(job["job_name"].as_str(), Some("tollgate"));
    let targets: BTreeSet<&str> = texts(&job["static_configs"][0]["targets"]).into_iter().collect();
    let names = gateways().into_iter().map(|(name, _)| format!("{name}:9902"));
    assert_eq!(targets, names.collect::<BTreeSet<_>>().iter().map(|name| &**name).collect());
    assert!(file("deploy/Dockerfile").contains("TOLLGATE_METRICS_LISTEN=0.0.0.0:9902"));
    let mounted = mounted(&service("prom/prometheus"));
    let rules = texts(&prometheus["rule_files"])[0].to_owned();
    assert!(mounted.contains(&("./prometheus-rules.yml".to_owned(), rules)));
}

#[test]
fn grafana_finds_prometheus_and_the_dashboard() {
    let mounted = mounted(&service("grafana/grafana"));
    let at = |file: &str| {
        let mount = mounted.iter().find(|(source, _)| source == file);
        mount.map(|(_, target)| target.clone()).unwrap_or_else(|| panic!("{file} is not mounted"))
    };
    let provisioning = "/etc/grafana/provisioning";
    assert!(
        at("./compose/grafana-datasource.yml").starts_with(&format!("{provisioning}/datasources/"))
    );
    assert!(
        at("./compose/grafana-dashboards.yml").starts_with(&format!("{provisioning}/dashboards/"))
    );
    let provider = yaml("deploy/compose/grafana-dashboards.yml")["providers"][0].clone();
    let folder = provider["options"]["path"].as_str().unwrap();
    assert!(at("./grafana-dashboard.json").starts_with(&format!("{folder}/")));
    let source = yaml("deploy/compose/grafana-datasource.yml")["datasources"][0].clone();
    assert_eq!(source["url"].as_str(), Some("http://prometheus:9090"));
    assert_eq!(
        (source["type"].as_str(), source["isDefault"].as_bool()),
        (Some("prometheus"), Some(true))
    );
}

#[test]
fn every_file_that_is_mounted_exists() {
    let root = env!("CARGO_MANIFEST_DIR");
    for image in ["prom/prometheus", "grafana/grafana"] {
        for (source, _) in mounted(&service(image)) {
            let path = format!("{root}/{FOLDER}/{source}");
            assert!(fs::metadata(&path).is_ok_and(|it| it.is_file()), "{path}");
        }
    }
}
