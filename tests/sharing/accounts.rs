//! Leases of several gateways on one bucket: whatever is lost, late or doubled on the way, all of
//! them together spend no more than the limit.

use crate::store::Store;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::{Cell, RefCell};
use tollgate::fleet::limits::account::{Account, Conversation, Spent};
use tollgate::fleet::limits::script::{Answer, Ask, Statement, Verdict};
use tollgate::policy::meter::Algorithm;
use tollgate::policy::rate::{Period, Rate, TokenBucket};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const START: u64 = 1_900_000_000 * SECOND;
const GATEWAYS: usize = 3;

fn bucket(per_second: u64, burst: u64) -> Algorithm {
    let rate = Rate { count: per_second, period: Period::Second };
    Algorithm::TokenBucket(TokenBucket::new(rate, burst).unwrap())
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Answered,
    /// Carried out, but nobody hears of it.
    AnswerLost,
    Lost,
    /// Carried out twice; the second answer is the one that is heard.
    Doubled,
    /// Carried out when the gateway has given up and gone on.
    Late,
}

#[derive(Debug, Clone)]
enum Act {
    /// Spends from the lease what is there.
    Spend(u32),
    /// Asks for tokens on its own, with a word on the account.
    Ask(u32, Fate),
    /// Renews the lease, for so many tokens at most.
    Speak(u64, Fate),
    /// Gives back what it spent last.
    Refund,
    /// Lets requests pass without the store.
    Owe(u32),
}

fn act() -> impl Strategy<Value = Act> {
    let fate = prop_oneof![
        12 => Just(Fate::Answered),
        1 => Just(Fate::AnswerLost),
        1 => Just(Fate::Lost),
        1 => Just(Fate::Doubled),
        1 => Just(Fate::Late),
    ];
    prop_oneof![
        6 => (1..40_u32).prop_map(Act::Spend),
        4 => (prop_oneof![0..10_u32, 0..150_u32], fate.clone()).prop_map(|(cost, fate)| Act::Ask(cost, fate)),
        4 => (prop_oneof![Just(0), 1..120_u64], fate).prop_map(|(most, fate)| Act::Speak(most, fate)),
        1 => Just(Act::Refund),
        1 => (1..5_u32).prop_map(Act::Owe),
    ]
}

type Step = (u64, usize, Act);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![
        6 => 0..5_000_u64,
        3 => 0..120_000_u64,
        1 => 200_000..3_000_000_u64,
    ];
    prop::collection::vec((pause, 0..GATEWAYS, act()), 1..120)
}

/// The limit as plainly as it can be said: tokens that come back at a rate, up to the burst.
struct Plain {
    per_ns: f64,
    burst: f64,
    level: f64,
    at: u64,
}

impl Plain {
    fn at(&mut self, now: u64) -> f64 {
        self.level = (self.level + (now - self.at) as f64 * self.per_ns).min(self.burst);
        self.at = now;
        self.level
    }
}

struct Fleet<'a> {
    store: &'a RefCell<Store>,
    key: String,
    algorithm: Algorithm,
    accounts: Vec<Account>,
    /// Calls that are carried out later.
    late: Vec<(usize, u32, Statement)>,
    last_spent: Vec<Option<(u32, u64)>>,
}

impl Fleet<'_> {
    fn call(
        &mut self,
        gateway: usize,
        cost: u32,
        statement: Statement,
        now: u64,
    ) -> (Verdict, Answer) {
        let name = format!("{gateway:016x}");
        let ask = Ask { algorithm: &self.algorithm, cost, statement: Some(statement), back: None };
        let answer = self.store.borrow_mut().call(&name, now, &[(&*self.key, ask)]).answers[0];
        (answer.verdict, answer)
    }
}

/// Speaks, and says how many tokens a request was given by it.
fn speak(
    fleet: &mut Fleet<'_>,
    gateway: usize,
    cost: u32,
    ceiling: u64,
    fate: Fate,
    now: u64,
) -> u32 {
    let account =
        std::mem::replace(&mut fleet.accounts[gateway], Account::open("", &fleet.algorithm, now));
    let passed = converse(fleet, gateway, &account, (cost, ceiling), fate, now);
    fleet.accounts[gateway] = account;
    passed
}

fn converse(
    fleet: &mut Fleet<'_>,
    gateway: usize,
    account: &Account,
    (cost, ceiling): (u32, u64),
    fate: Fate,
    now: u64,
) -> u32 {
    account.note_asked(cost);
    let conversation: Conversation<'_> = account.speak(ceiling, now).expect("nobody else speaks");
    let statement = conversation.statement();
    let passed = |verdict| if verdict == Verdict::Taken { cost } else { 0 };
    match fate {
        Fate::Lost => 0,
        Fate::Late => {
            fleet.late.push((gateway, cost, statement));
            0
        }
        Fate::AnswerLost => {
            fleet.call(gateway, cost, statement, now);
            0
        }
        Fate::Doubled => {
            fleet.call(gateway, cost, statement, now);
            let (verdict, _) = fleet.call(gateway, cost, statement, now);
            assert_eq!(verdict, Verdict::Late);
            0
        }
        Fate::Answered => {
            let (verdict, answer) = fleet.call(gateway, cost, statement, now);
            assert_ne!(verdict, Verdict::Late, "in order");
            conversation.settle(&answer);
            passed(verdict)
        }
    }
}

