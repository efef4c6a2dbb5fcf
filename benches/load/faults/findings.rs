//! What a case found and what was asked of it.

use std::time::Duration;

/// One case.
pub(crate) struct Findings {
    pub(crate) title: &'static str,
    /// What was set up, in sentences.
    pub(crate) setting: String,
    /// A table of its own in Markdown, or nothing.
    pub(crate) table: String,
    pub(crate) findings: Vec<Finding>,
}

/// One figure.
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) measured: String,
    pub(crate) bound: Option<Bound>,
}

/// What a figure should be.
pub(crate) struct Bound {
    pub(crate) text: String,
    pub(crate) is_met: bool,
}

impl Finding {
    pub(crate) fn plain(what: &'static str, measured: String) -> Self {
        Self { what, measured, bound: None }
    }

    pub(crate) fn bounded(what: &'static str, measured: String, text: &str, is_met: bool) -> Self {
        Self { what, measured, bound: Some(Bound { text: text.to_owned(), is_met }) }
    }
}

impl Findings {
    /// The figures that are not what was asked for.
    pub(crate) fn missed(&self) -> Vec<String> {
        let missed = self.findings.iter().filter_map(|finding| {
            let bound = finding.bound.as_ref().filter(|bound| !bound.is_met)?;
            let Finding { what, measured, .. } = finding;
            Some(format!("{}: {what}: {measured}, not {}", self.title, bound.text))
        });
        missed.collect()
    }
}

/// The latency that this share of `latencies` does not exceed.
pub(crate) fn quantile(mut latencies: Vec<Duration>, share: f64) -> Duration {
    latencies.sort_unstable();
    let rank = (latencies.len() as f64 * share).ceil() as usize;
    latencies.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// `part` of `whole` in percent.
pub(crate) fn percent(part: usize, whole: usize) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}
