//! The script in a real Redis, at times that a test chooses.

use crate::support::RedisServer;
use redis::{Connection, Value};
use tollgate::fleet::limits::script::{self, Answer, Ask, Reply};
use tollgate::policy::meter::Algorithm;

/// A connection, and the script with the clock taken from its last two arguments.
pub(crate) struct Store {
    connection: Connection,
    text: String,
    _server: RedisServer,
}

impl Store {
    pub(crate) fn start() -> Store {
        let server = RedisServer::start();
        let client = redis::Client::open(server.url()).expect("an address");
        let connection = client.get_connection().expect("a connection");
        let clock = "redis.call('TIME')";
        assert_eq!(script::TEXT.matches(clock).count(), 1, "the script reads the clock once");
        let text = script::TEXT.replace(clock, "{ ARGV[#ARGV - 1], ARGV[#ARGV] }");
        Store { connection, text, _server: server }
    }

    /// Runs the script for one request of one gateway.
    pub(crate) fn call(&mut self, gateway: &str, now_ns: u64, asks: &[(&str, Ask<'_>)]) -> Reply {
        let bodies: Vec<Ask<'_>> = asks.iter().map(|(_, ask)| ask.clone()).collect();
        let mut command = redis::cmd("EVAL");
        command.arg(&self.text).arg(asks.len());
        asks.iter().for_each(|(key, _)| {
            command.arg(*key);
        });
        command.arg(script::arguments(gateway, &bodies));
        command.arg(now_ns / 1_000_000_000).arg(now_ns % 1_000_000_000 / 1_000);
        let value: Value = command.query(&mut self.connection).expect("an answer");
        script::reply(value, asks.len()).expect("what the script answers")
    }

    /// Asks one bucket for tokens.
    pub(crate) fn take(
        &mut self,
        key: &str,
        algorithm: &Algorithm,
        cost: u32,
        now_ns: u64,
    ) -> Answer {
        let ask = Ask { algorithm, cost, statement: None, back: None };
        self.call("a", now_ns, &[(key, ask)]).answers[0]
    }

    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}
