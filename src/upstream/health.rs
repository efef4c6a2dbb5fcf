//! Active health checks: each server is asked now and then whether it is well.
//!
//! A check is one connection, and for HTTP one request on it. Pingora's load-balancing crate
//! has checks too, but they send the same Host to all servers of an upstream, bound each read
//! and not the whole check, and bring a balancer with them that Tollgate has no use for. What
//! is left to write is this file.

use super::server::Server;
use super::servers::Servers;
use super::shortage;
use super::upkeep::jittered;
use crate::config::{HealthCheck, HealthCheckKind};
use crate::policy::health::{Health, HealthThresholds};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

/// The first check comes at random within the interval, and within this.
const MAX_START: Duration = Duration::from_secs(1);
/// The longest head of an answer, interim answers included.
const MAX_HEAD: usize = 16 * 1024;
/// The most header fields of an answer.
const MAX_FIELDS: usize = 100;

/// Checks every server of the set, whatever the set becomes.
pub(super) async fn keep_checked(servers: Arc<Servers>, check: HealthCheck) {
    let check = Arc::new(check);
    let mut checks = Checks::default();
    loop {
        checks.renew(&servers, &check);
        servers.renewed.notified().await;
    }
}

/// One task for each server. They end when this is dropped.
#[derive(Default)]
struct Checks {
    tasks: JoinSet<()>,
    /// By the server's place in memory, which stays taken as long as the server is held here.
    by_server: HashMap<usize, (Arc<Server>, AbortHandle)>,
}

impl Checks {
    /// Starts checking servers that are new in the set and stops with those that left it.
    fn renew(&mut self, servers: &Arc<Servers>, check: &Arc<HealthCheck>) {
        let set = servers.current();
        let place = |server: &Arc<Server>| Arc::as_ptr(server).addr();
        let current: HashSet<usize> = set.servers.iter().map(place).collect();
        self.by_server.retain(|place, (_, task)| {
            let stays = current.contains(place);
            if !stays {
                task.abort();
            }
            stays
        });
        for server in &set.servers {
            let Some(address) = server.address else { continue };
            self.by_server.entry(place(server)).or_insert_with(|| {
                let checking =
                    keep_checking(servers.clone(), server.clone(), address, check.clone());
                (server.clone(), self.tasks.spawn(checking))
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

async fn keep_checking(
    servers: Arc<Servers>,
    server: Arc<Server>,
    address: SocketAddr,
    check: Arc<HealthCheck>,
) {
    let thresholds = HealthThresholds {
        healthy_after: check.healthy_after,
        unhealthy_after: check.unhealthy_after,
    };
    let mut health = Health::default();
    sleep(check.interval.min(MAX_START).mul_f64(fastrand::f64())).await;
    loop {
        let outcome = ask(address, &server.configured, &check).await;
        if matches!(&outcome, Err(Complaint::Connect(error)) if shortage::is_ours(error)) {
            // It was not asked.
            sleep(jittered(check.interval)).await;
            continue;
        }
        let after = health.after(outcome.is_ok(), thresholds);
        if after.is_healthy() != health.is_healthy() {
            servers.set_healthy(&server, after.is_healthy());
            let (upstream, name) = (&servers.upstream, &server.name);
            match outcome {
                Ok(()) => log::info!("upstream {upstream}: server {name} is healthy again"),
                Err(why) => log::warn!("upstream {upstream}: server {name} is unhealthy: {why}"),
            }
        }
        health = after;
        sleep(jittered(check.interval)).await;
    }
}

/// Why a check was bad.
#[derive(Debug, Error)]
enum Complaint {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("no connection: {0}")]
    Connect(io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("the connection was closed before an answer")]
    Closed,
    #[error("the answer is not HTTP/1: {0}")]
    NotHttp(#[from] httparse::Error),
    #[error("the head of the answer is longer than {MAX_HEAD} bytes")]
    HeadTooLong,
    #[error("it answered {0} instead of 200 to 299")]
    Status(u16),
}

/// One check.
async fn ask(address: SocketAddr, host: &str, check: &HealthCheck) -> Result<(), Complaint> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await.map_err(Complaint::Connect)?;
        match &check.kind {
            HealthCheckKind::Tcp => Ok(()),
            HealthCheckKind::Http { path } => match get(&mut stream, host, path).await? {
                200..=299 => Ok(()),
                status => Err(Complaint::Status(status)),
            },
        }
    };
    timeout(check.timeout, asking).await.unwrap_or(Err(Complaint::Timeout(check.timeout)))
}

/// The status of a `GET`. The body is not waited for: the status has said it all.
async fn get(stream: &mut TcpStream, host: &str, path: &str) -> Result<u16, Complaint> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: tollgate/health\r\n\
         Accept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(Complaint::Closed);
        }
        if let Some(status) = final_status(&head)? {
            return Ok(status);
        }
        if head.len() > MAX_HEAD {
            return Err(Complaint::HeadTooLong);
        }
    }
}

