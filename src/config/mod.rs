//! The configuration: from the file's text to checked types.
//!
//! The file is read into loose YAML values, and these are checked into the types here. After
//! that nothing can be invalid: addresses are addresses, names refer to things that exist, rates
//! can be enforced. All errors of a file are reported at once, each with its key path and line.

mod algorithm;
mod balance;
mod breaker;
mod changes;
mod clients;
mod concurrency;
mod connections;
mod effective;
mod ejection;
mod expand;
mod growth;
mod health;
mod host;
mod keys;
mod limits;
mod path;
mod raw;
mod redis;
mod reload_watch;
mod report;
mod retry;
mod routes;
mod server;
mod servers;
mod state_dir;
mod upstreams;
mod value;
mod warnings;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use balance::{Affinity, Balance};
pub use changes::{changes, keep_fixed};
pub use clients::{ApiKeyHash, Clients, Identifier, KnownClient};
pub use concurrency::Concurrency;
pub use connections::Connections;
pub use effective::effective;
pub use health::{HealthCheck, HealthCheckKind};
pub use redis::{Redis, RedisAddress, Sentinel};
pub use reload_watch::Reloading;
pub use report::{Finding, InFile};
pub use routes::{Auth, Cost, Route};
pub use server::{
    AccessLog, AccessLogFormat, Admin, Limiter, MAX_GRACE_PERIOD, Metrics, Secret, Server,
};
pub use servers::{ServerAddress, UpstreamServer};
pub use upstreams::{Timeouts, Upstream};
pub(crate) use value::duration;

use self::raw::Field;
use self::report::Report;
use crate::policy::limit::Limit;
use crate::policy::tier::Tiers;

/// Everything a configuration file says, checked and with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The folder of what outlives the process; none: nothing does.
    pub state_dir: Option<PathBuf>,
    /// The data listeners and what every request meets.
    pub server: Server,
    /// The admin API.
    pub admin: Admin,
    /// The Prometheus endpoint.
    pub metrics: Metrics,
    /// What gateways have in common; none: everything is local.
    pub redis: Option<Redis>,
    /// Who clients are.
    pub clients: Clients,
    /// The table that holds the buckets.
    pub limiter: Limiter,
    /// The tiers, with the default one.
    pub tiers: Tiers,
    /// Limits that apply to every request, besides tiers and the routes' own.
    pub limits: Vec<Limit>,
    /// Where requests go; routes refer to them by index.
    pub upstreams: Vec<Upstream>,
    /// The routes in the order of the file.
    pub routes: Vec<Route>,
}

/// A configuration and what its author should know about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What it says that may not have been meant.
    pub warnings: Vec<Finding>,
}

/// Why there is no configuration.
#[derive(Debug, Error)]
pub enum LoadError {
    /// There is no such file.
    #[error("{}: there is no such file", .0.display())]
    Missing(PathBuf),
    /// The file is there and cannot be read.
    #[error("{}: cannot be read: {}", .0.display(), .1)]
    Unreadable(PathBuf, io::Error),
    /// The file is wrong; every error that was found in it, in the order of the file.
    #[error("{}", lines(.0))]
    Invalid(Vec<Finding>),
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n")
}

impl LoadError {
    /// The exit code of a command that needed the file, as in sysexits.h: 64 when the
    /// configuration is wrong, 66 when there is none to read.
    pub fn exit_code(&self) -> u8 {
        match self {
            LoadError::Invalid(_) => 64,
            LoadError::Missing(_) | LoadError::Unreadable(..) => 66,
        }
    }
}

/// Reads a file and checks it, with variables from the environment of this process.
///
/// # Errors
/// When there is no file, it cannot be read, or it is wrong; then with all that is wrong.
pub fn load(path: &Path) -> Result<Loaded, LoadError> {
    check_text(&read(path)?)
}

/// Checks a file's text, with variables from the environment of this process.
///
/// # Errors
/// All that is wrong with it.
pub fn check_text(text: &str) -> Result<Loaded, LoadError> {
    let (config, warnings) = parse(text, &environment).map_err(LoadError::Invalid)?;
    Ok(Loaded { config, warnings })
}

