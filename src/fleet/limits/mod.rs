//! Limits that gateways share.
//!
//! The store decides, by the script. Where a limit is large, a gateway withdraws tokens ahead and
//! spends them from an [`Account`]; where it is small, every request asks. What the store said
//! last is kept in the table of local limits, under the key of the bucket itself: by it a client
//! that is over its limit is refused without a call, answers tell what is left, and when the store
//! is gone this gateway's share of the limit goes on from there.

pub mod account;
mod fallback;
mod keeper;
pub mod script;

use super::{GatewayId, Link, Roster};
use crate::clock;
use crate::metrics::SharedLimitMetrics;
use crate::policy::lease;
use crate::policy::limit::OnStoreFailure;
use crate::policy::meter::Algorithm;
use crate::store::key::{AsItIs, Key};
use crate::store::limiter::Limiter;
use crate::store::table::Class;
use account::{Account, Conversation, PAUSE, Spent};
pub use fallback::share_of;
use futures_util::future::join_all;
use script::{Answer, Ask, RedisTime, Reply, SCRIPT, Verdict};
use smallvec::SmallVec;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::timeout_at;

/// The most accounts; about 200 bytes each. A bucket without one is asked for every request.
const MAX_ACCOUNTS: usize = 65_536;
/// The most accounts that are spoken about at a time.
const AT_A_TIME: usize = 64;
/// The most of them in one call: Redis does nothing else meanwhile, and each takes it some 20 µs.
const IN_ONE_CALL: usize = 16;
/// How long what is said in the background may take.
const PATIENCE: Duration = Duration::from_millis(100);

/// The limits of one gateway that it shares with others.
pub struct SharedLimits {
    link: Link,
    roster: Arc<Roster>,
    gateway: String,
    accounts: papaya::HashMap<Key, Arc<Account>, AsItIs>,
    /// Accounts that are running out, and how much each may hold; a task is about to see to them.
    running_out: Mutex<Vec<(Arc<Account>, u64)>>,
    metrics: SharedLimitMetrics,
}

/// A bucket that a request has to ask the store for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The policy's index, as in [`crate::store::limiter::Demand::policy`].
    pub policy: usize,
    /// The bucket's key in the local table.
    pub key: Key,
    /// Whether its holder is known.
    pub class: Class,
    /// The bucket's name in the store.
    pub name: String,
    /// Its limit.
    pub algorithm: Algorithm,
    /// Tokens asked for.
    pub cost: u32,
    /// What to do without an answer.
    pub on_failure: OnStoreFailure,
}

impl Wish {
    /// What was paid once the store has taken what was asked for, at this time of its clock.
    pub fn paid_at(&self, at: RedisTime) -> Payment {
        let Wish { name, algorithm, cost, .. } = self.clone();
        Payment::Asked(Box::new(Asked { name, algorithm, cost, at }))
    }
}

/// The store gave no answer that could be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unanswered;

/// How a request paid a shared limit.
#[derive(Debug, Clone)]
pub enum Payment {
    /// From a lease.
    Leased {
        /// The bucket's key in the local table.
        key: Key,
        /// How many tokens.
        cost: u32,
    },
    /// By asking the store. Apart, for it is large, and most payments are of a lease.
    Asked(Box<Asked>),
    /// Without the store: the local table was charged and the store is owed.
    Owed {
        /// The bucket's key in the local table.
        key: Key,
        /// How many tokens.
        cost: u32,
    },
}

/// What the store took for a request that asked it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The bucket's name in the store.
    pub name: String,
    /// Its limit.
    pub algorithm: Algorithm,
    /// How many tokens.
    pub cost: u32,
    /// When, by the store's clock.
    pub at: RedisTime,
}

impl SharedLimits {
    /// The limits of this gateway, behind `link`.
    pub fn new(
        link: Link,
        roster: Arc<Roster>,
        gateway: GatewayId,
        metrics: SharedLimitMetrics,
    ) -> SharedLimits {
        let (gateway, accounts) = (gateway.to_string(), papaya::HashMap::default());
        SharedLimits { link, roster, gateway, accounts, running_out: Mutex::default(), metrics }
    }

