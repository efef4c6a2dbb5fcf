//! `tollgate status`: a gateway on one screen.

use super::plain;
use serde_json::Value;
use std::fmt::Write as _;

/// What the screen is made of: the answers to GET of these.
pub const SCREEN_PATHS: [&str; 6] =
    ["/health", "/config/history", "/circuit-breakers", "/upstreams", "/limits", "/limits/top"];

/// Columns of the screen.
const COLUMNS: usize = 100;
/// Lines of a table; of more only the number.
const MAX_ROWS: usize = 10;
/// Clients that are shown of those that are limited most.
const MAX_CLIENTS: usize = 5;

/// The gateway that answered this to [`SCREEN_PATHS`], for people. Some 50 lines at most.
pub fn describe_status(answers: &[Value]) -> String {
    let answer = |index: usize| answers.get(index).unwrap_or(&Value::Null);
    let mut screen = Screen::default();
    screen.head(answer(0));
    screen.reloads(answer(1));
    screen.circuits(answer(2));
    screen.servers(answer(3));
    screen.limits(answer(4));
    screen.clients(answer(5));
    screen.0
}

#[derive(Default)]
struct Screen(String);

impl Screen {
    /// Adds a line, cut to the screen's width.
    fn line(&mut self, text: &str) {
        let text = text.trim_end();
        match text.char_indices().nth(COLUMNS - 1) {
            Some((end, last)) if end + last.len_utf8() < text.len() => {
                let _ = writeln!(self.0, "{}…", &text[..end]);
            }
            _ => {
                let _ = writeln!(self.0, "{text}");
            }
        }
    }

    fn table(&mut self, head: &str, rows: &[String], what: &str) {
        self.line("");
        self.line(head);
        rows.iter().take(MAX_ROWS).for_each(|row| self.line(row));
        if rows.len() > MAX_ROWS {
            self.line(&format!("and {} more {what}", rows.len() - MAX_ROWS));
        }
    }

    fn head(&mut self, health: &Value) {
        let gateways = match health["gateways"].as_u64() {
            None => String::new(),
            Some(1) => ", 1 gateway".to_owned(),
            Some(live) => format!(", {live} gateways"),
        };
        self.line(&format!(
            "status {}, generation {}, up {}, pid {}, redis {}{gateways}",
            plain(&health["status"]),
            health["generation"],
            span(health["uptime_seconds"].as_u64().unwrap_or_default()),
            health["pid"],
            plain(&health["redis"]),
        ));
    }

    /// Since when the configuration serves, and what went wrong with others.
    fn reloads(&mut self, history: &Value) {
        let generations = rows(&history["generations"]);
        if let Some(serving) = generations.iter().find(|entry| entry["serving"] == true) {
            let changed = rows(&serving["changed"]);
            let cause = match (serving["cause"].as_str(), serving["goes_back_to"].as_u64()) {
                (Some("rollback"), Some(to)) => format!("rolled back to generation {to}"),
                (Some("restored"), Some(to)) => format!("went back to generation {to}"),
                (Some("watch_file"), _) => "reload, the file changed".to_owned(),
                (cause, _) => cause.unwrap_or("?").to_owned(),
            };
            let what = match changed {
                [] => String::new(),
                [one] => format!(": {}", plain(one)),
                [one, rest @ ..] => format!(": {}, and {} more", plain(one), rest.len()),
            };
            self.line(&format!("since {}: {cause}{what}", plain(&serving["at"])));
        }
        let back = generations.iter().find(|entry| entry["rolled_back"].is_string());
        if let Some(back) = back {
            self.line(&format!("generation {} was rolled back:", back["generation"]));
            self.line(&format!("  {}", plain(&back["rolled_back"])));
        }
        let rejection = &history["last_rejection"];
        if rejection.is_object() {
            self.line(&format!("last reload that was rejected, {}:", plain(&rejection["at"])));
            self.line(&format!("  {}", plain(&rejection["detail"])));
        }
        let trial = &history["on_trial"];
        if trial.is_object() {
            self.line(&format!(
                "generation {} is watched for {:.0} s more, else generation {} serves again",
                trial["generation"],
                trial["seconds_left"].as_f64().unwrap_or_default(),
                trial["goes_back_to"],
            ));
        }
    }

