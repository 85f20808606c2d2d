//! The steady mode: the queue is ours, and short.
//!
//! A cycle of one round faster, one to look what that did, slower until what was too much is no longer
//! under way, at the rate until that shows, some rounds more at the rate.

use crate::time::{Instant, micros};

use super::{CRUISE, Pacer, Phase, Round, STUCK};

impl Pacer {
    /// Steady mode, at every feedback: what cannot wait for the round's end.
    pub(super) fn steer(&mut self, marked: bool, in_flight: u64) {
        let queued = self.queue > self.bound() / 2;
        match self.phase {
            Phase::Look(_) if queued || marked => self.slow_down(in_flight),
            Phase::Up(_) | Phase::Cruise(_) if self.queue > self.bound() || marked => {
                self.slow_down(in_flight);
            }
            Phase::Down | Phase::First | Phase::Drained(_) => {
                let fits = |span| in_flight <= self.line * micros(span) / 1_000_000;
                let way = self.least + self.elsewhere;
                let empty = self.queue <= self.bound() / 2 && !marked;
                if empty && fits(way + self.feedback_lag() / 2) {
                    let first = self.phase == Phase::First;
                    self.phase = Phase::Cruise(if first { CRUISE } else { 0 });
                } else if self.phase == Phase::Down && fits(way) {
                    self.phase = Phase::Drained(0);
                }
            }
            _ => {}
        }
    }

    pub(super) fn slow_down(&mut self, in_flight: u64) {
        self.phase = Phase::Down;
        self.before_yielding = in_flight;
    }

    /// Steady: the cycle's next step.
    pub(super) fn cycle(&mut self, now: Instant, round: &Round, in_flight: u64) {
        // Our own queue is gone in a round or two at three quarters of the rate. One that is not, though
        // short, is filled by others as fast as we make room: for ever, if we let them.
        let queued = round.least_queue.is_some_and(|queue| queue > self.bound() / 4);
        self.yielding = match self.phase {
            Phase::Down | Phase::Drained(_) => self.yielding + u32::from(queued),
            _ => 0,
        };
        if self.yielding >= STUCK {
            return self.share(now, self.before_yielding.max(in_flight));
        }
        if self.standing >= STUCK {
            let before = self.before_standing.max(in_flight).max(self.window.bytes_since(now));
            return self.share(now, before);
        }
        let free = round.most_queue < self.bound() / 4;
        self.phase = match self.phase {
            Phase::Up(n) => Phase::Look(n),
            Phase::Look(n) if free && round.limited => Phase::Up((n + 1).min(8)),
            Phase::Look(_) => return self.slow_down(in_flight),
            Phase::Cruise(n) if n < CRUISE || !round.limited => Phase::Cruise((n + 1).min(CRUISE)),
            Phase::Cruise(_) => Phase::Up(0),
            Phase::Drained(n) => Phase::Drained((n + 1).min(2)),
            Phase::Down | Phase::First => self.phase,
        };
    }
}
