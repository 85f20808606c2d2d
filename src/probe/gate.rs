//! Whether a link's forecast is used, or its last level: only what has beaten the last level *there* is.
//!
//! Several ways to forecast stand in order, the last level first. Each is judged on every reading, whether
//! it was used or not. One is used while its error of late is less than the last level's (and the least
//! of all). That alone an adversary could play: let it win, then turn. So what was really said is
//! kept in an account beside the last level, over the whole life of the link; where it is overdrawn by more
//! than [`CREDIT`], the last level is said until the account is even again, whatever looks good. The error of
//! what was said can therefore exceed the last level's by that share and by what was already said and
//! not yet judged, and by nothing else. Source: the prediction with "sleeping" experts of Freund et
//! al. 1997, cut down to one comparator that must not be lost against.

/// Ways to forecast: the last level, the mixture of experts, the trained model.
pub(super) const WAYS: usize = 3;

/// Judged forecasts before anything but the last level is said.
const JUDGED: u64 = 5;
/// Errors are forgotten by this much with every new one.
const FORGET: f64 = 1.0 / 32.0;
/// By how much of the last level's error what was said may be the worse one over the link's life.
const CREDIT: f64 = 0.05;
/// And by how much besides (µs), so that the first differences of a quiet link decide nothing.
const CREDIT_FLOOR: f64 = 1_000.0;

/// The account of one link.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    judged: u64,
    /// Errors of late, µs.
    recent: [f64; WAYS],
    /// Error of what was said, over the link's life, µs.
    said: f64,
    /// Error of the last level over the same, µs.
    last: f64,
}

impl Gate {
    /// What each way had forecast was off by this much, and what was said by that much, µs.
    pub(super) fn on_judged(&mut self, errors: [f64; WAYS], said: f64) {
        self.judged += 1;
        let fade = FORGET.max(1.0 / self.judged as f64);
        for (recent, error) in self.recent.iter_mut().zip(errors) {
            *recent += (error - *recent) * fade;
        }
        self.said += said;
        self.last += errors[0];
    }

    /// The way that is used now.
    pub(super) fn way(&self) -> usize {
        let overdrawn = self.said > self.last * (1.0 + CREDIT) + CREDIT_FLOOR;
        if self.judged < JUDGED || overdrawn {
            return 0;
        }
        // The earlier of equals, so the last level where nothing is better than it.
        (1..WAYS).fold(0, |best, way| if self.recent[way] < self.recent[best] { way } else { best })
    }

    /// Errors of late of the way in use and of the last level, µs.
    pub(super) fn recent(&self) -> (f64, f64) {
        (self.recent[self.way()], self.recent[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Dice;

    #[test]
    fn nothing_but_the_last_level_is_said_until_something_has_beaten_it() {
        let mut gate = Gate::default();
        for _ in 0..JUDGED {
            assert_eq!(gate.way(), 0);
            gate.on_judged([10.0, 8.0, 9.0], 10.0);
        }
        assert_eq!(gate.way(), 1);
        for _ in 0..40 {
            gate.on_judged([10.0, 8.0, 7.0], 8.0);
        }
        assert_eq!(gate.way(), 2);
        for _ in 0..120 {
            gate.on_judged([10.0, 12.0, 11.0], 11.0);
        }
        assert_eq!(gate.way(), 0);
    }

    #[test]
    fn equals_are_no_reason_to_leave_the_last_level() {
        let mut gate = Gate::default();
        (0..50).for_each(|_| gate.on_judged([0.0; WAYS], 0.0));
        assert_eq!(gate.way(), 0);
    }

    #[test]
    fn whoever_turns_each_time_he_is_believed_gains_no_more_than_the_credit() {
        for seed in 0..50 {
            let mut dice = Dice::new(seed);
            let mut gate = Gate::default();
            let (mut said, mut last) = (0.0, 0.0);
            for _ in 0..20_000 {
                // Good while it is not believed, bad as soon as it is; now and then good all the same.
                let turns = dice.unit() < 0.9;
                let mut errors = [10_000.0 * dice.unit(), 0.0, 0.0];
                for (way, error) in errors.iter_mut().enumerate().skip(1) {
                    *error = if gate.way() == way && turns { 30_000.0 } else { 0.0 };
                }
                let own = errors[gate.way()];
                gate.on_judged(errors, own);
                said += own;
                last += errors[0];
            }
            assert!(said <= last * 1.06, "seed {seed}: {said} against {last}");
        }
    }
}
