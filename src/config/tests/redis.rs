use super::*;
use crate::config::{effective, parse};
use serde_json::json;

/// What a file with this `redis:` comes to: the section, or all errors.
fn read(section: &str) -> Result<Option<Redis>, String> {
    let text = format!(
        "redis: {section}\nupstreams: {{a: {{servers: [127.0.0.1:1]}}}}\n\
         routes: [{{name: all, path: /, upstream: a}}]\n"
    );
    let env = |name: &str| (name == "EMPTY").then(String::new);
    match parse(&text, &env) {
        Ok((config, _)) => {
            let shown = effective(&config);
            let again = parse(&shown.to_string(), &|_| None).unwrap().0;
            assert_eq!(effective(&again), shown, "{section}");
            Ok(config.redis)
        }
        Err(errors) => Err(errors.iter().map(|e| format!("{e}\n")).collect()),
    }
}

fn shown(section: &str) -> serde_json::Value {
    let text = format!(
        "redis: {section}\nupstreams: {{a: {{servers: [127.0.0.1:1]}}}}\n\
         routes: [{{name: all, path: /, upstream: a}}]\n"
    );
    effective(&parse(&text, &|_| None).unwrap().0)["redis"].clone()
}

#[test]
fn without_a_url_everything_is_local() {
    for section in
        ["", "null", "{url: null}", "{url: '${EMPTY:-}'}", "{url: '${NONE:-}', timeout: 5ms}"]
    {
        assert_eq!(read(section), Ok(None), "{section}");
    }
    assert!(read("{}").unwrap_err().contains("url is missing"));
    assert!(read("{timeout: 5ms}").unwrap_err().contains("url is missing"));
}

#[test]
fn a_url_alone_has_defaults() {
    let redis = read("{url: 'redis://localhost'}").unwrap().unwrap();
    let expected = Redis {
        servers: vec![RedisAddress { host: "localhost".to_owned(), port: 6379 }],
        is_tls: false,
        username: None,
        password: None,
        database: 0,
        timeout: Duration::from_millis(10),
        prefix: "tollgate:".into(),
        expected_gateways: 1,
        is_cluster: false,
        sentinel: None,
        ca: None,
    };
    assert_eq!(redis, expected);
}

#[test]
fn urls_say_who_where_and_how() {
    let one = |url: &str| read(&format!("{{url: \"{url}\"}}")).unwrap().unwrap();
    let redis = one("rediss://a%40b:p%2Fw%25@[::1]:7000/3");
    assert_eq!(redis.servers[0], RedisAddress { host: "::1".to_owned(), port: 7000 });
    assert_eq!(redis.username.as_deref(), Some("a@b"));
    assert_eq!(redis.password.as_ref().map(Secret::expose), Some("p/w%"));
    assert_eq!((redis.is_tls, redis.database), (true, 3));
    assert_eq!(redis.url_of(&redis.servers[0], "***"), "rediss://a%40b:***@[::1]:7000/3");
    let redis = one("redis://:se@cret@10.0.0.1:1");
    assert_eq!(redis.password.as_ref().map(Secret::expose), Some("se@cret"));
    assert_eq!(redis.servers[0].to_string(), "10.0.0.1:1");
    assert!(one("valkeys://h").is_tls);
}

#[test]
fn a_cluster_and_sentinels_have_several_servers() {
    let redis = read("{url: [redis://a:1, redis://b:2], cluster: true}").unwrap().unwrap();
    assert!(redis.is_cluster);
    assert_eq!(redis.servers.len(), 2);
    let redis = read(
        "{url: ['redis://:pw@a', 'redis://:pw@b:1'], sentinel: {master: main, password: other}}",
    );
    let redis = redis.unwrap().unwrap();
    assert_eq!(redis.servers.iter().map(|s| s.port).collect::<Vec<_>>(), [26379, 1]);
    let sentinel = redis.sentinel.unwrap();
    assert_eq!((&*sentinel.master, sentinel.username), ("main", None));
    assert_eq!(sentinel.password.as_ref().map(Secret::expose), Some("other"));
}

#[test]
fn secrets_are_not_shown() {
    let value = shown(
        "{url: ['rediss://me:secret1@a'], sentinel: {master: m, username: u, password: secret2}, \
         tls: {ca: /ca.pem}, timeout: 20ms, prefix: x, expected_gateways: 4}",
    );
    let expected = json!({
        "url": ["rediss://me:***@a:26379"],
        "timeout": "20ms",
        "prefix": "x",
        "expected_gateways": 4,
        "cluster": false,
        "sentinel": {"master": "m", "username": "u", "password": "***"},
        "tls": {"ca": "/ca.pem"},
    });
    assert_eq!(value, expected);
}

#[test]
fn what_is_wrong_says_what_would_be_right() {
    let cases = [
        (
            "{url: 127.0.0.1:6379}",
            "redis.url: is not a URL of Redis: it does not begin with redis:// or rediss://; write for example redis://127.0.0.1:6379",
        ),
        ("{url: 'http://a'}", "does not begin with redis://"),
        ("{url: 'redis://'}", "has no host"),
        ("{url: 'redis://a:0'}", "port is not between"),
        ("{url: 'redis://a:99999'}", "port is not between"),
        ("{url: 'redis://a:6379/x'}", "the number of a database"),
        ("{url: 'redis://:s/e@a:6379'}", "in a password write %2F"),
        ("{url: 'redis://a?protocol=resp3'}", "it has ? or #"),
        ("{url: 'redis://:a%2@b'}", "two hexadecimal digits"),
        ("{url: 'redis://me@a'}", "has a user and no password"),
        ("{url: []}", "redis.url: is empty"),
        ("{url: ['redis://a', 'redis://b']}", "write cluster: true, or sentinel: {master: NAME}"),
        ("{url: ['redis://a', 'redis://a'], cluster: true}", "redis.url[1]: a:6379 is there twice"),
        (
            "{url: ['redis://a', 'rediss://b'], cluster: true}",
            "redis.url[1]: all URLs must have the same scheme",
        ),
        ("{url: 'redis://a/1', cluster: true}", "no databases but 0"),
        ("{url: 'redis://a', cluster: true, sentinel: {master: m}}", "both cluster and sentinel"),
        ("{url: 'redis://a', sentinel: {}}", "redis.sentinel: master is missing"),
        ("{url: 'redis://a', sentinel: {master: m, username: u}}", "a username and no password"),
        ("{url: 'redis://a', tls: {ca: /x}}", "redis.tls: has an authority"),
        ("{url: 'rediss://a', tls: {}}", "redis.tls: ca is missing"),
        ("{url: 'redis://a', timeout: 2s}", "not between 1ms and 1s"),
        ("{url: 'redis://a', prefix: ''}", "is not a prefix"),
        ("{url: 'redis://a', prefix: 'a{b}'}", "but { and }"),
        ("{url: 'redis://a', expected_gateways: 0}", "not between 1 and 10000"),
        ("{url: 'redis://a', expect_gateways: 1}", "did you mean \"expected_gateways\"?"),
    ];
    for (section, expected) in cases {
        let errors = read(section).unwrap_err();
        assert!(errors.contains(expected), "{section}: {errors}");
    }
}

#[test]
fn an_error_does_not_tell_a_password() {
    for url in
        ["redis://:geheim@", "redis://u:geheim@a:b", "redis//:geheim@a", "redis://:ge%heim@a"]
    {
        let errors = read(&format!("{{url: '{url}'}}")).unwrap_err();
        assert!(!errors.contains("heim"), "{errors}");
    }
}
