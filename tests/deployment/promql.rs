//! The metrics that a PromQL expression names.

use std::collections::BTreeSet;

/// Words of the language that look like names.
const KEYWORDS: [&str; 13] = [
    "and",
    "or",
    "unless",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "bool",
    "offset",
    "inf",
    "nan",
];

/// Keywords before a list of labels in parentheses.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Every metric that `expression` names. What stands in strings, label matchers, ranges and lists
/// of labels is none, and neither is a function or a keyword.
pub(super) fn metrics_of(expression: &str) -> BTreeSet<String> {
    let text = without_enclosed(expression);
    let is_part = |character: char| character.is_alphanumeric() || "_:$".contains(character);
    let mut found = BTreeSet::new();
    let mut rest = &*text;
    while let Some(start) = rest.find(is_part) {
        let end = rest[start..].find(|c| !is_part(c)).map_or(rest.len(), |length| start + length);
        let (word, after) = (&rest[start..end], rest[end..].trim_start());
        rest = &rest[end..];
        let lower = word.to_lowercase();
        if after.starts_with('(') {
            if BEFORE_LABELS.contains(&&*lower) {
                rest = after.split_once(')').map_or("", |(_, rest)| rest);
            }
        } else if after.starts_with("by ") || after.starts_with("without ") {
            // An aggregation that has its labels in front of what it is taken over.
        } else if !KEYWORDS.contains(&&*lower) && !word.starts_with(|c: char| c.is_ascii_digit()) {
            found.insert(word.to_owned());
        }
    }
    found
}

/// `expression` without strings, `{…}` and `[…]`.
fn without_enclosed(expression: &str) -> String {
    let (mut kept, mut quote, mut depth) = (String::new(), None, 0);
    let mut characters = expression.chars();
    while let Some(character) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'' | '`') => quote = Some(character),
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth -= 1,
            (None, _) if depth == 0 => kept.push(character),
            (None, _) => {}
        }
    }
    kept
}

#[test]
fn names_are_told_from_everything_else() {
    for (expression, expected) in [
        ("up == 0", &["up"][..]),
        ("a{b=\"c} d\", e!~'f'}[5m] > 0.8 * 65536", &["a"]),
        (
            "sum by (job, le) (rate(a_total[$__rate_interval])) / on (job) b:rate5m",
            &["a_total", "b:rate5m"],
        ),
        (
            "histogram_quantile(0.99, sum(x_bucket) by (le)) and y or z offset 5m",
            &["x_bucket", "y", "z"],
        ),
        ("time() - t unless vector(1) == bool NaN", &["t"]),
    ] {
        let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(metrics_of(expression), expected, "{expression}");
    }
}