    /// What the bucket of `holder` under `policy` is called in the store. The part in braces
    /// decides on which server of a cluster it lies.
    pub fn name(&self, policy: &str, family: &str, holder: &str) -> String {
        format!("{}limit:{{{policy}|{family}|{holder}}}", self.link.prefix())
    }

    /// Gateways that share the limits, as far as this one knows.
    pub fn live(&self) -> u32 {
        self.roster.live()
    }

    /// Spends tokens that were withdrawn before, if there are as many.
    #[inline]
    pub fn spend(self: &Arc<Self>, key: Key, burst: u64, cost: u32, now_ns: u64) -> bool {
        let accounts = self.accounts.pin();
        let Some(account) = accounts.get(&key) else { return false };
        let spent = account.spend(cost, now_ns);
        if spent == Spent::No {
            return false;
        }
        self.metrics.lease_hits.inc();
        if spent == Spent::Last && self.link.is_up() {
            self.refill(account.clone(), burst);
        }
        true
    }

    /// Withdraws more while requests go on spending. The buckets that a client's requests spend from
    /// run out together, so what is noted before the task gets its turn is asked for in one call.
    #[cold]
    fn refill(self: &Arc<Self>, account: Arc<Account>, burst: u64) {
        let ceiling = lease::ceiling(burst, self.live());
        let mut running_out = self.running_out();
        running_out.push((account, ceiling));
        if running_out.len() == 1 {
            let limits = self.clone();
            tokio::spawn(async move {
                let accounts = std::mem::take(&mut *limits.running_out());
                limits.speak(&accounts).await;
            });
        }
    }

    fn running_out(&self) -> MutexGuard<'_, Vec<(Arc<Account>, u64)>> {
        self.running_out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when a request that begins to ask now may wait, for all it asks and waits for together.
    pub fn deadline(&self) -> Instant {
        self.link.deadline()
    }

    /// Takes out and pays those of these for which tokens are under way: where somebody is speaking
    /// about a bucket already, requests wait for that instead of asking one by one.
    pub async fn share(
        &self,
        wishes: &mut SmallVec<[Wish; 2]>,
        until: Instant,
    ) -> SmallVec<[Wish; 2]> {
        let mut paid = SmallVec::new();
        let mut number = 0;
        while let Some(wish) = wishes.get(number) {
            match self.is_there_after_all(wish, until).await {
                true => paid.push(wishes.remove(number)),
                false => number += 1,
            }
        }
        paid
    }

    async fn is_there_after_all(&self, wish: &Wish, until: Instant) -> bool {
        let account = self.accounts.pin().get(&wish.key).cloned();
        let Some(account) = account else { return false };
        let answered = timeout_at(until.into(), account.answered()).await;
        let is_paid =
            answered == Ok(true) && account.spend(wish.cost, clock::now_ns()) != Spent::No;
        if is_paid {
            self.metrics.lease_hits.inc();
        }
        is_paid
    }

    /// Asks the store for all of these, of which it gives all or none, and waits until `until` at
    /// the latest. What it says of each bucket is noted in the local table.
    ///
    /// # Errors
    /// It did not answer, or not in time. Whatever it may have done is not relied on.
    pub async fn ask(
        self: &Arc<Self>,
        wishes: &[Wish],
        limiter: &Limiter,
        until: Instant,
    ) -> Result<Reply, Unanswered> {
        let asked_ns = clock::now_ns();
        let accounts: SmallVec<[_; 4]> =
            wishes.iter().map(|wish| self.account_for(wish, asked_ns)).collect();
        let mut conversations: SmallVec<[_; 4]> = accounts
            .iter()
            .map(|account| account.as_ref()?.0.speak_up(account.as_ref()?.1, asked_ns))
            .collect();
        let asks: SmallVec<[_; 4]> = wishes
            .iter()
            .zip(&conversations)
            .map(|(wish, conversation)| Ask {
                algorithm: &wish.algorithm,
                cost: wish.cost,
                statement: conversation.as_ref().map(Conversation::statement),
                back: None,
            })
            .collect();
        let reply = match self.link.is_cluster() && wishes.len() > 1 {
            false => self.call(wishes.iter().map(|wish| &*wish.name), &asks, until).await?,
            true => self.call_each(wishes, &asks, until).await?,
        };
        let now_ns = clock::now_ns();
        for ((wish, answer), conversation) in
            wishes.iter().zip(&reply.answers).zip(conversations.drain(..))
        {
            if answer.verdict == Verdict::Late {
                return Err(Unanswered);
            }
            if let Some(conversation) = conversation {
                conversation.settle(answer);
            }
            limiter.learn(
                wish.key,
                wish.class,
                fallback::state(&wish.algorithm, answer, now_ns),
                now_ns,
            );
            if answer.verdict == Verdict::Refused {
                let is_leased = lease::ceiling(wish.algorithm.burst(), self.live()) > 0;
                let least_ns = if is_leased { PAUSE.as_nanos() as u64 } else { 0 };
                let until_ns = now_ns + answer.wait_ns.max(least_ns);
                limiter.remember_refusal(wish.key, wish.cost, until_ns, now_ns);
            }
        }
        Ok(reply)
    }

