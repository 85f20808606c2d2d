//! A circuit breaker (RFC 8084): what loses half of everything for seconds is throttled, whatever
//! the delay says. It looks at what came against what was lost, so it needs no estimate to be right.

use std::time::Duration;

use super::LEAST_RATE;
use crate::time::Instant;

/// One measurement, longer than any round trip (RFC 8084, section 3.1.2).
const SPAN: Duration = Duration::from_secs(1);
/// Bad measurements in a row that open it: the control beneath has had time to react.
const STRIKES: u32 = 5;
/// Too few bytes to judge by.
const FEW: u64 = 30_000;

#[derive(Debug)]
pub(super) struct Breaker {
    since: Instant,
    sent: u64,
    delivered: u64,
    lost: u64,
    strikes: u32,
    rate: Option<u64>,
}

impl Breaker {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, sent: 0, delivered: 0, lost: 0, strikes: 0, rate: None }
    }

    pub(super) fn on_sent(&mut self, bytes: u64) {
        self.sent += bytes;
    }

    /// What was judged lost came: sparse feedback over a bad way back makes everything look lost first.
    pub(super) fn on_regained(&mut self, bytes: u64) {
        self.lost = self.lost.saturating_sub(bytes);
    }

    /// Feedback came; whether the breaker opened by it.
    pub(super) fn on_heard(&mut self, now: Instant, delivered: u64, lost: u64) -> bool {
        self.delivered += delivered;
        self.lost += lost;
        let span = now.since(self.since);
        if span < SPAN {
            return false;
        }
        let measured = std::mem::replace(self, Self { strikes: 0, rate: None, ..Self::new(now) });
        (self.strikes, self.rate) = (measured.strikes, measured.rate);
        let came = measured.delivered * 1_000_000 / (span.as_micros() as u64).max(1);
        match self.rate {
            // Open: half of what came, until little is lost; then it closes step by step.
            Some(rate) if measured.lost * 4 > measured.delivered => {
                self.rate = Some((rate / 2).max(LEAST_RATE));
            }
            Some(rate) if rate >= came.saturating_mul(4) => {
                (self.rate, self.strikes) = (None, 0);
            }
            Some(rate) => self.rate = Some(rate.saturating_mul(2)),
            None => {
                let bad = measured.lost > measured.delivered && measured.sent > FEW;
                self.strikes = if bad { self.strikes + 1 } else { 0 };
                if self.strikes >= STRIKES {
                    self.rate = Some((came / 2).max(LEAST_RATE));
                    return true;
                }
            }
        }
        false
    }

    /// What may be sent while it is open, bytes per second.
    pub(super) fn rate(&self) -> Option<u64> {
        self.rate
    }
}
