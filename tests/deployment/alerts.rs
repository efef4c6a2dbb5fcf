//! Each alert leads to what to do, and what to do belongs to an alert.

use std::collections::BTreeSet;

use super::{file, yaml};

/// The anchor of a heading, as renderers of Markdown make it.
fn anchor(heading: &str) -> String {
    let lower = heading.trim().to_lowercase();
    let kept = lower.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|character| if character == ' ' { '-' } else { character }).collect()
}

/// The headings below `## Runbook`, with their text.
fn runbook() -> Vec<(String, String)> {
    let manual = file("docs/OPERATIONS.md");
    let (_, runbook) = manual.split_once("\n## Runbook\n").expect("a section `Runbook`");
    let runbook = runbook.split("\n## ").next().unwrap();
    let sections = runbook.split("\n### ").skip(1).filter_map(|section| section.split_once('\n'));
    sections.map(|(heading, text)| (heading.to_owned(), text.to_owned())).collect()
}

#[test]
fn every_alert_has_its_section_of_the_runbook_and_no_section_is_without_an_alert() {
    let rules = yaml("deploy/prometheus-rules.yml");
    let mut linked = BTreeSet::new();
    for rule in rules["groups"][0]["rules"].as_sequence().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        let link = rule["annotations"]["runbook"].as_str().unwrap();
        assert_eq!(link, format!("OPERATIONS.md#{}", anchor(name)), "{name}");
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning"].contains(&severity), "{name}: {severity}");
        assert!(rule["annotations"]["summary"].as_str().is_some(), "{name} has no summary");
        assert!(linked.insert(name.to_owned()), "{name} twice");
    }
    let sections: BTreeSet<String> = runbook().into_iter().map(|(heading, _)| heading).collect();
    assert_eq!(sections, linked);
}

#[test]
fn every_section_of_the_runbook_says_what_it_means_what_to_look_at_and_what_to_do() {
    for (heading, text) in runbook() {
        for part in ["**Means.**", "**Look.**", "**Do.**"] {
            assert!(text.contains(part), "{heading} has no {part}");
        }
    }
}

#[test]
fn every_alert_is_tried_in_the_tests_of_the_rules() {
    let tests = yaml("deploy/prometheus-rules-test.yml");
    let trouble = &tests["tests"][0];
    let count =
        yaml("deploy/prometheus-rules.yml")["groups"][0]["rules"].as_sequence().unwrap().len();
    let firing = &trouble["promql_expr_test"][0]["exp_samples"][0]["value"];
    assert_eq!(firing.as_u64(), Some(count as u64), "so many alerts fire when all is wrong");
}
