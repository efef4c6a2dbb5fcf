//! Hosts that a route takes.

use std::net::IpAddr;

use super::report::quote;
use crate::policy::route::HostMatch;

/// A host, or `*.` and a domain.
pub(super) fn parse(text: &str) -> Result<HostMatch, String> {
    let wrong = |why: &str| Err(format!("{} is not a host: {why}", quote(text)));
    let lower = text.to_ascii_lowercase();
    if let Some(inner) = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse() {
            Ok(IpAddr::V6(_)) => Ok(HostMatch::Exact(lower)),
            _ => wrong("brackets hold an IPv6 address"),
        };
    }
    if lower == "*" {
        return wrong("a route without hosts takes any; remove it");
    }
    if lower.contains(':') {
        return wrong("write it without a port; an IPv6 address stands in brackets");
    }
    let (domain, suffix) = match lower.strip_prefix("*.") {
        Some(domain) => (domain, true),
        None => (lower.as_str(), false),
    };
    if domain.contains('*') {
        return wrong("a star can only be the whole first label, as in *.example.com");
    }
    if !domain.is_ascii() {
        return wrong("write international names in their xn-- form");
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if domain.len() > 253 || !domain.split('.').all(label) {
        return wrong("write it as in www.example.com");
    }
    let domain = domain.to_owned();
    Ok(if suffix { HostMatch::Suffix(domain) } else { HostMatch::Exact(domain) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_addresses_or_everything_below_a_domain() {
        let cases = [
            ("Example.COM", HostMatch::Exact("example.com".into())),
            ("*.Example.com", HostMatch::Suffix("example.com".into())),
            ("localhost", HostMatch::Exact("localhost".into())),
            ("192.0.2.1", HostMatch::Exact("192.0.2.1".into())),
            ("[2001:DB8::1]", HostMatch::Exact("[2001:db8::1]".into())),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        let cases = [
            ("", "www.example.com"),
            ("*", "takes any"),
            ("example.com:80", "without a port"),
            ("2001:db8::1", "in brackets"),
            ("[example]", "IPv6"),
            ("a.*.com", "first label"),
            ("*example.com", "first label"),
            ("a..b", "www.example.com"),
            ("example.com.", "www.example.com"),
            ("exa mple", "www.example.com"),
            ("b\u{fc}cher.de", "xn--"),
        ];
        for (text, expected) in cases {
            let error = parse(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