/// The status of the first head that is not an interim answer; none: it is not whole yet.
fn final_status(mut bytes: &[u8]) -> Result<Option<u16>, httparse::Error> {
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = response.parse(bytes)? else { return Ok(None) };
        match response.code {
            Some(100..=199) => bytes = bytes.get(length..).unwrap_or_default(),
            code => return Ok(code),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::sync::oneshot;

    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

    fn http(path: &str) -> HealthCheck {
        HealthCheck {
            kind: HealthCheckKind::Http { path: path.into() },
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(5),
            healthy_after: 2,
            unhealthy_after: 2,
        }
    }

    /// Checks a server that answers with `answer`, in pieces, and returns what it was sent.
    async fn asked(answer: &[&str], check: &HealthCheck) -> (Result<(), Complaint>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (done, is_done) = oneshot::channel::<()>();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            for piece in answer {
                let _ = stream.write_all(piece.as_bytes()).await;
                tokio::task::yield_now().await;
            }
            if !answer.is_empty() {
                let _ = stream.shutdown().await;
            }
            let _ = is_done.await;
            String::from_utf8(request).unwrap()
        };
        let ask = async {
            let outcome = ask(address, "a.test:80", check).await;
            let _ = done.send(());
            outcome
        };
        tokio::join!(ask, serve)
    }

    async fn complaint(answer: &[&str]) -> String {
        asked(answer, &http("/")).await.0.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_check_is_one_get_with_the_configured_host() {
        let (outcome, request) = asked(&[OK], &http("/health?deep=1")).await;
        outcome.unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\nHost: a.test:80\r\n"));
        assert!(request.contains("\r\nUser-Agent: tollgate/health\r\n"), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }

    #[tokio::test]
    async fn statuses_from_200_to_299_are_good() {
        for (status, is_good) in [(200, true), (204, true), (299, true), (302, false), (503, false)]
        {
            let answer = format!("HTTP/1.1 {status} X\r\n\r\n");
            let (outcome, _) = asked(&[&answer], &http("/")).await;
            assert_eq!(outcome.is_ok(), is_good, "{status}");
        }
        assert_eq!(
            complaint(&["HTTP/1.0 404 Not Found\r\n\r\n"]).await,
            "it answered 404 instead of 200 to 299"
        );
    }

    #[tokio::test]
    async fn an_answer_may_come_in_pieces_and_after_interim_ones() {
        let pieces =
            ["HTTP/1.1 100 Continue\r", "\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n"];
        let (outcome, _) =
            asked(&[pieces[0], pieces[1], "\r\nHTTP/1.", "1 204 \r\n\r\n"], &http("/")).await;
        outcome.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_answer_is_bad() {
        assert!(complaint(&["SSH-2.0-OpenSSH_9.9\r\n"]).await.contains("not HTTP/1"));
        assert!(complaint(&["HTTP/1.1 200 OK\r\n"]).await.contains("closed before an answer"));
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD));
        assert!(complaint(&[&endless]).await.contains("longer than 16384 bytes"));
        let interim = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1_000);
        assert!(complaint(&[&interim]).await.contains("longer than 16384 bytes"));
    }

    #[tokio::test]
    async fn silence_is_bad_after_the_timeout() {
        let check = HealthCheck { timeout: Duration::from_millis(50), ..http("/") };
        let (outcome, _) = asked(&[], &check).await;
        assert_eq!(outcome.unwrap_err().to_string(), "no answer within 50ms");
    }

    #[tokio::test]
    async fn a_connection_is_enough_for_tcp_and_nothing_less() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let check = HealthCheck { kind: HealthCheckKind::Tcp, ..http("/") };
        ask(address, "", &check).await.unwrap();
        drop(listener);
        let complaint = ask(address, "", &check).await.unwrap_err().to_string();
        assert!(complaint.starts_with("no connection: "), "{complaint}");
    }
}
