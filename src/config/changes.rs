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

/// When most of what is fixed takes effect.
const SUCCESSION: &str = "after a restart, or with tollgate upgrade, which loses no connection";

/// What begins anew in another folder.
const OTHER_FOLDER: &str = "after a restart, or with tollgate upgrade; what is in the old folder does not \
    move: buckets begin full, and clients, keys and blocks that the admin API set do not act";

/// Puts back into `new` what cannot change while the process runs, with a warning for each:
/// the sockets, the threads, and what was sized or opened at the start.
pub fn keep_fixed(old: &Config, new: &mut Config) -> Vec<Finding> {
    let mut warnings = Vec::new();
    let mut fixed_until = |key: &str, is_same: bool, until: &str| {
        if !is_same {
            let message = format!("cannot change while the gateway runs; it takes effect {until}");
            warnings.push(Finding { path: key.to_owned(), line: None, message });
        }
    };
    let mut fixed = |key: &str, is_same: bool| fixed_until(key, is_same, SUCCESSION);
    let (before, after) = (&old.server, &new.server);
    fixed("server.listen", before.listen == after.listen);
    fixed("server.workers", before.workers == after.workers);
    fixed("server.max_head", before.max_head == after.max_head);
    fixed("server.max_headers", before.max_headers == after.max_headers);
    fixed("server.max_uri", before.max_uri == after.max_uri);
    fixed("server.access_log", before.access_log == after.access_log);
    fixed("server.upgrade_socket", before.upgrade_socket == after.upgrade_socket);
    fixed("admin.listen", old.admin.listen == new.admin.listen);
    fixed("admin.token", old.admin.token == new.admin.token);
    fixed("metrics.listen", old.metrics == new.metrics);
    fixed("redis", old.redis == new.redis);
    // A successor shares the table in the folder, so it keeps the size that it has.
    let until = match old.state_dir {
        Some(_) => "after a restart; a table in state_dir keeps its size over tollgate upgrade",
        None => SUCCESSION,
    };
    fixed_until("limiter.slots", old.limiter == new.limiter, until);
    fixed_until("state_dir", old.state_dir == new.state_dir, OTHER_FOLDER);
    new.server = Server {
        listen: before.listen.clone(),
        workers: before.workers,
        max_head: before.max_head,
        max_headers: before.max_headers,
        max_uri: before.max_uri,
        access_log: before.access_log.clone(),
        upgrade_socket: before.upgrade_socket.clone(),
        ..new.server.clone()
    };
    new.admin = old.admin.clone();
    new.metrics = old.metrics.clone();
    new.redis = old.redis.clone();
    new.limiter = old.limiter.clone();
    new.state_dir = old.state_dir.clone();
    warnings
}

#[cfg(test)]
mod tests;
