//! Dice: the randomness that behaviour may depend on.
//!
//! Jitter and probe identifiers come from here and repeat with the seed. Keys never do: secrets
//! come from the operating system through the driver, and the two never mix.

use std::time::Duration;

use crate::time::micros;

/// A seeded source of repeatable chance.
#[derive(Clone, Debug)]
pub struct Dice(fastrand::Rng);

impl Dice {
    /// Dice that roll the same for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Independent dice for a part of the machine, so that one part's rolls do not move another's.
    pub fn fork(&mut self) -> Self {
        Self(self.0.fork())
    }

    /// Any 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Uniform in `0..bound`; zero where `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.u64(..bound) }
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// `span` moved by up to a tenth either way, so that timers of many nodes do not march in step.
    pub fn jitter(&mut self, span: Duration) -> Duration {
        let us = micros(span);
        Duration::from_micros(us - us / 10 + self.below(us / 5 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_rolls_one_sequence() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            (0..8).map(|_| dice.next_u64()).collect::<Vec<_>>()
        };
        assert_eq!(rolls(7), rolls(7));
        assert_ne!(rolls(7), rolls(8));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        let mut dice = Dice::new(1);
        for _ in 0..1000 {
            let span = micros(dice.jitter(Duration::from_millis(100)));
            assert!((90_000..=110_000).contains(&span), "{span}");
        }
        assert_eq!(dice.jitter(Duration::ZERO), Duration::ZERO);
    }
}
