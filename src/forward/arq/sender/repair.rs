//! What is sent again: under which plan, and within which bounds.
//!
//! What was lost is sent again under the same sequence while the packet's budget leaves the way to
//! the next node; how often and how far apart is `plan`'s. Repair takes at most a third of all bytes
//! beside a small burst, and none while the hop's queue stands or the peer drops locally: there it
//! would make the loss it mends.

use std::time::Duration;

use super::record::State;
use super::{PLANNED, ROUND, Sender, TRIES, Terms};
use crate::forward::arq::plan::{Loss, repeat};
use crate::time::Instant;

/// Frames after a repeated one that ask for feedback: one may be lost.
const ASKS: u8 = 2;
/// What a loss takes to be told and heeded beyond the round trip, at best.
const FEEDBACK: Duration = Duration::from_micros(1_500);
/// Frames lost of those under way from which on a copy of each costs less than it saves, where order is
/// kept. With `n` of them copies take `n` frames a round trip. Without, `n` times the loss are lost once
/// more, and each holds back for a round trip the `n` divided by the loss that are under way: `n` squared, of
/// which a window of two bandwidth-delay products loses a part, cubic's more than bbr's.
const COPIED: f64 = 6.0;

/// Frames lost twice of those under way from which on windows and queues have grown by what such waits
/// take: copies save nothing then. Below it a code over a full line costs as much as the waits.
const USUAL: f64 = 0.3;
/// Bytes of a frame that others wait for, about.
const WAITING: u64 = 1400;

impl<F> Sender<F> {
    /// How long the packets of this hop's queue wait at least: see `FairQueue::standing`.
    pub fn on_standing(&mut self, wait: Duration) {
        let bound = (self.rtt.smoothed().unwrap_or_default() / 8).max(Duration::from_millis(10));
        self.standing = wait > bound;
    }

    /// Whether a frame sent now should be a source symbol: the line loses more than its class bears,
    /// and news of its loss would come too late to send it again.
    pub fn wants_code(&self, now: Instant, terms: &Terms) -> bool {
        if self.line.is_clean() {
            return false;
        }
        let Some(smoothed) = self.rtt.smoothed() else { return false };
        let slack = terms.by.since(now.plus(self.rtt.one_way()));
        !slack.is_zero() && slack < smoothed + FEEDBACK && self.line.rate() > self.aim(terms.target)
    }

    /// What is planned for so that the misses settle at `target`.
    pub fn aim(&self, target: f64) -> f64 {
        target / self.tighter / 2.0
    }

    /// Frames under way that others may wait for, about; one at least.
    pub fn under_way(&self) -> f64 {
        (self.flying / WAITING).max(1) as f64
    }

    /// Whether frames that were lost twice are under way as a rule.
    pub fn loses_twice(&self) -> bool {
        self.line.rate().powi(2) * self.under_way() >= USUAL
    }

    /// Whether what is lost of frames that others wait for had better go twice. By the most that was under way
    /// of late: while all wait little is, and it is then that a copy counts.
    pub fn copies_pay(&self) -> bool {
        let under_way = (self.most_flying / WAITING) as f64;
        self.line.rate() * under_way >= COPIED && !self.loses_twice()
    }

    /// Whether a repair symbol of so many bytes may be sent: it counts as sent then.
    /// `affords`: whether its class pays for it, asked last.
    pub fn admits_symbol(
        &mut self,
        now: Instant,
        bytes: usize,
        affords: impl FnOnce() -> bool,
    ) -> bool {
        let bytes = bytes as u64;
        // What is under way will ask for some: a round that must wait is worse than a symbol less.
        let kept = (self.line.rate() * self.flying as f64 * 2.5) as u64 / 2;
        let asked = u32::try_from(bytes + kept).unwrap_or(u32::MAX);
        let fits = self.may_repair(now, asked);
        self.counts.over_share += u64::from(!fits);
        let may = fits && affords();
        if may {
            self.tokens -= 2 * bytes;
            self.counts.repair_bytes += bytes;
        }
        may
    }

    /// The next frame to be sent again, with its hop sequence; ask until there is none.
    pub fn poll_repair(&mut self, now: Instant) -> Option<(u32, &F)> {
        self.poll_repair_within(now, |_, _| true)
    }

