//! What a gateway holds on lease of one bucket, and what it owes it.
//!
//! Requests spend from one number and wait for nobody. Everything else is the business of whoever
//! speaks with the store about the account, which is one at a time: it states what the gateway
//! keeps and has spent, and books what it is granted. All that is spent is what was granted less
//! what is there, read at one instant, so no token is ever counted twice.
//!
//! A statement that is not answered may have been carried out or not. What it would have granted is
//! never spent, and the next statement, whose sums count from the beginning, puts the store right.

use super::script::{Answer, Statement};
use crate::policy::lease::{self, LENGTH, MARGIN};
use crate::policy::meter::Algorithm;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// Accounts of this process so far; and statements, for every one is later than all before.
static ACCOUNTS: AtomicU64 = AtomicU64::new(0);
static STATEMENTS: AtomicU64 = AtomicU64::new(0);
/// How much sooner a lease ends here than in the store: a request that has found it in time spends
/// a moment later.
const GUARD: Duration = Duration::from_millis(5);
/// How long a gateway waits before it asks again for tokens that were not there.
pub const PAUSE: Duration = Duration::from_millis(5);
/// The shortest time that demand is measured over.
const MEASURED: Duration = Duration::from_millis(25);
/// How long demand that has ceased may come back and find as large a lease as before. A client
/// whose requests move from gateway to gateway comes back soon, and a lease that grows from
/// nothing takes several calls.
const RECENT: Duration = Duration::from_millis(500);
/// An account in which nothing happened for so long is closed.
const IDLE: Duration = Duration::from_secs(2);

/// One account.
pub struct Account {
    number: u64,
    /// The bucket's name in the store.
    pub name: Box<str>,
    /// Tokens there to be spent.
    tokens: AtomicU64,
    /// When they cannot be spent any more.
    ends_ns: AtomicU64,
    /// At how many left more should be withdrawn, and not before when.
    refill_at: AtomicU64,
    not_before_ns: AtomicU64,
    /// Tokens that were let pass without asking, and as many of them as the store has acknowledged.
    debt: AtomicU64,
    acknowledged: AtomicU64,
    /// Tokens asked for on their own, which are demand too.
    asked: AtomicU64,
    /// Whether somebody is speaking with the store about it, and who wants to know the end of it.
    is_busy: AtomicBool,
    ended: Notify,
    books: Mutex<Books>,
}

/// What only the one who speaks with the store changes.
struct Books {
    algorithm: Algorithm,
    /// Granted and not handed back, in all.
    granted: u64,
    /// Demand and time when demand was last measured, and how many tokens followed from it.
    demand: u64,
    at_ns: u64,
    target: u64,
    /// The largest of the last such targets, and when it was measured.
    largest: (u64, u64),
    /// Whether the account is closed.
    is_closed: bool,
}

/// What came of a wish to spend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spent {
    /// The tokens were there.
    Paid,
    /// They were, and it is time to withdraw more.
    Last,
    /// They were not.
    No,
}

/// The right to speak with the store about an account; handed back when dropped.
pub struct Conversation<'a> {
    account: &'a Account,
    at_ns: u64,
    statement: Statement,
}

impl Account {
    /// An account that nothing is in.
    pub fn open(name: &str, algorithm: &Algorithm, now_ns: u64) -> Account {
        Account {
            number: 1 + ACCOUNTS.fetch_add(1, Ordering::Relaxed),
            name: name.into(),
            tokens: AtomicU64::new(0),
            ends_ns: AtomicU64::new(0),
            refill_at: AtomicU64::new(0),
            not_before_ns: AtomicU64::new(0),
            debt: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            ended: Notify::new(),
            books: Mutex::new(Books {
                algorithm: algorithm.clone(),
                granted: 0,
                demand: 0,
                at_ns: now_ns,
                target: 0,
                largest: (0, now_ns),
                is_closed: false,
            }),
        }
    }

