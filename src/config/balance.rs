//! `upstreams.X.balance`: how a server is chosen.

use http::HeaderName;

use super::keys;
use super::raw::{Field, word};
use super::report::{Report, did_you_mean, quote};
use super::value;
use super::yaml::Kind;

/// How a server is chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Balance {
    /// In turn, in proportion to weight.
    RoundRobin,
    /// The less loaded of two drawn at random.
    LeastLoaded,
    /// The same server for the same value, by consistent hashing.
    Consistent(Affinity),
}

/// What requests must have in common to meet the same server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Affinity {
    /// The client's identity.
    Client,
    /// The client's address.
    Ip,
    /// The path, in normal form and without its query.
    Path,
    /// The value of this request header.
    Header(HeaderName),
}

/// Reads `balance`.
pub(super) fn read(field: &Field<'_>, report: &mut Report) -> Option<Balance> {
    if matches!(field.node.kind, Kind::Map(_)) {
        let section = field.section(report, &keys::BALANCE)?;
        let (_, field) = section.only(report)?;
        return affinity(field, report).map(Balance::Consistent);
    }
    let known = [("round_robin", &Balance::RoundRobin), ("least_loaded", &Balance::LeastLoaded)];
    field.read(report, "round_robin, least_loaded or {consistent: client}", |text| match text {
        "consistent" => Err("by what? write for example {consistent: client}".to_owned()),
        _ => word(text, &known, &[]).cloned(),
    })
}

fn affinity(field: &Field<'_>, report: &mut Report) -> Option<Affinity> {
    if matches!(field.node.kind, Kind::Map(_)) {
        let section = field.section(report, &keys::AFFINITY)?;
        let (_, field) = section.only(report)?;
        return field.read(report, "a header name", value::header).map(Affinity::Header);
    }
    field.read(report, "client, ip, path or {header: NAME}", |text| match text {
        "client" => Ok(Affinity::Client),
        "ip" => Ok(Affinity::Ip),
        "path" => Ok(Affinity::Path),
        _ => {
            let suggestion = did_you_mean(text, ["client", "ip", "path"]);
            let known = "client, ip, path, {header: NAME}";
            Err(format!("{} is not one of {known}{suggestion}", quote(text)))
        }
    })
}
