//! What is judged lost, and when: by later frames and an allowance, or by the sender's own timers.
//!
//! A frame is *suspect* when feedback shows a later one (later in the order of sending, so that
//! retransmissions are judged by the same rule), and *lost* when it stayed so for a reordering
//! allowance: an eighth of the round trip at first, down to half a millisecond while nothing is seen
//! to be reordered, half as long again with fewer than three later ones. Where no later one can show
//! it, in a burst or at a tail, the sender's own timer judges; and where the packet's time would run
//! out before it does, as soon as feedback is overdue.
//!
//! Sources: RFC 9002 section 6 (packet and time threshold), RFC 6298 (round trip).

use std::time::Duration;

use super::record::{Record, State};
use super::{ALLOWANCE, Sender, TRIES};
use crate::time::{Deadline, Instant, micros};

/// Later frames that make a gap a loss (RFC 9002's packet threshold).
const LATER: u32 = 3;
/// With so much time left no timer comes too late: its own bounds and two round trips are less, but on
/// lines so long that it matters little.
const PATIENT: Duration = Duration::from_millis(400);

impl<F> Sender<F> {
    /// When the sender's own timers judge next.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        let mut next = None;
        let mut offer = |at, why| next = Deadline::earlier(next, Some(Deadline { at, why }));
        // What was judged otherwise meanwhile waits no more.
        let open = |suspect: &&(u32, u8, Instant)| self.flying(suspect.0, suspect.1).is_some();
        for &(seq, tries, since) in self.suspects.iter().filter_map(|s| s.iter().find(open)) {
            let wait = self.allowance(seq, tries);
            offer(since.plus(wait), "loss allowance");
        }
        let resent = self.resent.front().and_then(|&(seq, _)| self.record(seq));
        for (record, why) in [(self.record(self.frontier), "tail loss"), (resent, "repair loss")] {
            if let Some(record) = record
                && let Some(timer) = self.patience(record)
            {
                offer(record.sent_at.plus(timer), why);
            }
        }
        if let Some(&(at, _)) = self.hedges.first() {
            offer(at, "loss hedge");
        }
        if let Some(&(at, seq, _)) = self.copies.first() {
            // What is due and was not sent waits for tokens or for the end of a pause.
            let expires = self.record(seq).map(|r| r.give_up_at.minus(self.rtt.one_way()));
            let expires = expires.unwrap_or(at).plus(Duration::from_micros(1));
            let pause = self.paused_until;
            let next = if at > self.now { at } else { expires };
            let next = if pause > self.now && pause < expires { next.max(pause) } else { next };
            offer(next.max(self.now.plus(Duration::from_micros(1))), "repair copy");
        }
        if let Some(record) = self.queue.front().and_then(|&seq| self.record(seq)) {
            // It waits for tokens, which only new frames bring, or for the end of a pause.
            let expires = record.give_up_at.minus(self.rtt.one_way());
            offer(expires.plus(Duration::from_micros(1)), "repair too late");
            if self.paused_until > self.now && self.paused_until < expires {
                offer(self.paused_until, "repair pause");
            }
        }
        next
    }

    /// Whether the next frame should ask for feedback at once: it is overdue, or this frame can show
    /// whether a repair arrived. Ask once for each frame that can carry the question.
    pub fn asks_feedback(&mut self, now: Instant) -> bool {
        let Some(waits) = self.waits else { return false };
        let smoothed = self.rtt.smoothed().unwrap_or_default();
        let is_overdue = || {
            let oldest = self.record(self.frontier)?;
            // Mostly it is not, and that is seen at once.
            if now.micros_since(oldest.sent_at) <= waits.overdue_us {
                return None;
            }
            let timer = self.timer(oldest.after)?;
            Some(now.since(oldest.sent_at) > overdue(smoothed, timer))
        };
        let spaced = || self.asked_at.is_none_or(|at| now.since(at) >= smoothed / 4);
        let asks = self.asks > 0 || is_overdue().unwrap_or(false) && spaced();
        if asks {
            self.asked_at = Some(now);
        }
        asks
    }

    /// Judges everything whose time has come.
    pub(super) fn judge(&mut self, now: Instant) {
        self.now = now;
        for line in 0..self.suspects.len() {
            while let Some(&(seq, tries, since)) = self.suspects[line].front() {
                if self.flying(seq, tries).is_some() {
                    if now.since(since) < self.allowance(seq, tries) {
                        break;
                    }
                    if let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) {
                        record.overtaken = true;
                    }
                    self.lose(now, seq);
                }
                self.suspects[line].pop_front();
            }
        }
        while let Some(&(at, seq)) = self.hedges.first() {
            let open = self.flying(seq, 1).is_some();
            if open && at > now {
                break;
            }
            self.hedges.pop_first();
            if open {
                self.lose(now, seq);
            }
        }
        let one_way = self.rtt.one_way();
        while let Some(&(_, seq, _)) = self.copies.first() {
            let wanted = |r: &Record<F>| {
                matches!(r.state, State::Flying | State::Queued)
                    && now.plus(one_way) <= r.give_up_at
            };
            if self.record(seq).is_some_and(wanted) {
                break;
            }
            self.copies.pop_first();
        }
        let overdue = |sender: &Self, record: &Record<F>| {
            sender.patience(record).is_some_and(|timer| now.since(record.sent_at) >= timer)
        };
        while let Some(record) = self.record(self.frontier) {
            if record.state == State::Flying {
                if !overdue(self, record) {
                    break;
                }
                // Nothing told of it: it may have come, and what said so was lost.
                let since = now.since(record.sent_at).saturating_sub(record.symbols());
                self.tell_news(since, self.line.rate());
                self.lose(now, self.frontier);
            }
            self.frontier = self.frontier.wrapping_add(1);
        }
        while let Some(&(seq, tries)) = self.resent.front() {
            if self.flying(seq, tries).is_some() {
                if self.record(seq).is_some_and(|record| !overdue(self, record)) {
                    break;
                }
                self.lose(now, seq);
            }
            self.resent.pop_front();
        }
        self.tell_fates();
        // What may not be sent for now must not wait beyond its time.
        let one_way = self.rtt.one_way();
        while let Some(&seq) = self.queue.front() {
            match self.record(seq) {
                Some(r) if r.state == State::Queued && now.plus(one_way) <= r.give_up_at => break,
                Some(r) if r.state == State::Queued => {
                    self.counts.too_late += 1;
                    self.abandon(seq);
                }
                _ => {}
            }
            self.queue.pop_front();
        }
    }

    /// Tells the model, in order, of every first sending whose fate is known.
    fn tell_fates(&mut self) {
        while let Some(record) = self.record(self.fated) {
            if record.state == State::Flying && record.tries == 1 && !record.lost {
                break;
            }
            let (at, lost, bytes) = (record.first_sent_at, record.lost, record.bytes);
            self.line.on_fate(at, lost);
            let longest = if lost { &mut self.longest.lost } else { &mut self.longest.kept };
            *longest = bytes.max(*longest);
            self.fated = self.fated.wrapping_add(1);
        }
    }

    fn lose(&mut self, now: Instant, seq: u32) {
        self.count_lost(seq);
        let one_way = self.rtt.one_way();
        let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) else { return };
        self.heard.on_lost(record.bytes, record.sent_at);
        if record.frame.is_none() || record.tries >= TRIES {
            self.abandon(seq);
        } else if now.plus(one_way) > record.give_up_at {
            self.counts.too_late += 1;
            self.abandon(seq);
        } else {
            record.state = State::Queued;
            self.flying -= u64::from(record.bytes);
            self.queue.push_back(seq);
        }
    }

    /// So long after its sending the loss of a frame is known, but for the allowance.
    pub(super) fn tell_news(&mut self, since: Duration, weight: f64) {
        if let Some(smoothed) = self.rtt.smoothed() {
            self.news.note(since.saturating_sub(smoothed), weight);
        }
    }

    /// Whether a round is too likely to begin too late, although it may be in time, for frames that have so much
    /// `slack` beyond the way there and whose class bears `target`. Only where losses are independent: in holes
    /// symbols are lost as well, and a round comes after them.
    pub fn doubts_round(&self, slack: Duration, target: f64) -> bool {
        if !self.line.hole().is_zero() {
            return false;
        }
        let (Some(waits), Some(smoothed)) = (self.waits, self.rtt.smoothed()) else {
            return false;
        };
        // With more time than that what nothing tells of is sent again unasked.
        if slack >= waits.tail {
            return false;
        }
        let told = slack.saturating_sub(smoothed + self.allowance.max(ALLOWANCE.0));
        // Rounds in time leave next to nothing: all that is allowed may be late.
        self.line.rate() * self.news.later(told) > 2.0 * self.aim(target)
    }

    /// How long a frame with later ones before it may still come. Of a coded one the first sending waits
    /// for its symbols as well.
    fn allowance(&self, seq: u32, tries: u8) -> Duration {
        // Of this sending: it may have been sent again since.
        let symbols = self.record(seq).filter(|r| r.tries == tries).map(Record::symbols);
        let later = match (self.flying(seq, tries), self.highest) {
            (Some(after), Some(highest)) => highest.wrapping_sub(after).wrapping_add(1),
            _ => LATER,
        };
        let least = self.allowance.max(ALLOWANCE.0);
        let least = if later < LATER { least + least / 2 } else { least };
        whole(least + symbols.unwrap_or_default())
    }

    /// From a sending to the news of its loss, as a rule.
    fn round(&self) -> Duration {
        let smoothed = self.rtt.smoothed().unwrap_or(Duration::from_millis(40));
        let spacing = Duration::from_micros(self.spacing_us as u64);
        smoothed + spacing.min(smoothed / 2) + self.allowance.max(ALLOWANCE.0)
    }

    /// When a frame sent now has to be judged without news, if waiting for the timer would leave no
    /// further round: not before feedback is overdue, and in time to spread what is sent then.
    pub(super) fn hedge(&self, now: Instant, by: Instant) -> Option<Instant> {
        let soonest = now.plus(self.rtt.one_way());
        if by > soonest.plus(PATIENT) {
            return None;
        }
        let slack = by.since(soonest);
        let Waits { tail: evident, amid: timer, .. } = self.waits?;
        if evident > slack || timer + self.round() <= slack {
            return None;
        }
        let spread = (self.line.hole() * 2).min(slack - evident);
        Some(now.plus(whole((slack - spread).clamp(evident, timer))))
    }

    /// How long a frame may go unconfirmed whose last sending was followed by sequence `after`.
    ///
    /// At a tail nothing later can show its loss, so the timer leaves room for the way and the
    /// feedback's wait. In the midst of a stream the next feedback shows it, so there is room for one
    /// feedback to be lost: else every lost feedback would bring needless repair.
    pub(super) fn timer(&self, after: u32) -> Option<Duration> {
        let waits = self.waits?;
        let tail = self.next_sequence().wrapping_sub(after) < LATER;
        Some(if tail { waits.tail } else { waits.amid })
    }

    /// [`Sender::timer`] for this frame: longer where many rounds fit after it. In a hole of the way back
    /// all frames look lost, and in a hole of the way there what is sent again is lost as well.
    fn patience(&self, record: &Record<F>) -> Option<Duration> {
        let timer = self.timer(record.after)? + record.symbols();
        if self.next_sequence().wrapping_sub(record.after) < LATER {
            return Some(timer);
        }
        let end = record.give_up_at.minus(self.rtt.one_way());
        let spare = end.since(record.sent_at).saturating_sub(timer);
        let wait = self.waits?.feedback;
        Some(if spare > self.round() * 3 + wait { timer + whole(wait) } else { timer })
    }

    /// The round trip, or what feedback takes beyond it, is another.
    pub(super) fn retime(&mut self) {
        let Some(smoothed) = self.rtt.smoothed() else { return };
        let half = smoothed / 2;
        let feedback =
            half.clamp(Duration::from_millis(2), Duration::from_millis(30)).max(self.lag);
        let tail = smoothed + self.rtt.margin() + feedback;
        let overdue_us = micros(overdue(smoothed, tail));
        self.waits =
            Some(Waits { feedback, tail: whole(tail), amid: whole(tail + feedback), overdue_us });
    }
}

/// How long news of a frame is waited for. They follow the round trip, so they are reckoned when that
/// does and not for each frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// Twice what the receiver waits when nothing is urgent: its budget may hold it back.
    feedback: Duration,
    /// From its sending until a frame counts as lost: see [`Sender::timer`].
    tail: Duration,
    amid: Duration,
    /// From when on feedback is asked for, at the least, in microseconds.
    overdue_us: u64,
}

/// From when on feedback is asked for, of a frame that counts as lost after `timer`.
fn overdue(smoothed: Duration, timer: Duration) -> Duration {
    smoothed + (timer - smoothed) / 4 * 3
}

/// A span in whole microseconds: a finer one would set a timer that comes before its judgement.
fn whole(span: Duration) -> Duration {
    Duration::from_micros(micros(span))
}
