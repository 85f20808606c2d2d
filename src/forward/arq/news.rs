//! How late the news of a loss comes, beyond a round trip.
//!
//! A later frame has to show the gap, feedback has to tell of it, and that may be lost itself. Where a
//! packet's time is hardly longer than a round, the share of losses that are told of too late is a residual
//! that no plan of rounds can lower. So it is counted, and where it is more than the class bears such
//! packets had better be coded.

use std::time::Duration;

use crate::time::micros;

/// Where the first delay that is told apart from none ends, microseconds; each following one ends a quarter
/// of an octave later, the last at 128 ms.
const FIRST_US: f64 = 250.0;
const STEPS: usize = 37;
/// News that a share rests on before the older half is forgotten: one in ten thousand of frames at a loss
/// of a fifth is one in two thousand losses.
const KEPT: f64 = 4096.0;
/// What so many losses did not show is not feared, whatever is asked.
const MANY: f64 = 1000.0;

/// Counts of news by how late it came.
#[derive(Clone, Debug, Default)]
pub(super) struct News {
    /// By step; the last: beyond all. Empty before the first.
    counts: Vec<f64>,
    all: f64,
}

impl News {
    /// News of a loss came so long after a round trip. `weight`: how surely it was one.
    pub(super) fn note(&mut self, late: Duration, weight: f64) {
        if self.counts.is_empty() {
            self.counts.resize(STEPS + 1, 0.0);
        }
        self.counts[step(late).0] += weight;
        self.all += weight;
        if self.all > KEPT {
            self.counts.iter_mut().for_each(|count| *count /= 2.0);
            self.all /= 2.0;
        }
    }

    /// The share of news that comes later than this after a round trip, as far as it is known: with
    /// little known it is much (Jeffreys' rule), with much known and none of it so late it is none.
    pub(super) fn later(&self, than: Duration) -> f64 {
        let (step, into) = step(than);
        let mut counts = self.counts.iter().skip(step);
        let among = counts.next().map_or(0.0, |count| count * (1.0 - into));
        let later = among + counts.sum::<f64>();
        if self.all >= MANY && later < 0.5 { 0.0 } else { (later + 0.5) / (self.all + 1.0) }
    }
}

/// The step that a delay falls into, and how far into it, 0 to 1.
fn step(late: Duration) -> (usize, f64) {
    let steps = 4.0 * (micros(late) as f64 / FIRST_US).log2() + 1.0;
    if steps < 1.0 {
        return (0, micros(late) as f64 / FIRST_US);
    }
    let step = (steps as usize).min(STEPS);
    (step, if step < STEPS { steps.fract() } else { 0.0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_that_is_late_is_counted_against_us_and_doubted_while_little_is_known() {
        let us = Duration::from_micros;
        let mut news = News::default();
        assert_eq!(news.later(us(5_000)), 0.5, "nothing known");
        (0..99).for_each(|_| news.note(us(1_200), 1.0));
        news.note(us(9_000), 1.0);
        assert!((news.later(us(2_000)) - 1.5 / 101.0).abs() < 1e-12, "one came later");
        assert!((news.later(us(12_000)) - 0.5 / 101.0).abs() < 1e-12);
        assert!(news.later(us(900)) > 0.98, "nearly all");
        let among = news.later(us(1_200));
        assert!((0.05..0.98).contains(&among), "in the step of most: {among}");
        (0..20_000).for_each(|_| news.note(us(700), 1.0));
        assert!(news.all <= KEPT && news.later(us(2_000)) < 3e-3, "{}", news.later(us(2_000)));
        assert_eq!(news.later(us(20_000)), 0.0, "thousands were not so late");
        let mut doubtful = News::default();
        (0..100).for_each(|_| doubtful.note(Duration::MAX, 0.1));
        assert!((doubtful.later(us(90_000)) - 10.5 / 11.0).abs() < 1e-9);
    }
}
