//! A YAML document as a tree that knows its lines.
//!
//! The tree is built from parser events rather than through serde, because messages need the line
//! of every key, all duplicate keys are to be reported and not the first, and depth, size and
//! aliases must be bounded before memory is spent on them. Scalars stay text: what a scalar means
//! is decided by the key that it belongs to.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::report::Report;

/// The longest file that is read, in bytes. 10 000 routes written at length take about 4 MiB.
pub(super) const MAX_FILE_BYTES: usize = 16 << 20;
/// Mappings and lists inside one another; the deepest key of the configuration is at 6.
const MAX_DEPTH: usize = 32;
/// Scalars, lists and mappings of a document after its aliases are replaced.
const MAX_NODES: usize = 1_000_000;
/// Bytes of text of a document after its aliases are replaced.
const MAX_TEXT_BYTES: usize = 2 * MAX_FILE_BYTES;

/// A value and the line it begins on, from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Null,
    Scalar(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// A scalar whose variables could not be expanded; already reported.
    Broken,
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: usize,
    pub(super) value: Node,
}

/// Whether plain text means null.
pub(super) fn is_null(plain: &str) -> bool {
    matches!(plain, "" | "~" | "null" | "Null" | "NULL")
}

/// Reads the only document of `text`; reports and gives nothing when there is none.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.take(event, span.start.line()),
            Err(error) => {
                Err((error.marker().line(), format!("this is not YAML: {}", error.info())))
            }
        };
        if let Err((line, message)) = step {
            report.error("", Some(line), message);
            return None;
        }
    }
    if builder.root.is_none() {
        report.error("", None, "the file is empty; write at least upstreams: and routes:");
    }
    builder.root
}

/// A list or mapping that is still being read.
struct Open {
    line: usize,
    anchor: usize,
    body: Body,
}

enum Body {
    List(Vec<Node>),
    /// The key waits for its value.
    Map(Vec<Entry>, Option<(String, usize)>),
}

/// What a subtree costs against the bounds.
#[derive(Clone, Copy)]
struct Weight {
    nodes: usize,
    text_bytes: usize,
    depth: usize,
}

type Step = Result<(), (usize, String)>;

