//! The yardstick of the load benchmark: the least a program built on Pingora can do.
//!
//! It is built with the profile, the allocator, the listener buffers and the
//! connection pool of the gateway, so that what the gateway spends beyond this
//! program is spent by the gateway's own code and not by a different build.
//!
//! ```text
//! bare_proxy forward LISTEN UPSTREAM    pass every request on to UPSTREAM
//! bare_proxy respond LISTEN FILE        answer every request with the response in FILE
//! ```
//!
//! Without a mode it says so and ends with success, so that a plain
//! `cargo bench`, which starts every benchmark, is not held up by it.

#![allow(clippy::print_stdout)] // a benchmark talks to the person who started it

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig};
use pingora_core::modules::http::HttpModules;
use pingora_core::prelude::{HttpPeer, Server};
use pingora_core::server::RunArgs;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::listening::Service;
use pingora_http::ResponseHeader;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of the read buffer of a client connection, as in the gateway.
const READ_BUFFER_BYTES: usize = 4096;
/// Bytes of the write buffer of a client connection, as in the gateway.
const WRITE_BUFFER_BYTES: usize = 1460;
/// Idle connections kept to the upstream, as in the gateway.
const UPSTREAM_POOL_SIZE: usize = 512;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [] => {
            println!("bare_proxy: started by the load benchmark, nothing to measure by itself");
            Ok(())
        }
        ["forward", listen, upstream] => {
            let upstream = upstream.parse().context("the upstream is not an address")?;
            serve(listen, Forward { upstream });
            Ok(())
        }
        ["respond", listen, file] => {
            let text = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            serve(listen, Respond::parse(&text)?);
            Ok(())
        }
        _ => bail!("usage: bare_proxy forward LISTEN UPSTREAM | respond LISTEN FILE"),
    }
}

/// Runs one Pingora service with one worker until a signal ends the process.
fn serve<P>(listen: &str, proxy: P)
where
    P: ProxyHttp + Send + Sync + 'static,
    P::CTX: Send + Sync + 'static,
{
    let conf = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: UPSTREAM_POOL_SIZE,
        grace_period_seconds: Some(0),
        graceful_shutdown_timeout_seconds: Some(0),
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let buffers = L4BufferSettings::new(READ_BUFFER_BYTES, WRITE_BUFFER_BYTES);
    let conf: &Arc<ServerConf> = &server.configuration;
    let mut service: Service<HttpProxy<P, ()>> = http_proxy_service(conf, proxy);
    service.add_listener(ListenerConfig::tcp(listen).l4_buffer(buffers));
    server.add_service(service);
    server.run(RunArgs::default());
}

/// Passes requests on and does nothing else.
struct Forward {
    upstream: SocketAddr,
}

#[async_trait]
impl ProxyHttp for Forward {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    // Empty on purpose: the default adds a compression module to every request.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
    }
}

/// Answers every request with the same response and keeps the connection.
struct Respond {
    /// Built once; each answer clones it, as cheap as a handler can be.
    head: ResponseHeader,
    body: Bytes,
}

impl Respond {
    /// Reads a response as it came over the wire, less what Pingora writes itself.
    fn parse(text: &[u8]) -> anyhow::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head_len) = response.parse(text)? else {
            bail!("the captured response ends inside its head");
        };
        let status = response.code.context("the captured response has no status")?;
        let mut head = ResponseHeader::build(status, Some(response.headers.len()))?;
        for header in response.headers.iter() {
            // Pingora adds these two to every response, so adding the captured
            // ones would make this program write more than the gateway did.
            let automatic = ["date", "connection"];
            if !automatic.iter().any(|name| header.name.eq_ignore_ascii_case(name)) {
                head.append_header(header.name.to_owned(), header.value)?;
            }
        }
        Ok(Self { head, body: Bytes::copy_from_slice(text.get(head_len..).unwrap_or_default()) })
    }
}

#[async_trait]
impl ProxyHttp for Respond {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(
        &self,
        session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora_core::Result<bool> {
        session.write_response_header(Box::new(self.head.clone()), false).await?;
        session.write_response_body(Some(self.body.clone()), true).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora_core::Result<Box<HttpPeer>> {
        pingora_core::Error::e_explain(
            pingora_core::ErrorType::InternalError,
            "every request was answered before",
        )
    }
}
