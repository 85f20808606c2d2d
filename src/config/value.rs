//! Values as operators write them: `"250ms"`, `"1%"`, `"EF"`, `"10.1.0.0/16"`.
//!
//! Each reader takes a TOML value and gives back a checked one, or says what is wrong and what to
//! write instead.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use toml::de::DeValue;

use crate::route::policy::Marking;
use crate::unit::{Price, Ratio, Residual};

/// What is wrong with a value, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) what: String,
    pub(super) fix: String,
}

impl Bad {
    pub(super) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fix: fix.into() }
    }
}

/// What a reader gives.
pub(super) type Read<T> = Result<T, Bad>;

pub(super) fn string(value: &DeValue<'_>) -> Read<String> {
    match value.as_str() {
        Some(s) => Ok(s.to_owned()),
        None => Err(Bad::new(format!("is {}", article(value)), "write text in quotes")),
    }
}

pub(super) fn boolean(value: &DeValue<'_>) -> Read<bool> {
    value.as_bool().ok_or_else(|| Bad::new(format!("is {}", article(value)), "write true or false"))
}

pub(super) fn integer(value: &DeValue<'_>) -> Read<i64> {
    value
        .as_integer()
        .and_then(|i| i64::from_str_radix(i.as_str(), i.radix()).ok())
        .ok_or_else(|| Bad::new(format!("is {}", article(value)), "write a whole number"))
}

/// A list of what `each` reads; says which element is wrong.
pub(super) fn list<T>(value: &DeValue<'_>, each: impl Fn(&DeValue<'_>) -> Read<T>) -> Read<Vec<T>> {
    let Some(array) = value.as_array() else {
        return Err(Bad::new(format!("is {}", article(value)), "write a list in square brackets"));
    };
    let read = |(i, v): (usize, &toml::Spanned<DeValue<'_>>)| {
        each(v.get_ref()).map_err(|bad| Bad::new(format!("(item {}) {}", i + 1, bad.what), bad.fix))
    };
    array.iter().enumerate().map(read).collect()
}

/// `"250ms"`, `"5m"`, `"1m 30s"`: a bare number is refused, since nobody can know its unit.
pub(super) fn duration(value: &DeValue<'_>) -> Read<Duration> {
    let fix = "write a time with its unit, like \"250ms\", \"30s\" or \"5m\"";
    let Some(text) = value.as_str() else {
        return Err(Bad::new(format!("is {} without a unit", article(value)), fix));
    };
    humantime::parse_duration(text).map_err(|_| Bad::new(format!("\"{text}\" is no time"), fix))
}

/// `"1%"`, `"0.5 %"`: shares are percentages in quotes.
pub(super) fn ratio(value: &DeValue<'_>) -> Read<Ratio> {
    let fix = "write a percentage from 0 to 100 in quotes, like \"1%\"";
    percent(value, fix).map(|percent| Ratio::from_f64(percent / 100.0))
}

/// The number before a per-cent sign, from 0 to 100.
fn percent(value: &DeValue<'_>, fix: &str) -> Read<f64> {
    let Some(text) = value.as_str() else {
        return Err(Bad::new(format!("is {} without a unit", article(value)), fix));
    };
    let number = text.trim().strip_suffix('%').and_then(|n| n.trim().parse::<f64>().ok());
    number
        .filter(|percent| (0.0..=100.0).contains(percent))
        .ok_or_else(|| Bad::new(format!("\"{text}\" is no percentage"), fix))
}

/// `"50 Mbit/s"`: bits per second, with the unit.
pub(super) fn rate(value: &DeValue<'_>) -> Read<u64> {
    let fix = "write a rate with its unit, like \"200 kbit/s\", \"50 Mbit/s\" or \"1 Gbit/s\"";
    let Some(text) = value.as_str() else {
        return Err(Bad::new(format!("is {} without a unit", article(value)), fix));
    };
    let bad = || Bad::new(format!("\"{text}\" is no rate"), fix);
    let units = [("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9)];
    let found = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?.trim(), bits)));
    let (number, bits) = found.ok_or_else(bad)?;
    // Digits alone: the parser of floats also takes "inf", "nan" and "1e9".
    if !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(bad());
    }
    match number.parse::<f64>() {
        Ok(number) if number * bits <= MOST_BPS => Ok((number * bits).round() as u64),
        Ok(_) => Err(Bad::new(format!("\"{text}\" is too much"), "write at most \"1000 Gbit/s\"")),
        Err(_) => Err(bad()),
    }
}

