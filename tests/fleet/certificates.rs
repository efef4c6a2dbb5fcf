//! TLS to Redis: whose certificates are believed.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

use crate::rig::{Attended, config};
use crate::support::RedisServer;

/// Two authorities, of which the first has signed the server's certificate.
struct Certificates(TempDir);

impl Certificates {
    fn make() -> Certificates {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ca", "other"] {
            let subject = format!("/CN={name}");
            openssl(
                dir.path(),
                &[
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    &subject,
                    "-keyout",
                    &format!("{name}.key"),
                    "-out",
                    &format!("{name}.pem"),
                ],
            );
        }
        openssl(
            dir.path(),
            &[
                "req",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-subj",
                "/CN=redis",
                "-keyout",
                "redis.key",
                "-out",
                "redis.csr",
            ],
        );
        std::fs::write(dir.path().join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
        openssl(
            dir.path(),
            &[
                "x509",
                "-req",
                "-in",
                "redis.csr",
                "-CA",
                "ca.pem",
                "-CAkey",
                "ca.key",
                "-CAcreateserial",
                "-days",
                "2",
                "-extfile",
                "names",
                "-out",
                "redis.pem",
            ],
        );
        Certificates(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }

    fn server(&self) -> RedisServer {
        let (certificate, key) = (self.path("redis.pem"), self.path("redis.key"));
        let ca = self.path("ca.pem");
        RedisServer::with(&[
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            "no",
        ])
    }
}

#[track_caller]
fn openssl(dir: &Path, arguments: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(arguments).current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().expect("openssl; `make test` installs it").success());
}

fn section(server: &RedisServer, ca: &str) -> String {
    format!("url: \"rediss://{}\", tls: {{ca: \"{ca}\"}}", server.address())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_authority_is_named_is_believed() {
    let certificates = Certificates::make();
    let server = certificates.server();
    let gateway = Attended::to(&section(&server, &certificates.path("ca.pem")));
    let mut news = gateway.link.subscribe("news");
    gateway.until_up(true).await;
    assert_eq!(gateway.count("a").await.unwrap(), 1);
    crate::link::receive(&gateway, &mut news, b"over TLS").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_authority_or_without_tls_is_not() {
    let certificates = Certificates::make();
    let server = certificates.server();
    let strangers = Attended::to(&section(&server, &certificates.path("other.pem")));
    let system = Attended::to(&format!("url: \"rediss://{}\"", server.address()));
    let plain = RedisServer::start();
    let clear = Attended::to(&section(&plain, &certificates.path("ca.pem")));
    let open = Attended::to(&format!("url: \"redis://{}\"", server.address()));
    tokio::time::sleep(Duration::from_millis(800)).await;
    for gateway in [&strangers, &system, &clear, &open] {
        assert!(!gateway.link.is_up());
    }
}

#[test]
fn a_file_without_a_certificate_is_an_error_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    std::fs::write(&path, "nothing").unwrap();
    let link = |path: &Path| {
        let section = format!("url: \"rediss://a\", tls: {{ca: {:?}}}", path.display().to_string());
        let metrics = tollgate::metrics::Metrics::register(&prometheus::Registry::new()).unwrap();
        let made = tollgate::fleet::Link::new(&config(&section), metrics.redis());
        made.err().expect("an error").to_string()
    };
    assert!(link(&path).contains("there is no certificate in it"));
    assert!(link(&dir.path().join("missing")).contains("No such file"));
}
