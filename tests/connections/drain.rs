use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::rig::{GET, plain, to_the_end, took, with};
use crate::support::{Answer, Client, DEADLINE, End, Gate, Gateway, Upstream, ok, until};

/// Waits until the gateway says that it drains.
fn terminate(gateway: &Gateway) {
    gateway.terminate();
    until("it drains", || (gateway.readiness() == Some(503)).then_some(()));
}

#[test]
fn connections_that_stay_silent_are_closed_in_order_after_half_a_second() {
    let (mut gateway, _upstream) = with("");
    let mut streams: Vec<_> = (0..20).map(|_| plain(&gateway)).collect();
    for stream in &mut streams[..10] {
        stream.write_all(GET.as_bytes()).unwrap();
        until("the answer is there", || (stream.peek(&mut [0; 1]).ok()? > 0).then_some(()));
    }
    gateway.series_once("gateway_connections", 20.0);
    let began = Instant::now();
    gateway.terminate();
    for stream in &mut streams {
        to_the_end(stream);
    }
    took(began, Duration::from_millis(450), Duration::from_millis(1_500));
    drop(streams);
    assert!(gateway.exit_within(Duration::from_secs(2)).is_some(), "nothing is left to wait for");
    took(began, Duration::from_millis(450), Duration::from_secs(3));
}

#[test]
fn an_idle_gateway_is_gone_at_once() {
    let (mut gateway, _upstream) = with("");
    drop(gateway.get("/x"));
    gateway.series_once("gateway_connections", 0.0);
    let began = Instant::now();
    gateway.terminate();
    assert!(gateway.exit_within(DEADLINE).is_some());
    took(began, Duration::ZERO, Duration::from_secs(1));
}

#[test]
fn a_request_within_half_a_second_is_served_and_told_that_it_was_the_last() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream)
        .server("health_path: /healthz")
        .routes("- {name: all, path: /, methods: [GET], upstream: main}")
        .start();
    let mut clients: Vec<_> = (0..4).map(|_| gateway.client()).collect();
    for client in &mut clients {
        assert!(!client.get("/x").says_close());
    }
    terminate(&gateway);
    let asked = [("GET", "/x", 200), ("POST", "/x", 405), ("GET", "/healthz", 503)];
    for (client, (method, target, status)) in clients.iter_mut().zip(asked) {
        let reply = client.request(method, target, &[], b"");
        assert_eq!(reply.status, status);
        assert!(reply.says_close(), "{method} {target}");
        assert_eq!(client.end(), End::Closed);
    }
}

#[test]
fn what_is_in_flight_is_answered_and_told_that_it_was_the_last() {
    let gate = Gate::default();
    let held = Answer::Held(gate.clone(), Box::new(ok("late")));
    let upstream = Upstream::answering(held);
    let mut gateway = Gateway::before(&upstream).start();
    let mut clients: Vec<Client> = (0..5).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send(GET);
    }
    upstream.wait_for(5);
    terminate(&gateway);
    thread::sleep(Duration::from_millis(800));
    gate.open();
    for client in &mut clients {
        let reply = client.reply();
        assert_eq!(reply.text(), "late");
        assert!(reply.says_close());
        assert_eq!(client.end(), End::Closed);
    }
    assert!(gateway.exit_within(DEADLINE).is_some());
}

#[test]
fn a_websocket_lives_until_its_own_end() {
    let upstream = Upstream::answering(Answer::Upgrade(
        "Connection: Upgrade\r\nUpgrade: websocket\r\n".to_owned(),
    ));
    let mut gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(
        "GET / HTTP/1.1\r\nHost: tollgate.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    assert_eq!(client.next_head().status(), 101);
    terminate(&gateway);
    thread::sleep(Duration::from_millis(1_200));
    client.send("still here");
    assert_eq!(client.exactly(10), b"still here");
    assert!(gateway.is_running());
    drop(client);
    assert!(gateway.exit_within(DEADLINE).is_some(), "it was the last");
}

#[test]
fn a_busy_client_never_sees_a_reset() {
    let (mut gateway, _upstream) = with("workers: 2");
    let data = gateway.data;
    let clients: Vec<_> = (0..8_u64)
        .map(|index| {
            thread::spawn(move || {
                let mut client = Client::connect(data);
                let mut count = 0;
                loop {
                    client.send(GET);
                    // A client that is told nothing and finds the end instead of an answer
                    // has lost a request.
                    let reply = client.reply();
                    assert_eq!(reply.status, 200);
                    count += 1;
                    if reply.says_close() {
                        return count;
                    }
                    thread::sleep(Duration::from_millis(index * 7));
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    gateway.terminate();
    for client in clients {
        assert!(client.join().unwrap() > 1);
    }
    assert!(gateway.exit_within(DEADLINE).is_some());
}
