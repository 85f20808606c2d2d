//! The window of the shared mode: CUBIC's (RFC 9438), in bytes, for all that a link carries.

use std::time::Duration;

use super::FRAME;
use crate::time::{Instant, micros};

/// RFC 9438: growth of the cubic function, frames per cubic second.
const GROWTH: f64 = 0.4;
/// After an excursion to the steady mode as long as this the old window still counts.
const REMEMBER: Duration = Duration::from_secs(3);

/// A window that grows until it is cut.
#[derive(Debug)]
pub(super) struct Window {
    /// What a cut leaves of it.
    kept: f64,
    /// All in frames.
    size: f64,
    /// Its size when growth began.
    start: f64,
    /// Where it was cut last.
    top: f64,
    /// What a flow after RFC 5681 would have.
    friendly: f64,
    /// When growth began anew.
    since: Instant,
    left_at: Option<Instant>,
}

impl Window {
    pub(super) fn new(bytes: u64, kept: f64, now: Instant) -> Self {
        let size = bytes as f64 / FRAME as f64;
        Self { kept, size, start: size, top: size, friendly: size, since: now, left_at: None }
    }

    /// Begins at so many bytes.
    pub(super) fn restart(&mut self, now: Instant, bytes: u64) {
        *self = Self::new(bytes, self.kept, now);
    }

    /// The mode is left; the size stays known for a while.
    pub(super) fn leave(&mut self, now: Instant) {
        self.left_at = Some(now);
    }

    /// The size when the mode was left, if that is not long ago.
    pub(super) fn bytes_since(&self, now: Instant) -> u64 {
        let fresh = self.left_at.is_some_and(|at| now.since(at) < REMEMBER);
        if fresh { self.bytes() } else { 0 }
    }

    pub(super) fn bytes(&self) -> u64 {
        (self.size * FRAME as f64) as u64
    }

    /// The line was full, with so many bytes on it.
    pub(super) fn cut(&mut self, now: Instant, in_flight: u64) {
        self.size = self.size.min((in_flight as f64 / FRAME as f64).max(4.0));
        // Fast convergence: who loses ground gives more of it.
        self.top =
            if self.size < self.top { self.size * (1.0 + self.kept) / 2.0 } else { self.size };
        self.size = (self.size * self.kept).max(4.0);
        self.start = self.size;
        self.friendly = self.size;
        self.since = now;
    }

    /// So many bytes came, with the window in full use.
    pub(super) fn grow(&mut self, now: Instant, delivered: u64, trip: Duration) {
        let frames = delivered as f64 / FRAME as f64;
        self.friendly += 3.0 * (1.0 - self.kept) / (1.0 + self.kept) * frames / self.size;
        let time = micros(now.since(self.since) + trip) as f64 / 1e6;
        let k = ((self.top - self.start).max(0.0) / GROWTH).cbrt();
        let cubic = self.top + GROWTH * (time - k).powi(3);
        let target = cubic.clamp(self.size, self.size * 1.5);
        self.size += (target - self.size) / self.size * frames.min(self.size);
        self.size = self.size.max(self.friendly).min(1e7);
    }
}
