//! Scripts that run in Redis.

use redis::{Cmd, ToRedisArgs};

/// A script and the name that Redis knows it by once it has run there.
///
/// It must hold to what a cluster and a failover ask for: every key that it touches is in KEYS,
/// all KEYS of a call are in one slot, and the time is Redis' own.
#[derive(Debug)]
pub struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    /// A script with this text.
    pub fn new(code: &'static str) -> Script {
        let hash = redis::Script::new(code).get_hash().to_owned();
        Script { code, hash }
    }

    /// The call by name, which is short.
    pub(super) fn by_hash(&self, keys: &[impl ToRedisArgs], args: &[impl ToRedisArgs]) -> Cmd {
        Script::command("EVALSHA", &self.hash, keys, args)
    }

    /// The call with the text, after which Redis knows the name. That is one round trip where
    /// loading it first would be two, and on a cluster it reaches just the node that asked.
    pub(super) fn by_text(&self, keys: &[impl ToRedisArgs], args: &[impl ToRedisArgs]) -> Cmd {
        Script::command("EVAL", self.code, keys, args)
    }

    fn command(how: &str, what: &str, keys: &[impl ToRedisArgs], args: &[impl ToRedisArgs]) -> Cmd {
        let mut command = redis::cmd(how);
        command.arg(what).arg(keys.len());
        keys.iter().for_each(|key| {
            command.arg(key);
        });
        args.iter().for_each(|arg| {
            command.arg(arg);
        });
        command
    }
}