    /// Spends `cost` tokens, if they are there and may still be spent.
    #[inline]
    pub fn spend(&self, cost: u32, now_ns: u64) -> Spent {
        if now_ns >= self.ends_ns.load(Ordering::Acquire) {
            return Spent::No;
        }
        let cost = u64::from(cost);
        let spend = |tokens: u64| tokens.checked_sub(cost);
        match self.tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, spend) {
            Ok(before) if self.is_low(before - cost, now_ns) => Spent::Last,
            Ok(_) => Spent::Paid,
            Err(_) => Spent::No,
        }
    }

    fn is_low(&self, tokens: u64, now_ns: u64) -> bool {
        tokens <= self.refill_at.load(Ordering::Relaxed)
            && now_ns >= self.not_before_ns.load(Ordering::Relaxed)
    }

    /// Takes back what was spent. What the lease has outlived is lost, not given out again.
    pub fn refund(&self, cost: u32, now_ns: u64) {
        if now_ns < self.ends_ns.load(Ordering::Acquire) {
            self.tokens.fetch_add(u64::from(cost), Ordering::AcqRel);
        }
    }

    /// Notes tokens that were let pass without asking.
    pub fn owe(&self, cost: u32) {
        self.debt.fetch_add(u64::from(cost), Ordering::AcqRel);
    }

    /// Takes that back.
    pub fn forgive(&self, cost: u32) {
        let forgive = |debt: u64| Some(debt.saturating_sub(u64::from(cost)));
        let _ = self.debt.fetch_update(Ordering::AcqRel, Ordering::Acquire, forgive);
    }

    /// Notes tokens that a request asks for on its own.
    pub fn note_asked(&self, cost: u32) {
        self.asked.fetch_add(u64::from(cost), Ordering::Relaxed);
    }

    /// Tokens on lease that nobody has spent.
    pub fn stranded(&self, now_ns: u64) -> u64 {
        match now_ns < self.ends_ns.load(Ordering::Acquire) {
            true => self.tokens.load(Ordering::Relaxed),
            false => 0,
        }
    }

    /// Whether the store has still to be told of a debt.
    pub fn is_in_debt(&self) -> bool {
        self.debt.load(Ordering::Acquire) > self.acknowledged.load(Ordering::Acquire)
    }

    /// The limit it is an account of.
    pub fn algorithm(&self) -> Algorithm {
        self.books().algorithm.clone()
    }

    /// Notes the limit's figures, which a configuration may have changed.
    pub fn follow(&self, algorithm: &Algorithm) {
        let mut books = self.books();
        if books.algorithm != *algorithm {
            books.algorithm = algorithm.clone();
        }
    }

    /// Whether the lease should be renewed or handed back soon.
    pub fn is_running_out(&self, now_ns: u64) -> bool {
        let left_ns = self.ends_ns.load(Ordering::Acquire).saturating_sub(now_ns);
        self.stranded(now_ns) > 0 && left_ns < MARGIN.as_nanos() as u64
    }

    /// Closes an account in which nothing is and nothing happens, and says whether it has.
    pub fn close_if_idle(&self, now_ns: u64) -> bool {
        let is_busy = self.is_busy.load(Ordering::Acquire);
        if is_busy || self.stranded(now_ns) > 0 || self.is_in_debt() {
            return false;
        }
        let mut books = self.books();
        let is_quiet = now_ns.saturating_sub(books.at_ns) > IDLE.as_nanos() as u64;
        let is_idle = is_quiet && self.demand(&books) == books.demand;
        books.is_closed |= is_idle;
        is_idle
    }

    /// Waits until the store has answered whoever is speaking with it, and says whether anybody was.
    pub async fn answered(&self) -> bool {
        let mut ended = pin!(self.ended.notified());
        // From here on an end is noticed, so that none is missed that comes before the wait.
        ended.as_mut().enable();
        let is_busy = self.is_busy.load(Ordering::Acquire);
        if is_busy {
            ended.await;
        }
        is_busy
    }

    /// Takes the word with the store. None while somebody has it, or once the account is closed.
    ///
    /// How many tokens the gateway should have follows from demand since the last statement, and
    /// is `ceiling` at most; what it has above that it hands back.
    pub fn speak(&self, ceiling: u64, now_ns: u64) -> Option<Conversation<'_>> {
        self.take_word(ceiling, now_ns, false)
    }

    /// The same for a request that found no tokens: demand that was there a moment ago is back.
    pub fn speak_up(&self, ceiling: u64, now_ns: u64) -> Option<Conversation<'_>> {
        self.take_word(ceiling, now_ns, true)
    }

    fn take_word(&self, ceiling: u64, now_ns: u64, is_wanting: bool) -> Option<Conversation<'_>> {
        self.is_busy.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).ok()?;
        let mut books = self.books();
        if books.is_closed {
            self.is_busy.store(false, Ordering::Release);
            self.ended.notify_waiters();
            return None;
        }
        let mut target = self.target(&mut books, ceiling, now_ns);
        if is_wanting {
            target = books.largest_recent(now_ns).min(ceiling).max(target);
            books.target = target;
        }
        let kept = self.keep(&mut books, target, now_ns);
        self.refill_at.store(lease::refill_at(target), Ordering::Relaxed);
        let debt = self.debt.load(Ordering::Acquire);
        let statement = Statement {
            account: self.number,
            sequence: 1 + STATEMENTS.fetch_add(1, Ordering::Relaxed),
            kept,
            spent: books.granted.saturating_sub(kept),
            debt_base: self.acknowledged.load(Ordering::Acquire),
            debt,
            want: lease::want(kept, target).min(ceiling.saturating_sub(kept)),
            length_ms: LENGTH.as_millis() as u64,
        };
        Some(Conversation { account: self, at_ns: now_ns, statement })
    }

    /// How many tokens the gateway should hold. Demand is measured over [`MEASURED`] at the least:
    /// a shorter time makes little of a steady demand, and what it says may only add.
    fn target(&self, books: &mut Books, ceiling: u64, now_ns: u64) -> u64 {
        let demand = self.demand(books);
        let since = Duration::from_nanos(now_ns.saturating_sub(books.at_ns));
        let measured = lease::target(demand.saturating_sub(books.demand), since, ceiling);
        if since < MEASURED {
            books.target = books.target.min(ceiling).max(measured);
        } else {
            (books.demand, books.at_ns, books.target) = (demand, now_ns, measured);
            if measured >= books.largest_recent(now_ns) {
                books.largest = (measured, now_ns);
            }
        }
        books.target
    }

    /// Tokens that go on being held: those there are, unless their time is over or they are above
    /// the target.
    fn keep(&self, books: &mut Books, target: u64, now_ns: u64) -> u64 {
        let may_keep = match now_ns < self.ends_ns.load(Ordering::Acquire) {
            true => target + lease::refill_at(target),
            false => 0,
        };
        let cut = |tokens: u64| (tokens > may_keep).then_some(may_keep);
        match self.tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, cut) {
            Ok(before) => {
                books.granted = books.granted.saturating_sub(before - may_keep);
                may_keep
            }
            Err(tokens) => tokens,
        }
    }

    /// All that was ever demanded, to be compared with itself.
    fn demand(&self, books: &Books) -> u64 {
        let spent = books.granted.saturating_sub(self.tokens.load(Ordering::Acquire));
        spent + self.asked.load(Ordering::Relaxed) + self.debt.load(Ordering::Acquire)
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn largest_recent(&self, now_ns: u64) -> u64 {
        let (target, at_ns) = self.largest;
        if now_ns.saturating_sub(at_ns) < RECENT.as_nanos() as u64 { target } else { 0 }
    }
}

impl Conversation<'_> {
    /// What is said.
    pub fn statement(&self) -> Statement {
        self.statement
    }

    /// Books the answer: what was granted may be spent until the lease ends, counted from when
    /// the statement was made.
    pub fn settle(self, answer: &Answer) {
        let Account { tokens, ends_ns, .. } = self.account;
        let mut books = self.account.books();
        self.account.acknowledged.store(self.statement.debt, Ordering::Release);
        books.granted += answer.granted;
        let length_ns = (LENGTH - GUARD).as_nanos() as u64;
        // Where there was next to nothing there is no point in asking again at once.
        let pause_ns = match answer.granted * 2 < self.statement.want {
            true => PAUSE.as_nanos() as u64,
            false => 0,
        };
        self.account.not_before_ns.store(self.at_ns + pause_ns, Ordering::Relaxed);
        ends_ns.store(self.at_ns + length_ns, Ordering::Release);
        tokens.fetch_add(answer.granted, Ordering::AcqRel);
    }
}

impl Drop for Conversation<'_> {
    fn drop(&mut self) {
        self.account.is_busy.store(false, Ordering::Release);
        self.account.ended.notify_waiters();
    }
}
