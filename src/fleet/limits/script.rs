//! The script that decides in Redis, what it is asked and what it answers.
//!
//! `script.lua` says what each of its arguments means; here they are put in that order.

use crate::fleet::Script;
use crate::policy::calendar::Span;
use crate::policy::meter::Algorithm;
use redis::Value;
use smallvec::SmallVec;
use std::sync::LazyLock;
use thiserror::Error;

/// The script's text.
pub const TEXT: &str = include_str!("script.lua");
/// What the script answers for each key.
const ANSWER_FIELDS: usize = 8;
/// The most tokens of one lease: up to that the script multiplies times exactly.
pub const MAX_LEASE: u64 = 1_000_000;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The script, named by its hash.
pub static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// A time of Redis' clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RedisTime {
    /// Seconds since 1970.
    pub seconds: u64,
    /// Nanoseconds beside them.
    pub nanos: u32,
}

/// What one bucket is asked for.
#[derive(Debug, Clone)]
pub struct Ask<'a> {
    /// The bucket's limit.
    pub algorithm: &'a Algorithm,
    /// Tokens to take.
    pub cost: u32,
    /// What the gateway has to say of its account with the bucket.
    pub statement: Option<Statement>,
    /// Tokens that were charged at a time to be given back.
    pub back: Option<(u32, RedisTime)>,
}

/// What a gateway says of its account with one bucket. Sums count from the account's beginning, so
/// that one which is lost on the way is made good by the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement {
    /// Which account of the gateway; at least 1.
    pub account: u64,
    /// Above that of every statement before.
    pub sequence: u64,
    /// Leased tokens the gateway goes on holding.
    pub kept: u64,
    /// Leased tokens it has spent.
    pub spent: u64,
    /// Tokens it let pass without asking, as last acknowledged.
    pub debt_base: u64,
    /// Tokens it let pass without asking.
    pub debt: u64,
    /// Tokens it would like to have besides; at most [`MAX_LEASE`].
    pub want: u64,
    /// How long it may hold what it has, in milliseconds.
    pub length_ms: u64,
}

/// What becomes of an ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The cost is there; it was taken if that is so of every key of the call.
    Taken,
    /// It is not there yet.
    Refused,
    /// It is above the burst.
    Never,
    /// A later statement had come before. Nothing was done.
    Late,
}

/// The answer for one bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Whether the cost is there.
    pub verdict: Verdict,
    /// Nanoseconds until it is; of a leaky bucket that admitted, how long to hold the request back.
    pub wait_ns: u64,
    /// Nanoseconds until the bucket is full, or its window over.
    pub left_ns: u64,
    /// Tokens taken from the window.
    pub used: u64,
    /// Tokens leased.
    pub granted: u64,
    /// Tokens that all gateways hold on lease.
    pub outstanding: u64,
}

/// The answer to a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// Redis' time.
    pub now: RedisTime,
    /// One for each key.
    pub answers: SmallVec<[Answer; 4]>,
}

/// Redis answered something that the script does not.
#[derive(Debug, Error)]
#[error("the script's answer makes no sense")]
pub struct Garbled;

/// The script's arguments for these asks.
pub fn arguments(gateway: &str, asks: &[Ask<'_>]) -> Vec<String> {
    let mut arguments = vec![gateway.to_owned()];
    for ask in asks {
        let (name, interval, burst, max_delay_ns) = figures(ask.algorithm);
        arguments.push(name.to_owned());
        let statement = ask.statement.unwrap_or(Statement {
            account: 0,
            sequence: 0,
            kept: 0,
            spent: 0,
            debt_base: 0,
            debt: 0,
            want: 0,
            length_ms: 0,
        });
        let (back, at) = ask.back.unwrap_or_default();
        let numbers = [
            interval.0,
            interval.1,
            burst,
            u64::from(ask.cost),
            max_delay_ns / NANOS_PER_SECOND,
            max_delay_ns % NANOS_PER_SECOND,
            statement.want.min(MAX_LEASE),
            statement.length_ms,
            statement.account,
            statement.sequence,
            statement.kept,
            statement.spent,
            statement.debt_base,
            statement.debt,
            u64::from(back),
            at.seconds,
            u64::from(at.nanos),
        ];
        arguments.extend(numbers.iter().map(u64::to_string));
    }
    arguments
}

/// An algorithm's name, its interval or window, its burst and its longest delay.
fn figures(algorithm: &Algorithm) -> (&'static str, (u64, u64), u64, u64) {
    let split = |ns: u64| (ns / NANOS_PER_SECOND, ns % NANOS_PER_SECOND);
    match algorithm {
        Algorithm::TokenBucket(bucket) => {
            ("bucket", split(bucket.emission_interval_ns()), bucket.burst(), 0)
        }
        Algorithm::LeakyBucket(bucket) => {
            let drain = bucket.drain();
            let interval = split(drain.emission_interval_ns());
            ("leaky", interval, drain.burst(), bucket.max_delay_ns())
        }
        Algorithm::FixedWindow(window) => {
            let seconds = match window.span() {
                Span::Period(period) => period.as_seconds(),
                Span::Month => 0,
            };
            ("fixed", (seconds, 0), window.tokens(), 0)
        }
        Algorithm::SlidingWindow(window) => {
            ("sliding", (window.period().as_seconds(), 0), window.tokens(), 0)
        }
    }
}

/// Reads what the script answered to so many asks.
///
/// # Errors
/// When that is not what it answers.
pub fn reply(value: Value, asks: usize) -> Result<Reply, Garbled> {
    let Value::Array(values) = value else { return Err(Garbled) };
    let number = |value: &Value| match value {
        Value::Int(number) => Ok(*number),
        _ => Err(Garbled),
    };
    let numbers: SmallVec<[i64; 34]> = values.iter().map(number).collect::<Result<_, _>>()?;
    let [seconds, nanos, answers @ ..] = &*numbers else { return Err(Garbled) };
    let chunks = answers.chunks_exact(ANSWER_FIELDS);
    if chunks.len() != asks || !chunks.remainder().is_empty() {
        return Err(Garbled);
    }
    let now = RedisTime {
        seconds: u64::try_from(*seconds).map_err(|_| Garbled)?,
        nanos: u32::try_from(*nanos).map_err(|_| Garbled)?,
    };
    Ok(Reply { now, answers: chunks.map(answer).collect::<Result<_, _>>()? })
}

fn answer(fields: &[i64]) -> Result<Answer, Garbled> {
    let &[verdict, wait_s, wait_ns, left_s, left_ns, used, granted, outstanding] = fields else {
        return Err(Garbled);
    };
    let count = |number: i64| u64::try_from(number).map_err(|_| Garbled);
    let time = |s: i64, ns: i64| Ok(count(s)?.saturating_mul(NANOS_PER_SECOND) + count(ns)?);
    Ok(Answer {
        verdict: match verdict {
            1 => Verdict::Taken,
            0 => Verdict::Refused,
            -1 => Verdict::Never,
            -2 => Verdict::Late,
            _ => return Err(Garbled),
        },
        wait_ns: time(wait_s, wait_ns)?,
        left_ns: time(left_s, left_ns)?,
        used: count(used)?,
        granted: count(granted)?,
        outstanding: count(outstanding)?,
    })
}
