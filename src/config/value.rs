//! Single values: durations, sizes, rates, names, addresses. Each function takes the text as it
//! stands in the file and says what is wrong with it and what would be right.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, Method};
use ipnet::IpNet;

use super::report::{did_you_mean, quote};
use crate::policy::rate::{Period, Rate};
use crate::policy::share::Share;

/// The longest timeout there can be.
pub(super) const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);
/// The shortest timeout that is not an accident.
pub(super) const MIN_TIMEOUT: Duration = Duration::from_millis(1);

/// A whole number in a range.
pub(super) fn integer(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (min, max) = (range.start(), range.end());
    let out_of_range = || format!("{} is not between {min} and {max}", quote(text));
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    if !is_digits(unsigned) {
        return Err(format!("{} is not a whole number between {min} and {max}", quote(text)));
    }
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(out_of_range()),
    }
}

/// A whole number in a range of small numbers.
pub(super) fn count(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let (min, max) = (u64::from(*range.start()), u64::from(*range.end()));
    integer(text, min..=max).map(|number| number as u32)
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("{} is neither true nor false", quote(text))),
    }
}

/// A whole number with one of the units ms, s, m, h, such as `30s`.
pub(crate) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if is_digits(number) => {
            return Err(format!("{} has no unit; write for example {number}s", quote(text)));
        }
        _ => return Err(not_a_duration(text)),
    };
    if !is_digits(number) {
        return Err(not_a_duration(text));
    }
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis_per_unit));
    match millis.map(Duration::from_millis) {
        Some(duration) if range.contains(&duration) => Ok(duration),
        _ => Err(format!(
            "{} is not between {} and {}",
            quote(text),
            duration_text(*range.start()),
            duration_text(*range.end())
        )),
    }
}

fn not_a_duration(text: &str) -> String {
    format!("{} is not a duration; write a whole number and ms, s, m or h: 250ms, 30s", quote(text))
}

/// A duration in whole nanoseconds, as policies keep it.
pub(super) fn nanos(text: &str, range: RangeInclusive<Duration>) -> Result<u64, String> {
    // No range in use comes near the 584 years that fit.
    duration(text, range).map(|duration| duration.as_nanos() as u64)
}

/// A duration as it would be written, in the largest unit that is exact.
pub(super) fn duration_text(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, millis_per_unit) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= millis_per_unit && millis.is_multiple_of(millis_per_unit) {
            return format!("{}{unit}", millis / millis_per_unit);
        }
    }
    if millis == 0 { "0s".to_owned() } else { format!("{millis}ms") }
}

/// A number of bytes, plain or with one of the units KiB, MiB, GiB.
///
/// KB and MB are refused: half of their readers take them for 1 000 and half for 1 024.
pub(super) fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let shift = match unit {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(not_a_size(text)),
    };
    if !is_digits(number) {
        return Err(not_a_size(text));
    }
    match number.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift)) {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => Err(format!(
            "{} is not between {} and {}",
            quote(text),
            size_text(*range.start()),
            size_text(*range.end())
        )),
    }
}

fn not_a_size(text: &str) -> String {
    format!(
        "{} is not a size; write bytes or a whole number and KiB, MiB or GiB: 512, 10MiB",
        quote(text)
    )
}

/// A size as it would be written, in the largest unit that is exact.
pub(super) fn size_text(bytes: u64) -> String {
    for (unit, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

/// Tokens per period, such as `100/m`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let wrong = |why: &str| {
        Err(format!("{} is not a rate: {why}; write for example 10/s or 100/m", quote(text)))
    };
    let Some((count, unit)) = text.split_once('/') else {
        return wrong("it is not a number of tokens per s, m, h or d");
    };
    let (count, unit) = (count.trim(), unit.trim());
    let period = match unit {
        "s" => Period::Second,
        "m" => Period::Minute,
        "h" => Period::Hour,
        "d" => Period::Day,
        _ => return wrong("the period must be s, m, h or d"),
    };
    if !is_digits(count) {
        return match finer_rate(count, period) {
            Some(rate) => {
                Err(format!("{} is not a rate: tokens are whole; write {rate}", quote(text)))
            }
            None if count.starts_with('-') => wrong("it is negative"),
            None => wrong("the number of tokens must be whole"),
        };
    }
    match count.parse() {
        Ok(0) => wrong("a rate of zero lets nothing through"),
        Ok(count) => Ok(Rate { count, period }),
        Err(_) => wrong("the number is too large"),
    }
}

/// The whole rate over a longer period that says the same as a fraction, such as 30/m for 0.5/s.
fn finer_rate(count: &str, period: Period) -> Option<Rate> {
    let fraction: f64 = count.parse().ok().filter(|f: &f64| f.is_finite() && *f > 0.0)?;
    [Period::Minute, Period::Hour, Period::Day].into_iter().find_map(|longer| {
        let scaled = fraction * (longer.as_nanos() as f64 / period.as_nanos() as f64);
        let whole = scaled.round();
        let exact = longer.as_nanos() > period.as_nanos() && (scaled - whole).abs() < 1e-9;
        (exact && (1.0..1e15).contains(&whole))
            .then_some(Rate { count: whole as u64, period: longer })
    })
}