#[derive(Default)]
struct Builder {
    root: Option<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    text_bytes: usize,
    documents: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: usize) -> Step {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err((line, "a second document begins here; write only one".into()));
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                refuse_tag(tag.is_some(), line)?;
                let leaf = Weight { nodes: 1, text_bytes: text.len(), depth: 0 };
                self.spend(leaf, line)?;
                let null = style == ScalarStyle::Plain && is_null(&text);
                let kind = if null { Kind::Null } else { Kind::Scalar(text.into_owned()) };
                self.put(Node { line, kind }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                refuse_tag(tag.is_some(), line)?;
                self.open(Open { line, anchor, body: Body::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                refuse_tag(tag.is_some(), line)?;
                self.open(Open { line, anchor, body: Body::Map(Vec::new(), None) })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(line),
            Event::Alias(anchor) => self.alias(anchor, line),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn open(&mut self, open: Open) -> Step {
        self.spend(Weight { nodes: 1, text_bytes: 0, depth: 1 }, open.line)?;
        self.open.push(open);
        Ok(())
    }

    fn close(&mut self, line: usize) -> Step {
        let Some(open) = self.open.pop() else {
            return Err((line, "this is not YAML: an end without a beginning".into()));
        };
        let kind = match open.body {
            Body::List(items) => Kind::List(items),
            Body::Map(entries, _) => Kind::Map(entries),
        };
        self.put(Node { line: open.line, kind }, open.anchor)
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Step {
        // An anchor is known once its value is complete, so a value cannot contain itself.
        let Some(node) = self.anchors.get(&anchor) else {
            return Err((line, "this alias stands inside the value that it repeats".into()));
        };
        let weight = weigh(node);
        // Weighed before it is copied: a few lines of aliases can stand for gigabytes.
        let node =
            Node { line, ..node.clone_if(self.affords(weight)).ok_or_else(|| too_big(line))? };
        self.spend(weight, line)?;
        self.put(node, 0)
    }

    /// Puts a complete value where it belongs: as the root, a list's item, a key or its value.
    fn put(&mut self, node: Node, anchor: usize) -> Step {
        if anchor != 0 {
            self.spend(weigh(&node), node.line)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.body {
            Body::List(items) => items.push(node),
            Body::Map(entries, pending) => match pending.take() {
                Some((key, line)) => entries.push(Entry { key, line, value: node }),
                None => *pending = Some(as_key(node)?),
            },
        }
        Ok(())
    }

    fn affords(&self, weight: Weight) -> bool {
        self.nodes.saturating_add(weight.nodes) <= MAX_NODES
            && self.text_bytes.saturating_add(weight.text_bytes) <= MAX_TEXT_BYTES
            && self.open.len() + weight.depth <= MAX_DEPTH
    }

    fn spend(&mut self, weight: Weight, line: usize) -> Step {
        if self.open.len() + weight.depth > MAX_DEPTH {
            return Err((line, format!("more than {MAX_DEPTH} lists and mappings in one another")));
        }
        if !self.affords(weight) {
            return Err(too_big(line));
        }
        self.nodes += weight.nodes;
        self.text_bytes += weight.text_bytes;
        Ok(())
    }
}

impl Node {
    fn clone_if(&self, affordable: bool) -> Option<Node> {
        affordable.then(|| self.clone())
    }

    /// What it is, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Scalar(_) | Kind::Broken => "a single value",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

fn too_big(line: usize) -> (usize, String) {
    let mib = MAX_TEXT_BYTES >> 20;
    (line, format!("with its aliases the file is beyond {MAX_NODES} values or {mib} MiB of text"))
}

fn refuse_tag(tagged: bool, line: usize) -> Step {
    if tagged {
        return Err((line, "tags (!name) mean nothing here; write the value without one".into()));
    }
    Ok(())
}

fn as_key(node: Node) -> Result<(String, usize), (usize, String)> {
    match node.kind {
        Kind::Scalar(text) if text == "<<" => {
            Err((node.line, "merge keys (<<) are not supported; write the keys out".into()))
        }
        Kind::Scalar(text) => Ok((text, node.line)),
        _ => Err((node.line, format!("a key must be plain text, not {}", node.describe()))),
    }
}

/// Counts a subtree. It recurses no deeper than [`MAX_DEPTH`], which every subtree kept to.
fn weigh(node: &Node) -> Weight {
    let children: &mut dyn Iterator<Item = (usize, &Node)> = match &node.kind {
        Kind::List(items) => &mut items.iter().map(|item| (0, item)),
        Kind::Map(entries) => &mut entries.iter().map(|entry| (entry.key.len(), &entry.value)),
        Kind::Scalar(text) => return Weight { nodes: 1, text_bytes: text.len(), depth: 0 },
        Kind::Null | Kind::Broken => return Weight { nodes: 1, text_bytes: 0, depth: 0 },
    };
    let mut sum = Weight { nodes: 1, text_bytes: 0, depth: 1 };
    for (key_bytes, child) in children {
        let child = weigh(child);
        sum.nodes += child.nodes;
        sum.text_bytes += key_bytes + child.text_bytes;
        sum.depth = sum.depth.max(child.depth + 1);
    }
    sum
}

#[cfg(test)]
mod tests {

    use super::*;

    fn tree(text: &str) -> Result<Node, String> {
        let mut report = Report::default();
        let node = parse(text, &mut report);
        let (errors, _) = report.finish();
        node.ok_or_else(|| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// As serde_yaml has it, with every scalar as text.
    fn as_value(node: &Node) -> serde_yaml::Value {
        match &node.kind {
            Kind::Null | Kind::Broken => serde_yaml::Value::Null,
            Kind::Scalar(text) => text.clone().into(),
            Kind::List(items) => items.iter().map(as_value).collect::<Vec<_>>().into(),
            Kind::Map(entries) => entries
                .iter()
                .map(|entry| (entry.key.clone().into(), as_value(&entry.value)))
                .collect::<serde_yaml::Mapping>()
                .into(),
        }
    }

    fn as_text(value: serde_yaml::Value) -> serde_yaml::Value {
        use serde_yaml::Value;
        match value {
            Value::Bool(b) => b.to_string().into(),
            Value::Number(n) => n.to_string().into(),
            Value::Sequence(items) => items.into_iter().map(as_text).collect::<Vec<_>>().into(),
            Value::Mapping(map) => map
                .into_iter()
                .map(|(k, v)| (k, as_text(v)))
                .collect::<serde_yaml::Mapping>()
                .into(),
            other => other,
        }
    }

    #[test]
    fn it_reads_what_serde_yaml_reads() {
        let texts = [
            include_str!("../../conf/tollgate.yaml"),
            "a: 1\nb: [x, 'it''s', \"tab\\t\"]\nc: {d: null, e: ~, f: }\n",
            "---\na: >-\n  folded\n  text\nb: |\n  kept\n  lines\n",
            "a: &x {b: 1}\nc: [*x, *x]\n",
            "a:\n- b\n-  - c\n   - d: e\n      \n# end",
            "\u{feff}a: true\r\nb: off\r\nc: 0.5/s\r\n",
            "\"quoted key\": \"${VAR:-x y}\"\nurl: http://a/b#c\n",
        ];
        for text in texts {
            // serde_yaml takes a byte order mark for a document of its own.
            let plain = text.trim_start_matches('\u{feff}');
            let value: serde_yaml::Value = serde_yaml::from_str(plain).expect(text);
            assert_eq!(as_value(&tree(text).unwrap()), as_text(value), "{text}");
        }
    }

    #[test]
    fn every_value_knows_its_line() {
        let root = tree("# head\na: 1\nb:\n  - x\n  - y: {z: 1,\n       w: 2}\n").unwrap();
        let Kind::Map(entries) = root.kind else { panic!("not a mapping") };
        assert_eq!((entries[0].line, entries[1].line), (2, 3));
        let Kind::List(items) = &entries[1].value.kind else { panic!("not a list") };
        assert_eq!((items[0].line, items[1].line), (4, 5));
    }

    #[test]
    fn what_is_not_one_document_of_plain_yaml_is_refused_with_its_line() {
        let cases = [
            ("", "the file is empty"),
            ("# only a comment\n", "the file is empty"),
            ("a: 1\n---\nb: 2\n", "line 2: a second document"),
            ("a: [1, 2\nb: 3\n", "this is not YAML"),
            ("a: b: c\n", "line 1: this is not YAML"),
            ("a:\n\tb: 1\n", "this is not YAML"),
            ("a: *nobody\n", "this is not YAML"),
            ("a: &x [*x]\n", "line 1: this alias stands inside"),
            ("a: !!str 5\n", "line 1: tags"),
            ("a: {b: 1}\nc:\n  <<: {}\n", "line 3: merge keys"),
            ("[1]: 2\n", "line 1: a key must be plain text, not a list"),
            ("~: 2\n", "line 1: a key must be plain text, not nothing"),
        ];
        for (text, expected) in cases {
            let error = tree(text).unwrap_err();
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_megabyte_of_nesting_and_a_bomb_of_aliases_are_refused() {
        let million = 1 << 20;
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..20 {
            let prior = format!("*a{},", i - 1).repeat(10);
            bomb += &format!("a{i}: &a{i} [{prior}]\n");
        }
        let big = format!("a: &a {}\nb: [{}]\n", "x".repeat(million), "*a,".repeat(million));
        let texts = [
            "[".repeat(million),
            "{a: ".repeat(million / 4),
            "- ".repeat(million / 2),
            "? ".repeat(million / 2),
            "a:\n".to_owned() + &(0..1_000).map(|i| " ".repeat(i) + "- \n").collect::<String>(),
            "[".repeat(million / 2) + &"]".repeat(million / 2),
            "x,".repeat(million),
            format!("[{}]", "x,".repeat(million)),
            bomb,
            big,
        ];
        for text in texts {
            let result = tree(&text);
            let head: String = text.chars().take(12).collect();
            if !head.starts_with('x') {
                assert!(result.is_err(), "{head:?}");
            }
        }
    }
}