/// Greatest rate that can be written, bit/s: beyond any network card.
const MOST_BPS: f64 = 1e12;

/// `"0.01%"`: a share of packets that may be lost or late, down to one in 10⁹.
pub(super) fn residual(value: &DeValue<'_>) -> Read<Residual> {
    let fix = "write a percentage from \"0.0000001%\" to \"10%\", like \"0.01%\"; for no repair at all \
               write repair_budget = \"0ms\"";
    match percent(value, fix)? {
        share if (1e-7..=10.0).contains(&share) => Ok(Residual::from_f64(share / 100.0)),
        share => Err(Bad::new(format!("is {share} %"), fix)),
    }
}

/// Money per gigabyte, a plain number in the operator's currency.
pub(super) fn price(value: &DeValue<'_>) -> Read<Price> {
    let number = match value {
        DeValue::Integer(i) => i.as_str().parse::<f64>().ok(),
        DeValue::Float(f) => f.as_str().parse::<f64>().ok(),
        _ => None,
    };
    match number {
        Some(n) if (0.0..=4000.0).contains(&n) => Ok(Price::from_f64(n)),
        _ => Err(Bad::new(
            "is no price",
            "write currency units per gigabyte from 0 to 4000, like 0.09",
        )),
    }
}

pub(super) fn socket(value: &DeValue<'_>) -> Read<SocketAddr> {
    let text = string(value)?;
    text.parse().map_err(|_| {
        Bad::new(
            format!("\"{text}\" is no address with a port"),
            "write an IP address and a port, like \"192.0.2.7:4600\" or \"[2001:db8::7]:4600\"",
        )
    })
}

/// A host name or address with a port.
pub(super) fn endpoint(value: &DeValue<'_>) -> Read<String> {
    let text = string(value)?;
    let bad = || {
        Bad::new(
            format!("\"{text}\" is no host with a port"),
            "write for example \"203.0.113.5:4600\" or \"paris.example.net:4600\"",
        )
    };
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(text);
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let label = |l: &str| {
        !l.is_empty() && l.len() <= 63 && l.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let host_is_good = host.len() <= 253 && host.trim_end_matches('.').split('.').all(label);
    match port.parse::<u16>() {
        Ok(port) if port != 0 && host_is_good => Ok(text),
        _ => Err(bad()),
    }
}

pub(super) fn prefix(value: &DeValue<'_>) -> Read<IpNet> {
    let text = string(value)?;
    let net: IpNet = text.parse().map_err(|_| {
        Bad::new(
            format!("\"{text}\" is no prefix"),
            "write a network and its length, like \"10.1.0.0/16\" or \"fd00:1::/48\"",
        )
    })?;
    if net != net.trunc() {
        return Err(Bad::new(
            format!("\"{text}\" has bits set beyond its length"),
            format!("write \"{}\"", net.trunc()),
        ));
    }
    Ok(net)
}

/// Names of code points (RFC 2474, 2597, 3246, 5865, 8622).
const DSCP: [(&str, u8); 23] = [
    ("CS0", 0),
    ("DF", 0),
    ("LE", 1),
    ("CS1", 8),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("CS2", 16),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("CS3", 24),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("CS4", 32),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS5", 40),
    ("EF", 46),
    ("CS6", 48),
    ("CS7", 56),
];

/// A code point by name or number.
pub(super) fn dscp(value: &DeValue<'_>) -> Read<u8> {
    let fix = "write a name like \"EF\", \"AF41\" or \"CS5\", or a number from 0 to 63";
    if let Some(text) = value.as_str() {
        return dscp_by_name(text)
            .ok_or_else(|| Bad::new(format!("\"{text}\" is no DSCP name"), fix));
    }
    match integer(value) {
        Ok(number @ 0..=63) => Ok(number as u8),
        _ => Err(Bad::new("is no DSCP", fix)),
    }
}

/// Names of transport protocols (IANA's registry of protocol numbers).
const PROTOCOLS: [(&str, u8); 8] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("gre", 47),
    ("esp", 50),
    ("icmpv6", 58),
    ("sctp", 132),
    ("udplite", 136),
];