/// Reads of a file only where the admin API is, whatever else is wrong with it: what steers a
/// running gateway must reach it to be told what is.
///
/// # Errors
/// As [`load`], where that much cannot be read.
pub fn load_admin(path: &Path) -> Result<Admin, LoadError> {
    let mut report = Report::default();
    let admin = yaml::parse(&read(path)?, &mut report).and_then(|mut root| {
        expand::expand(&mut root, &environment, &mut report);
        let root = Field::root(&root).section(&mut Report::default(), &keys::FILE)?;
        Some(Admin::read(root.get("admin"), &mut report))
    });
    let (mut errors, _) = report.finish();
    match admin {
        Some(admin) => {
            errors.retain(|error| error.path.split(['.', '[']).next() == Some("admin"));
            if errors.is_empty() { Ok(admin) } else { Err(LoadError::Invalid(errors)) }
        }
        None => Err(LoadError::Invalid(errors)),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads a file's text, at most 16 MiB.
///
/// # Errors
/// When there is no file, it cannot be read, it is too long, or it is no text.
pub fn read(path: &Path) -> Result<String, LoadError> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => LoadError::Missing(path.to_owned()),
        _ => LoadError::Unreadable(path.to_owned(), error),
    };
    let invalid = |message: String| {
        LoadError::Invalid(vec![Finding { path: String::new(), line: None, message }])
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    // One byte more than is allowed tells a file that is too long from one that just fits.
    file.take(yaml::MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > yaml::MAX_FILE_BYTES {
        let mib = yaml::MAX_FILE_BYTES >> 20;
        return Err(invalid(format!("the file is longer than {mib} MiB")));
    }
    String::from_utf8(bytes).map_err(|error| {
        invalid(format!(
            "byte {} is not UTF-8; is this a YAML file?",
            error.utf8_error().valid_up_to()
        ))
    })
}

/// Checks a file's text; `env` looks up variables. Gives the configuration and its warnings.
///
/// # Errors
/// All errors that were found, in the order of the file.
pub fn parse(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(Config, Vec<Finding>), Vec<Finding>> {
    let mut report = Report::default();
    let config = yaml::parse(text, &mut report).and_then(|mut root| {
        expand::expand(&mut root, env, &mut report);
        check(&Field::root(&root), &mut report)
    });
    let (errors, warnings) = report.finish();
    match config {
        Some(config) if errors.is_empty() => Ok((config, warnings)),
        _ => Err(errors),
    }
}

/// Checks section by section. With errors the result is in part made of defaults, there to find
/// the errors of what refers to it.
fn check(root: &Field<'_>, report: &mut Report) -> Option<Config> {
    let root = root.section(report, &keys::FILE)?;
    let state_dir = state_dir::read(&root, report);
    let server = Server::read(root.get("server"), report);
    let admin = Admin::read(root.get("admin"), report);
    let metrics = Metrics::read(root.get("metrics"), report);
    server::check_listeners(&server, &admin, &metrics, &root, report);
    let redis = Redis::read(root.get("redis"), report);
    let limiter = Limiter::read(root.get("limiter"), report);
    let clients = root.get("clients").and_then(|field| field.section(report, &keys::CLIENTS));
    let default_tier = clients.as_ref().and_then(|section| section.get("default_tier"));
    let tiers = limits::read_tiers(root.get("tiers"), default_tier, report);
    let clients = Clients::read(clients.as_ref(), &tiers, report);
    let limits = limits::read_limits(root.get("limits"), redis.is_some(), report);
    let upstreams = upstreams::read(root.get("upstreams"), report);
    let routes = routes::read(root.get("routes"), &upstreams, redis.is_some(), report);
    let config = Config {
        state_dir,
        server,
        admin,
        metrics,
        redis,
        clients,
        limiter,
        tiers,
        limits,
        upstreams,
        routes,
    };
    if !report.has_errors() {
        warnings::check(&config, &root, report);
    }
    Some(config)
}

#[cfg(test)]
mod tests;
