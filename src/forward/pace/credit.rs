//! Credit to send: earned by time at a rate, spent by bytes.

use std::time::Duration;

use super::FRAME;
use crate::time::{Deadline, Instant, micros};

/// Shortest wait for credit: a finer one is all timers. And the longest grain: a run's time.
const GRAIN: (Duration, Duration) = (Duration::from_micros(250), Duration::from_millis(1));
/// Credit that may be saved up: while there was nothing to send, and where the clock that brought it
/// was late. More would be a burst, less would lose rate to the timer: on a busy machine turns come
/// 10 ms late, and a rate that is never used is forgotten.
const CATCH_UP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Bytes that may be sent; below zero after what did not wait for leave.
#[derive(Debug)]
pub struct Credit {
    bytes: i64,
    at: Instant,
    /// Waits for credit, and whether it has come since by the clock, perhaps late.
    waiting: bool,
    late: bool,
}

impl Credit {
    /// None yet.
    pub fn new(now: Instant) -> Self {
        Self { bytes: 0, at: now, waiting: false, late: false }
    }

    /// Bytes that may be sent now at so many bytes per second.
    pub fn earn(&mut self, now: Instant, rate: u64) -> u64 {
        let span = now.micros_since(self.at).min(1_000_000);
        if span == 0 {
            return self.bytes.max(0).unsigned_abs();
        }
        let most = if self.late { CATCH_UP.1 } else { CATCH_UP.0 };
        let most = (rate.saturating_mul(micros(most)) / 1_000_000).clamp(2 * FRAME, 1 << 40) as i64;
        let earned = rate.saturating_mul(span) / 1_000_000;
        self.bytes = self.bytes.saturating_add(earned.min(1 << 40) as i64).min(most);
        // What is not yet a byte stays to be earned.
        if earned > 0 {
            self.at = now.max(self.at);
            self.late = false;
        }
        self.bytes.max(0).unsigned_abs()
    }

    /// So many bytes were sent. No more than a second's worth is owed, whatever was sent unasked.
    pub fn spend(&mut self, bytes: usize, rate: Option<u64>) {
        let owed = rate.map_or(0, |rate| -(rate.min(1 << 40) as i64));
        self.bytes = self.bytes.saturating_sub(bytes as i64).max(owed);
    }

    /// All is sent that may be sent for now; whether the clock is wanted for more.
    pub fn rest(&mut self, wanted: bool) {
        self.waiting = wanted && self.bytes <= 0;
    }

    /// The clock came that [`Credit::poll_timeout`] asked for.
    pub fn wake(&mut self) {
        self.waiting = false;
        self.late = true;
    }

    /// When there will be credit for what was refused.
    pub fn poll_timeout(&self, rate: u64) -> Option<Deadline> {
        if !self.waiting {
            return None;
        }
        let rate = rate.max(1);
        // A few frames at a time where they fit into a millisecond, or the timer is all that runs.
        let grain = Duration::from_micros(2 * FRAME * 1_000_000 / rate).clamp(GRAIN.0, GRAIN.1);
        let lacking = self.bytes.min(0).unsigned_abs() + 1;
        let wait = Duration::from_micros(lacking.saturating_mul(1_000_000).div_ceil(rate));
        Some(Deadline { at: self.at.plus(wait.max(grain)), why: "pacing credit" })
    }
}
