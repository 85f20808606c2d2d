//! Monotonic time as a value.
//!
//! The core never asks what time it is: a driver reads its clock once a turn and passes the reading
//! in. An [`Instant`] counts microseconds from an origin only its driver knows, so instants of two
//! processes must not be compared; over the wire only differences carry meaning.

use std::fmt;
use std::time::Duration;

/// A point on a driver's monotonic clock, in microseconds since that driver's origin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The driver's origin.
    pub const ZERO: Self = Self(0);
    /// Later than every instant a driver can reach.
    pub const FAR: Self = Self(u64::MAX);

    /// The instant `us` microseconds after the origin.
    pub const fn from_micros(us: u64) -> Self {
        Self(us)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This instant moved `span` into the future; stays at [`Instant::FAR`] rather than wrap.
    pub const fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// This instant moved `span` into the past; stays at the origin rather than wrap.
    pub const fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }

    /// Time passed since `earlier`; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// The same in microseconds: what is asked for each packet spares the way through a [`Duration`],
    /// which divides.
    pub const fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}s", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Whole microseconds of a duration, capped at what an [`Instant`] holds.
pub const fn micros(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1_000_000).saturating_add(span.subsec_micros() as u64)
}

/// When a machine wants to be woken, and why: a spinning machine can be read from its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline {
    /// The instant `handle_timeout` should be called at, or soon after.
    pub at: Instant,
    /// The reason, in two or three words.
    pub why: &'static str,
}

impl Deadline {
    /// The earlier of two optional deadlines.
    pub fn earlier(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if b.at < a.at { b } else { a }),
            (a, b) => a.or(b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_saturate_instead_of_wrapping() {
        assert_eq!(Instant::FAR.plus(Duration::from_secs(1)), Instant::FAR);
        assert_eq!(Instant::ZERO.minus(Duration::from_secs(1)), Instant::ZERO);
        assert_eq!(Instant::ZERO.since(Instant::from_micros(5)), Duration::ZERO);
        assert_eq!(micros(Duration::MAX), u64::MAX);
        assert_eq!(micros(Duration::new(3, 1_999)), 3_000_001);
    }

    #[test]
    fn the_earlier_deadline_wins_and_keeps_its_reason() {
        let a = Deadline { at: Instant::from_micros(2), why: "a" };
        let b = Deadline { at: Instant::from_micros(1), why: "b" };
        assert_eq!(Deadline::earlier(Some(a), Some(b)), Some(b));
        assert_eq!(Deadline::earlier(Some(a), None), Some(a));
        assert_eq!(Deadline::earlier(None, None), None);
    }
}
