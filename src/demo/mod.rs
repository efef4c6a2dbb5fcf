//! `tollgate demo`: the gateway in front of a sample upstream, on loopback, with something
//! to try.

pub mod sample;

use crate::app;
use crate::config::{self, Config, Finding, ServerAddress};
use anyhow::{Context, anyhow};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// The configuration that is shipped.
const SHIPPED: &str = include_str!("../../conf/tollgate.yaml");

/// Serves the demo until it is told to stop.
///
/// The shipped configuration is used as it is, but for addresses the environment does not
/// name: these are on loopback.
///
/// # Errors
/// When a port is taken or the gateway cannot start.
pub fn run() -> anyhow::Result<()> {
    let environment = |name: &str| match (std::env::var(name), name) {
        (Ok(value), _) if !value.is_empty() => Some(value),
        (_, "TOLLGATE_LISTEN") => Some("127.0.0.1:8080".to_owned()),
        _ => None,
    };
    let (config, _) = config::parse(SHIPPED, &environment).map_err(|findings| {
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        anyhow!("the environment does not fit the shipped configuration:\n{}", lines.join("\n"))
    })?;
    let upstream = upstream_address(&config);
    let listener = app::bind(upstream).context("the sample upstream cannot start")?;
    std::thread::Builder::new()
        .name("sample-upstream".into())
        .spawn(move || serve_sample(listener))
        .context("the sample upstream cannot start")?;
    app::run(app::Launch {
        config: &config,
        file: None,
        origin: app::Origin::Opened,
        announce: app::Announce::With(print_what_to_try),
    })
}

fn upstream_address(config: &Config) -> SocketAddr {
    let first = config.upstreams.first().and_then(|upstream| upstream.servers.first());
    match first.map(|server| &server.address) {
        Some(&ServerAddress::Ip(address)) => address,
        _ => (Ipv4Addr::LOCALHOST, 9001).into(),
    }
}

/// The sample has a runtime of its own, so that its work does not look like the gateway's.
fn serve_sample(listener: TcpListener) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let served = runtime.and_then(|runtime| {
        listener.set_nonblocking(true)?;
        runtime
            .block_on(async { sample::serve(tokio::net::TcpListener::from_std(listener)?).await })
    });
    if let Err(error) = served {
        log::error!("the sample upstream stopped: {error}");
    }
}

fn print_what_to_try(config: &Config) {
    let gateway = config.server.listen.first().map(ToString::to_string).unwrap_or_default();
    let (admin, metrics) = (config.admin.listen, config.metrics.listen);
    let sample = upstream_address(config);
    let text = format!(
        "\
Tollgate serves http://{gateway}, its admin API http://{admin}/docs/, metrics http://{metrics}/metrics.
A sample upstream answers behind it, on {sample}. Try, in another terminal:

  # through the gateway; the RateLimit headers show what is left
  curl -i http://{gateway}/api/users
  curl -s http://{gateway}/api/users/1

  # a client of the premium tier has a larger bucket, and /api/data costs five tokens
  curl -i -H 'X-Client-ID: demo-premium' http://{gateway}/api/data

  # the free tier holds ten tokens and earns one a second: the rest is refused with 429
  for i in $(seq 15); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'X-Client-ID: demo-free' http://{gateway}/api/users; done; echo

  # lift that client to another tier; it counts from the next request on
  curl -s -X PUT -H 'Content-Type: application/json' -d '{{\"tier\":\"enterprise\"}}' http://{admin}/clients/demo-free/tier
  curl -i -H 'X-Client-ID: demo-free' http://{gateway}/api/users

  # a slow and a failing upstream
  curl -i 'http://{gateway}/api/users?delay_ms=2000'
  curl -i 'http://{gateway}/api/users?status=503'

  # after five failures in a row the circuit opens: nothing more is asked of the upstream for ten seconds
  for i in $(seq 7); do curl -s -o /dev/null -w '%{{http_code}} ' -H 'X-Client-ID: demo-enterprise' 'http://{gateway}/api/data?status=500'; done; echo
  curl -i -H 'X-Client-ID: demo-enterprise' http://{gateway}/api/users
  curl -s http://{admin}/circuit-breakers

  # what was counted
  curl -s http://{admin}/limits
  curl -s http://{admin}/metrics/summary
  curl -s http://{metrics}/metrics | grep ^gateway_

Ctrl-C ends the demo.
"
    );
    // Whoever closed standard output does not want to read it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
