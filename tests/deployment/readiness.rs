//! `tollgate ready`, which containers ask for their health.

use crate::support::{Answer, Finished, Gateway, Upstream, free_addresses, ok, run_to_exit};
use std::net::SocketAddr;

fn ready(address: SocketAddr, more: &[&str]) -> Finished {
    let (address, folder) = (address.to_string(), std::env::temp_dir());
    run_to_exit(&folder, &[&["ready", "--address", &address], more].concat())
}

#[test]
fn a_gateway_that_serves_is_ready() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).server("health_path: /healthz").start();
    assert_eq!(ready(gateway.data, &[]).code, Some(0));
    assert_eq!(upstream.requests().len(), 0);
}

#[test]
fn any_other_answer_is_not_ready_but_alive() {
    let refusing = Answer::Bytes(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_vec());
    let upstream = Upstream::scripted(move |head| match head.target() {
        "/busy" => refusing.clone(),
        _ => ok("fine"),
    });
    let gateway = Gateway::before(&upstream).start();
    let refused = ready(gateway.data, &["--path", "/busy"]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("503"), "{refused:?}");
    assert_eq!(ready(gateway.data, &["--path", "/busy", "--any-status"]).code, Some(0));
}

#[test]
fn where_nobody_answers_nobody_is_ready_or_alive() {
    let [nobody] = free_addresses();
    assert_eq!(ready(nobody, &[]).code, Some(69));
    assert_eq!(ready(nobody, &["--any-status"]).code, Some(69));
}
