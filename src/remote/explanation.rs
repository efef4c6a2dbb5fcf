//! `tollgate explain`: an explanation for people.

use super::{Answer, plain};
use serde_json::Value;
use std::fmt::Write as _;

/// Where a question is asked, from its parameters.
pub fn explain_path(parameters: &[(String, &str)]) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |mut encoded, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                encoded.push(char::from(byte));
            } else {
                let _ = write!(encoded, "%{byte:02X}");
            }
            encoded
        })
    };
    let pair = |(name, value): &(String, &str)| format!("{}={}", encode(name), encode(value));
    format!("/explain?{}", parameters.iter().map(pair).collect::<Vec<_>>().join("&"))
}

/// What the gateway answered to a question.
pub fn describe_explanation(answer: &Answer) -> String {
    let body = &answer.body;
    if answer.status != 200 {
        let detail = body["detail"].as_str().unwrap_or("the gateway gave no reason");
        return format!("not explained ({}): {detail}\n", answer.status);
    }
    let mut text = String::new();
    match body["refusals"].as_array() {
        Some(refusals) => refusals.iter().for_each(|refusal| past(&mut text, refusal)),
        None => outlook(&mut text, body),
    }
    text
}

fn past(text: &mut String, refusal: &Value) {
    let _ = write!(text, "{} {}", plain(&refusal["at"]), refusal["status"]);
    let _ = write!(text, " {}", plain(&refusal["refusal"]));
    let by = &refusal["refused_by"];
    if by.is_object() {
        let _ = write!(text, " by {} {}", plain(&by["kind"]), plain(&by["name"]));
    }
    text.push('\n');
    for (what, member) in [("route", "route"), ("client", "client"), ("tier", "tier")] {
        if let Some(value) = refusal[member].as_str() {
            let _ = writeln!(text, "  {what} {value}");
        }
    }
    let limit = &refusal["limit"];
    if limit.is_object() {
        let _ = writeln!(
            text,
            "  {} of {} tokens were left, full in {} s",
            limit["tokens_remaining"], limit["burst"], limit["full_in_seconds"]
        );
    }
    if let Some(seconds) = refusal["retry_after_seconds"].as_u64() {
        let _ = writeln!(text, "  to be tried again after {seconds} s");
    }
}

fn outlook(text: &mut String, body: &Value) {
    let request = &body["request"];
    let _ = writeln!(
        text,
        "{} {} from {}: {}",
        plain(&request["method"]),
        request["path"].as_str().unwrap_or("?"),
        plain(&request["ip"]),
        plain(&body["answer"]["summary"]),
    );
    routes(text, body);
    let client = &body["client"];
    if client.is_object() {
        let registered = if client["registered"] == true { ", registered" } else { "" };
        let (id, by) = (plain(&client["client"]), plain(&client["identified_by"]));
        let tier = plain(&client["tier"]);
        let _ = writeln!(text, "client   {id} (by {by}), tier {tier}{registered}");
    }
    let places = &body["client_concurrency"];
    if places.is_object() {
        let _ = writeln!(text, "in flight {} of {}", places["used"], places["max"]);
    }
    limits(text, &body["limits"]);
    let circuit = &body["circuit"];
    if circuit.is_object() {
        let reason = circuit["reason"].as_str().map(|reason| format!(": {reason}"));
        let (name, state) = (plain(&circuit["name"]), plain(&circuit["state"]));
        let _ = writeln!(text, "circuit  {name} is {state}{}", reason.unwrap_or_default());
    }
    servers(text, &body["upstream"]);
}

fn routes(text: &mut String, body: &Value) {
    let (route, others) = (&body["route"], &body["other_routes"]);
    if let Some(name) = route["name"].as_str() {
        let _ = writeln!(text, "route    {name}, of {} others:", others["total"]);
    } else {
        let _ = writeln!(text, "route    none of {}:", others["total"]);
    }
    let nearest = others["nearest"].as_array().map_or(&[][..], Vec::as_slice);
    for other in nearest {
        let _ = writeln!(text, "  not {}: {}", plain(&other["name"]), plain(&other["why_not"]));
    }
    if others["total"].as_u64() > Some(nearest.len() as u64) {
        let _ = writeln!(text, "  not the rest: they take other hosts and paths");
    }
}

fn limits(text: &mut String, limits: &Value) {
    for limit in limits.as_array().into_iter().flatten() {
        let key = match limit["key"]["value"].as_str() {
            Some(value) => format!("{} {value}", plain(&limit["key"]["kind"])),
            None => plain(&limit["key"]["kind"]),
        };
        let kind = match (limit["shadow"] == true, limit["quota"] == true) {
            (true, true) => " (shadow quota)",
            (true, false) => " (shadow)",
            (false, true) => " (quota)",
            (false, false) => "",
        };
        let verdict = match (limit["refuses"] == true, limit["retry_after_seconds"].as_u64()) {
            (false, _) => "passes".to_owned(),
            (true, Some(seconds)) => format!("refuses, again after {seconds} s"),
            (true, None) => "refuses for ever: it costs more than the burst".to_owned(),
        };
        let _ = writeln!(
            text,
            "limit    {}{kind} {}, {key}: costs {}, {} of {} left, {verdict}",
            plain(&limit["policy"]),
            plain(&limit["rate"]),
            limit["cost"],
            limit["tokens_remaining"],
            limit["burst"],
        );
    }
}

fn servers(text: &mut String, upstream: &Value) {
    let places = &upstream["concurrency"];
    if places.is_object() {
        let (used, max, queued) = (&places["used"], &places["max"], &places["queued"]);
        let _ = writeln!(text, "places   {used} of {max} taken, {queued} wait");
    }
    for server in upstream["servers"].as_array().into_iter().flatten() {
        let address = server["address"].as_str().or(server["configured"].as_str());
        let state = plain(&server["state"]);
        let _ = writeln!(text, "server   {} is {state}", address.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_question_is_encoded_whatever_is_in_it() {
        let parameters = [("path".to_owned(), "/a b?c=d&e"), ("header.X-R".to_owned(), "ä+%")];
        assert_eq!(
            explain_path(&parameters),
            "/explain?path=%2Fa%20b%3Fc%3Dd%26e&header.X-R=%C3%A4%2B%25"
        );
    }

    #[test]
    fn answers_without_what_is_expected_are_described_all_the_same() {
        for body in [json!(null), json!({}), json!({"refusals": [{}]}), json!({"limits": [{}]})] {
            assert!(!describe_explanation(&Answer { status: 200, body: body.clone() }).is_empty());
            let refused = describe_explanation(&Answer { status: 404, body });
            assert!(refused.starts_with("not explained (404)"), "{refused}");
        }
    }
}
