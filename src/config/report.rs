//! What is wrong with a configuration, and what would be right.

use std::fmt;
use std::path::Path;

/// The most errors, and the most warnings, that are kept. A generated file of 65 535 routes with
/// the same mistake in each needs no 65 535 lines to be understood.
const MAX_FINDINGS: usize = 1_000;

/// Characters of a value that a message repeats.
const MAX_QUOTED_CHARS: usize = 80;

/// One error or warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The key path, such as `routes[2].limit.rate`; empty when it is about the whole file.
    pub path: String,
    /// The line in the file, from 1.
    pub line: Option<usize>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl Finding {
    /// Shows the finding as compilers do: `FILE:12: routes[2].limit.rate: what is wrong`.
    pub fn in_file<'a>(&'a self, file: &'a Path) -> InFile<'a> {
        InFile { finding: self, file }
    }

    fn fmt_without_line(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        self.fmt_without_line(f)
    }
}

/// A finding together with the file it is about; see [`Finding::in_file`].
#[derive(Debug, Clone, Copy)]
pub struct InFile<'a> {
    finding: &'a Finding,
    file: &'a Path,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.finding.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        self.finding.fmt_without_line(f)
    }
}

/// Collects what the checks find, so that none of them has to stop at the first error.
#[derive(Debug, Default)]
pub(super) struct Report {
    errors: Findings,
    warnings: Findings,
}

#[derive(Debug, Default)]
struct Findings {
    kept: Vec<Finding>,
    dropped: usize,
}

impl Findings {
    fn push(&mut self, finding: Finding) {
        if self.kept.len() < MAX_FINDINGS {
            self.kept.push(finding);
        } else {
            self.dropped += 1;
        }
    }

    fn in_file_order(mut self) -> Vec<Finding> {
        self.kept.sort_by_key(|finding| finding.line.unwrap_or(usize::MAX));
        if self.dropped > 0 {
            let message = format!("and {} more like these", self.dropped);
            self.kept.push(Finding { path: String::new(), line: None, message });
        }
        self.kept
    }
}

impl Report {
    pub(super) fn error(&mut self, path: &str, line: Option<usize>, message: impl Into<String>) {
        self.errors.push(Finding { path: path.to_owned(), line, message: message.into() });
    }

    pub(super) fn warn(&mut self, path: &str, line: Option<usize>, message: impl Into<String>) {
        self.warnings.push(Finding { path: path.to_owned(), line, message: message.into() });
    }

    pub(super) fn has_errors(&self) -> bool {
        !self.errors.kept.is_empty()
    }

    /// The errors and the warnings, each in the order of the file.
    pub(super) fn finish(self) -> (Vec<Finding>, Vec<Finding>) {
        (self.errors.in_file_order(), self.warnings.in_file_order())
    }
}

/// A value as a message repeats it: in quotes, escaped, and not at any length.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED_CHARS) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// `; did you mean "listen"?` when one of the candidates is near, else nothing.
pub(super) fn did_you_mean<'a>(
    text: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    // The distance costs length × length; no name worth suggesting is longer than this.
    if text.len() > 64 {
        return String::new();
    }
    let lower = text.to_ascii_lowercase();
    let furthest = (text.chars().count() / 3).clamp(1, 3);
    let nearest = candidates
        .into_iter()
        .map(|known| (strsim::osa_distance(&lower, &known.to_ascii_lowercase()), known))
        .min_by_key(|&(distance, _)| distance);
    match nearest {
        Some((distance, known)) if distance <= furthest => format!("; did you mean {known:?}?"),
        _ => String::new(),
    }
}

/// Names in quotes, for "write one of": at most ten of them.
pub(super) fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names = names.into_iter();
    let shown: Vec<_> = names.by_ref().take(10).collect();
    let more = if names.next().is_some() { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_like_a_compilers() {
        let finding = Finding { path: "a.b".into(), line: Some(3), message: "is wrong".into() };
        assert_eq!(finding.in_file(Path::new("x.yaml")).to_string(), "x.yaml:3: a.b: is wrong");
        assert_eq!(finding.to_string(), "line 3: a.b: is wrong");
        let finding = Finding { path: String::new(), line: None, message: "is empty".into() };
        assert_eq!(finding.in_file(Path::new("x.yaml")).to_string(), "x.yaml: is empty");
    }

    #[test]
    fn the_nearest_name_is_suggested_but_not_any_name() {
        let known = ["listen", "workers", "max_head", "max_headers"];
        assert_eq!(did_you_mean("lisen", known), "; did you mean \"listen\"?");
        assert_eq!(did_you_mean("Workers", known), "; did you mean \"workers\"?");
        assert_eq!(did_you_mean("max_heads", known), "; did you mean \"max_head\"?");
        assert_eq!(did_you_mean("colour", known), "");
        assert_eq!(did_you_mean(&"x".repeat(1_000_000), known), "");
    }

    #[test]
    fn values_are_repeated_escaped_and_cut() {
        assert_eq!(quote("a\x1b[31m"), r#""a\u{1b}[31m""#);
        assert!(quote(&"ä".repeat(1_000)).len() < 200);
    }

    #[test]
    fn findings_are_bounded_and_in_file_order() {
        let mut report = Report::default();
        for line in (1..=1_500).rev() {
            report.error("x", Some(line), "no");
        }
        let (errors, warnings) = report.finish();
        assert_eq!(errors.len(), 1_001);
        assert_eq!(errors[0].line, Some(501));
        assert_eq!(errors[1_000].message, "and 500 more like these");
        assert_eq!(warnings, []);
    }
}
