//! What a new configuration changes of the one in effect.

use std::collections::{BTreeSet, HashMap};

use super::report::Finding;
use super::{Config, Server};

/// Changes that are listed; of more only the number.
const MAX_LISTED: usize = 1_000;

/// What differs between two configurations, each by its key: `routes.users: changed`.
pub fn changes(old: &Config, new: &Config) -> Vec<String> {
    let mut list = Vec::new();
    let mut simple = |key: &str, is_same: bool| {
        if !is_same {
            list.push(format!("{key}: changed"));
        }
    };
    simple("server", old.server == new.server);
    simple("clients", old.clients == new.clients);
    let default = |config: &Config| config.tiers.get(config.tiers.default_tier()).name.clone();
    simple("clients.default_tier", default(old) == default(new));
    named(
        "tiers",
        old.tiers.iter().map(|t| t.1),
        new.tiers.iter().map(|t| t.1),
        &mut list,
        |tier| &tier.name,
    );
    named("limits", old.limits.iter(), new.limits.iter(), &mut list, |limit| &limit.name);
    named("upstreams", old.upstreams.iter(), new.upstreams.iter(), &mut list, |u| &u.name);
    routes(old, new, &mut list);
    if list.len() > MAX_LISTED {
        let more = list.len() - MAX_LISTED;
        list.truncate(MAX_LISTED);
        list.push(format!("and {more} more"));
    }
    list
}

/// Routes refer to upstreams by index, which another upstream in front of theirs moves.
fn routes(old: &Config, new: &Config, list: &mut Vec<String>) {
    let named_routes = |config: &Config| {
        let routes = config.routes.iter().map(|route| {
            let upstream = config.upstreams.get(route.upstream).map(|u| u.name.clone());
            let mut route = route.clone();
            route.upstream = 0;
            (route, upstream)
        });
        routes.collect::<Vec<_>>()
    };
    let (before, after) = (named_routes(old), named_routes(new));
    let count = list.len();
    named("routes", before.iter(), after.iter(), list, |(route, _)| &route.name);
    let order = |routes: &[(super::Route, _)]| -> Vec<_> {
        routes.iter().map(|(route, _)| route.name.clone()).collect()
    };
    if list.len() == count && order(&before) != order(&after) {
        list.push("routes: in another order".to_owned());
    }
}

fn named<'a, T: PartialEq + 'a>(
    key: &str,
    old: impl Iterator<Item = &'a T>,
    new: impl Iterator<Item = &'a T>,
    list: &mut Vec<String>,
    name: impl Fn(&'a T) -> &'a str,
) {
    let mut old: HashMap<&str, &T> = old.map(|item| (name(item), item)).collect();
    for item in new {
        match old.remove(name(item)) {
            None => list.push(format!("{key}.{}: added", name(item))),
            Some(before) if before != item => list.push(format!("{key}.{}: changed", name(item))),
            Some(_) => {}
        }
    }
    let removed: BTreeSet<&str> = old.into_keys().collect();
    list.extend(removed.into_iter().map(|name| format!("{key}.{name}: removed")));
}

/// Puts back into `new` what cannot change while the process runs, with a warning for each:
/// the sockets, the threads, and what was sized or opened at the start.
pub fn keep_fixed(old: &Config, new: &mut Config) -> Vec<Finding> {
    let mut warnings = Vec::new();
    let mut fixed = |key: &str, is_same: bool| {
        if !is_same {
            let message = "cannot change while the gateway runs; it takes effect after a restart";
            let message = message.to_owned();
            warnings.push(Finding { path: key.to_owned(), line: None, message });
        }
    };
    let (before, after) = (&old.server, &new.server);
    fixed("server.listen", before.listen == after.listen);
    fixed("server.workers", before.workers == after.workers);
    fixed("server.max_head", before.max_head == after.max_head);
    fixed("server.max_headers", before.max_headers == after.max_headers);
    fixed("server.max_uri", before.max_uri == after.max_uri);
    fixed("server.access_log", before.access_log == after.access_log);
    fixed("admin.listen", old.admin.listen == new.admin.listen);
    fixed("admin.token", old.admin.token == new.admin.token);
    fixed("metrics.listen", old.metrics == new.metrics);
    fixed("limiter.slots", old.limiter == new.limiter);
    new.server = Server {
        listen: before.listen.clone(),
        workers: before.workers,
        max_head: before.max_head,
        max_headers: before.max_headers,
        max_uri: before.max_uri,
        access_log: before.access_log.clone(),
        ..new.server.clone()
    };
    new.admin = old.admin.clone();
    new.metrics = old.metrics.clone();
    new.limiter = old.limiter.clone();
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    const BASE: &str = "
upstreams: {a: {servers: [127.0.0.1:1]}, b: {servers: [127.0.0.1:2]}}
tiers: {free: {rate: 1/s, burst: 10}}
limits: [{name: per-ip, key: ip, rate: 5/s, burst: 5}]
routes:
  - {name: one, path: /one, upstream: a}
  - {name: two, path: /two, upstream: b}
";

    fn config(text: &str) -> Config {
        parse(text, &|_| None).unwrap().0
    }

    fn changed(edit: impl Fn(&str) -> String) -> Vec<String> {
        changes(&config(BASE), &config(&edit(BASE)))
    }

    #[test]
    fn what_stays_is_not_named() {
        assert!(changed(str::to_owned).is_empty());
        // Another upstream in front moves the index of the others, which changes no route.
        assert_eq!(
            changed(|text| text.replace("{a: {", "{_: {servers: [127.0.0.1:9]}, a: {")),
            ["upstreams._: added"]
        );
    }

    #[test]
    fn what_changes_is_named_by_its_key() {
        let cases = [
            ("127.0.0.1:2", "127.0.0.1:3", "upstreams.b: changed"),
            ("burst: 10", "burst: 20", "tiers.free: changed"),
            ("burst: 5", "burst: 6", "limits.per-ip: changed"),
            ("path: /two", "path: /three", "routes.two: changed"),
            ("upstream: b", "upstream: a", "routes.two: changed"),
            ("tiers:", "server: {health_path: /x}\ntiers:", "server: changed"),
            ("tiers:", "clients: {default_tier: basic}\ntiers:", "clients.default_tier: changed"),
        ];
        for (from, to, expected) in cases {
            assert_eq!(changed(|text| text.replace(from, to)), [expected], "{to}");
        }
        assert_eq!(
            changed(|text| text.replace("name: two", "name: new")),
            ["routes.new: added", "routes.two: removed"]
        );
    }

    #[test]
    fn what_is_fixed_stays_and_is_warned_of() {
        let old = config(BASE);
        let text = format!(
            "{BASE}server: {{listen: 127.0.0.1:1234, workers: 7, max_head: 64KiB, health_path: /x}}\n\
             limiter: {{slots: 2048}}\n"
        );
        let mut new = config(&text);
        let warnings = keep_fixed(&old, &mut new);
        let paths: Vec<&str> = warnings.iter().map(|warning| &*warning.path).collect();
        assert_eq!(paths, ["server.listen", "server.workers", "server.max_head", "limiter.slots"]);
        assert_eq!(new.server.health_path.as_deref(), Some("/x"), "the rest takes effect");
        let health_path = new.server.health_path.clone();
        assert_eq!(new.server, Server { health_path, ..old.server.clone() });
        assert_eq!(new.limiter, old.limiter);
    }
}
