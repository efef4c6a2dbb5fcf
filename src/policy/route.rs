//! Which requests a route takes.

use http::Method;

/// The paths a route takes. Each begins with `/` and is in normal form: no dot segments, no empty
/// segments, no needless or dangerous escapes, no query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// This path alone.
    Exact(String),
    /// This path and everything below it, on segment borders; without a slash at the end, except
    /// that everything is `/`.
    Prefix(String),
    /// Segments that are literal or `{name}`, which takes any one segment.
    Pattern(String),
}

/// The hosts a route takes, in lower case and without a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostMatch {
    /// This host.
    Exact(String),
    /// Every host below this domain, written `*.example.com`; held as `example.com`, which itself
    /// does not match.
    Suffix(String),
}

/// What a route asks of a request, for the router.
#[derive(Debug, Clone, Copy)]
pub struct RouteMatch<'a> {
    /// The paths it takes.
    pub path: &'a PathMatch,
    /// The hosts it takes; empty: any.
    pub hosts: &'a [HostMatch],
    /// The methods it takes; empty: any.
    pub methods: &'a [Method],
}
