//! A hop's round trip as its feedback shows it: smoothed, its deviation, and the least of late.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::{Instant, micros};

/// Estimator of a round trip.
///
/// Smoothing after RFC 6298 section 2, without its floor of one second, which outlasts a whole
/// failover. The least of the last ten seconds stands for the path without queues.
#[derive(Clone, Debug, Default)]
pub struct RoundTrip {
    smoothed: Option<Duration>,
    deviation: Duration,
    /// Least sample of each second, oldest first.
    slots: VecDeque<(Instant, Duration)>,
    /// The least of them, and half of it: asked for each packet.
    least: Option<Duration>,
    one_way: Duration,
}

impl RoundTrip {
    const SLOT: Duration = Duration::from_secs(1);
    const SPAN: Duration = Duration::from_secs(10);

    /// A round trip was measured.
    pub fn on_sample(&mut self, now: Instant, sample: Duration) {
        match self.smoothed {
            None => {
                self.smoothed = Some(sample);
                self.deviation = sample / 2;
            }
            Some(smoothed) => {
                let off = sample.abs_diff(smoothed);
                self.deviation = (self.deviation * 3 + off) / 4;
                self.smoothed = Some((smoothed * 7 + sample) / 8);
            }
        }
        match self.slots.back_mut() {
            Some((since, least)) if now.since(*since) < Self::SLOT => *least = (*least).min(sample),
            _ => self.slots.push_back((now, sample)),
        }
        while self.slots.front().is_some_and(|(since, _)| now.since(*since) > Self::SPAN) {
            self.slots.pop_front();
        }
        self.least = self.slots.iter().map(|&(_, least)| least).min();
        self.one_way = Duration::from_micros(micros(self.least.unwrap_or_default()) / 2);
    }

    /// The smoothed round trip; `None` before the first sample.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }

    /// Its mean deviation.
    pub fn deviation(&self) -> Duration {
        self.deviation
    }

    /// The least of the last ten seconds in which there were samples.
    pub fn least(&self) -> Option<Duration> {
        self.least
    }

    /// What a delay beyond the smoothed round trip must exceed to mean something: four deviations,
    /// at least an eighth of the round trip and 2 ms (the grain of timers and batches).
    pub fn margin(&self) -> Duration {
        let eighth = self.smoothed.unwrap_or_default() / 8;
        (self.deviation * 4).max(eighth).max(Duration::from_millis(2))
    }

    /// One way without queues, as well as can be known: half of the least.
    pub fn one_way(&self) -> Duration {
        self.one_way
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_is_followed_and_the_least_is_forgotten_after_ten_seconds() {
        let mut rtt = RoundTrip::default();
        let ms = Duration::from_millis;
        rtt.on_sample(Instant::ZERO, ms(20));
        assert_eq!((rtt.smoothed(), rtt.deviation()), (Some(ms(20)), ms(10)));
        for i in 1..200 {
            rtt.on_sample(Instant::from_micros(i * 100_000), ms(40));
        }
        assert!(rtt.smoothed().unwrap() > ms(39));
        assert!(rtt.deviation() < ms(1));
        assert_eq!(rtt.least(), Some(ms(40)));
        assert!(rtt.margin() > ms(4) && rtt.margin() <= ms(5), "an eighth of 40 ms");
        assert!(rtt.slots.len() <= 12);
    }
}