    /// The same, of frames that `admits` pays for; it is asked once for each sending, with its
    /// bytes. What it refuses is not sent again.
    pub fn poll_repair_within(
        &mut self,
        now: Instant,
        mut admits: impl FnMut(&F, usize) -> bool,
    ) -> Option<(u32, &F)> {
        self.now = now;
        let one_way = self.rtt.one_way();
        while let Some(&seq) = self.queue.front() {
            let record = self.record(seq).filter(|record| record.state == State::Queued);
            let Some(record) = record else {
                self.queue.pop_front();
                continue;
            };
            if record.frame.is_none() || now.plus(one_way) > record.give_up_at {
                self.counts.too_late += 1;
                self.queue.pop_front();
                self.abandon(seq);
                continue;
            }
            if !self.may_repair(now, record.bytes) {
                return None;
            }
            let affords =
                record.frame.as_ref().is_some_and(|frame| admits(frame, record.bytes as usize));
            self.queue.pop_front();
            if !affords {
                self.refuse(seq);
                self.abandon(seq);
                continue;
            }
            self.plan(now, seq);
            return self.send_again(now, seq);
        }
        while let Some(&(at, seq, copy)) = self.copies.first() {
            let record = self.record(seq).filter(|r| r.state == State::Flying && r.tries < TRIES);
            let record = record.filter(|r| now.plus(one_way) <= r.give_up_at);
            let Some(record) = record else {
                self.copies.pop_first();
                continue;
            };
            if at > now || !self.may_repair(now, record.bytes) {
                return None;
            }
            let affords =
                record.frame.as_ref().is_some_and(|frame| admits(frame, record.bytes as usize));
            self.copies.pop_first();
            if !affords {
                self.refuse(seq);
                continue;
            }
            if copy == ROUND {
                self.plan(now, seq);
            }
            return self.send_again(now, seq);
        }
        None
    }

    /// Its class's bound on repair refuses a sending: what the plan wanted is not done, so that its loss
    /// says nothing of the plan, and other classes need not pay for it.
    fn refuse(&mut self, seq: u32) {
        self.counts.over_budget += 1;
        if let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) {
            record.planned = false;
        }
    }

    /// The class of a frame just pushed could not pay for its repair now: losing it is no miss of the plan,
    /// though it may yet be sent again. `uncovered`: for want of that it is no source symbol.
    pub fn on_unpaid(&mut self, seq: u32, uncovered: bool) {
        self.counts.uncovered += u64::from(uncovered);
        if let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) {
            record.planned = false;
        }
    }

    /// A class's bound refused a symbol over these frames. What is lost of those that `theirs` says are
    /// of that class is no miss of the plan, as if a sending of its own had been refused.
    pub fn on_symbol_refused(
        &mut self,
        frames: impl Iterator<Item = u32>,
        theirs: impl Fn(&F) -> bool,
    ) {
        self.counts.over_budget += 1;
        for seq in frames {
            let record = self.index(seq).and_then(|i| self.records.get_mut(i));
            if let Some(record) = record
                && record.frame.as_ref().is_some_and(&theirs)
            {
                record.planned = false;
            }
        }
    }

    /// Plans what follows the sending of a frame that is sent again now.
    fn plan(&mut self, now: Instant, seq: u32) {
        let one_way = self.rtt.one_way();
        let Some(record) = self.record(seq) else { return };
        let end = record.give_up_at.minus(one_way);
        let loss = Loss {
            tries: record.tries,
            since: now.since(record.sent_at),
            slack: end.since(now),
            round: self.rtt.smoothed().unwrap_or(Duration::from_millis(40)),
            target: self.aim(f64::from(record.target)),
            twice: record.twice,
        };
        let repeat = repeat(&self.line, &loss, &mut self.carry);
        let room = PLANNED.saturating_sub(self.copies.len());
        let copies = (1..repeat.copies).map(|n| (now.plus(repeat.space * n).min(end), seq, n));
        self.copies.extend(copies.take(room));
        if !repeat.last && room > 0 {
            // Should no news have come by then, it goes once more.
            self.copies.insert((end, seq, ROUND));
        }
    }

    fn may_repair(&self, now: Instant, bytes: u32) -> bool {
        !self.standing && now >= self.paused_until && self.tokens >= 2 * u64::from(bytes)
    }

    fn send_again(&mut self, now: Instant, seq: u32) -> Option<(u32, &F)> {
        let next = self.next_sequence();
        let index = self.index(seq)?;
        let record = self.records.get_mut(index)?;
        let bytes = u64::from(record.bytes);
        if record.state != State::Flying {
            record.state = State::Flying;
            self.flying += bytes;
        }
        record.sent_at = now;
        record.tries += 1;
        record.after = next;
        self.tokens = self.tokens.saturating_sub(2 * bytes);
        self.counts.repairs += 1;
        self.counts.repair_bytes += bytes;
        self.resent.push_back((seq, record.tries));
        self.asks = ASKS;
        self.records[index].frame.as_ref().map(|frame| (seq, frame))
    }
}
