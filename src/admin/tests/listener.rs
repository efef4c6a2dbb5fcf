//! The listener over real connections: what clients can hold, and how it ends.

use super::*;
use crate::admin::server::{PATIENCE, Patience, serve_patiently};
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(30);

struct Listening {
    address: SocketAddr,
    shutdown: watch::Sender<bool>,
    served: JoinHandle<std::io::Result<()>>,
}

fn listen() -> Listening {
    listen_with(PATIENCE)
}

fn listen_with(patience: Patience) -> Listening {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, told) = watch::channel(false);
    let served = tokio::spawn(serve_patiently(listener, Rig::new().router, told, patience));
    Listening { address, shutdown, served }
}

impl Listening {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn stop(self) {
        self.shutdown.send(true).unwrap();
        tokio::time::timeout(DEADLINE, self.served).await.unwrap().unwrap().unwrap();
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_connection_serves_several_requests_and_ends_when_asked() {
    let listening = listen();
    let mut stream = listening.connect().await;
    let head = "GET /ready HTTP/1.1\r\nHost: localhost\r\n";
    stream
        .write_all(format!("{head}\r\n{head}Connection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let answers = read_all(&mut stream).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    drop(stream);
    listening.stop().await;
}

#[tokio::test]
async fn a_ten_megabyte_body_is_refused_before_it_is_sent_and_the_answer_arrives() {
    let listening = listen();
    let mut stream = listening.connect().await;
    let head = "PUT /clients/a/tier HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 10485760\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 413");
    // A client that sends on regardless can still read the rest of the answer.
    stream.write_all(&vec![b' '; 1 << 20]).await.unwrap();
    assert!(read_all(&mut stream).await.contains("application/problem+json"));
    drop(stream);
    listening.stop().await;
}

#[tokio::test]
async fn garbage_and_oversized_heads_get_a_clean_end() {
    let listening = listen();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100 << 10));
    for (bytes, status) in [("\x16\x03\x01\r\n\r\n", "400"), (long.as_str(), "431")] {
        let mut stream = listening.connect().await;
        // The answer may come, and the connection end, before everything is sent.
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(std::str::from_utf8(&first).unwrap(), format!("HTTP/1.1 {status}"));
    }
    listening.stop().await;
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_or_with_its_answers_loses_the_connection() {
    let short = Duration::from_millis(50);
    let minute = Duration::from_secs(60);
    let usual = Patience { head: minute, age: minute, late: short, close: short, linger: short };
    let listening = listen_with(Patience { head: short, ..usual });
    let mut stream = listening.connect().await;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHo").await.unwrap();
    assert!(!read_all(&mut stream).await.contains("200"));
    listening.stop().await;

    let listening = listen_with(Patience { age: short, ..usual });
    let mut stream = listening.connect().await;
    // Megabytes of answers are asked for and none is read, until writing fails.
    let request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let refused = async { while stream.write_all(&request.repeat(64)).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, refused).await.unwrap();
    listening.stop().await;
}

#[tokio::test]
async fn stopping_does_not_wait_for_idle_connections() {
    let listening = listen();
    let mut stream = listening.connect().await;
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    let started = Instant::now();
    listening.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    read_all(&mut stream).await;
}
