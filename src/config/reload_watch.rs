//! `server.reload_watch` and `server.watch_file`: what a reload is followed by, and what one
//! follows.

use std::time::Duration;

use super::keys;
use super::raw::Section;
use super::report::Report;
use super::value;
use crate::policy::reload_watch::WatchPolicy;

/// How long a configuration can be watched.
const MIN_WINDOW: Duration = Duration::from_secs(1);
const MAX_WINDOW: Duration = Duration::from_secs(3_600);
/// How many times the share of 5xx before can be allowed, in thousandths.
const RATIO_THOUSANDTHS: std::ops::RangeInclusive<u32> = 1_000..=100_000;

/// What goes on around reloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reloading {
    /// `reload_watch`: when a configuration that was taken is taken back; none: never.
    pub watch: Option<WatchPolicy>,
    /// Whether the file is looked at, and read again when it changes.
    pub watch_file: bool,
}

impl Reloading {
    pub(super) fn read(server: &Section<'_>, report: &mut Report) -> Reloading {
        let watch = server.get("reload_watch");
        let watch_file = server.value("watch_file", report, "true or false", value::boolean);
        Reloading {
            watch: watch
                .and_then(|field| field.section(report, &keys::RELOAD_WATCH))
                .map(|section| read_watch(&section, report)),
            watch_file: watch_file.unwrap_or_default(),
        }
    }
}

fn read_watch(section: &Section<'_>, report: &mut Report) -> WatchPolicy {
    let standard = WatchPolicy::default();
    let window = section.value("window", report, "a duration such as 30s", |text| {
        value::nanos(text, MIN_WINDOW..=MAX_WINDOW)
    });
    let ratio = section.value("max_error_ratio", report, "a number such as 2.0", |text| {
        value::thousandths(text, RATIO_THOUSANDTHS)
    });
    WatchPolicy {
        window_ns: window.unwrap_or(standard.window_ns),
        max_error_ratio_thousandths: ratio.unwrap_or(standard.max_error_ratio_thousandths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{effective, parse};

    fn read(server: &str) -> Result<Reloading, String> {
        let text = format!(
            "server: {{{server}}}\nupstreams: {{a: {{servers: [127.0.0.1:1]}}}}\n\
             routes: [{{name: all, path: /, upstream: a}}]\n"
        );
        match parse(&text, &|_| None) {
            Ok((config, _)) => {
                let again = parse(&effective(&config).to_string(), &|_| None).unwrap().0;
                assert_eq!(again.server.reloading, config.server.reloading, "{server}");
                Ok(config.server.reloading)
            }
            Err(findings) => Err(findings[0].to_string()),
        }
    }

    #[test]
    fn both_are_off_unless_they_are_written() {
        let off = Reloading { watch: None, watch_file: false };
        assert_eq!(read(""), Ok(off));
        assert_eq!(read("reload_watch: null, watch_file: false"), Ok(off));
    }

    #[test]
    fn a_watch_has_defaults_and_bounds() {
        let watch = |window_s: u64, max_error_ratio_thousandths| {
            let window_ns = window_s * 1_000_000_000;
            Ok(Reloading {
                watch: Some(WatchPolicy { window_ns, max_error_ratio_thousandths }),
                watch_file: false,
            })
        };
        assert_eq!(read("reload_watch: {}"), watch(30, 2_000));
        assert_eq!(read("reload_watch: {window: 1m}"), watch(60, 2_000));
        assert_eq!(read("reload_watch: {max_error_ratio: 1}"), watch(30, 1_000));
        assert_eq!(
            read("reload_watch: {window: 5s, max_error_ratio: 1.125}"),
            watch(5, 1_125),
            "to a thousandth"
        );
        assert!(read("watch_file: true").unwrap().watch_file);
        let cases = [
            ("reload_watch: true", "expected a mapping"),
            ("reload_watch: {windows: 1s}", "did you mean \"window\"?"),
            ("reload_watch: {window: 100ms}", "not between 1s and 1h"),
            ("reload_watch: {max_error_ratio: 0.5}", "not between 1 and 100"),
            ("reload_watch: {max_error_ratio: 101}", "not between 1 and 100"),
            ("reload_watch: {max_error_ratio: 200%}", "not a number; write for example 2.0"),
            ("reload_watch: {max_error_ratio: 1.0001}", "exact to a thousandth"),
            ("reload_watch: {max_error_ratio: -2}", "is not a number"),
            ("watch_file: maybe", "neither true nor false"),
        ];
        for (text, expected) in cases {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
