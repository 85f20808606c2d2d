//! What a hop's sender counts, and what it tells a rate controller.

use std::time::Duration;

use crate::time::Instant;
use crate::wire::ack::Clock;

/// What became of the frames of a hop, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames sent for the first time.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames whose first sending's fate is known.
    pub judged: u64,
    /// Of the judged: lost on first sending.
    pub lost: u64,
    /// Of the judged: lost for good.
    pub residual: u64,
    /// Of the lost: what our own kernel or the peer's dropped. No loss of the link.
    pub local_drops: u64,
    /// Frames sent again.
    pub repairs: u64,
    /// Their bytes.
    pub repair_bytes: u64,
    /// Judged lost, though they came: repair for nothing.
    pub spurious: u64,
    /// Not repaired because the budget in time was spent.
    pub too_late: u64,
    /// Frames not sent again, and symbols not sent, because their class's bound on repair was reached.
    pub over_budget: u64,
    /// Frames without the symbols they were to have, because their class's bound on repair was
    /// reached.
    pub uncovered: u64,
    /// Symbols not sent because all repair had its share, or paused.
    pub over_share: u64,
    /// Sent without being kept, for want of memory.
    pub unprotected: u64,
    /// Frames that the peer says bore the congestion mark.
    pub ce: u64,
    /// Feedback that contradicts what was sent.
    pub false_feedback: u64,
}

/// The longest frames of some time, by the fate of their first sending, bytes; 0 where there was none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Longest {
    /// Of those that came.
    pub kept: u32,
    /// Of those that were lost.
    pub lost: u32,
}

/// What feedback and the sender's timers showed since it was last asked for: what a rate controller
/// needs to know of a hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether feedback came at all.
    pub feedback: bool,
    /// Bytes of frames newly known to have come.
    pub delivered: u64,
    /// When the latest of those was sent that was sent only once.
    pub newest_sent_at: Option<Instant>,
    /// The last round trip measured, the receiver's hold taken off.
    pub round_trip: Option<Duration>,
    /// What the same frame took one way, by two clocks that know nothing of each other: only
    /// differences mean anything.
    pub way: Option<Clock>,
    /// When the newest frame came by the peer's clock.
    pub clock: Option<Clock>,
    /// Bytes newly judged lost, of first sendings and of repeated ones.
    pub lost: u64,
    /// When the latest of those was sent.
    pub lost_sent_at: Option<Instant>,
    /// Bytes that were judged lost and came all the same.
    pub regained: u64,
    /// Of those, what repair symbols brought: the frames themselves were lost.
    pub mended: u64,
    /// Frames that bore the congestion mark.
    pub ce: u64,
    /// Frames that this machine or the peer's dropped: they are among the lost.
    pub local_drops: u64,
}

impl Heard {
    /// A sending of so many bytes is judged lost.
    pub(super) fn on_lost(&mut self, bytes: u32, sent_at: Instant) {
        self.lost += u64::from(bytes);
        self.lost_sent_at = self.lost_sent_at.max(Some(sent_at));
    }
}

impl Counts {
    /// What was added since `reported`, which moves up to here. What fell in between (a loss that
    /// turned out to be none) is taken off the next.
    pub(super) fn take(&self, reported: &mut Self) -> Self {
        let take = |now: u64, last: &mut u64| {
            let new = now.saturating_sub(*last);
            *last += new;
            new
        };
        let last = reported;
        Self {
            sent: take(self.sent, &mut last.sent),
            bytes: take(self.bytes, &mut last.bytes),
            judged: take(self.judged, &mut last.judged),
            lost: take(self.lost, &mut last.lost),
            residual: take(self.residual, &mut last.residual),
            local_drops: take(self.local_drops, &mut last.local_drops),
            repairs: take(self.repairs, &mut last.repairs),
            repair_bytes: take(self.repair_bytes, &mut last.repair_bytes),
            spurious: take(self.spurious, &mut last.spurious),
            too_late: take(self.too_late, &mut last.too_late),
            over_budget: take(self.over_budget, &mut last.over_budget),
            uncovered: take(self.uncovered, &mut last.uncovered),
            over_share: take(self.over_share, &mut last.over_share),
            unprotected: take(self.unprotected, &mut last.unprotected),
            ce: take(self.ce, &mut last.ce),
            false_feedback: take(self.false_feedback, &mut last.false_feedback),
        }
    }
}