    fn circuits(&mut self, circuits: &Value) {
        let (closed, others): (Vec<_>, Vec<_>) =
            rows(circuits).iter().partition(|circuit| circuit["state"] == "closed");
        let line = |circuit: &&Value| {
            let reason = circuit["reason"].as_str().unwrap_or_default();
            let (name, state) = (name(&circuit["name"]), plain(&circuit["state"]));
            format!("{name:<30} {state:<11} {reason}")
        };
        let table: Vec<String> = others.iter().map(line).collect();
        let head = format!("{:<30} {:<11} {} closed", "CIRCUIT", "STATE", closed.len());
        self.table(&head, &table, "that are not closed");
    }

    /// Those that are not asked first.
    fn servers(&mut self, upstreams: &Value) {
        let mut servers = Vec::new();
        for upstream in rows(upstreams) {
            for server in rows(&upstream["servers"]) {
                let address = server["address"].as_str().or(server["configured"].as_str());
                let (address, state) = (address.unwrap_or_default(), plain(&server["state"]));
                let (name, in_flight) = (name(&upstream["name"]), &server["in_flight"]);
                let line = format!("{name:<30} {address:<40} {state:<11} {in_flight}");
                servers.push((state == "up", line));
            }
        }
        servers.sort_by_key(|(is_up, _)| *is_up);
        let table: Vec<String> = servers.into_iter().map(|(_, line)| line).collect();
        let head = format!("{:<30} {:<40} {:<11} IN FLIGHT", "UPSTREAM", "SERVER", "STATE");
        self.table(&head, &table, "servers");
    }

    /// Those that refused most, then those that admitted most.
    fn limits(&mut self, limits: &Value) {
        let count = |limit: &Value, name: &str| limit[name].as_u64().unwrap_or_default();
        let own = rows(&limits["limits"]).iter().map(|limit| (name(&limit["policy"]), limit));
        let tiers = rows(&limits["tiers"]).iter();
        let tiers = tiers.map(|tier| (format!("tier {}", name(&tier["name"])), tier));
        let mut busy: Vec<_> = own
            .chain(tiers)
            .map(|(name, limit)| (count(limit, "limited"), count(limit, "allowed"), name, limit))
            .filter(|(limited, allowed, ..)| limited + allowed > 0)
            .collect();
        busy.sort_by(|a, b| (b.0, b.1, &a.2).cmp(&(a.0, a.1, &b.2)));
        let line = |(limited, allowed, name, limit): &(u64, u64, String, &Value)| {
            format!("{name:<38} {:<14} {limited:<14} {allowed}", plain(&limit["rate"]))
        };
        let table: Vec<String> = busy.iter().map(line).collect();
        let head = format!("{:<38} {:<14} {:<14} ALLOWED", "BUSIEST LIMITS", "RATE", "LIMITED");
        self.table(&head, &table, "that were asked");
    }

