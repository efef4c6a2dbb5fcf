//! The OpenAPI document against what the router does, and the pages that show it.

use super::*;
use serde_json::json;
use std::collections::BTreeSet;

/// Every operation there is: method, path, statuses its description must have.
const OPERATIONS: [(&str, &str, &str); 35] = [
    ("get", "/health", "200 500 503"),
    ("get", "/ready", "200 500 503"),
    ("get", "/routes", "200 401 500"),
    ("get", "/limits", "200 401 500"),
    ("get", "/limits/top", "200 401 500"),
    ("get", "/explain", "200 400 401 404 500"),
    ("get", "/clients", "200 400 401 500 503"),
    ("post", "/clients", "200 400 401 403 408 413 415 500 503 507"),
    ("get", "/clients/{id}", "200 400 401 500"),
    ("delete", "/clients/{id}", "200 400 401 403 500 503"),
    ("put", "/clients/{id}/tier", "200 400 401 403 408 413 415 500 503 507"),
    ("post", "/clients/{id}/tier", "200 400 401 403 408 413 415 500 503 507"),
    ("delete", "/clients/{id}/tier", "200 400 401 403 500 503"),
    ("put", "/clients/{id}/limit", "200 400 401 403 408 413 415 500 503 507"),
    ("delete", "/clients/{id}/limit", "200 400 401 403 500 503"),
    ("get", "/clients/{id}/keys", "200 400 401 500 503"),
    ("post", "/clients/{id}/keys", "200 400 401 403 408 413 415 500 503 507"),
    ("post", "/clients/{id}/keys/{key}/rotate", "200 400 401 403 404 408 409 413 415 500 503 507"),
    ("delete", "/clients/{id}/keys/{key}", "200 400 401 403 404 409 500 503"),
    ("get", "/blocks", "200 400 401 500 503"),
    ("put", "/blocks/{kind}/{value}", "200 400 401 403 408 413 415 500 503 507"),
    ("delete", "/blocks/{kind}/{value}", "200 400 401 403 404 500 503"),
    ("get", "/circuit-breakers", "200 401 500"),
    ("post", "/circuit-breakers/{name}", "200 400 401 403 404 408 413 415 500"),
    ("get", "/upstreams", "200 401 500"),
    ("put", "/upstreams/{upstream}/servers/{address}", "200 400 401 403 404 408 413 415 500"),
    ("get", "/metrics", "200 500"),
    ("get", "/metrics/summary", "200 401 500"),
    ("get", "/metrics/latency", "200 401 500"),
    ("get", "/config", "200 401 500"),
    ("get", "/config/history", "200 401 500"),
    ("post", "/config/history/{generation}", "200 400 401 403 404 429 500"),
    ("post", "/reload", "200 401 403 409 422 500"),
    ("post", "/upgrade", "200 401 403 409 500"),
    ("get", "/openapi.json", "200 401 500"),
];

#[tokio::test]
async fn the_document_describes_every_operation_with_all_its_statuses() {
    let document = Rig::new().json("/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let mut described = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let statuses: Vec<_> =
                operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
            described.insert((method.clone(), path.clone(), statuses.join(" ")));
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(ids.insert(operation["operationId"].to_string()), "{method} {path}");
            let public = ["/health", "/ready", "/metrics"].contains(&path.as_str());
            let security = if public { json!([{}]) } else { json!([{"bearer": []}]) };
            assert_eq!(operation["security"], security, "{method} {path}");
            let parameters = operation["parameters"].as_array().map_or(0, Vec::len);
            let in_path = path.matches('{').count();
            let in_query = match (method.as_str(), path.as_str()) {
                ("get", "/clients") => 4,
                ("get", "/blocks") => 2,
                ("get", "/explain") => 7,
                _ => 0,
            };
            let expected = in_path + in_query;
            assert_eq!(parameters, expected, "{method} {path}");
            let has_body = statuses.contains(&"415");
            assert_eq!(
                operation["requestBody"]["required"] == json!(true),
                has_body,
                "{method} {path}"
            );
        }
    }
    let expected: BTreeSet<_> =
        OPERATIONS.iter().map(|&(m, p, s)| (m.to_owned(), p.to_owned(), s.to_owned())).collect();
    assert_eq!(described, expected);
    assert_eq!(document["components"]["securitySchemes"]["bearer"]["scheme"], "bearer");
}

#[tokio::test]
async fn the_router_has_exactly_the_operations_of_the_document() {
    let rig = Rig::new();
    let paths: BTreeSet<_> = OPERATIONS.iter().map(|(_, path, _)| *path).collect();
    for path in paths {
        let target = path.replace(['{', '}'], "");
        // No resource has this method, so the answer names those it has.
        let answer = rig.send(Method::PATCH, &target, &[("host", LISTEN)], "").await;
        assert_eq!(answer.status, 405, "{path}");
        let allowed = answer.header("allow").to_ascii_lowercase();
        let allowed: BTreeSet<_> = allowed.split(',').filter(|method| *method != "head").collect();
        let described = OPERATIONS.iter().filter(|(_, of, _)| *of == path).map(|(m, ..)| *m);
        assert_eq!(allowed, described.collect(), "{path}");
    }
}

#[tokio::test]
async fn every_reference_in_the_document_leads_somewhere() {
    let document = Rig::new().json("/openapi.json").await;
    let mut values = vec![&document];
    let mut references = 0;
    while let Some(value) = values.pop() {
        match value {
            Value::Array(items) => values.extend(items),
            Value::Object(fields) => {
                values.extend(fields.values());
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference}");
                    references += 1;
                }
            }
            _ => {}
        }
    }
    assert!(references > 20);
}

#[tokio::test]
async fn the_pages_come_from_the_binary_and_load_nothing_from_elsewhere() {
    let rig = Rig::new();
    let answer = rig.get("/docs").await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (308, "/docs/"));
    let page = rig.get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").starts_with("text/html"));
    let policy = page.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"));
    let html = std::str::from_utf8(&page.body).unwrap();
    let loaded: Vec<_> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1))
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(loaded.len() >= 5, "{loaded:?}");
    for file in loaded {
        let answer = rig.get(&format!("/docs/{}", file.trim_start_matches("./"))).await;
        assert_eq!(answer.status, 200, "{file}");
        assert!(!answer.body.is_empty());
    }
    let start = rig.get("/docs/swagger-initializer.js").await;
    let start = std::str::from_utf8(&start.body).unwrap();
    assert!(
        start.contains("/openapi.json") && start.contains("\"validatorUrl\": \"none\""),
        "{start}"
    );
}
