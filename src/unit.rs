//! Typed units: a share of a whole, a price.

use std::fmt;

/// A share of a whole in parts per million. Never above one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The whole.
    pub const ONE: Self = Self(1_000_000);

    /// This many parts per million, capped at the whole.
    pub const fn from_ppm(ppm: u32) -> Self {
        if ppm > Self::ONE.0 { Self::ONE } else { Self(ppm) }
    }

    /// `part` of `whole`; zero of nothing is zero. Capped at the whole.
    pub fn of(part: u64, whole: u64) -> Self {
        if whole == 0 {
            return Self::ZERO;
        }
        let ppm = u128::from(part) * u128::from(Self::ONE.0) / u128::from(whole);
        Self::from_ppm(u32::try_from(ppm).unwrap_or(u32::MAX))
    }

    /// From a fraction; not-a-number and negatives count as zero, above one as one.
    pub fn from_f64(fraction: f64) -> Self {
        if fraction > 0.0 { Self((fraction.min(1.0) * 1e6).round() as u32) } else { Self::ZERO }
    }

    /// Parts per million.
    pub const fn as_ppm(self) -> u32 {
        self.0
    }

    /// As a fraction of one.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// Chance that at least one of two independent events happens: `1 − (1 − a)(1 − b)`.
    ///
    /// Turns the loss of two hops into the loss of the path over both. Rounds up, against us.
    pub fn or(self, other: Self) -> Self {
        let survives = u64::from(Self::ONE.0 - self.0) * u64::from(Self::ONE.0 - other.0);
        Self(Self::ONE.0 - (survives / 1_000_000) as u32)
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", self.as_f64() * 100.0)
    }
}

/// Money per gigabyte (10⁹ bytes), in millionths of the operator's currency unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(pub u32);

impl Price {
    /// From currency units per gigabyte; not-a-number and negatives count as free.
    pub fn from_f64(per_gb: f64) -> Self {
        Self((per_gb.max(0.0) * 1e6).round().min(f64::from(u32::MAX)) as u32)
    }

    /// Currency units per gigabyte.
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }

    /// The price of two hops one after the other.
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_of_two_hops_rounds_against_us() {
        let one_percent = Ratio::from_ppm(10_000);
        assert_eq!(one_percent.or(one_percent).as_ppm(), 19_900);
        assert_eq!(Ratio::from_ppm(1).or(Ratio::from_ppm(1)).as_ppm(), 2);
        assert_eq!(Ratio::ONE.or(Ratio::ZERO), Ratio::ONE);
    }

    #[test]
    fn absurd_fractions_become_limits() {
        assert_eq!(Ratio::from_f64(f64::NAN), Ratio::ZERO);
        assert_eq!(Ratio::from_f64(f64::INFINITY), Ratio::ONE);
        assert_eq!(Ratio::from_f64(-1.0), Ratio::ZERO);
        assert_eq!(Ratio::of(3, 0), Ratio::ZERO);
        assert_eq!(Ratio::of(u64::MAX, 1), Ratio::ONE);
        assert_eq!(Price::from_f64(f64::NAN), Price(0));
    }
}
