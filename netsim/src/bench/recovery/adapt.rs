//! Adaptation: how soon repair is what a line needs when it begins to lose, and how soon it is gone.
//!
//! Packets of 1200 B, 100 a second, over a line of 20 ms round trip that loses nothing for ten
//! seconds, 10 % at random for ten, and nothing again. `adapt_residual_after_1s`: the share late or
//! lost of what was sent from one second after the loss began until it ended.
//! `adapt_overhead_after_2s`: repair bytes over first-sent bytes of what was sent from two seconds
//! after the loss ended. Both over all seeds together: one seed's 900 packets cannot show 1e-4.
//!
//! Where no round fits (`d20`), a packet's time holds two packets of such a flow, and repair is a third
//! of all bytes at most: one symbol for two packets, no more. [`in_pairs`] says what that leaves.

use std::time::Duration;

use super::chain::{Chain, Load, Outcome};
use super::ratio;
use crate::link::LinkParams;

/// Between packets.
const EVERY: Duration = Duration::from_millis(10);
/// How long the line loses nothing, then loses, then loses nothing.
const SPELL: Duration = Duration::from_secs(10);
/// From when on after each change the figures count.
const AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// What the line loses meanwhile.
pub const LOSS: f64 = 0.1;

/// What one seed or many came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adapted {
    /// Packets sent from a second after the loss began until it ended.
    pub sent: u64,
    /// Of those: late or never there.
    pub missing: u64,
    /// Packets of the first second of loss that were late or never there.
    pub missing_early: u64,
    /// First-sent bytes from two seconds after the loss ended.
    pub first: u64,
    /// Repair bytes meanwhile.
    pub repair: u64,
    /// Seeds in which there were any.
    pub seeds_with_repair: u64,
    /// First-sent and repair bytes from a second after the loss began until it ended.
    pub under_loss: (u64, u64),
}

impl Adapted {
    /// Adds another seed.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.missing += other.missing;
        self.missing_early += other.missing_early;
        self.first += other.first;
        self.repair += other.repair;
        self.seeds_with_repair += other.seeds_with_repair;
        self.under_loss.0 += other.under_loss.0;
        self.under_loss.1 += other.under_loss.1;
    }

    /// `adapt_residual_after_1s`.
    pub fn residual(&self) -> Option<f64> {
        (self.sent > 0).then(|| self.missing as f64 / self.sent as f64)
    }

    /// `adapt_overhead_after_2s`.
    pub fn overhead(&self) -> Option<f64> {
        (self.first > 0).then(|| self.repair as f64 / self.first as f64)
    }
}

/// Plays one seed with this deadline.
pub fn play(deadline: Duration, target: f64, seed: u64) -> Adapted {
    let clear = LinkParams { delay: Duration::from_millis(10), ..LinkParams::default() };
    let lossy = LinkParams { loss: ratio(LOSS), ..clear.clone() };
    let packets = (SPELL.as_micros() * 3 / EVERY.as_micros()) as u64;
    let load = Load { every: EVERY, payload: 1200, packets, deadline, residual: target };
    let (begins, ends) = (SPELL, SPELL * 2);
    let weather = [
        (begins, lossy.clone()),
        (begins + AFTER[0], lossy),
        (ends, clear.clone()),
        (ends + AFTER[1], clear.clone()),
    ];
    let mut adapted = Adapted::default();
    let mut watch = |at: Duration, missed: bool| {
        if at >= begins + AFTER[0] && at < ends {
            adapted.sent += 1;
            adapted.missing += u64::from(missed);
        } else if at >= begins && at < ends {
            adapted.missing_early += u64::from(missed);
        }
    };
    let Outcome { spells, .. } =
        Chain::new(&[clear], &load, seed).run_watched(&load, &weather, &mut watch);
    adapted.under_loss = (spells[2].first, spells[2].repair);
    (adapted.first, adapted.repair) = (spells[4].first, spells[4].repair);
    adapted.seeds_with_repair = u64::from(spells[4].repair > 0);
    adapted
}

/// The residual that one symbol for every two packets leaves where each packet's time holds the next
/// one and the symbol after that, and all are lost independently: the packet is lost, and so is the
/// symbol or the other packet. A window that slides may do a little better with as many symbols.
pub fn in_pairs(loss: f64) -> f64 {
    loss * (1.0 - (1.0 - loss) * (1.0 - loss))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(deadline: u64) -> Adapted {
        let mut all = Adapted::default();
        for seed in 0..20 {
            all.add(&play(Duration::from_millis(deadline), 1e-4, 1000 + seed));
        }
        all
    }

    #[test]
    fn where_rounds_fit_a_second_of_loss_is_enough_to_learn_and_two_without_to_forget() {
        let all = seeds(60);
        assert_eq!(all.sent, 18_000);
        assert!(all.residual() < Some(5e-4), "{all:?}");
        assert_eq!(all.repair, 0, "{all:?}");
    }

    #[test]
    fn where_none_fits_what_the_share_bound_allows_is_reached_and_given_up_again() {
        let all = seeds(20);
        assert!(all.residual() < Some(in_pairs(LOSS)), "{all:?}");
        assert_eq!(all.repair, 0, "{all:?}");
    }
}
