//! Typed reading of what a file says.
//!
//! [`Field`] and [`Section`] read values by key path and report instead of failing, so a check is a
//! plain list of "read this, or its default" and all errors of a file come at once.

use std::collections::HashMap;

use super::keys::{Keys, LATER_ANYWHERE};
use super::report::{Report, did_you_mean, one_of, quote};
use super::yaml::{Entry, Kind, Node};

/// A value, the key path that leads to it, and the line of its key.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) node: &'a Node,
    pub(super) path: String,
    pub(super) line: usize,
}

impl<'a> Field<'a> {
    /// The whole document.
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node, path: String::new(), line: node.line }
    }

    pub(super) fn error(&self, report: &mut Report, message: impl Into<String>) {
        report.error(&self.path, Some(self.line), message);
    }

    pub(super) fn warn(&self, report: &mut Report, message: impl Into<String>) {
        report.warn(&self.path, Some(self.line), message);
    }

    /// The value as text, when it is a single one.
    pub(super) fn scalar(&self) -> Option<&'a str> {
        match &self.node.kind {
            Kind::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// Reads a single value; `expected` is for when it is not one ("a rate such as 10/s").
    pub(super) fn read<T>(
        &self,
        report: &mut Report,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        match &self.node.kind {
            Kind::Scalar(text) => match parse(text) {
                Ok(value) => Some(value),
                Err(message) => {
                    self.error(report, message);
                    None
                }
            },
            Kind::Broken => None,
            _ => {
                let found = self.node.describe();
                self.error(report, format!("expected {expected}, found {found}"));
                None
            }
        }
    }

    /// The items of a list of at most `max`; what is not a list is reported and has none.
    pub(super) fn list(&self, report: &mut Report, max: usize) -> Vec<Field<'a>> {
        match &self.node.kind {
            Kind::List(items) => {
                self.bound(report, items.len(), max);
                items.iter().enumerate().map(|(i, item)| self.item(i, item)).collect()
            }
            Kind::Broken | Kind::Null => Vec::new(),
            _ => {
                let found = self.node.describe();
                self.error(report, format!("expected a list, found {found}"));
                Vec::new()
            }
        }
    }

    /// The items of a list, or a single value as a list of one.
    pub(super) fn one_or_list(&self, report: &mut Report, max: usize) -> Vec<Field<'a>> {
        match &self.node.kind {
            Kind::Scalar(_) => vec![self.clone()],
            _ => self.list(report, max),
        }
    }

    /// Whether it is a list that says nothing; what is not a list has its own error.
    pub(super) fn is_empty_list(&self) -> bool {
        matches!(&self.node.kind, Kind::List(items) if items.is_empty())
    }

    /// The keys and values of a mapping of at most `max`, with repeated keys reported.
    pub(super) fn entries(
        &self,
        report: &mut Report,
        max: usize,
    ) -> Option<Vec<(&'a str, Field<'a>)>> {
        let Kind::Map(entries) = &self.node.kind else {
            if self.node.kind != Kind::Broken {
                let found = self.node.describe();
                self.error(report, format!("expected a mapping of keys, found {found}"));
            }
            return None;
        };
        self.bound(report, entries.len(), max);
        let mut first_lines = HashMap::with_capacity(entries.len());
        let mut fields = Vec::with_capacity(entries.len());
        for entry in entries {
            let field = self.child(entry);
            match first_lines.insert(entry.key.as_str(), entry.line) {
                None => fields.push((entry.key.as_str(), field)),
                Some(first) => report.error(
                    &field.path,
                    Some(entry.line),
                    format!("this key is written twice, first on line {first}; keep one"),
                ),
            }
        }
        Some(fields)
    }

    /// A mapping with fixed keys; unknown ones are reported with the nearest known one.
    pub(super) fn section(&self, report: &mut Report, keys: &Keys) -> Option<Section<'a>> {
        let mut fields = self.entries(report, usize::MAX)?;
        let empty = fields.is_empty();
        fields.retain(|(key, field)| {
            let known = keys.known.contains(key);
            if !known {
                report.error(&field.path, Some(field.line), unknown_key(key, keys));
            }
            known
        });
        Some(Section { path: self.path.clone(), line: self.line, empty, fields })
    }

    /// A mapping with fixed keys, or the word `none` for something that is switched off.
    pub(super) fn section_unless_none(
        &self,
        report: &mut Report,
        keys: &Keys,
    ) -> Option<Section<'a>> {
        match self.scalar() {
            Some("none") => None,
            Some(text) => {
                let message = format!("expected a mapping of keys, or none, found {}", quote(text));
                self.error(report, message);
                None
            }
            None => self.section(report, keys),
        }
    }

    fn bound(&self, report: &mut Report, count: usize, max: usize) {
        if count > max {
            self.error(report, format!("{count} are too many; at most {max} are allowed"));
        }
    }

    fn item(&self, index: usize, node: &'a Node) -> Field<'a> {
        Field { node, path: format!("{}[{index}]", self.path), line: node.line }
    }

    fn child(&self, entry: &'a Entry) -> Field<'a> {
        let dot = if self.path.is_empty() { "" } else { "." };
        // A key is the file's own text: bounded and escaped like any value that is repeated.
        let plain = entry.key.len() <= 64 && entry.key.bytes().all(|b| b.is_ascii_graphic());
        let key = if plain { entry.key.clone() } else { quote(&entry.key) };
        Field { node: &entry.value, path: format!("{}{dot}{key}", self.path), line: entry.line }
    }
}

fn unknown_key(key: &str, keys: &Keys) -> String {
    if keys.later.contains(&key) || LATER_ANYWHERE.contains(&key) {
        return format!("{key} is not available yet; remove it");
    }
    let suggestion = did_you_mean(key, keys.known.iter().copied());
    let known = keys.known.join(", ");
    format!("there is no key {}{suggestion} (known here: {known})", quote(key))
}

/// A mapping with fixed keys.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    pub(super) path: String,
    pub(super) line: usize,
    /// Nothing is written in it, not even a key that was refused.
    empty: bool,
    fields: Vec<(&'a str, Field<'a>)>,
}

