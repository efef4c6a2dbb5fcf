//! What a replay came to, counted and said.

use super::Came;
use super::line::Line;
use jiff::{Timestamp, Unit};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

/// Rows of the table: names come from the log as well.
const MAX_ROWS: usize = 10_000;
/// Clients that are counted.
const MAX_CLIENTS: usize = 100_000;
/// Clients, malformed lines that are shown.
const SHOWN: usize = 10;
const SHOWN_LINES: usize = 5;

/// What a replay came to.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were replayed or kept out.
    pub(super) requests: u64,
    first: Option<Timestamp>,
    last: Option<Timestamp>,
    /// By what limits came to then and come to now: passed and limited.
    cases: [[u64; 2]; 2],
    rows: BTreeMap<(String, String, String), Row>,
    /// Requests that limits were asked about, by tier and route.
    asked: BTreeMap<(String, String), u64>,
    /// Answers now that are neither, by refusal.
    others: BTreeMap<String, u64>,
    /// Refusals then that limits do not change.
    kept: BTreeMap<String, u64>,
    /// Requests of clients that the configuration does not name, by the tier the log has them in.
    tiers_of_log: BTreeMap<String, u64>,
    clients: HashMap<Box<str>, u64>,
    uncounted: u64,
    malformed: u64,
    pub(super) malformed_lines: Vec<(u64, String)>,
    pub(super) late: u64,
    left_out: Vec<Arc<str>>,
}

/// Refusals of one tier, route and policy.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Row {
    pub(super) then: u64,
    pub(super) now: u64,
}

impl Report {
    pub(super) fn new(left_out: Vec<Arc<str>>) -> Report {
        Report { left_out, ..Report::default() }
    }

    pub(super) fn malformed(&mut self, number: u64, why: String) {
        self.malformed += 1;
        if self.malformed_lines.len() < SHOWN_LINES {
            self.malformed_lines.push((number, why));
        }
    }

    pub(super) fn saw(&mut self, line: &Line) {
        self.requests += 1;
        self.first = Some(self.first.map_or(line.time, |first| first.min(line.time)));
        self.last = Some(self.last.map_or(line.time, |last| last.max(line.time)));
    }

    pub(super) fn kept(&mut self, line: &Line) {
        count(&mut self.kept, line.refusal.as_deref().unwrap_or_default());
    }

    pub(super) fn other(&mut self, refusal: &str) {
        count(&mut self.others, refusal);
    }

    pub(super) fn tier_of_log(&mut self, tier: &str) {
        count(&mut self.tiers_of_log, tier);
    }

    pub(super) fn compare(&mut self, then: Came, now: Came) {
        self.cases[then as usize][now as usize] += 1;
    }

    pub(super) fn asked(&mut self, tier: &str, route: &str) {
        *self.asked.entry((tier.to_owned(), route.to_owned())).or_default() += 1;
    }

    pub(super) fn row(
        &mut self,
        tier: &str,
        route: &str,
        policy: &str,
        add: impl FnOnce(&mut Row),
    ) {
        let key = (tier.to_owned(), route.to_owned(), policy.to_owned());
        if self.rows.len() < MAX_ROWS || self.rows.contains_key(&key) {
            add(self.rows.entry(key).or_default());
        }
    }

    pub(super) fn client(&mut self, client: &str) {
        if let Some(count) = self.clients.get_mut(client) {
            *count += 1;
        } else if self.clients.len() < MAX_CLIENTS {
            self.clients.insert(client.into(), 1);
        } else {
            self.uncounted += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn rows(&self) -> &BTreeMap<(String, String, String), Row> {
        &self.rows
    }

    fn summary(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |time: Option<Timestamp>| {
            let time = time.unwrap_or_default();
            time.round(Unit::Second).unwrap_or(time)
        };
        let [[_, newly], [freed, both]] = self.cases;
        let share = |part| percent(part, self.requests);
        let (then, now) = (freed + both, newly + both);
        writeln!(f, "{} requests, {} to {}", self.requests, at(self.first), at(self.last))?;
        writeln!(f, "{:<44} {then:>10} {:>8}", "limited, as the log says", share(then))?;
        writeln!(f, "{:<44} {now:>10} {:>8}", "limited by this configuration", share(now))?;
        writeln!(f, "{:<44} {newly:>10} {:>8}", "  of them passed before", share(newly))?;
        writeln!(f, "{:<44} {freed:>10} {:>8}", "limited before and passing now", share(freed))
    }

    fn table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rows.is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{:<16} {:<24} {:<32} {:>10} {:>10} {:>8}",
            "TIER", "ROUTE", "POLICY", "LOG", "NOW", "SHARE"
        )?;
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by_key(|(_, row)| Reverse((row.now, row.then)));
        for ((tier, route, policy), Row { then, now }) in rows {
            let asked = self.asked.get(&(tier.clone(), route.clone())).copied().unwrap_or(0);
            let share = percent(*now, asked);
            writeln!(f, "{tier:<16} {route:<24} {policy:<32} {then:>10} {now:>10} {share:>8}")?;
        }
        Ok(())
    }

    fn clients(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut clients: Vec<_> = self.clients.iter().collect();
        clients.sort_by_key(|(client, count)| (Reverse(**count), *client));
        if !clients.is_empty() {
            writeln!(f, "\n{:<74} {:>10}", "CLIENTS LIMITED MOST", "NOW")?;
        }
        for (client, count) in clients.iter().take(SHOWN) {
            writeln!(f, "{client:<74} {count:>10}")?;
        }
        if clients.len() > SHOWN {
            writeln!(f, "and {} more", clients.len() - SHOWN)?;
        }
        if self.uncounted > 0 {
            let more = self.uncounted;
            writeln!(f, "and {more} refusals of clients beyond the first {MAX_CLIENTS}")?;
        }
        Ok(())
    }

    fn remarks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (refusal, count) in &self.others {
            writeln!(f, "{count} would be refused with {refusal}, at no cost in tokens")?;
        }
        for (refusal, count) in &self.kept {
            writeln!(f, "{count} were refused with {refusal}; taken to be so again, uncharged")?;
        }
        for (tier, count) in &self.tiers_of_log {
            writeln!(
                f,
                "{count} were of clients that this configuration does not name, in the tier {tier} \
                 as the log has\nthem: taken to be put there at run time"
            )?;
        }
        if self.malformed > 0 {
            writeln!(f, "{} lines are no requests in JSON and were left out:", self.malformed)?;
        }
        for (number, why) in &self.malformed_lines {
            writeln!(f, "  line {number}: {why}")?;
        }
        if self.late > 0 {
            writeln!(f, "{} lines were so far out of order that they count as later", self.late)?;
        }
        if !self.left_out.is_empty() {
            writeln!(f, "not replayed, for the log has no headers: {}", self.left_out.join(", "))?;
        }
        f.write_str(
            "The log does not say and this cannot know: headers and bodies of the requests, so \
             clients\nare those that the log names; what clients would have done after another \
             answer; circuits,\nplaces and servers, which are taken to refuse nothing more; limits of \
             their own that clients\nwere given at run time. Every bucket was full at the first \
             line.\n",
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.summary(f)?;
        self.table(f)?;
        self.clients(f)?;
        self.remarks(f)
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else if counts.len() < MAX_ROWS {
        counts.insert(name.to_owned(), 1);
    }
}

fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "-".to_owned(),
        whole => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}
