//! How good a link is, one way: the words in which the mechanisms speak of it to each other.

use std::time::Duration;

use crate::unit::Ratio;

/// Quality of a link in one direction. Every field was measured, or is a forecast of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkQuality {
    /// One-way delay: half the round trip, since two clocks are known only up to an offset.
    pub delay: Duration,
    /// Mean absolute deviation of the one-way delay from its level.
    pub jitter: Duration,
    /// Share of packets that do not arrive, before repair.
    pub loss: Ratio,
}