    /// On a cluster: a call for each bucket, all under way at a time. Where one refuses, the others
    /// are given back.
    async fn call_each(
        self: &Arc<Self>,
        wishes: &[Wish],
        asks: &[Ask<'_>],
        until: Instant,
    ) -> Result<Reply, Unanswered> {
        let calls = wishes.iter().zip(asks).map(|(wish, ask)| {
            self.call(std::iter::once(&*wish.name), std::slice::from_ref(ask), until)
        });
        let replies = join_all(calls).await;
        let is_taken = |reply: &Result<Reply, Unanswered>| {
            reply.as_ref().is_ok_and(|reply| reply.answers[0].verdict == Verdict::Taken)
        };
        if !replies.iter().all(is_taken) {
            for (wish, reply) in wishes.iter().zip(&replies).filter(|(_, reply)| is_taken(reply)) {
                if let Ok(Reply { now, .. }) = reply {
                    self.give_back(wish.paid_at(*now));
                }
            }
        }
        let mut joined = Reply { now: RedisTime::default(), answers: SmallVec::new() };
        for reply in replies {
            let reply = reply?;
            joined.now = reply.now;
            joined.answers.extend(reply.answers);
        }
        Ok(joined)
    }

    async fn call(
        &self,
        names: impl Iterator<Item = &str>,
        asks: &[Ask<'_>],
        until: Instant,
    ) -> Result<Reply, Unanswered> {
        let names: SmallVec<[&str; 4]> = names.collect();
        let arguments = script::arguments(&self.gateway, asks);
        let called = self.link.call(&SCRIPT, &names, &arguments, until).await;
        let value = called.map_err(|_| Unanswered)?;
        script::reply(value, asks.len()).map_err(|_| Unanswered)
    }

    /// Asks how these buckets stand, charging nothing, and notes it in the local table. Without an
    /// answer what was noted before stands.
    pub async fn look(&self, wishes: &[Wish], limiter: &Limiter) {
        join_all(wishes.chunks(self.in_one_call()).map(async |wishes| {
            let ask = |wish| Ask { algorithm: wish, cost: 0, statement: None, back: None };
            let asks: Vec<_> = wishes.iter().map(|wish| ask(&wish.algorithm)).collect();
            let names: Vec<_> = wishes.iter().map(|wish| &*wish.name).collect();
            let arguments = script::arguments(&self.gateway, &asks);
            let value = self.link.run(&SCRIPT, &names, &arguments, PATIENCE).await;
            let reply = value.ok().and_then(|value| script::reply(value, asks.len()).ok());
            let now_ns = clock::now_ns();
            for (wish, answer) in wishes.iter().zip(reply.iter().flat_map(|reply| &reply.answers)) {
                let state = fallback::state(&wish.algorithm, answer, now_ns);
                limiter.learn(wish.key, wish.class, state, now_ns);
            }
        }))
        .await;
    }

    /// The account of a bucket that is worth one, and how many tokens it may hold.
    fn account_for(&self, wish: &Wish, now_ns: u64) -> Option<(Arc<Account>, u64)> {
        let ceiling = match wish.algorithm {
            // Who is to be held back has to ask when to go.
            Algorithm::LeakyBucket(_) => 0,
            _ => lease::ceiling(wish.algorithm.burst(), self.live()),
        };
        let accounts = self.accounts.pin();
        let account = match accounts.get(&wish.key) {
            Some(account) => account.clone(),
            None if ceiling == 0 => return None,
            None => self.open(wish, now_ns)?,
        };
        account.follow(&wish.algorithm);
        account.note_asked(wish.cost);
        Some((account, ceiling))
    }

    fn open(&self, wish: &Wish, now_ns: u64) -> Option<Arc<Account>> {
        let accounts = self.accounts.pin();
        if accounts.len() >= MAX_ACCOUNTS {
            return None;
        }
        let open = || Arc::new(Account::open(&wish.name, &wish.algorithm, now_ns));
        Some(accounts.get_or_insert_with(wish.key, open).clone())
    }

    /// Notes that a request was let pass without asking. Beyond 65 536 buckets the store
    /// is not told.
    pub fn owe(&self, wish: &Wish, now_ns: u64) {
        self.metrics.unasked.inc_by(u64::from(wish.cost));
        let accounts = self.accounts.pin();
        let account = accounts.get(&wish.key).cloned();
        if let Some(account) = account.or_else(|| self.open(wish, now_ns)) {
            account.owe(wish.cost);
        }
    }

    /// Gives back what a request paid that was refused after all.
    pub fn give_back(self: &Arc<Self>, payment: Payment) {
        match payment {
            Payment::Leased { key, cost } => {
                if let Some(account) = self.accounts.pin().get(&key) {
                    account.refund(cost, clock::now_ns());
                }
            }
            Payment::Owed { key, cost } => {
                if let Some(account) = self.accounts.pin().get(&key) {
                    account.forgive(cost);
                }
            }
            Payment::Asked(asked) => {
                let limits = self.clone();
                tokio::spawn(async move {
                    let Asked { name, algorithm, cost, at } = *asked;
                    let back = Some((cost, at));
                    let ask = Ask { algorithm: &algorithm, cost: 0, statement: None, back };
                    let arguments = script::arguments(&limits.gateway, &[ask]);
                    // What is not given back comes back with time.
                    let _ = limits.link.run(&SCRIPT, &[&*name], &arguments, PATIENCE).await;
                });
            }
        }
    }

    /// Buckets that one call may be about: on a cluster each may lie on another server.
    fn in_one_call(&self) -> usize {
        if self.link.is_cluster() { 1 } else { IN_ONE_CALL }
    }

    /// States accounts, each of which may hold so many tokens, and books what is granted.
    async fn speak(&self, accounts: &[(Arc<Account>, u64)]) {
        let calls = accounts.chunks(self.in_one_call());
        join_all(calls.map(|accounts| self.speak_in_one_call(accounts))).await;
    }

    async fn speak_in_one_call(&self, accounts: &[(Arc<Account>, u64)]) {
        let now_ns = clock::now_ns();
        // Whoever is spoken about already is left out.
        let words = accounts.iter().filter_map(|(account, ceiling)| {
            Some((account, account.algorithm(), account.speak(*ceiling, now_ns)?))
        });
        let words: SmallVec<[_; 4]> = words.collect();
        if words.is_empty() {
            return;
        }
        let names: SmallVec<[&str; 4]> = words.iter().map(|(account, ..)| &*account.name).collect();
        let asks = words.iter().map(|(_, algorithm, conversation)| {
            let statement = Some(conversation.statement());
            Ask { algorithm, cost: 0, statement, back: None }
        });
        let arguments = script::arguments(&self.gateway, &asks.collect::<SmallVec<[_; 4]>>());
        let value = self.link.run(&SCRIPT, &names, &arguments, self.link.timeout()).await;
        let reply = value.ok().and_then(|value| script::reply(value, words.len()).ok());
        let answers = reply.iter().flat_map(|reply| &reply.answers);
        for ((.., conversation), answer) in words.into_iter().zip(answers) {
            if answer.verdict != Verdict::Late {
                conversation.settle(answer);
            }
        }
    }

    /// Whether the store answers.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }
}

/// Whether an answer takes what was asked for.
pub fn is_taken(answer: &Answer) -> bool {
    answer.verdict == Verdict::Taken
}
