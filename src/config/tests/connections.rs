use super::{good, refused, with_route};
use crate::config::{Connections, effective};
use std::time::Duration;

#[test]
fn every_key_of_connections_is_read_and_shown() {
    let config = good(include_str!("every_key.yaml"));
    let expected = Connections {
        header_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(120),
        min_body_rate: 512,
        max: 1_000,
        max_per_ip: Some(50),
        max_requests: Some(300),
    };
    assert_eq!(config.server.connections, expected);
    let shown = effective(&config);
    for (key, value) in [
        ("header_timeout", "2s".into()),
        ("idle_timeout", "2m".into()),
        ("min_body_rate", "512".into()),
        ("max_connections", 1_000.into()),
        ("max_connections_per_ip", 50.into()),
        ("max_requests_per_connection", serde_json::Value::from(300)),
    ] {
        assert_eq!(shown["server"][key], value, "{key}");
    }
}

#[test]
fn connections_are_bounded_without_a_word_about_them() {
    let connections = good(&with_route("")).server.connections;
    assert_eq!(connections, Connections::default());
    assert_eq!(connections.header_timeout, Duration::from_secs(10));
    assert_eq!(connections.idle_timeout, Duration::from_secs(60));
    assert_eq!((connections.min_body_rate, connections.max), (1_024, 65_536));
    assert_eq!((connections.max_per_ip, connections.max_requests), (None, None));
}

#[test]
fn bounds_of_connections_have_bounds() {
    refused(&[
        ("server: {header_timeout: 0s}", "server.header_timeout: \"0s\" is not between 1ms and 1h"),
        ("server: {header_timeout: 10}", "has no unit; write for example 10s"),
        ("server: {idle_timeout: 25h}", "is not between 1ms and 24h"),
        ("server: {min_body_rate: 1MB}", "is not a size"),
        ("server: {min_body_rate: 2GiB}", "is not between 0 and 1GiB"),
        ("server: {max_connections: 0}", "is not between 1 and 1000000"),
        ("server: {max_connections_per_ip: 0}", "is not between 1 and 1000000"),
        ("server: {max_requests_per_connection: 0}", "is not between 1 and 1000000000"),
    ]);
    let config = good(&(with_route("") + "server: {min_body_rate: 0}"));
    assert_eq!(config.server.connections.min_body_rate, 0);
}
