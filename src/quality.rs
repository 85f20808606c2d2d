//! How good a link is, one way: the words in which the mechanisms speak of it to each other.

use std::time::Duration;

use crate::unit::{Price, Ratio};

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

/// The longest datagram that a link carries towards the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkMtu {
    /// Bytes of UDP payload that came through; nothing longer is to be sent in one piece.
    pub size: u16,
    /// Whether it is known that nothing longer does, so that senders may be told.
    pub settled: bool,
}

/// One direction of a link as the mesh knows it: what was measured, what is expected, what it costs.
///
/// Exists only for a direction with a fresh reading: a stale link has no state, and a missing
/// reading can never look like a delay of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// As measured lately.
    pub present: LinkQuality,
    /// As expected at the forecast's horizon, if there is a forecast.
    pub expected: Option<LinkQuality>,
    /// How far `expected` can be relied on; zero without one.
    pub confidence: Ratio,
    /// Loss that repair leaves, measured on data; `None` where no data crossed the link lately.
    pub residual: Option<Ratio>,
    /// Money per gigabyte sent in this direction.
    pub price: Price,
}

impl LinkState {
    /// A measured direction without forecast, without data and free of charge.
    pub const fn measured(present: LinkQuality) -> Self {
        Self { present, expected: None, confidence: Ratio::ZERO, residual: None, price: Price(0) }
    }
}
