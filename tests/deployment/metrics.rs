//! Every metric that the dashboard, the alerts and the autoscaler ask for exists, and every metric
//! there is can be seen.

use serde_json::Value;
use std::collections::BTreeSet;

use super::promql::metrics_of;
use super::{file, yaml};
use crate::support::{Gateway, Upstream};

/// What Prometheus itself makes.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// Metrics of ours that no panel shows, each with the reason.
const NOT_SHOWN: [(&str, &str); 0] = [];

/// The names of all samples that a gateway exposes after every family has one.
fn exposed() -> BTreeSet<String> {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        // Nobody listens there, which is enough to have the metrics.
        .redis("{url: \"redis://127.0.0.1:1\"}")
        .tiers("free: {rate: 1/h, burst: 1}")
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], concurrency: {{max: 1}}}}",
            upstream.address()
        ))
        .start();
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 429]);
    let series = gateway.series_once("gateway_requests_total{route=\"all\",status=\"429\"}", 1.0);
    let names = series.names().into_iter();
    names.map(|sample| sample.split('{').next().unwrap().to_owned()).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&file("deploy/grafana-dashboard.json")).expect("JSON")
}

/// Every `expr` below `value`.
fn expressions(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("expr").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(expressions)).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[track_caller]
fn assert_exposed(names: BTreeSet<String>, exposed: &BTreeSet<String>, place: &str) {
    assert!(!names.is_empty(), "{place} asks for nothing");
    for name in names {
        let exists = exposed.contains(&name) || OF_PROMETHEUS.contains(&&*name);
        assert!(exists, "{place} asks for {name}, which no gateway has");
    }
}

#[test]
fn the_dashboard_the_alerts_and_the_autoscaler_ask_for_metrics_that_exist() {
    let exposed = exposed();
    let dashboard = dashboard();
    for expression in expressions(&dashboard) {
        assert_exposed(metrics_of(&expression), &exposed, &expression);
    }
    for variable in dashboard["templating"]["list"].as_array().unwrap() {
        if let Some(query) = variable["query"]["query"].as_str() {
            let (metric, _) = query.trim_start_matches("label_values(").rsplit_once(',').unwrap();
            assert_exposed(metrics_of(metric), &exposed, query);
        }
    }
    for rule in yaml("deploy/prometheus-rules.yml")["groups"][0]["rules"].as_sequence().unwrap() {
        let expression = rule["expr"].as_str().unwrap();
        assert_exposed(metrics_of(expression), &exposed, expression);
    }
    let scaler = yaml("deploy/kubernetes/horizontal-pod-autoscaler.yaml");
    let wanted =
        scaler["spec"]["metrics"][0]["pods"]["metric"]["name"].as_str().unwrap().to_owned();
    let rule = &yaml("deploy/kubernetes/prometheus-adapter.yaml")["rules"]["custom"][0];
    assert_eq!(rule["name"]["as"].as_str(), Some(&*wanted));
    assert_exposed(metrics_of(rule["seriesQuery"].as_str().unwrap()), &exposed, "the adapter");
    assert_exposed([wanted].into(), &exposed, "the autoscaler");
}

#[test]
fn every_metric_of_the_gateway_has_a_panel() {
    let mut shown = BTreeSet::new();
    for panel in dashboard()["panels"].as_array().unwrap() {
        for expression in expressions(panel) {
            shown.extend(metrics_of(&expression));
        }
    }
    let families = exposed().into_iter().filter(|name| name.starts_with("gateway_")).map(|name| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name).to_owned()
    });
    for family in families {
        let is_shown = shown.contains(&family) || shown.contains(&format!("{family}_bucket"));
        let is_left_out = NOT_SHOWN.iter().any(|(name, _)| *name == family);
        assert!(is_shown != is_left_out, "{family}: in a panel or in NOT_SHOWN, and not in both");
    }
}

#[test]
fn grafana_can_load_the_dashboard() {
    let dashboard = dashboard();
    assert_eq!(dashboard["uid"], "tollgate");
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    // An id would overwrite whatever has it.
    assert!(dashboard["id"].is_null());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let source = variables.iter().find(|variable| variable["type"] == "datasource").unwrap();
    assert_eq!((&source["name"], &source["query"]), (&"datasource".into(), &"prometheus".into()));
    let mut ids = BTreeSet::new();
    let mut places = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(places.insert((place("y"), place("x"))), "two panels in one place: {panel}");
        assert!(place("x") + place("w") <= 24, "{panel}");
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{panel}");
            for target in panel["targets"].as_array().unwrap() {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{panel}");
            }
        }
    }
}

#[test]
fn panels_name_alerts_that_exist() {
    let rules = file("deploy/prometheus-rules.yml");
    for panel in dashboard()["panels"].as_array().unwrap() {
        let description = panel["description"].as_str().unwrap_or_default();
        for word in description.split(|c: char| !c.is_alphanumeric()) {
            if word.starts_with("Tollgate") && word != "Tollgate" {
                assert!(rules.contains(&format!("- alert: {word}\n")), "{word} is no alert");
            }
        }
    }
}