#[test]
fn all_gateways_together_spend_no_more_than_the_limit_whatever_becomes_of_calls() {
    let store = RefCell::new(Store::start());
    let number = Cell::new(0);
    let mut runner = TestRunner::new(Config { cases: 400, ..Config::default() });
    let strategy = ((1..400_u64, 20..150_u64), steps());
    let checked = runner.run(&strategy, |((per_second, burst), steps)| {
        number.set(number.get() + 1);
        let algorithm = bucket(per_second, burst);
        let Algorithm::TokenBucket(figures) = &algorithm else { unreachable!() };
        let per_ns = 1.0 / figures.emission_interval_ns() as f64;
        let burst = burst as f64;
        let mut plain = Plain { per_ns, burst, level: burst, at: START };
        let open = |_| Account::open("", &algorithm, START);
        let mut fleet = Fleet {
            store: &store,
            key: format!("bucket {}", number.get()),
            accounts: (0..GATEWAYS).map(open).collect(),
            algorithm: algorithm.clone(),
            late: Vec::new(),
            last_spent: vec![None; GATEWAYS],
        };
        let mut now = START;
        for (pause_us, gateway, act) in steps {
            now += pause_us * 1_000;
            let spent = match act {
                Act::Spend(cost) => match fleet.accounts[gateway].spend(cost, now) {
                    Spent::No => 0,
                    Spent::Paid | Spent::Last => {
                        fleet.last_spent[gateway] = Some((cost, now));
                        cost
                    }
                },
                Act::Ask(cost, fate) => speak(&mut fleet, gateway, cost, 60, fate, now),
                Act::Speak(most, fate) => speak(&mut fleet, gateway, 0, most, fate, now),
                Act::Refund => {
                    // At once, so that it is as if it had never been spent.
                    let last = fleet.last_spent[gateway].take();
                    if let Some((cost, _)) = last.filter(|(_, at)| *at == now) {
                        fleet.accounts[gateway].refund(cost, now);
                        plain.level = (plain.level + f64::from(cost)).min(plain.burst);
                    }
                    0
                }
                Act::Owe(cost) => {
                    // It is charged later than it was spent, which harms nobody but the client.
                    fleet.accounts[gateway].owe(cost);
                    0
                }
            };
            let level = plain.at(now);
            prop_assert!(level + 1e-6 >= f64::from(spent), "{spent} of {level} at {now}");
            plain.level -= f64::from(spent);
            // What was late comes before the next step, whatever its gateway does then.
            for (gateway, cost, statement) in std::mem::take(&mut fleet.late) {
                if pause_us % 2 == 0 {
                    fleet.call(gateway, cost, statement, now);
                } else {
                    fleet.late.push((gateway, cost, statement));
                }
            }
        }
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn a_lease_and_a_bucket_that_filled_up_meanwhile_cannot_both_be_spent() {
    let mut store = Store::start();
    let algorithm = bucket(1_000, 100);
    let account = Account::open("", &algorithm, START);
    account.note_asked(1_000);
    let talk = account.speak(50, START + 10 * MS).unwrap();
    let ask = |statement| Ask { algorithm: &algorithm, cost: 0, statement, back: None };
    let said = ask(Some(talk.statement()));
    let answer = store.call("a", START + 10 * MS, &[("b", said)]).answers[0];
    assert_eq!(answer.granted, 50);
    talk.settle(&answer);
    // Long enough for the bucket to be full, if it filled; not for the lease to end.
    let now = START + 200 * MS;
    assert_eq!(store.take("b", &algorithm, 51, now).verdict, Verdict::Refused);
    assert_eq!(store.take("b", &algorithm, 50, now).verdict, Verdict::Taken);
    assert!(matches!(account.spend(50, now), Spent::Paid | Spent::Last));
    assert_eq!(account.spend(1, now), Spent::No);
}

#[test]
fn what_was_not_spent_goes_back_and_what_was_owed_is_paid_once() {
    let mut store = Store::start();
    let algorithm = bucket(1, 100);
    let account = Account::open("", &algorithm, START);
    account.note_asked(1_000);
    let ask = |statement| Ask { algorithm: &algorithm, cost: 0, statement, back: None };
    let talk = account.speak(40, START).unwrap();
    let answer = store.call("a", START, &[("b", ask(Some(talk.statement())))]).answers[0];
    talk.settle(&answer);
    assert_eq!((answer.granted, answer.outstanding), (40, 40));
    assert!(matches!(account.spend(15, START), Spent::Paid | Spent::Last));
    account.owe(10);
    let talk = account.speak(0, START).unwrap();
    let statement = talk.statement();
    let answer = store.call("a", START, &[("b", ask(Some(statement)))]).answers[0];
    // The answer is lost: the gateway says the same again, and it counts once.
    drop(talk);
    assert_eq!((answer.granted, answer.outstanding), (0, 0));
    assert_eq!(answer.left_ns, 25 * SECOND, "15 spent and 10 owed");
    let talk = account.speak(0, START).unwrap();
    let answer = store.call("a", START, &[("b", ask(Some(talk.statement())))]).answers[0];
    assert_eq!(answer.left_ns, 25 * SECOND);
    talk.settle(&answer);
    assert!(!account.is_in_debt());
}

/// One gateway that has 50 tokens on lease of a bucket of 100 that earns one a millisecond.
struct Leased {
    store: Store,
    account: Account,
}

impl Leased {
    fn new() -> Leased {
        let algorithm = bucket(1_000, 100);
        let account = Account::open("", &algorithm, START);
        let mut leased = Leased { store: Store::start(), account };
        leased.speak(50, START, START);
        leased
    }

    /// Speaks about the account at these times of the gateway and of Redis.
    fn speak(&mut self, ceiling: u64, here: u64, there: u64) {
        self.account.note_asked(1_000);
        let talk = self.account.speak(ceiling, here).unwrap();
        let algorithm = bucket(1_000, 100);
        let statement = Some(talk.statement());
        let ask = Ask { algorithm: &algorithm, cost: 0, statement, back: None };
        let answer = self.store.call("a", there, &[("b", ask)]).answers[0];
        talk.settle(&answer);
    }

    #[track_caller]
    fn bucket_has_exactly(&mut self, tokens: u32, now: u64) {
        let algorithm = bucket(1_000, 100);
        assert_eq!(self.store.take("b", &algorithm, tokens + 1, now).verdict, Verdict::Refused);
        assert_eq!(self.store.take("b", &algorithm, tokens, now).verdict, Verdict::Taken);
    }
}

#[test]
fn what_a_bucket_could_not_earn_while_tokens_were_out_it_does_not_have_when_they_are_reported() {
    let mut leased = Leased::new();
    let now = START + 200 * MS;
    assert!(matches!(leased.account.spend(50, now), Spent::Paid | Spent::Last));
    leased.speak(0, now, now);
    leased.bucket_has_exactly(50, now);
}

#[test]
fn a_lease_that_nobody_reports_holds_the_bucket_down_to_its_end() {
    let mut leased = Leased::new();
    leased.bucket_has_exactly(55, START + 255 * MS);
}

#[test]
fn a_lease_that_redis_took_for_over_is_counted_again_when_the_gateway_says_that_it_holds_it() {
    let mut leased = Leased::new();
    // The clock of Redis has jumped.
    let there = START + 3_600 * SECOND;
    let here = START + 100 * MS;
    leased.speak(200, here, there);
    assert_eq!(leased.account.stranded(here), 100, "50 it had and 50 that were left");
    leased.bucket_has_exactly(0, there);
}

#[test]
fn a_word_soon_after_another_hands_nothing_back_that_is_in_demand() {
    let algorithm = bucket(10_000, 20_000);
    let account = Account::open("", &algorithm, START);
    let (mut store, mut now) = (Store::start(), START);
    // 5 000 tokens a second, and a word every 50 ms that is followed by another after 1 ms.
    for round in 0..20 {
        for pause in [49 * MS, MS] {
            now += pause;
            account.note_asked(u32::try_from(pause / 200_000).unwrap());
            let talk = account.speak(1_000, now).unwrap();
            let statement = talk.statement();
            let ask =
                Ask { algorithm: &algorithm, cost: 0, statement: Some(statement), back: None };
            let answer = store.call("a", now, &[("b", ask)]).answers[0];
            talk.settle(&answer);
            let held = statement.kept + answer.granted;
            assert!(round == 0 || (250..=400).contains(&held), "{held} in round {round}");
        }
    }
}

#[test]
fn demand_that_comes_back_soon_finds_as_large_a_lease_as_before() {
    let algorithm = bucket(10_000, 20_000);
    let account = Account::open("", &algorithm, START);
    let mut store = Store::start();
    // What the gateway keeps and wants at that time, for requests that ask or in the background.
    let mut word = |ms: u64, requests: u32| {
        let now = START + ms * MS;
        account.note_asked(requests);
        let talk = match requests {
            0 => account.speak(1_000, now),
            _ => account.speak_up(1_000, now),
        };
        let talk = talk.unwrap();
        let statement = talk.statement();
        let ask = Ask { algorithm: &algorithm, cost: 0, statement: Some(statement), back: None };
        talk.settle(&store.call("a", now, &[("b", ask)]).answers[0]);
        (statement.kept, statement.want)
    };
    // 5 000 tokens a second, of which a lease is 300; then nothing.
    assert_eq!(word(30, 150), (0, 300));
    assert_eq!(word(60, 150), (300, 0));
    assert_eq!(word(200, 0), (0, 0), "in the background it is handed back");
    assert_eq!(word(400, 1), (0, 300), "one request asks again after 0.3 s");
    assert_eq!(word(500, 0), (0, 0));
    assert_eq!(word(1_200, 1), (0, 0), "and once more after more than half a second");
}