/// The transport protocol of this name, or of this decimal number.
pub fn protocol_by_name(text: &str) -> Option<u8> {
    let by_name = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, v)| *v);
    by_name.or_else(|| text.parse().ok())
}

/// A transport protocol by name or number.
pub(super) fn protocol(value: &DeValue<'_>) -> Read<u8> {
    if value.as_str().is_some() {
        return word(value, &PROTOCOLS);
    }
    match integer(value) {
        Ok(number @ 0..=255) => Ok(number as u8),
        _ => {
            Err(Bad::new("is no protocol", "write a name like \"udp\", or a number from 0 to 255"))
        }
    }
}

/// A port, or a range of them with both ends: `443`, `"27000-27100"`.
pub(super) fn ports(value: &DeValue<'_>) -> Read<(u16, u16)> {
    let bad =
        |what: String| Bad::new(what, "write a port like 443, or a range like \"27000-27100\"");
    let Some(text) = value.as_str() else {
        return match integer(value) {
            Ok(port @ 1..=65_535) => Ok((port as u16, port as u16)),
            _ => Err(bad("is no port".into())),
        };
    };
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    match (low.trim().parse(), high.trim().parse()) {
        (Ok(low), Ok(high)) if low != 0 && low <= high => Ok((low, high)),
        _ => Err(bad(format!("\"{text}\" is no range of ports"))),
    }
}

/// `"copy"`, or a DSCP.
pub(super) fn marking(value: &DeValue<'_>) -> Read<Marking> {
    if value.as_str() == Some("copy") {
        return Ok(Marking::Copy);
    }
    let fix = "write \"copy\", a name like \"EF\", \"AF41\" or \"CS5\", or a number from 0 to 63";
    dscp(value).map(Marking::As).map_err(|bad| Bad { fix: fix.into(), ..bad })
}

/// The code point of this name, in any case, or of this decimal number.
pub fn dscp_by_name(text: &str) -> Option<u8> {
    let by_name = DSCP.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, v)| *v);
    by_name.or_else(|| text.parse().ok().filter(|&number: &u8| number < 64))
}

/// One of a closed set of words.
pub(super) fn word<T: Copy>(value: &DeValue<'_>, words: &[(&'static str, T)]) -> Read<T> {
    let text = string(value)?;
    words.iter().find(|(name, _)| *name == text).map(|(_, v)| *v).ok_or_else(|| {
        let all: Vec<_> = words.iter().map(|(name, _)| format!("\"{name}\"")).collect();
        Bad::new(
            format!("\"{text}\" is not known here"),
            format!("write one of {}", all.join(", ")),
        )
    })
}

/// A node's name: one DNS label in lower case, since it becomes the certificate's subject name.
pub(super) fn node_name(value: &DeValue<'_>) -> Read<String> {
    let text = string(value)?;
    if is_node_name(&text) {
        Ok(text)
    } else {
        Err(Bad::new(format!("\"{text}\" is no node name"), NODE_NAME_RULE))
    }
}

/// What a node's name may look like, in words.
pub const NODE_NAME_RULE: &str =
    "use 1 to 63 lower-case letters, digits and hyphens, not beginning or ending with a hyphen";

/// Whether this can be a node's name ([`NODE_NAME_RULE`]).
pub fn is_node_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn article(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(i) => format!("the number {i}"),
        DeValue::Float(f) => format!("the number {}", f.as_str()),
        DeValue::Boolean(b) => format!("the truth value {b}"),
        DeValue::String(s) => format!("the text \"{s}\""),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
        DeValue::Datetime(_) => "a date".into(),
    }
}
