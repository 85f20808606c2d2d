//! The clocks: monotonic time for the core, wall time for certificates.
//!
//! Monotonic time counts from the clock's making, so that instants stay small in traces; every
//! thread of a daemon holds a copy of the same clock. Wall time is asked for where a certificate's
//! validity is judged and nowhere else: it never enters the core.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::time::{Instant, micros};

/// A monotonic clock (`CLOCK_MONOTONIC`: it stands still while the machine is suspended).
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin lies [`Clock::HEAD_START`] before now.
    pub fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "this is the driver's clock")]
        let origin = std::time::Instant::now();
        Self { origin }
    }

    /// The reading at the start. Not zero, so that spans before the start can be spoken of.
    pub const HEAD_START: Duration = Duration::from_secs(1);

    /// The time now. Resolution: 1 µs.
    pub fn now(&self) -> Instant {
        Instant::ZERO.plus(Self::HEAD_START).plus(self.origin.elapsed())
    }

    /// How long until `at`; zero if it has passed.
    pub fn until(&self, at: Instant) -> Duration {
        at.since(self.now())
    }

    /// The standard library's name for an instant of ours, for timers of the async runtime.
    /// `None` where it lies beyond what that type holds.
    pub fn to_std(&self, at: Instant) -> Option<std::time::Instant> {
        let span = Duration::from_micros(at.as_micros().saturating_sub(micros(Self::HEAD_START)));
        self.origin.checked_add(span)
    }
}

/// Unix time in seconds with their parts. For telling people when something happened.
pub fn unix_time_s() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "people live by wall time")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// The earliest wall time that can be true, seconds of Unix time.
static FLOOR: AtomicU64 = AtomicU64::new(0);

/// It is not earlier than this: so says a file that was written then. A machine without a clock of its
/// own starts in 1970, where no certificate is valid yet.
pub fn not_before(unix_s: u64) {
    FLOOR.fetch_max(unix_s, Ordering::Relaxed);
}

/// Seconds of Unix time, never before what [`not_before`] was told. For the validity of certificates and
/// for files' dates only.
pub fn unix_seconds() -> u64 {
    machine_seconds().max(FLOOR.load(Ordering::Relaxed))
}

/// Seconds of Unix time as the machine's clock has them, whatever it says.
pub fn machine_seconds() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "certificates speak of wall time")]
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_moves_forward_and_copies_agree_on_its_origin() {
        let clock = Clock::start();
        let copy = clock;
        let first = clock.now();
        assert!(first >= Instant::ZERO.plus(Clock::HEAD_START));
        assert!(copy.now() >= first);
        assert_eq!(clock.until(first), Duration::ZERO);
    }

    #[test]
    fn wall_time_is_never_before_what_is_known_to_have_been() {
        not_before(1_000);
        assert!(unix_seconds() >= machine_seconds());
        assert_eq!(FLOOR.load(Ordering::Relaxed), 1_000, "a clock in 1970 is not believed");
    }

    #[test]
    fn an_instant_keeps_its_place_among_the_runtimes() {
        let clock = Clock::start();
        let at = Instant::ZERO.plus(Clock::HEAD_START).plus(Duration::from_millis(5));
        assert_eq!(clock.to_std(at), Some(clock.origin + Duration::from_millis(5)));
    }
}
