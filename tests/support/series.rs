//! Prometheus' text format, as far as tests read it.

use std::collections::{BTreeMap, BTreeSet};

/// The samples of one reading, and the type of each family.
#[derive(Clone, Debug, Default)]
pub struct Series {
    samples: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
}

impl Series {
    /// Reads a text; fails the test at the first line that is none of the format's.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut series = Self::default();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(of) = line.strip_prefix("# TYPE ") {
                let (name, kind) = of.split_once(' ').expect("a name and a type");
                series.types.insert(name.to_owned(), kind.to_owned());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a name and a value");
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                let before = series.samples.insert(name.to_owned(), value);
                assert!(before.is_none(), "{name} twice");
            }
        }
        series
    }

    /// The value of a sample, written as in the text: `name{label="value"}`; 0 where
    /// there is none yet.
    pub fn value(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or(0.0)
    }

    /// The sum over all samples of this name.
    pub fn sum(&self, name: &str) -> f64 {
        self.samples.iter().filter(|(sample, _)| family(sample) == name).map(|(_, v)| v).sum()
    }

    /// Names with labels, of every sample.
    pub fn names(&self) -> BTreeSet<String> {
        self.samples.keys().cloned().collect()
    }

    /// The samples of this name, as written.
    pub fn of(&self, name: &str) -> Vec<&str> {
        self.samples.keys().map(String::as_str).filter(|sample| family(sample) == name).collect()
    }

    /// The type of a family, where it is declared.
    pub fn kind(&self, name: &str) -> Option<&str> {
        self.types.get(name).map(String::as_str)
    }

    /// The names of the labels that samples of this name carry.
    pub fn labels(&self, name: &str) -> BTreeSet<String> {
        let labels = self.of(name).into_iter().flat_map(|sample| {
            let inner = sample.split_once('{').map_or("", |(_, rest)| rest.trim_end_matches('}'));
            inner
                .split("\",")
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, _)| key.to_owned())
        });
        labels.collect()
    }
}

fn family(sample: &str) -> &str {
    sample.split_once('{').map_or(sample, |(name, _)| name)
}
