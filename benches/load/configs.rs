//! The configurations of the contenders, as alike as their languages allow:
//! one worker, kept connections on both sides, two limits per request that
//! never refuse, protections against a failing upstream that never act, and no
//! access log unless the listener is the logging one.

use std::net::SocketAddr;
use std::path::Path;

use crate::contenders::SPENT_CLIENT;

/// What the upstream answers to every request.
pub(crate) const UPSTREAM_BODY: &str =
    r#"{"id":1,"name":"sample","email":"sample@example.com","roles":["reader","writer"]}"#;

pub(crate) fn upstream(address: SocketAddr) -> String {
    format!(
        "{NGINX_HEAD}
    server {{
        listen {address} backlog=8192;
        location / {{ default_type application/json; return 200 '{UPSTREAM_BODY}'; }}
    }}
}}
"
    )
}

/// What both nginx processes begin with; `http` stays open.
const NGINX_HEAD: &str = "
daemon off;
worker_processes 1;
pid nginx.pid;
error_log error.log error;
events { worker_connections 16384; }
http {
    access_log off;
    keepalive_timeout 3600s;
    keepalive_requests 1000000000;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;";

/// Refusals are not logged, since neither Tollgate nor HAProxy logs them here.
pub(crate) fn nginx(
    forward: SocketAddr,
    logged: SocketAddr,
    refuse: SocketAddr,
    upstream: SocketAddr,
    log: &Path,
) -> String {
    let log = log.display();
    let limits = "limit_req zone=tier burst=1000000 nodelay; \
                  limit_req zone=route burst=1000000 nodelay;";
    format!(
        "{NGINX_HEAD}
    limit_req_status 429;
    limit_req_log_level info;
    limit_req_zone $http_x_client_id zone=tier:10m rate=1000000r/s;
    limit_req_zone \"$http_x_client_id users\" zone=route:10m rate=1000000r/s;
    limit_req_zone $http_x_client_id zone=spent:10m rate=1r/m;
    log_format json escape=json '{{\"time\":\"$time_iso8601\",\"client\":\"$http_x_client_id\",\
\"peer\":\"$remote_addr\",\"method\":\"$request_method\",\"path\":\"$request_uri\",\
\"status\":$status,\"bytes\":$body_bytes_sent,\"duration\":$request_time,\
\"upstream\":\"$upstream_addr\",\"user_agent\":\"$http_user_agent\",\"id\":\"$request_id\"}}';
    upstream sample {{
        server {upstream} max_conns=10000 max_fails=5 fail_timeout=30s;
        keepalive 512;
        keepalive_requests 1000000000;
        keepalive_timeout 3600s;
    }}
    proxy_next_upstream error timeout http_502 http_503 http_504;
    proxy_next_upstream_tries 3;
    proxy_http_version 1.1;
    proxy_set_header Connection '';
    proxy_set_header Host $http_host;
    server {{
        listen {forward} backlog=8192;
        location /api/users {{ {limits} proxy_pass http://sample; }}
    }}
    server {{
        listen {logged} backlog=8192;
        access_log {log} json buffer=64k flush=1s;
        location /api/users {{ {limits} proxy_pass http://sample; }}
    }}
    server {{
        listen {refuse} backlog=8192;
        location /api/users {{ limit_req zone=spent; proxy_pass http://sample; }}
    }}
}}
"
    )
}

pub(crate) fn haproxy(forward: SocketAddr, refuse: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        "global
    nbthread 1
    maxconn 8192
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    http-reuse always
    retries 2
    retry-on conn-failure response-timeout 502 503 504
frontend forward
    bind {forward}
    http-request track-sc0 req.hdr(X-Client-ID) table tier
    http-request track-sc1 req.hdr(X-Client-ID),concat(users) table route
    http-request deny deny_status 429 if {{ sc_http_req_rate(0,tier) gt 10000000 }}
    http-request deny deny_status 429 if {{ sc_http_req_rate(1,route) gt 10000000 }}
    use_backend sample if {{ path_beg /api/users }}
frontend refuse
    bind {refuse}
    http-request track-sc0 req.hdr(X-Client-ID) table spent
    http-request deny deny_status 429 if {{ sc_http_req_rate(0,spent) gt 0 }}
    use_backend sample if {{ path_beg /api/users }}
backend sample
    server sample {upstream} maxconn 10000 check observe layer7 error-limit 5 on-error mark-down
backend tier
    stick-table type string len 64 size 1m expire 10m store http_req_rate(10s)
backend route
    stick-table type string len 64 size 1m expire 10m store http_req_rate(10s)
backend spent
    stick-table type string len 64 size 1m expire 10m store http_req_rate(10s)
"
    )
}

/// How one gateway of the comparison differs from another.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    /// Slots of its limiter table.
    pub(crate) slots: u64,
    /// Where it logs its requests, if it does.
    pub(crate) log: Option<&'a Path>,
    /// Whether it has a breaker, retries and a cap on concurrency.
    pub(crate) is_contained: bool,
    /// Where it shares its limits, if it does.
    pub(crate) redis: Option<SocketAddr>,
}

/// Where a gateway listens.
#[derive(Clone, Copy)]
pub(crate) struct Listeners {
    pub(crate) data: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

pub(crate) fn tollgate(listeners: Listeners, upstream: SocketAddr, setup: Setup<'_>) -> String {
    let Listeners { data, admin, metrics } = listeners;
    let slots = setup.slots;
    let access_log = match setup.log {
        Some(file) => format!("{{file: \"{}\", format: json}}", file.display()),
        None => "none".to_owned(),
    };
    let (breaker, retry) = if setup.is_contained { (CONTAINMENT, RETRY) } else { ("", "") };
    let redis = match setup.redis {
        Some(address) => format!("\nredis: {{url: \"redis://{address}\"}}"),
        None => String::new(),
    };
    format!(
        "server:
  listen: {data}
  workers: 1
  access_log: {access_log}
admin: {{listen: \"{admin}\"}}
metrics: {{listen: \"{metrics}\"}}{redis}
limiter: {{slots: {slots}}}
clients:
  identify: [{{header: X-Client-ID}}, ip]
  default_tier: open
  known:
    {SPENT_CLIENT}: {{tier: spent}}
tiers:
  open: {{rate: 1000000/s, burst: 1000000}}
  spent: {{rate: 1/h, burst: 1}}
upstreams:
  {UPSTREAM}:
    servers: [\"{upstream}\"]{breaker}
routes:
  - name: users
    path: /api/users
    upstream: {UPSTREAM}
    limit: {{rate: 1000000/s, burst: 1000000, key: client}}{retry}
"
    )
}

/// The upstream's name in the gateway's configuration.
pub(crate) const UPSTREAM: &str = "sample";
/// What contains a failing upstream, besides what is on by default.
const CONTAINMENT: &str = "
    concurrency: {max: 10000, queue: 1000}
    breaker: {consecutive_failures: 5, failure_ratio: 0.5, slow_call: 2s}";
const RETRY: &str = "
    retry: {attempts: 2, per_try_timeout: 2s}";