/// A share of a whole: a fraction such as `0.5`, or `50%`, exact to a millionth.
pub(super) fn share(text: &str, range: RangeInclusive<Share>) -> Result<Share, String> {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (number, places) = match unsigned.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 4),
        None => (unsigned, 6),
    };
    let Some(millionths) = decimal(number, places) else {
        return Err(format!(
            "{} is not a share; write a fraction or a percentage, exact to a millionth: 0.5, 50%",
            quote(text)
        ));
    };
    let share = u32::try_from(millionths).ok().filter(|_| unsigned == text || millionths == 0);
    // More than all would become all; it is an error before that.
    let share = share.filter(|&m| m <= Share::ALL.millionths()).map(Share::from_millionths);
    share.filter(|share| range.contains(share)).ok_or_else(|| {
        let bounds =
            format!("{} is not between {} and {}", quote(text), range.start(), range.end());
        // Somebody wrote 50 for 50 %; what is longer is no number out of a head.
        let percent =
            number == text && text.len() <= 6 && (2_000_000..=100_000_000).contains(&millionths);
        if percent { format!("{bounds}; did you mean {text}%?") } else { bounds }
    })
}

/// A decimal number in units of 10^-`places`; `None` when it is none or finer than that.
fn decimal(text: &str, places: u32) -> Option<u64> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if is_digits(fraction) => (whole, fraction.trim_end_matches('0')),
        Some(_) => return None,
        None => (text, ""),
    };
    let missing = places.checked_sub(u32::try_from(fraction.len()).ok()?)?;
    if !is_digits(whole) {
        return None;
    }
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let whole: u64 = whole.parse().unwrap_or(u64::MAX);
    let fraction: u64 = 10_u64.pow(missing).checked_mul(fraction)?;
    Some(whole.saturating_mul(10_u64.pow(places)).saturating_add(fraction))
}

/// A number such as `2.0` in a range, in thousandths.
pub(super) fn thousandths(text: &str, range: RangeInclusive<u32>) -> Result<u32, String> {
    let Some(number) = decimal(text, 3) else {
        return Err(format!(
            "{} is not a number; write for example 2.0, exact to a thousandth",
            quote(text)
        ));
    };
    let number = u32::try_from(number).ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        let (min, max) = (f64::from(*range.start()) / 1e3, f64::from(*range.end()) / 1e3);
        format!("{} is not between {min} and {max}", quote(text))
    })
}

/// A share in percent, such as `20%`.
pub(super) fn percent_text(share: Share) -> String {
    let (whole, rest) = (share.millionths() / 10_000, share.millionths() % 10_000);
    if rest == 0 {
        return format!("{whole}%");
    }
    let fraction = format!("{rest:04}");
    format!("{whole}.{}%", fraction.trim_end_matches('0'))
}

/// A name of a tier, upstream, route or limit.
pub(super) fn name(text: &str) -> Result<&str, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        return Ok(text);
    }
    Err(format!("{} is not a name; use 1 to 64 of A-Z a-z 0-9 _ . -", quote(text)))
}

/// An address and a port, such as `127.0.0.1:8080` or `[::1]:8080`.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let example = "write an address and a port, such as 127.0.0.1:8080 or [::1]:8080";
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => {
            Err(format!("{} has port 0; ports are 1 to 65535", quote(text)))
        }
        Ok(address) => Ok(address),
        Err(_) if text.parse::<IpAddr>().is_ok() => {
            Err(format!("{} has no port; {example}", quote(text)))
        }
        Err(_) if is_host_and_port(text) => Err(format!(
            "{} has a host name, and only an address can be bound; {example}",
            quote(text)
        )),
        Err(_) => Err(format!("{} is not an address; {example}", quote(text))),
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.split_once(':').is_some_and(|(host, port)| {
        host.bytes().any(|b| b.is_ascii_alphabetic())
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && port.parse::<u16>().is_ok()
    })
}

/// A network such as `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    match text.parse::<IpNet>() {
        Ok(net) if net.addr() == net.network() => Ok(net),
        Ok(net) => Err(format!(
            "{} has bits beyond its prefix; write {} or {}/{}",
            quote(text),
            net.trunc(),
            net.addr(),
            net.max_prefix_len()
        )),
        Err(_) => Err(format!(
            "{} is not a network; write for example 10.0.0.0/8, 2001:db8::/32 or 192.0.2.7",
            quote(text)
        )),
    }
}

/// Headers that frame a message or steer a connection; touching them breaks HTTP itself.
const FRAMING_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "te",
    "trailer",
    "upgrade",
    "expect",
];

/// A header name, in any case; not one that HTTP itself depends on.
pub(super) fn header(text: &str) -> Result<HeaderName, String> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        return Err(format!("{} is not a header name; write for example X-Client-ID", quote(text)));
    };
    if FRAMING_HEADERS.contains(&name.as_str()) {
        return Err(format!("{} cannot be used here, HTTP itself needs it", quote(text)));
    }
    Ok(name)
}

/// A request method. Methods are case-sensitive.
pub(super) fn method(text: &str) -> Result<Method, String> {
    const STANDARD: [&str; 8] =
        ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"];
    if text == "CONNECT" {
        return Err("CONNECT is always refused; a route cannot take it".to_owned());
    }
    let upper = !text.bytes().any(|b| b.is_ascii_lowercase());
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if upper && text.len() <= 32 => Ok(method),
        _ => {
            let suggestion = did_you_mean(text, STANDARD);
            Err(format!("{} is not a method{suggestion} (in capitals)", quote(text)))
        }
    }
}

/// A client id: 1 to 256 bytes of visible ASCII.
pub(super) fn client_id(text: &str) -> Result<&str, String> {
    if (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(format!("{} is not a client id; use 1 to 256 visible ASCII characters", quote(text)))
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// The leading digits and what follows them.
fn split_unit(text: &str) -> (&str, &str) {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

#[cfg(test)]
mod tests;
