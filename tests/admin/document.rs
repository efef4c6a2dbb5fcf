//! The OpenAPI document and the page that shows it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Gateway, Upstream, eventually};

/// Every operation the API has.
const OPERATIONS: [(&str, &str); 23] = [
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/routes"),
    ("get", "/limits"),
    ("get", "/clients"),
    ("get", "/clients/{id}"),
    ("put", "/clients/{id}/tier"),
    ("post", "/clients/{id}/tier"),
    ("put", "/clients/{id}/limit"),
    ("delete", "/clients/{id}/limit"),
    ("get", "/circuit-breakers"),
    ("post", "/circuit-breakers/{name}"),
    ("get", "/upstreams"),
    ("put", "/upstreams/{upstream}/servers/{address}"),
    ("get", "/metrics"),
    ("get", "/metrics/summary"),
    ("get", "/metrics/latency"),
    ("get", "/config"),
    ("get", "/config/history"),
    ("post", "/config/history/{generation}"),
    ("post", "/reload"),
    ("post", "/upgrade"),
    ("get", "/openapi.json"),
];

/// How long a browser may take to start and show a page.
const BROWSER_DEADLINE: Duration = Duration::from_secs(60);

fn document(gateway: &Gateway) -> Value {
    let reply = gateway.admin_get("/openapi.json");
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    reply.json()
}

#[test]
fn the_document_names_every_operation_and_no_other() {
    let upstream = Upstream::new();
    let document = document(&Gateway::before(&upstream).start());
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.")));
    let mut found = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            found.insert((method.as_str(), path.as_str()));
            let place = format!("{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{place}");
            assert!(ids.insert(operation["operationId"].as_str().expect(&place)), "{place}");
            assert!(operation["responses"]["200"].is_object(), "{place}");
            for name in path.split(['{', '}']).skip(1).step_by(2) {
                let parameters = operation["parameters"].as_array().expect(&place);
                assert!(parameters.iter().any(|parameter| parameter["name"] == name), "{place}");
            }
            // A reload takes nothing but the file, and going back nothing but a number.
            let has_body =
                !["/reload", "/upgrade", "/config/history/{generation}"].contains(&path.as_str());
            if matches!(&**method, "put" | "post") && has_body {
                let content = &operation["requestBody"]["content"]["application/json"];
                assert!(content["schema"].is_object(), "{place}");
                assert!(operation["responses"]["400"].is_object(), "{place}");
            }
        }
    }
    assert_eq!(found, OPERATIONS.into_iter().collect());
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    fn walk(root: &Value, value: &Value, seen: &mut usize) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    let pointer = reference.strip_prefix('#').expect(reference);
                    assert!(root.pointer(pointer).is_some(), "{reference}");
                    *seen += 1;
                }
                members.values().for_each(|member| walk(root, member, seen));
            }
            Value::Array(items) => items.iter().for_each(|item| walk(root, item, seen)),
            _ => {}
        }
    }
    let upstream = Upstream::new();
    let document = document(&Gateway::before(&upstream).start());
    let mut seen = 0;
    walk(&document, &document, &mut seen);
    assert!(seen > 10, "{seen}");
}

#[test]
fn what_can_be_read_is_as_described() {
    let upstream = Upstream::new();
    let gateway = Gateway::builder()
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], concurrency: {{max: 9}}, breaker: {{}}}}",
            upstream.address()
        ))
        .routes("- {name: all, path: /, upstream: main, retry: {}, breaker: {}}")
        .start();
    let document = document(&gateway);
    for (method, path) in OPERATIONS.into_iter().filter(|(method, _)| *method == "get") {
        let target = path.replace("{id}", "c").replace("/clients", "/clients?ip=127.0.0.1");
        let target = if path == "/clients/{id}" { "/clients/c".to_owned() } else { target };
        let reply = gateway.admin_get(&target);
        assert_eq!(reply.status, 200, "{target}");
        let content = &document["paths"][path][method]["responses"]["200"]["content"];
        let kind = reply.header("content-type").unwrap().split(';').next().unwrap();
        assert!(content[kind].is_object(), "{target} is {kind}, described as {content}");
        if kind == "application/json" {
            assert_described(&document, &content[kind]["schema"], &reply.json(), &target);
        }
    }
}

/// Checks that every member of the value, and of what is in it, is in the schema.
#[track_caller]
fn assert_described(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let schema = document.pointer(&name[1..]).expect(name);
        return assert_described(document, schema, value, place);
    }
    let mut alternatives = schema["oneOf"].as_array().into_iter().flatten();
    // What may be null is null or the other thing.
    if let Some(schema) = alternatives.rfind(|schema| schema["type"] != "null") {
        return assert_described(document, schema, value, place);
    }
    match value {
        Value::Array(items) => {
            let each = |item| assert_described(document, &schema["items"], item, place);
            items.iter().for_each(each);
        }
        Value::Object(members) if schema["properties"].is_object() => {
            for (name, member) in members {
                let schema = &schema["properties"][name];
                assert!(schema.is_object(), "{place} has {name}, which is not described");
                assert_described(document, schema, member, &format!("{place}: {name}"));
            }
        }
        _ => {}
    }
}

#[test]
fn the_page_is_served_by_the_gateway_alone() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let moved = gateway.admin_get("/docs");
    assert!((300..400).contains(&moved.status), "{}", moved.status);
    assert_eq!(moved.header("location"), Some("/docs/"));
    let page = gateway.admin_get("/docs/");
    assert_eq!(page.status, 200);
    let text = page.text();
    assert!(text.contains("swagger-ui"), "{text}");
    let sources = text
        .split(['"', '\''])
        .filter(|part| part.ends_with(".js") || part.ends_with(".css") || part.ends_with(".png"));
    let mut count = 0;
    for source in sources {
        assert!(!source.contains("//"), "{source} is somebody else's");
        let file = source.trim_start_matches("./");
        assert_eq!(gateway.admin_get(&format!("/docs/{file}")).status, 200, "{source}");
        count += 1;
    }
    assert!(count >= 3, "{text}");
}

#[test]
fn a_browser_shows_every_operation() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok())
    else {
        eprintln!("no browser here: this test needs chromium");
        return;
    };
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let shown = rendered(browser, &format!("http://{}/docs/", gateway.admin));
    let document = document(&gateway);
    for (method, path) in OPERATIONS {
        let operation = &document["paths"][path][method];
        let (tag, id) = (operation["tags"][0].as_str(), operation["operationId"].as_str());
        let anchor = format!("id=\"operations-{}-{}\"", tag.unwrap(), id.unwrap());
        assert!(shown.contains(&anchor), "{method} {path} is not under its tag, {tag:?}");
        let block = format!("opblock opblock-{method}");
        assert!(shown.contains(&block), "no {block}");
        assert!(shown.contains(&format!("data-path=\"{path}\"")), "{path} is not shown:\n{shown}");
    }
    assert!(shown.contains("Tollgate admin API"), "{shown}");
    assert!(!shown.contains("Failed to load"), "{shown}");
}

/// The page's elements after its scripts have run.
fn rendered(browser: &str, url: &str) -> String {
    let profile = tempfile::tempdir().expect("a temporary directory");
    let dump = profile.path().join("dump.html");
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--disable-dev-shm-usage")
        .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
        .args(["--virtual-time-budget=20000", "--dump-dom", url])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&dump).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the browser starts");
    let ended = eventually(BROWSER_DEADLINE, || child.try_wait().expect("own child"));
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    read(&dump)
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).expect("what the browser showed")
}