impl<'a> Section<'a> {
    /// The field of this key, unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&Field<'a>> {
        let (_, field) = self.fields.iter().find(|(name, _)| *name == key)?;
        (field.node.kind != Kind::Null).then_some(field)
    }

    /// Whether the key is written, be it without a value.
    pub(super) fn has(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| *name == key)
    }

    /// The field of this key; reports when it is absent or null.
    pub(super) fn require(
        &self,
        key: &str,
        report: &mut Report,
        example: &str,
    ) -> Option<&Field<'a>> {
        let field = self.get(key);
        if field.is_none() {
            let message = format!("{key} is missing; write for example {example}");
            report.error(&self.path, Some(self.line), message);
        }
        field
    }

    /// Reads the single value of this key when it is there.
    pub(super) fn value<T>(
        &self,
        key: &str,
        report: &mut Report,
        expected: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.get(key)?.read(report, expected, parse)
    }

    pub(super) fn error(&self, report: &mut Report, message: impl Into<String>) {
        report.error(&self.path, Some(self.line), message);
    }

    /// The only key that is there; reports when there is none or more than one.
    pub(super) fn only(&self, report: &mut Report) -> Option<(&'a str, &Field<'a>)> {
        match self.fields.as_slice() {
            [(key, field)] => Some((*key, field)),
            [] => {
                if self.empty {
                    self.error(report, "is empty");
                }
                None
            }
            [(a, _), (b, _), ..] => {
                self.error(report, format!("has both {a} and {b}; keep one"));
                None
            }
        }
    }
}

/// Names that are used once each; reports the second use.
#[derive(Debug, Default)]
pub(super) struct Unique {
    first_lines: HashMap<String, usize>,
}

impl Unique {
    pub(super) fn claim(
        &mut self,
        what: &str,
        value: &str,
        field: &Field<'_>,
        report: &mut Report,
    ) {
        if let Some(first) = self.first_lines.get(value) {
            let message = format!("{what} {} is used twice, first on line {first}", quote(value));
            field.error(report, message);
            return;
        }
        self.first_lines.insert(value.to_owned(), field.line);
    }
}

/// A word out of a closed set: its value, or an error that names them all. `later` are words whose
/// subject does not exist yet.
pub(super) fn word<T: Copy>(text: &str, known: &[(&str, T)], later: &[&str]) -> Result<T, String> {
    if let Some(&(_, value)) = known.iter().find(|(name, _)| *name == text) {
        return Ok(value);
    }
    if later.contains(&text) {
        return Err(format!("{text} is not available yet"));
    }
    let names = || known.iter().map(|&(name, _)| name);
    let suggestion = did_you_mean(text, names());
    Err(format!("{} is not one of {}{suggestion}", quote(text), one_of(names())))
}
