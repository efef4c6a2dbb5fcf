//! `tiers` and `limits`: how much passes.

use super::algorithm;
use super::concurrency::MAX_IN_FLIGHT;
use super::keys::{self, Keys};
use super::raw::{Field, Section, Unique, word};
use super::report::{Report, did_you_mean, one_of, quote};
use super::value;
use crate::policy::limit::{Limit, LimitCost, LimitKey, MAX_LIMITS, OnStoreFailure, Role, Store};
use crate::policy::rate::{BucketError, Rate, TokenBucket};
use crate::policy::tier::{MAX_TIERS, Tier, Tiers};

/// The name of the default tier when the file does not say.
const DEFAULT_TIER: &str = "free";

/// Reads `tiers` over the standard ones, and `clients.default_tier`.
pub(super) fn read_tiers(
    field: Option<&Field<'_>>,
    default: Option<&Field<'_>>,
    report: &mut Report,
) -> Tiers {
    let standard = Tiers::standard();
    let mut tiers: Vec<Tier> = standard.iter().map(|(_, tier)| tier.clone()).collect();
    let entries = field.and_then(|field| field.entries(report, MAX_TIERS - tiers.len()));
    let mut unique = Unique::default();
    for (name, field) in entries.unwrap_or_default() {
        check_name(name, &field, report);
        unique.claim("the tier (in any case)", &name.to_ascii_lowercase(), &field, report);
        let section = field.section(report, &keys::TIER);
        let concurrency = section.as_ref().and_then(|section| concurrency(section, report));
        let Some(bucket) = section.and_then(|section| bucket(&section, report)) else {
            // It stays without a bucket of its own; its name is good enough to refer to.
            if standard.find(name).is_none()
                && let Some(any) = tiers.first().cloned()
            {
                tiers.push(Tier { name: name.into(), bucket: any.bucket, concurrency: None });
            }
            continue;
        };
        let tier = Tier { name: name.into(), bucket, concurrency };
        match tiers.iter_mut().find(|tier| tier.name.eq_ignore_ascii_case(name)) {
            Some(overridden) => *overridden = tier,
            None => tiers.push(tier),
        }
    }
    let name = default.and_then(|field| default_tier(field, &tiers, report));
    Tiers::new(tiers, name.unwrap_or(DEFAULT_TIER)).unwrap_or_else(|error| {
        // The checks above leave nothing that could be refused here but what they reported.
        report.error("tiers", field.map(|field| field.line), error.to_string());
        standard
    })
}

/// Reads how many requests each client of a tier may have in flight.
fn concurrency(section: &Section<'_>, report: &mut Report) -> Option<u32> {
    section.value("concurrency", report, "a number of requests", |text| {
        value::count(text, 1..=MAX_IN_FLIGHT)
    })
}

fn default_tier<'a>(field: &Field<'a>, tiers: &[Tier], report: &mut Report) -> Option<&'a str> {
    let text = field.scalar();
    let names = || tiers.iter().map(|tier| &*tier.name);
    field.read(report, "a tier's name", |text| {
        if names().any(|name| name.eq_ignore_ascii_case(text)) {
            return Ok(());
        }
        let suggestion = did_you_mean(text, names());
        Err(format!("there is no tier {}{suggestion} (tiers: {})", quote(text), one_of(names())))
    })?;
    text
}

/// A name that is also a metric label, where "none" already means that there is no such thing.
pub(super) fn check_name(name: &str, field: &Field<'_>, report: &mut Report) {
    if let Err(message) = value::name(name) {
        field.error(report, message);
    } else if name == "none" {
        field
            .error(report, "\"none\" is what metrics say where there is none; choose another name");
    }
}

/// Reads `rate` and `burst`, both required, as a bucket that the limiter can enforce.
fn bucket(section: &Section<'_>, report: &mut Report) -> Option<TokenBucket> {
    let rate = rate(section, report);
    let burst_field = section.require("burst", report, "burst: 100");
    let burst = burst_field.and_then(|field| tokens(field, report));
    token_bucket(section, rate?, burst?, report)
}

pub(super) fn rate(section: &Section<'_>, report: &mut Report) -> Option<Rate> {
    let field = section.require("rate", report, "rate: 10/s");
    field.and_then(|field| field.read(report, "a rate such as 10/s", value::rate))
}

pub(super) fn tokens(field: &Field<'_>, report: &mut Report) -> Option<u64> {
    field.read(report, "a number of tokens", |text| value::integer(text, 1..=MAX_BURST))
}

pub(super) fn token_bucket(
    section: &Section<'_>,
    rate: Rate,
    burst: u64,
    report: &mut Report,
) -> Option<TokenBucket> {
    match TokenBucket::new(rate, burst) {
        Ok(bucket) => Some(bucket),
        Err(error) => {
            let culprit = match error {
                BucketError::ZeroBurst => section.get("burst"),
                _ => section.get("rate"),
            };
            culprit?.error(report, error.to_string());
            None
        }
    }
}

/// The largest burst: 2^53, up to which every number survives JSON.
const MAX_BURST: u64 = 1 << 53;

