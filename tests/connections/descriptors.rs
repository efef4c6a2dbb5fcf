use std::time::Duration;
use std::{net::TcpStream, thread};

use crate::rig::plain;
use crate::support::{Gateway, Upstream, until};

/// What the process needs for itself is about half of it.
const DESCRIPTORS: u32 = 90;

fn starved(upstream: &Upstream) -> Gateway {
    Gateway::builder()
        .server("max_connections: 1000")
        .upstreams(&format!(
            "main: {{servers: [\"{}\"], breaker: {{consecutive_failures: 1}}, \
             health_check: {{type: tcp, interval: 100ms, timeout: 100ms, unhealthy_after: 1}}}}",
            upstream.address()
        ))
        .routes("- {name: all, path: /, upstream: main, retry: {}}")
        .descriptors(DESCRIPTORS, DESCRIPTORS)
        .start()
}

/// Connections until no descriptor is left; the rest of them wait in the kernel.
fn exhaust(gateway: &Gateway) -> Vec<TcpStream> {
    let streams: Vec<_> = (0..2 * DESCRIPTORS).map(|_| plain(gateway)).collect();
    until("the gateway has noticed", || {
        gateway.stderr().contains("failures to accept connections").then_some(())
    });
    streams
}

#[test]
fn the_gateway_takes_as_many_descriptors_as_it_can_get() {
    let upstream = Upstream::new();
    let builder = Gateway::before(&upstream).descriptors(80, 1_000);
    for (most, is_enough) in [(244, true), (245, false)] {
        let gateway = builder.clone().server(&format!("max_connections: {most}")).start();
        assert_eq!(gateway.descriptor_limit(), 1_000);
        let warns = gateway.stderr().contains("1000 file descriptors");
        assert_eq!(!warns, is_enough, "{}", gateway.stderr());
    }
}

#[test]
fn without_descriptors_nothing_spins_and_everything_comes_back() {
    let upstream = Upstream::new();
    let gateway = starved(&upstream);
    assert!(gateway.stderr().contains("90 file descriptors"), "{}", gateway.stderr());
    let streams = exhaust(&gateway);
    let (cpu, lines) = (gateway.cpu_time(), gateway.stderr().lines().count());
    thread::sleep(Duration::from_secs(2));
    let cpu = gateway.cpu_time().saturating_sub(cpu);
    assert!(cpu < Duration::from_millis(500), "{cpu:?} in two seconds");
    let lines = gateway.stderr().lines().count() - lines;
    assert!(lines <= 6, "{}", gateway.stderr());
    drop(streams);
    until("requests are served again", || {
        let mut client = gateway.client().patience(Duration::from_millis(500));
        client.send("GET /x HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
        (client.try_reply().ok()??.status == 200).then_some(())
    });
    assert!(gateway.series().value("gateway_accept_failures_total") >= 1.0);
}

#[test]
fn a_request_that_finds_no_descriptor_is_held_against_nobody() {
    let upstream = Upstream::new();
    let gateway = starved(&upstream);
    let mut client = gateway.client();
    assert_eq!(client.get("/x").status, 200);
    // The pooled connection would serve the next request without a new descriptor.
    upstream.switch_to(crate::support::Answer::Last(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
    ));
    assert_eq!(client.get("/x").status, 200);
    let streams = exhaust(&gateway);
    let reply = client.get("/x");
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.json()["type"], "urn:tollgate:problem:gateway-exhausted");
    assert_eq!(reply.header("retry-after"), Some("1"));
    // Some health checks would have failed meanwhile.
    thread::sleep(Duration::from_millis(500));
    drop(streams);
    // A circuit would stay open for longer than this waits.
    until("descriptors are free again", || {
        let reply = client.get("/x");
        let is_exhausted = || reply.json()["type"] == "urn:tollgate:problem:gateway-exhausted";
        assert!(reply.status == 200 || is_exhausted(), "{}", reply.text());
        (reply.status == 200).then_some(())
    });
    let series = gateway.series_once("gateway_connections", 1.0);
    assert!(series.value("gateway_circuit_state{circuit=\"main\"}") < 0.5);
    assert!((series.value("gateway_upstream_healthy{upstream=\"main\"}") - 1.0).abs() < 0.1);
    let connect = "gateway_upstream_attempts_total{outcome=\"connect\",upstream=\"main\"}";
    assert!(series.value(connect) < 0.5);
    assert!(!gateway.stderr().contains("unhealthy"), "{}", gateway.stderr());
}
