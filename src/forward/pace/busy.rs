//! What a line gives while it is never without work: bytes that came, over the time by the receiver's
//! clock in which they came.

use std::collections::VecDeque;
use std::time::Duration;

use super::{keep, middle};
use crate::time::{Instant, micros};
use crate::wire::ack::Clock;

/// Shortest span that is measured: the receiver's turns are coarser than packets.
const SPAN_US: i64 = 5_000;
/// How long, and how many, measurements are believed.
const KEPT: (Duration, usize) = (Duration::from_secs(1), 8);

/// Measures delivery while a queue stands.
#[derive(Debug, Default)]
pub(super) struct Busy {
    span: Option<Span>,
    rates: VecDeque<(Instant, u64)>,
}

/// A time without a gap, by the peer's clock.
#[derive(Clone, Copy, Debug)]
struct Span {
    since: Clock,
    bytes: u64,
    newest: Clock,
    /// How long the newest had waited: for so long after it the line has work.
    queue: Duration,
}

impl Busy {
    /// `bytes` more are known to have come, the newest at `clock` by the peer's clock; `queue`:
    /// how long it waited.
    pub(super) fn on_delivered(&mut self, now: Instant, clock: Clock, bytes: u64, queue: Duration) {
        let fresh = Span { since: clock, bytes: 0, newest: clock, queue };
        let Some(span) = &mut self.span else {
            self.span = Some(fresh);
            return;
        };
        let gap = clock.since(span.newest);
        if gap < 0 {
            // Feedback that overtook another tells of times gone by.
            span.bytes = span.bytes.saturating_add(bytes);
            return;
        }
        if gap.unsigned_abs() > micros(span.queue) {
            *span = fresh;
            return;
        }
        *span = Span { bytes: span.bytes.saturating_add(bytes), newest: clock, queue, ..*span };
        let length = clock.since(span.since);
        if length < SPAN_US {
            return;
        }
        let rate = span.bytes.saturating_mul(1_000_000) / length.unsigned_abs();
        keep(&mut self.rates, (now, rate), KEPT.1);
        *span = fresh;
    }

    /// Bytes per second: the middle one of the newest; `None` where none is new.
    pub(super) fn rate(&self, now: Instant) -> Option<u64> {
        let fresh = self.rates.iter().filter(|(at, _)| now.since(*at) <= KEPT.0);
        middle(fresh.map(|&(_, rate)| rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    #[test]
    fn only_what_came_while_a_queue_stood_tells_of_the_line() {
        let mut busy = Busy::default();
        let queue = |ms| Duration::from_millis(ms);
        // Across the wrap of the peer's clock.
        let clock = |n: u64| Clock::at(Instant::from_micros((8 << 24) + n * 1000 - 70_000));
        // A trickle without a queue, then a burst that leaves the line at 1,250 bytes a millisecond.
        (0..50).for_each(|n| busy.on_delivered(at(n), clock(n), 10, queue(0)));
        assert_eq!(busy.rate(at(50)), None);
        (50..100).for_each(|n| busy.on_delivered(at(n), clock(n), 1250, queue(5)));
        // Then bursts with gaps between them that their queues do not bridge.
        (0..50).for_each(|n| busy.on_delivered(at(100), clock(100 + n * 9), 1250, queue(5)));
        assert_eq!(busy.rate(at(100)), Some(1_250_000));
        assert_eq!(busy.rate(at(1200)), None, "old news");
    }
}
