//! What the rate asks of the queue before the hop: when the flows in it are to be told.

use std::time::Duration;

use super::{FRAME, Mode, Pacer};
use crate::forward::queue::Control;
use crate::time::micros;

impl Pacer {
    /// For how long repair holds up a flow that wants order, nearly always: so many round trips
    /// as it takes until of all that is under way half a frame is lost.
    fn stall(&self) -> Duration {
        let of = self.chances.len().max(1) as f64 * 1000.0;
        let loss = f64::from(self.chances.iter().sum::<u32>()) / of;
        let frames = (self.line * micros(self.least) / 1_000_000 / FRAME) as f64;
        if loss * frames < 0.2 || loss >= 0.5 {
            return Duration::ZERO;
        }
        let rounds = (2.0 * frames).max(1.0).ln() / -loss.ln();
        self.least.mul_f64(rounds.clamp(0.0, 4.0))
    }

    /// What is to be asked of the flows that wait before the hop.
    ///
    /// RFC 8289 wants the target at a few packets' time and between a twentieth and a tenth of the
    /// round trip, for a short queue's sake; here a flow waits for itself alone, and needs a quarter
    /// of a round trip in hand to keep a line full that stalls it now and then for a repair. Where
    /// the line loses, its round trip is the line's and the repair's together.
    pub fn control(&self) -> Option<Control> {
        let rate = self.rate()?;
        let packets = Duration::from_micros(3 * FRAME * 1_000_000 / rate);
        let trip = self.least;
        let Control { target, interval, .. } = Control::DEFAULT;
        let repair = self.stall();
        let stall = match self.mode {
            Mode::Shared => self.smoothed / 2,
            Mode::Free | Mode::Steady => trip / 4 + repair * 3 / 10,
        };
        let mut target = target.max(packets).max(stall);
        if self.question.is_some() {
            // What a question holds back is not the flows' to answer for.
            target += self.smoothed;
        }
        // It answers a round trip later, and its own queue is part of that.
        let interval = interval.max(trip * 3).max((trip + repair) * 2).max(target);
        Some(Control { target, interval, most: interval * 2 })
    }
}