/// Reads `limits`; what belongs to each comes behind it.
pub(super) fn read_limits(
    field: Option<&Field<'_>>,
    has_redis: bool,
    report: &mut Report,
) -> Vec<Limit> {
    let Some(field) = field else { return Vec::new() };
    let mut unique = Unique::default();
    let mut limits = Vec::new();
    for field in field.list(report, MAX_LIMITS) {
        let Some(section) = field.section(report, &keys::LIMIT) else { continue };
        let name = section.require("name", report, "name: per-ip").and_then(|field| {
            let name = field.read(report, "a name", |text| value::name(text).map(str::to_owned))?;
            unique.claim("the name", &name, field, report);
            if name == "tier" {
                field.error(report, "\"tier\" is the policy of the tiers; choose another name");
            }
            Some(name)
        });
        limits.extend(limit(&section, name.as_deref().unwrap_or_default(), has_redis, report));
    }
    limits
}

/// Reads a route's own limit, and what belongs to it.
pub(super) fn read_route_limit(
    field: &Field<'_>,
    route: &str,
    has_redis: bool,
    report: &mut Report,
) -> Vec<Limit> {
    const KEYS: &Keys = &keys::ROUTE_LIMIT;
    match field.section(report, KEYS) {
        Some(section) => limit(&section, &format!("route:{route}"), has_redis, report),
        None => Vec::new(),
    }
}

/// Reads a limit; what belongs to it comes behind it.
fn limit(section: &Section<'_>, name: &str, has_redis: bool, report: &mut Report) -> Vec<Limit> {
    let costs = [("route", LimitCost::Route), ("1", LimitCost::One)];
    let cost = section.value("cost", report, "route or 1", |text| word(text, &costs, &[]));
    let is_shadow = section.value("shadow", report, "true or false", value::boolean);
    let store = store(section, has_redis, is_shadow == Some(true), report);
    let key = match section.get("key") {
        Some(field) => limit_key(field, report),
        None => Some(LimitKey::Client),
    };
    let algorithm = algorithm::read(section, report);
    let quota = section.get("quota").and_then(|field| algorithm::read_quota(field, report));
    let Some(key) = key else { return Vec::new() };
    let escalated = algorithm::read_escalation(section, &key, algorithm.as_ref(), report);
    let limit = |suffix: &str, key, algorithm, role| Limit {
        name: format!("{name}{suffix}").into(),
        key,
        algorithm,
        cost: cost.unwrap_or(LimitCost::Route),
        is_shadow: is_shadow.unwrap_or(false),
        role,
        store,
    };
    let rate = algorithm.map(|algorithm| limit("", key.clone(), algorithm, Role::Rate));
    let quota = quota.map(|algorithm| limit(":quota", key, algorithm, Role::Quota));
    let escalation = escalated
        .map(|algorithm| limit(":network", LimitKey::Network, algorithm, Role::Escalation));
    rate.into_iter().chain(quota).chain(escalation).collect()
}

/// Reads where the buckets are. A shadow's are local: it is a candidate, and what it says should
/// cost the limits that are enforced nothing.
fn store(section: &Section<'_>, has_redis: bool, is_shadow: bool, report: &mut Report) -> Store {
    let words = [("local", false), ("shared", true)];
    let written = section.value("store", report, "local or shared", |text| word(text, &words, &[]));
    if let (Some(true), Some(field)) = (written, section.get("store")) {
        if !has_redis {
            field.error(report, "a shared limit needs a store; write redis: {url: …}".to_owned());
        } else if is_shadow {
            field.error(
                report,
                "a shadow is kept by each gateway for itself; write local".to_owned(),
            );
        }
    }
    let is_shared = written.unwrap_or(has_redis && !is_shadow);
    let policies = [
        ("fair_share", OnStoreFailure::FairShare),
        ("allow", OnStoreFailure::Allow),
        ("deny", OnStoreFailure::Deny),
    ];
    let expected = "fair_share, allow or deny";
    let on_failure =
        section.value("on_store_failure", report, expected, |text| word(text, &policies, &[]));
    if let (Some(_), false, Some(field)) = (on_failure, is_shared, section.get("on_store_failure"))
    {
        field.error(report, "this limit is local, so no store can fail; leave it out".to_owned());
    }
    match is_shared {
        true => Store::Shared(on_failure.unwrap_or(OnStoreFailure::FairShare)),
        false => Store::Local,
    }
}

fn limit_key(field: &Field<'_>, report: &mut Report) -> Option<LimitKey> {
    if matches!(field.node.kind, super::yaml::Kind::Map(_)) {
        let section = field.section(report, &keys::LIMIT_KEY)?;
        let header = section.require("header", report, "header: X-Tenant")?;
        return header.read(report, "a header name", value::header).map(LimitKey::Header);
    }
    field.read(report, "client, ip, route, global or {header: NAME}", |text| match text {
        "client" => Ok(LimitKey::Client),
        "ip" => Ok(LimitKey::Ip),
        "route" => Ok(LimitKey::Route),
        "global" => Ok(LimitKey::Global),
        _ => {
            let suggestion = did_you_mean(text, ["client", "ip", "route", "global"]);
            let known = "client, ip, route, global, {header: NAME}";
            Err(format!("{} is not one of {known}{suggestion}", quote(text)))
        }
    })
}
