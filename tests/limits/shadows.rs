//! Limits that are only watched: a candidate beside the one that is enforced.

use serde_json::{Value, json};

use crate::rig::{BY_HEADER, admitted, assert_limited, get_as, left, rate_limit};
use crate::support::{Gateway, Upstream, until};

const ME: &[(&str, &str)] = &[("X-Client-ID", "c")];

fn policy(gateway: &Gateway, name: &str) -> Value {
    let limits = gateway.admin_get("/limits").json();
    let limits = limits["limits"].as_array().expect("limits").clone();
    limits.into_iter().find(|limit| limit["policy"] == name).expect("the policy")
}

#[test]
fn a_candidate_counts_what_it_would_refuse_and_refuses_nothing() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .clients(BY_HEADER)
        .limits(
            "
             - {name: strict, key: client, rate: 3/h, burst: 3, shadow: true}
             - {name: running, key: client, rate: 5/h, burst: 5}
             - {name: loose, key: client, rate: 9/d, algorithm: sliding_window, shadow: true}",
        )
        .start();
    for taken in 1..=5 {
        let reply = get_as(&gateway, "c", "/");
        assert_eq!(reply.status, 200);
        let (policy, now) = rate_limit(&reply);
        assert_eq!((&*policy.policy, now.tokens), ("running", 5 - taken), "never a shadow");
    }
    assert_limited(&get_as(&gateway, "c", "/"), "running", 720);
    let counts = |name: &str| {
        let policy = policy(&gateway, name);
        [&policy["allowed"], &policy["limited"], &policy["shadow"]].map(Clone::clone)
    };
    assert_eq!(counts("strict"), [json!(3), json!(3), json!(true)]);
    assert_eq!(counts("running"), [json!(5), json!(1), json!(false)]);
    assert_eq!(counts("loose"), [json!(6), json!(0), json!(true)], "it would have let all pass");
    assert_eq!((left(&gateway, "c", "strict"), left(&gateway, "c", "loose")), (0, 3));
    let series = gateway.series();
    assert_eq!(series.sum("gateway_shadow_limited_total"), 3.0);
    assert_eq!(series.sum("gateway_rate_limited_total"), 1.0);
    assert!(series.of("gateway_shadow_limited_total")[0].contains("policy=\"strict\""));
}

#[test]
fn the_access_log_names_the_shadows_that_would_have_refused() {
    let upstream = Upstream::new();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    let gateway = Gateway::builder()
        .upstream("main", upstream.address())
        .server(&format!("access_log: {{file: \"{}\"}}", file.display()))
        .clients(BY_HEADER)
        .limits("- {name: one, key: client, rate: 1/h, burst: 1, shadow: true}")
        .routes(
            "- {name: r, path: /, upstream: main, limit: {rate: 9/h, burst: 9, shadow: true,
                quota: {limit: 2, per: month}}}",
        )
        .start();
    assert_eq!(admitted(&gateway, 3, ME), 3);
    let lines = until("three lines are written", || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines: Vec<Value> =
            text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        (lines.len() == 3).then_some(lines)
    });
    let shadows: Vec<_> = lines.iter().map(|line| line["shadow"].clone()).collect();
    assert_eq!(shadows, [Value::Null, json!(["one"]), json!(["one", "route:r:quota"])]);
    assert!(lines.iter().all(|line| line["limited_by"].is_null() && line["status"] == 200));
}

#[test]
fn a_shadow_that_is_enforced_goes_on_where_it_was() {
    let upstream = Upstream::new();
    let with = |shadow: bool| {
        let limit = format!("- {{name: l, key: client, rate: 1/h, burst: 2, shadow: {shadow}}}");
        Gateway::before(&upstream).clients(BY_HEADER).limits(&limit)
    };
    let gateway = with(true).start();
    assert_eq!(admitted(&gateway, 4, ME), 4);
    gateway.rewrite(&with(false));
    assert_eq!(gateway.reload().status, 200);
    assert_limited(&get_as(&gateway, "c", "/"), "l", 3_600);
}
