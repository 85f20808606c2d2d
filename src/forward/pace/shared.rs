//! The shared mode: others fill the queue, and we hold our own.

use std::time::Duration;

use super::{ASK_EVERY, FRAME, Mode, Pacer, Phase, Question, Round, STUCK};
use crate::time::{Instant, micros};

impl Pacer {
    pub(super) fn share(&mut self, now: Instant, window: u64) {
        self.mode = Mode::Shared;
        self.stats.shared += 1;
        self.window.restart(now, window.max(4 * FRAME));
        (self.cut_at, self.asked_at, self.question, self.alone) = (now, now, None, 0);
        self.yielding = 0;
    }

    /// Shared: whether the queue is ours alone again. Alone, what we take away leaves the queue and
    /// nothing else changes; with others only our part of it does.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        round: &Round,
        queue: Option<Duration>,
        rate: u64,
        in_flight: u64,
    ) {
        let Some(queue) = queue else { return };
        if self.empty >= STUCK && round.limited {
            return self.leave(now);
        }
        match &mut self.question {
            None if now.since(self.asked_at) >= ASK_EVERY && round.limited => {
                self.question = Some(Question { under_way: in_flight, queue, rounds: 0 });
            }
            None => {}
            Some(question) => {
                question.rounds += 1;
                if question.rounds < 3 {
                    return;
                }
                let less = question.under_way.saturating_sub(in_flight);
                let expected = less * 1_000_000 / rate.max(1);
                let seen = micros(question.queue.saturating_sub(queue));
                let asked = less > question.under_way / 8;
                self.question = None;
                self.asked_at = now;
                if !asked || seen * 4 < expected * 3 {
                    self.alone = 0;
                    return;
                }
                self.alone += 1;
                if self.alone >= 2 {
                    return self.leave(now);
                }
                // Once more, soon.
                self.asked_at = now.minus(ASK_EVERY - ASK_EVERY / 8);
            }
        }
    }

    pub(super) fn leave(&mut self, now: Instant) {
        self.window.leave(now);
        self.question = None;
        self.mode = Mode::Steady;
        self.phase = Phase::Down;
        self.standing = 0;
    }
}
