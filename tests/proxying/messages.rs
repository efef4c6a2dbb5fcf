//! Heads on their way: connections, hop-by-hop fields, interim answers.

use crate::support::{Answer, End, Gateway, Upstream};

#[test]
fn both_sides_keep_their_connections() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for index in 0..10 {
        let target = format!("/{index}");
        assert_eq!(client.get(&target).text(), format!("GET {target}"));
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_client_that_wants_to_close_is_obeyed() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    assert_eq!(client.get_with("/", &[("Connection", "close")]).status, 200);
    assert_eq!(client.end(), End::Closed);
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(upstream.connections(), 1, "the upstream's connection is not the client's");
}

#[test]
fn hop_by_hop_fields_of_a_request_end_here() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    let sent = [
        ("Connection", "keep-alive, X-Nominated"),
        ("connection", "x-also-nominated"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("X-Nominated", "a"),
        ("X-Also-Nominated", "b"),
        ("X-Kept", "c"),
        ("TE", "gzip"),
    ];
    assert_eq!(gateway.client().get_with("/", &sent).status, 200);
    let seen = upstream.last().head;
    for name in ["Keep-Alive", "Proxy-Connection", "X-Nominated", "X-Also-Nominated", "TE"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(seen.header("X-Kept"), Some("c"));
    assert!(!seen.list("Connection").to_ascii_lowercase().contains("nominated"));
}

#[test]
fn hop_by_hop_fields_of_an_answer_end_here() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Nominated\r\n\
                   Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Nominated: a\r\n\
                   X-Kept: c\r\n\r\nok";
    let upstream = Upstream::answering(Answer::Bytes(answer.to_vec()));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for _ in 0..2 {
        let reply = client.get("/");
        for name in ["Proxy-Connection", "X-Nominated"] {
            assert_eq!(reply.header(name), None, "{name}");
        }
        assert_eq!(reply.header("X-Kept"), Some("c"));
    }
}

#[test]
fn a_client_that_accepts_trailers_says_so_to_the_upstream() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    for value in ["trailers", "Trailers, deflate;q=0.5"] {
        let sent = [("TE", value), ("Connection", "TE")];
        assert_eq!(gateway.client().get_with("/", &sent).status, 200);
        let seen = upstream.last().head;
        assert_eq!(seen.header("TE").map(str::to_ascii_lowercase).as_deref(), Some("trailers"));
    }
}

#[test]
fn fields_keep_their_number_order_and_bytes() {
    let upstream = Upstream::answering(Answer::Bytes(
        b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\
          X-Empty:\r\n\r\nok"
            .to_vec(),
    ));
    let gateway = Gateway::before(&upstream).start();
    let sent = [("Cookie", "a=1; b=2"), ("X-Twice", "1"), ("X-Twice", "2"), ("X-Empty", "")];
    let reply = gateway.client().get_with("/", &sent);
    assert_eq!(reply.head.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(reply.header("x-empty"), Some(""));
    let seen = upstream.last().head;
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"));
    assert_eq!(seen.all("x-twice"), ["1", "2"]);
    assert_eq!(seen.header("x-empty"), Some(""));
}

#[test]
fn early_hints_are_passed_before_the_answer() {
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n".to_vec();
    let gate = crate::support::Gate::default();
    let held = Answer::Held(gate.clone(), Box::new(crate::support::ok("answer")));
    let upstream = Upstream::answering(Answer::Interim(hints, Box::new(held)));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send("GET / HTTP/1.1\r\nHost: tollgate.test\r\n\r\n");
    let head = client.next_head();
    assert_eq!(head.status(), 103);
    assert_eq!(head.header("Link"), Some("</style.css>; rel=preload"));
    gate.open();
    assert_eq!(client.reply().text(), "answer");
}

#[test]
fn a_client_that_waits_for_100_is_told_to_continue() {
    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
    let upstream = Upstream::answering(Answer::Interim(interim, Box::new(Answer::Echo)));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for round in 0..2 {
        client.send(
            "POST / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 5\r\n\
             Expect: 100-continue\r\n\r\n",
        );
        assert_eq!(client.next_head().status(), 100, "round {round}");
        client.send("hello");
        let reply = client.reply();
        assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "round {round}");
        if reply.says_close() {
            assert_eq!(client.end(), End::Closed);
            break;
        }
    }
}

#[test]
fn an_upstream_that_refuses_instead_of_100_is_heard() {
    let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno";
    let upstream = Upstream::answering(Answer::Early(refusal.to_vec()));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: tollgate.test\r\nContent-Length: 5000\r\n\
         Expect: 100-continue\r\n\r\n",
    );
    assert_eq!(client.reply().status, 403);
}

#[test]
fn methods_the_gateway_does_not_know_are_passed() {
    let upstream = Upstream::new();
    let gateway = Gateway::before(&upstream).start();
    for method in ["PATCH", "DELETE", "OPTIONS", "PROPFIND", "PURGE", "X-ODD!"] {
        let reply = gateway.client().request(method, "/m", &[], b"");
        assert_eq!((reply.status, reply.text()), (200, format!("{method} /m")));
    }
}
