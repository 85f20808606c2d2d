//! Cross traffic: other people's packets on a line, as a function of time.
//!
//! While a spell of it lasts, packets of [`CROSS_BYTES`] come at exponential gaps (Poisson); spells
//! and the pauses between them have exponential lengths. It knows nothing of the queue: the link
//! lays its packets into the same one, under the same rule, and what does not fit is gone.
//! Its dice are its own, so one seed gives one load whatever else crosses the link.

use std::time::Duration;

use thalweg::rng::Dice;

/// What others send over a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cross {
    /// Bits per second of IP packets while a spell lasts, on average.
    pub rate_bps: u64,
    /// Mean length of a spell.
    pub on: Duration,
    /// Mean pause between two spells; zero: it never pauses.
    pub off: Duration,
}

/// Bytes of each packet of theirs: full ones, as those of a long transfer.
pub const CROSS_BYTES: u64 = 1500;

impl Cross {
    /// Mean gap between two packets of a spell, ns. At least 1 µs, so that a link that was unused
    /// for a while catches up in bounded time.
    fn gap_ns(&self) -> u64 {
        (CROSS_BYTES * 8_000_000_000 / self.rate_bps.max(1)).max(1000)
    }
}

/// The load at work.
#[derive(Clone, Debug)]
pub(super) struct Load {
    dice: Dice,
    on: bool,
    /// When the present spell or pause ends.
    spell_ends_ns: u64,
    /// When the next packet of a spell comes.
    next_ns: u64,
}

impl Load {
    /// One that rolls the same for the same seed.
    pub(super) fn new(seed: u64, cross: Option<Cross>) -> Self {
        let dice = Dice::new(seed);
        let mut load = Self { dice, on: false, spell_ends_ns: u64::MAX, next_ns: u64::MAX };
        load.begin(0, cross);
        load
    }

    /// Draws from `now` on whether others are sending, from the share of time in which they are.
    pub(super) fn begin(&mut self, now_ns: u64, cross: Option<Cross>) {
        let Some(cross) = cross else {
            (self.on, self.spell_ends_ns) = (false, u64::MAX);
            return;
        };
        let (on, off) = (nanos(cross.on), nanos(cross.off));
        self.on = off == 0 || self.dice.below(on.saturating_add(off)) < on;
        self.spell_ends_ns = match (off, self.on) {
            (0, _) => u64::MAX,
            (_, true) => now_ns.saturating_add(self.exponential_ns(on)),
            (_, false) => now_ns.saturating_add(self.exponential_ns(off)),
        };
        self.next_ns = now_ns.saturating_add(self.exponential_ns(cross.gap_ns()));
    }

    /// When their next packet came, if it came by `now`. To be asked until there is none.
    pub(super) fn poll(&mut self, now_ns: u64, cross: Cross) -> Option<u64> {
        if now_ns.saturating_sub(self.spell_ends_ns.min(self.next_ns)) > LONG_IDLE_NS {
            // Memoryless: the last second tells what waits now as well as the whole time would.
            self.begin(now_ns - WARM_NS, Some(cross));
        }
        loop {
            if self.on && self.next_ns < self.spell_ends_ns {
                let at_ns = self.next_ns;
                if at_ns > now_ns {
                    return None;
                }
                let gap_ns = self.exponential_ns(cross.gap_ns());
                self.next_ns = at_ns.saturating_add(gap_ns);
                return Some(at_ns);
            }
            if self.spell_ends_ns > now_ns {
                return None;
            }
            self.on = !self.on;
            let mean = nanos(if self.on { cross.on } else { cross.off });
            self.next_ns = self.spell_ends_ns.saturating_add(self.exponential_ns(cross.gap_ns()));
            self.spell_ends_ns = self.spell_ends_ns.saturating_add(self.exponential_ns(mean));
        }
    }

    /// At least 1 µs, so that means of zero cannot stop time.
    fn exponential_ns(&mut self, mean_ns: u64) -> u64 {
        let span = -(1.0 - self.dice.unit()).ln() * mean_ns as f64;
        (span as u64).max(1000)
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// A line unused for longer draws anew, as the weather does.
const LONG_IDLE_NS: u64 = 10_000_000_000;

/// How long before the present it then begins: longer than any queue in use here takes to fill.
const WARM_NS: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn count(load: &mut Load, until_ns: u64, cross: Cross) -> u64 {
        let mut packets = 0;
        while load.poll(until_ns, cross).is_some() {
            packets += 1;
        }
        packets
    }

    #[test]
    fn a_load_without_pauses_keeps_its_rate() {
        let cross = Cross { rate_bps: 12_000_000, on: Duration::ZERO, off: Duration::ZERO };
        let mut load = Load::new(1, Some(cross));
        let packets: u64 = (1..=1000).map(|s| count(&mut load, s * 100_000_000, cross)).sum();
        // 1,000 packets a second for 100 s, Poisson: five standard deviations.
        assert!((packets as f64 - 1e5).abs() < 5.0 * 1e5f64.sqrt(), "{packets}");
    }

    #[test]
    fn spells_and_pauses_share_the_time_as_their_means_do() {
        let (on, off) = (Duration::from_millis(50), Duration::from_millis(150));
        let cross = Cross { rate_bps: 12_000_000, on, off };
        let mut load = Load::new(2, Some(cross));
        let slices: Vec<u64> =
            (1..=100_000).map(|ms| count(&mut load, ms * 10_000_000, cross)).collect();
        let share = slices.iter().sum::<u64>() as f64 / 1e6;
        assert!((0.23..0.27).contains(&share), "{share}");
        let quiet = slices.iter().filter(|n| **n == 0).count() as f64 / slices.len() as f64;
        assert!((0.65..0.75).contains(&quiet), "{quiet}: it comes and goes");
    }

    #[test]
    fn a_long_idle_and_means_of_zero_do_not_hang() {
        let cross = Cross { rate_bps: u64::MAX, on: Duration::ZERO, off: Duration::from_nanos(1) };
        let mut load = Load::new(3, Some(cross));
        count(&mut load, 3_600_000_000_000, cross);
        let mut none = Load::new(3, None);
        assert_eq!(none.poll(5_000_000_000, cross), None, "what does not begin sends nothing");
    }
}
