//! `routes`: which requests go where, and what they cost.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::policy::limit::Limit;

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name.
    pub name: Arc<str>,
    /// The paths it takes, in normal form.
    pub path: PathMatch,
    /// The hosts it takes; empty: any.
    pub hosts: Vec<HostMatch>,
    /// The methods it takes; empty: any.
    pub methods: Vec<Method>,
    /// Where its requests go: an index into [`Config::upstreams`](super::Config::upstreams).
    pub upstream: usize,
    /// What is cut from the front of the path before it is forwarded; a prefix, on a segment
    /// border, of every path the route takes.
    pub strip_prefix: Option<String>,
    /// The longest a whole request may take, 1 ms to 24 h; none: no bound of its own.
    pub timeout: Option<Duration>,
    /// What a request costs.
    pub cost: Cost,
    /// A limit of its own, named `route:<name>`.
    pub limit: Option<Limit>,
    /// The largest request body in bytes; none: any.
    pub max_body: Option<u64>,
    /// Whether an API key must name the client.
    pub auth: Auth,
}

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostMatch {
    /// This host.
    Exact(String),
    /// Every host below this domain, written `*.example.com`; held as `example.com`, which itself
    /// does not match.
    Suffix(String),
}

/// Whether a route asks for an API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// It does not.
    None,
    /// 401 unless an API key names the client.
    Required,
}

/// What a request costs in tokens, 0 to 1 000 000.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cost {
    /// For methods that are not named.
    pub default: u32,
    /// For those that are.
    pub by_method: Vec<(Method, u32)>,
}

impl Cost {
    /// What a request of this method costs.
    pub fn of(&self, method: &Method) -> u32 {
        self.by_method
            .iter()
            .find(|(named, _)| named == method)
            .map_or(self.default, |&(_, cost)| cost)
    }
}

impl Default for Cost {
    fn default() -> Self {
        Self { default: 1, by_method: Vec::new() }
    }
}
