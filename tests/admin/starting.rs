//! Where the admin API must not be reachable without a token, nothing starts.

use std::fs;

use crate::support::{Gateway, Upstream, free_addresses, run_to_exit};

#[test]
fn without_a_token_it_is_not_served_beyond_loopback() {
    let upstream = Upstream::new();
    for listen in ["0.0.0.0", "[::]", "203.0.113.9"] {
        let [data, admin, metrics] = free_addresses();
        for (command, token) in [
            ("run", ""),
            ("check", ""),
            ("run", "token: \"\""),
            ("run", "token: \"${UNSET_TOKEN:-}\""),
        ] {
            let yaml = Gateway::before(&upstream).admin(token).yaml(data, admin, metrics);
            let open = format!("{listen}:{}", admin.port());
            let yaml = yaml.replace(&admin.to_string(), &open);
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("tollgate.yaml"), &yaml).unwrap();
            let ended = run_to_exit(dir.path(), &[command, "-c", "tollgate.yaml"]);
            assert_eq!(ended.code, Some(64), "{command} {yaml}");
            let told = format!("{}{}", ended.stdout, ended.stderr);
            assert!(told.contains("admin.token"), "it names the key: {told}");
        }
    }
}

#[test]
fn with_a_token_it_is() {
    let upstream = Upstream::new();
    let [data, admin, metrics] = free_addresses();
    let builder = Gateway::before(&upstream).admin("token: a-token-of-some-length");
    let yaml = builder.yaml(data, admin, metrics);
    let yaml = yaml.replace(&admin.to_string(), &format!("0.0.0.0:{}", admin.port()));
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("tollgate.yaml"), &yaml).unwrap();
    let checked = run_to_exit(dir.path(), &["check", "-c", "tollgate.yaml"]);
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
}
