//! Whose doing a queue can be.
//!
//! Nobody held back yet, a round trip that has become longer says little: others may fill the line, the way may
//! have changed. It is ours where we sent more than in any round of late before it, or where it grows though
//! we go on as before (the line gives less than it did). A queue that stays as long as it was for seconds,
//! while we go on as before, is no queue but the way.

use std::collections::VecDeque;
use std::time::Duration;

use super::{keep, middle};
use crate::time::Instant;

/// Rounds that are looked back on, and rounds for which more than ever counts.
const ROUNDS: (usize, u32) = (10, 4);
/// Below this rate, bytes per second, nobody fills a line: 256 kbit/s.
const THIN: u64 = 32_000;
/// How long a queue of one length must stand to be taken for the way, and how many rounds.
const WAY: (Duration, u32) = (Duration::from_secs(2), 4);
/// Changes below this are noise.
const NOISE: Duration = Duration::from_millis(2);

/// What was sent and how long the queue was, round by round.
#[derive(Debug, Default)]
pub(super) struct Cause {
    sent: VecDeque<u64>,
    /// Rounds for which what was sent still counts as more than before.
    pressed: u32,
    /// Of the standing queue: since when, its rounds, the first, the shortest and the longest.
    queue: Option<Stood>,
    grows: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stood {
    since: Instant,
    rounds: u32,
    first: Duration,
    least: Duration,
    most: Duration,
}

impl Cause {
    /// A round has ended in which `sent` bytes per second left. `queue`: the shortest seen in it, where
    /// it stands, longer than is nobody's harm (`bound`).
    pub(super) fn on_round(
        &mut self,
        now: Instant,
        sent: u64,
        queue: Option<Duration>,
        bound: Duration,
    ) {
        let before = self.sent.iter().copied().max().unwrap_or(0);
        let more = sent > THIN && sent > before + before / 20;
        self.pressed = if more { ROUNDS.1 } else { self.pressed.saturating_sub(1) };
        keep(&mut self.sent, sent, ROUNDS.0);
        self.queue = queue.map(|length| {
            let fresh = Stood { since: now, rounds: 0, first: length, least: length, most: length };
            let stood = self.queue.unwrap_or(fresh);
            Stood {
                rounds: stood.rounds + 1,
                least: stood.least.min(length),
                most: stood.most.max(length),
                ..stood
            }
        });
        let noise = NOISE.max(bound / 4);
        self.grows = self.queue.is_some_and(|q| q.most > q.first + noise && sent > THIN);
        // What swings is a queue; its next swing is judged anew.
        if self.queue.is_some_and(|q| q.most - q.least > noise) {
            self.queue = None;
        }
    }

    /// Bytes per second that left in most rounds of late, or fewer.
    pub(super) fn usual(&self) -> u64 {
        middle(self.sent.iter().copied()).unwrap_or(0)
    }

    /// Whether a queue seen now can be ours.
    pub(super) const fn is_ours(&self) -> bool {
        self.pressed > 0 || self.grows
    }

    /// Whether what looks like a queue is the way.
    pub(super) fn is_way(&self, now: Instant) -> bool {
        let long = |q: &Stood| q.rounds >= WAY.1 && now.since(q.since) >= WAY.0;
        !self.is_ours() && self.queue.as_ref().is_some_and(long)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_millis(10);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Rounds of 100 ms with these rates and queues.
    fn after(rounds: impl IntoIterator<Item = (u64, u64)>) -> (Cause, Instant) {
        let (mut cause, mut now) = (Cause::default(), Instant::ZERO);
        for (sent, queue) in rounds {
            now = now.plus(ms(100));
            let queue = Some(ms(queue)).filter(|&queue| queue > BOUND);
            cause.on_round(now, sent, queue, BOUND);
        }
        (cause, now)
    }

    #[test]
    fn a_queue_after_more_was_sent_than_before_is_ours_and_one_that_grows_is() {
        let (cause, _) = after([(50_000, 0), (100_000, 0), (200_000, 0), (400_000, 20)]);
        assert!(cause.is_ours());
        let steady = (0..20).map(|_| (400_000, 0));
        let (cause, _) = after(steady.clone().chain([(400_000, 15)]));
        assert!(!cause.is_ours(), "it may be anybody's");
        let (cause, _) = after(steady.chain([(400_000, 15), (400_000, 25)]));
        assert!(cause.is_ours(), "it grows while we go on");
    }

    #[test]
    fn a_thin_flow_causes_no_queue_and_a_queue_of_one_length_is_the_way() {
        let (cause, now) = after((0..10).map(|n| (20_000 + n * 1000, 0)));
        assert!(!cause.is_ours() && !cause.is_way(now));
        assert_eq!(cause.usual(), 25_000);
        let steady = (0..20).map(|_| (400_000, 0));
        let (cause, now) = after(steady.clone().chain((0..19).map(|n| (390_000, 80 + n % 2))));
        assert!(!cause.is_way(now), "not yet");
        let (cause, now) = after(steady.clone().chain((0..25).map(|n| (390_000, 80 + n % 2))));
        assert!(cause.is_way(now));
        let (cause, now) = after(steady.chain((0..25).map(|n| (390_000, 40 + 4 * (n % 8)))));
        assert!(!cause.is_way(now), "it swings");
    }
}
