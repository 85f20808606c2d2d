//! Typed units: a share of a whole, a residual loss, a price.

use std::fmt;
use std::sync::LazyLock;

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

/// The share of packets that may be lost or late after all repair, over a whole path, in the
/// logarithmic steps of the wire: `v > 0` means `10^(−v/16)`, so 64 is 1e-4 and 96 is 1e-6; 0 is
/// [`Residual::USUAL`]'s. Greater numbers ask for more.
///
/// A step is a factor of 1.155: finer than a loss can be known, and one byte spans 0.87 to 1e-16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residual(pub u8);

impl Residual {
    /// Nothing in particular is asked: each node takes [`USUAL`](Self::USUAL).
    pub const DEFAULT: Self = Self(0);
    /// What is meant where nothing is asked: 1e-4, the residual the repair is measured at.
    pub const USUAL: Self = Self(64);
    /// Steps to a factor of ten.
    const STEPS: f64 = 16.0;

    /// The step nearest to a probability. One and above are the least that can be asked; zero,
    /// negatives and not-a-number the most.
    pub fn from_f64(share: f64) -> Self {
        if share > 0.0 {
            let steps = (-share.log10() * Self::STEPS).round();
            Self(steps.clamp(1.0, f64::from(u8::MAX)) as u8)
        } else {
            Self(u8::MAX)
        }
    }

    /// From parts per billion; see [`from_f64`](Self::from_f64).
    pub fn from_ppb(ppb: u32) -> Self {
        Self::from_f64(f64::from(ppb) / 1e9)
    }

    /// As a fraction of one.
    pub fn as_f64(self) -> f64 {
        // Asked for each packet: a power costs more than a place in a table.
        static SHARES: LazyLock<[f64; 256]> = LazyLock::new(|| {
            std::array::from_fn(|v| {
                let asked = if v == 0 { usize::from(Residual::USUAL.0) } else { v };
                10_f64.powf(-(asked as f64) / Residual::STEPS)
            })
        });
        SHARES[usize::from(self.0)]
    }

    /// In parts per billion, at least one.
    pub fn as_ppb(self) -> u32 {
        ((self.as_f64() * 1e9).round() as u32).max(1)
    }
}

impl fmt::Display for Residual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0e}", self.as_f64())
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
    fn a_residual_keeps_powers_of_ten_exactly_and_anything_else_within_a_step() {
        for (steps, share, ppb) in [(16, 0.1, 100_000_000), (64, 1e-4, 100_000), (96, 1e-6, 1000)] {
            assert_eq!(Residual::from_f64(share), Residual(steps));
            assert_eq!(Residual::from_ppb(ppb), Residual(steps));
            assert_eq!(Residual(steps).as_ppb(), ppb);
            assert!((Residual(steps).as_f64() / share - 1.0).abs() < 1e-9);
        }
        for steps in 1..=u8::MAX {
            assert_eq!(Residual::from_f64(Residual(steps).as_f64()), Residual(steps));
        }
        for share in [0.7, 0.02, 3e-3, 7e-5, 4e-9] {
            let off = Residual::from_f64(share).as_f64() / share;
            assert!((0.93..1.075).contains(&off), "{share}: {off}");
        }
    }

    #[test]
    fn no_residual_asked_is_the_usual_one_and_absurd_ones_become_limits() {
        assert_eq!(Residual::default(), Residual::DEFAULT);
        assert_eq!(Residual::DEFAULT.as_ppb(), Residual::USUAL.as_ppb());
        assert_eq!(Residual::DEFAULT.to_string(), "1e-4");
        assert_eq!(Residual::from_f64(7.0), Residual(1));
        assert_eq!(Residual::from_f64(f64::INFINITY), Residual(1));
        for least in [0.0, -1.0, f64::NAN, 1e-300] {
            assert_eq!(Residual::from_f64(least), Residual(u8::MAX));
        }
        assert_eq!(Residual(u8::MAX).as_ppb(), 1);
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
