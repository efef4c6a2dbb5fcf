use std::time::Duration;

use crate::rig::{GET, abort, client_from, closed_for, plain, with};
use crate::support::{Client, End, Gateway, Reply, Upstream, until};
use std::io::Write;

/// What a connection too many is answered, before it has asked anything.
#[track_caller]
fn turned_away(mut client: Client) -> Reply {
    let reply = client.reply();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(reply.says_close());
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.json()["type"], "urn:tollgate:problem:too-many-connections");
    assert_eq!(client.end(), End::Closed);
    reply
}

/// Connections that have been served once.
fn served(count: usize, gateway: &Gateway) -> Vec<Client> {
    (0..count)
        .map(|_| {
            let mut client = gateway.client();
            assert_eq!(client.get("/x").status, 200);
            client
        })
        .collect()
}

#[test]
fn as_many_connections_as_configured_are_served_and_no_more() {
    let (gateway, _upstream) = with("max_connections: 3");
    let mut held = served(3, &gateway);
    for _ in 0..5 {
        turned_away(gateway.client());
    }
    let series = gateway.series_once(&closed_for("max_connections"), 5.0);
    assert!((series.value("gateway_connections") - 3.0).abs() < 0.1);
    assert!((series.value("gateway_connections_total") - 8.0).abs() < 0.1);
    assert_eq!(held[0].get("/x").status, 200, "those who were there go on");
    drop(held.pop());
    gateway.series_once("gateway_connections", 2.0);
    held.extend(served(1, &gateway));
    turned_away(gateway.client());
    until("one line tells of them", || {
        gateway.stderr().contains("connections refused (server.max_connections)").then_some(())
    });
}

#[test]
fn connections_that_break_off_are_given_back() {
    let (gateway, _upstream) = with("max_connections: 20");
    for round in 0..5 {
        let streams: Vec<_> = (0..20)
            .map(|index| {
                let mut stream = plain(&gateway);
                let sent = [
                    GET,
                    "",
                    "GET / HT",
                    "\x16\x03",
                    "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab",
                ];
                stream.write_all(sent[index % sent.len()].as_bytes()).unwrap();
                stream
            })
            .collect();
        streams.into_iter().for_each(abort);
        gateway.series_once("gateway_connections", 0.0);
        assert_eq!(served(20, &gateway).len(), 20, "round {round}");
        gateway.series_once("gateway_connections", 0.0);
    }
    assert!(!gateway.stderr().contains("ERROR"), "{}", gateway.stderr());
}

#[test]
fn each_address_has_its_share_and_trusted_proxies_have_more() {
    let (gateway, _upstream) =
        with("max_connections_per_ip: 2\ntrusted_proxies: [127.0.0.3, 127.0.0.4]");
    let mut held = Vec::new();
    for host in [1, 2] {
        for _ in 0..2 {
            let mut client = client_from(host, &gateway);
            assert_eq!(client.get("/x").status, 200);
            held.push(client);
        }
        let reply = turned_away(client_from(host, &gateway));
        assert!(reply.text().contains("from this address"), "{}", reply.text());
    }
    for _ in 0..10 {
        let mut client = client_from(3, &gateway);
        assert_eq!(client.get("/x").status, 200);
        held.push(client);
    }
    gateway.series_once(&closed_for("max_connections_per_ip"), 2.0);
    held.remove(0);
    gateway.series_once("gateway_connections", 13.0);
    assert_eq!(client_from(1, &gateway).get("/x").status, 200);
    turned_away(client_from(2, &gateway));
}

#[test]
fn a_connection_makes_as_many_requests_as_configured() {
    let (gateway, _upstream) = with("max_requests_per_connection: 3");
    for last in ["/x", "/%2e%2e/"] {
        let mut client = gateway.client().patience(Duration::from_secs(5));
        for _ in 0..2 {
            assert!(!client.get("/x").says_close());
        }
        let reply = client.get(last);
        assert!(reply.says_close(), "{}", reply.text());
        assert_eq!(client.end(), End::Closed);
    }
    let upstream = Upstream::refusing();
    let gateway = Gateway::before(&upstream).server("max_requests_per_connection: 2").start();
    let mut client = gateway.client();
    let statuses = [client.get("/x"), client.get("/x")].map(|r| (r.status, r.says_close()));
    assert_eq!(statuses, [(502, false), (502, true)], "also where attempts fail");
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_reload_changes_the_numbers() {
    let upstream = Upstream::new();
    let builder = Gateway::before(&upstream);
    let gateway = builder.clone().start();
    let mut held = served(3, &gateway);
    let reload = |server: &str| {
        gateway.rewrite(&builder.clone().server(server));
        assert_eq!(gateway.reload().status, 200);
    };
    reload("max_connections: 2");
    turned_away(gateway.client());
    assert_eq!(held[0].get("/x").status, 200, "nothing that is open is closed");
    reload("max_connections_per_ip: 3");
    turned_away(gateway.client());
    reload("max_requests_per_connection: 3");
    assert!(held[1].get("/x").status == 200 && held[1].get("/x").says_close());
    held.extend(served(4, &gateway));
}