    /// The clients that were refused most in the last minute, if any were.
    fn clients(&mut self, top: &Value) {
        let clients = rows(&top["clients"]);
        if clients.is_empty() {
            return;
        }
        let line = |client: &Value| {
            let (id, policy) = (name(&client["client"]), name(&client["policy"]));
            let limited = client["limited"].as_u64().unwrap_or_default();
            let error = match client["error"].as_u64() {
                Some(error) if error > 0 => {
                    format!(", {} at the least", limited.saturating_sub(error))
                }
                _ => String::new(),
            };
            format!("{id:<38} {policy:<30} {limited}{error}")
        };
        let table: Vec<String> = clients.iter().take(MAX_CLIENTS).map(line).collect();
        let head = format!("{:<38} {:<30} LIMITED", "MOST LIMITED IN THE LAST MINUTE", "BY");
        self.table(&head, &table, "clients");
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A name as it fits a column.
fn name(value: &Value) -> String {
    let name = plain(value);
    match name.char_indices().nth(29) {
        Some((end, _)) if name.chars().count() > 30 => format!("{}…", &name[..end]),
        _ => name,
    }
}

/// A time span in its two largest units.
fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{minutes} min {} s", seconds % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answers() -> Vec<Value> {
        let circuit = |n: u32| {
            let state = if n < 15 { "open" } else { "closed" };
            json!({"name": format!("{n}{}", "x".repeat(70)), "state": state, "reason": "y".repeat(200)})
        };
        let server = |n: u32| {
            json!({"address": format!("[2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n}]:65535"),
            "state": if n == 30 { "unhealthy" } else { "up" }, "in_flight": 123_456})
        };
        let limit = |n: u64| json!({"policy": format!("p{n}"), "rate": "7/s", "limited": n % 7, "allowed": n});
        let hitter = |n: u64| json!({"client": "c".repeat(256), "policy": "per-ip", "limited": 99 - n, "error": n});
        let history = json!({
            "generations": [
                {"generation": 3, "at": "2026-01-01T00:00:00Z", "cause": "rollback",
                 "goes_back_to": 1, "serving": true, "changed": ["routes.a: changed", "b"]},
                {"generation": 2, "serving": false, "rolled_back": "z".repeat(300)},
            ],
            "last_rejection": {"at": "2026-01-01T00:00:00Z", "detail": "ä".repeat(300)},
            "on_trial": {"generation": 3, "goes_back_to": 1, "seconds_left": 12.4},
        });
        vec![
            json!({"status": "ok", "generation": 3, "uptime_seconds": 90_061, "pid": 77, "redis": "down",
                   "gateways": 4}),
            history,
            (0..40).map(circuit).collect(),
            json!([{"name": "u".repeat(64), "servers": (0..31).map(server).collect::<Vec<_>>()}]),
            json!({"limits": (0..20).map(limit).collect::<Vec<_>>(),
                   "tiers": [{"name": "free", "rate": "1/s", "limited": 9, "allowed": 1}]}),
            json!({"clients": (0..20).map(hitter).collect::<Vec<_>>()}),
        ]
    }

    #[test]
    fn whatever_there_is_fits_the_screen() {
        let text = describe_status(&answers());
        assert!(text.lines().all(|line| line.chars().count() <= COLUMNS), "{text}");
        assert!(text.lines().count() <= 57, "{text}");
        let parts = [
            "status ok, generation 3, up 1 d 1 h, pid 77, redis down, 4 gateways",
            "rolled back to generation 1: routes.a: changed, and 1 more",
            "generation 2 was rolled back:",
            "generation 3 is watched for 12 s more",
            "25 closed",
            "and 5 more that are not closed",
            "and 21 more servers",
            "95, 91 at the least",
        ];
        for part in parts {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }

    #[test]
    fn what_needs_attention_comes_first() {
        let text = describe_status(&answers());
        let after = |head: &str| {
            let mut lines = text.lines().skip_while(|line| !line.starts_with(head));
            lines.nth(1).unwrap_or_default().to_owned()
        };
        assert!(after("UPSTREAM").contains("unhealthy"), "{text}");
        assert!(after("BUSIEST LIMITS").starts_with("tier free"), "{text}");
        assert!(!text.contains("p0 "), "a limit that nobody asked is not busy");
    }

    #[test]
    fn answers_that_are_missing_make_a_poor_screen_and_no_panic() {
        for count in 0..6 {
            let mut answers = answers();
            answers.truncate(count);
            assert!(describe_status(&answers).contains("status"));
        }
        assert!(describe_status(&vec![json!("?"); 6]).contains("status"));
    }
}
