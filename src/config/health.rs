//! `upstreams.X.health_check`: how servers are asked whether they can serve.

use std::time::Duration;

use http::uri::PathAndQuery;

use super::keys;
use super::raw::{Field, Section, word};
use super::report::{Report, quote};
use super::value;

/// How a server's health is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// What is asked of it.
    pub kind: HealthCheckKind,
    /// Time between two checks, 100 ms to 1 h.
    pub interval: Duration,
    /// How long an answer is waited for, 1 ms to 1 min.
    pub timeout: Duration,
    /// Good checks in a row that make an unhealthy server healthy, 1 to 100.
    pub healthy_after: u32,
    /// Bad checks in a row that make a healthy server unhealthy, 1 to 100.
    pub unhealthy_after: u32,
}

/// What a health check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// A connection.
    Tcp,
    /// `GET` of this path, answered with 200 to 299.
    Http {
        /// The path, with its query if there is one.
        path: String,
    },
}

/// Time between two checks.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3_600));
/// The longest wait for an answer.
const MAX_CHECK_TIMEOUT: Duration = Duration::from_secs(60);
/// Checks in a row that change a server's state.
const MAX_IN_A_ROW: u32 = 100;
/// The longest path with its query, in bytes.
const MAX_TARGET_BYTES: usize = 2_048;

/// Reads `health_check`.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Option<HealthCheck> {
    let section = field.section(report, &keys::HEALTH_CHECK)?;
    let kind = kind(&section, report);
    let interval = section.value("interval", report, "a duration such as 5s", |text| {
        value::duration(text, INTERVALS.0..=INTERVALS.1)
    });
    let interval = interval.unwrap_or(Duration::from_secs(5));
    let timeout = section.value("timeout", report, "a duration such as 1s", |text| {
        value::duration(text, value::MIN_TIMEOUT..=MAX_CHECK_TIMEOUT)
    });
    if let (Some(field), Some(_)) = (section.get("timeout"), timeout.filter(|&t| t > interval)) {
        let interval = value::duration_text(interval);
        let message = format!("a check may take longer than the time between two ({interval})");
        field.warn(report, message);
    }
    // Where only the interval is written, the part follows the whole.
    let timeout = timeout.unwrap_or(Duration::from_secs(1).min(interval));
    let mut in_a_row = |key: &str, standard: u32| {
        let parse = |text: &str| value::count(text, 1..=MAX_IN_A_ROW);
        section.value(key, report, "a number of checks", parse).unwrap_or(standard)
    };
    let healthy_after = in_a_row("healthy_after", 2);
    let unhealthy_after = in_a_row("unhealthy_after", 3);
    Some(HealthCheck { kind: kind?, interval, timeout, healthy_after, unhealthy_after })
}

#[derive(Debug, Clone, Copy)]
enum Type {
    Http,
    Tcp,
}

/// A path says that it is HTTP; without one the type must be written, since either would be a guess.
fn kind(section: &Section<'_>, report: &mut Report) -> Option<HealthCheckKind> {
    let path = section.get("path");
    let written = match path {
        Some(_) => section.get("type"),
        None => Some(section.require("type", report, "type: http")?),
    };
    let kind = match written {
        Some(field) => {
            let known = [("http", Type::Http), ("tcp", Type::Tcp)];
            field.read(report, "http or tcp", |text| word(text, &known, &[]))
        }
        None => Some(Type::Http),
    };
    if let (Some(Type::Tcp), Some(field)) = (kind, path) {
        field.error(report, "a tcp check asks for no path; remove it, or write type: http");
        return None;
    }
    let path = match path {
        Some(field) => field.read(report, "a path such as /health", target)?,
        None => "/".to_owned(),
    };
    match kind? {
        Type::Http => Some(HealthCheckKind::Http { path }),
        Type::Tcp => Some(HealthCheckKind::Tcp),
    }
}

/// A path with its query, as it stands in the request line (RFC 9112, 3.2.1: origin-form).
fn target(text: &str) -> Result<String, String> {
    let wrong = |why: &str| Err(format!("{} cannot be asked for: {why}", quote(text)));
    if !text.starts_with('/') {
        return wrong("a path begins with /");
    }
    if text.len() > MAX_TARGET_BYTES {
        return wrong("it is longer than 2048 bytes");
    }
    if text.contains('#') {
        return wrong("a fragment is never sent; remove it");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) || text.parse::<PathAndQuery>().is_err() {
        return wrong("write every character that is not allowed in a URL as %XX");
    }
    Ok(text.to_owned())
}
