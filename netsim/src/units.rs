//! Quantities as scenario files write them: `"1.5ms"`, `"20Mbit"`, `"64kB"`, `0.05`.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use thalweg::unit::Ratio;

/// A span of time, at least microseconds, at most a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Bits per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate(pub u64);

/// Bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes(pub u64);

/// A share of a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(pub Ratio);

/// Splits `"1.5ms"` into number and unit and multiplies; negative and absurd values are refused.
fn quantity(text: &str, units: &[(&str, f64)], most: f64) -> Result<f64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..digits], text[digits..].trim());
    let known = || units.iter().map(|(u, _)| *u).collect::<Vec<_>>().join(", ");
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no number with a unit"))?;
    let Some((_, scale)) = units.iter().find(|(u, _)| *u == unit) else {
        return Err(format!("{text:?} needs a unit: one of {}", known()));
    };
    let value = number * scale;
    if value > most { Err(format!("{text:?} is too much")) } else { Ok(value) }
}

impl Span {
    /// Reads `"20ms"`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let seconds = quantity(text, &units, 86_400.0)?;
        Ok(Self(Duration::from_micros((seconds * 1e6).round() as u64)))
    }
}

impl Rate {
    /// Reads `"20Mbit"`: bits per second.
    pub fn parse(text: &str) -> Result<Self, String> {
        let units = [("bit", 1.0), ("kbit", 1e3), ("Mbit", 1e6), ("Gbit", 1e9)];
        quantity(text, &units, 1e12).map(|v| Self(v.round() as u64))
    }
}

impl Bytes {
    /// Reads `"64kB"`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let units = [("B", 1.0), ("kB", 1e3), ("MB", 1e6)];
        quantity(text, &units, 1e9).map(|v| Self(v.round() as u64))
    }
}

macro_rules! text_quantity {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                Self::parse(&text).map_err(de::Error::custom)
            }
        }
    )*};
}
text_quantity!(Span, Rate, Bytes);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fraction;
        impl Visitor<'_> for Fraction {
            type Value = Share;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fraction between 0 and 1")
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Share, E> {
                if (0.0..=1.0).contains(&v) {
                    Ok(Share(Ratio::from_f64(v)))
                } else {
                    Err(E::invalid_value(de::Unexpected::Float(v), &self))
                }
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Share, E> {
                self.visit_f64(v as f64)
            }
        }
        d.deserialize_any(Fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_carry_their_unit() {
        assert_eq!(Span::parse("1.5ms").unwrap().0, Duration::from_micros(1500));
        assert_eq!(Span::parse("2 m").unwrap().0, Duration::from_secs(120));
        assert_eq!(Rate::parse("0.5Gbit").unwrap().0, 500_000_000);
        assert_eq!(Bytes::parse("64kB").unwrap().0, 64_000);
        for wrong in ["", "ms", "5", "-5ms", "1e3s", "25h", "5 parsec", "1.2.3s"] {
            assert!(Span::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
