//! What the sender hears: the peer's feedback, and news of drops and round trips from elsewhere.

use std::time::Duration;

use super::record::State;
use super::{ALLOWANCE, Sender, TIGHTER};
use crate::forward::arq::before;
use crate::time::Instant;
use crate::wire::ack::{Ack, Clock};

/// How long repair stays off after local drops.
const DROPS_PAUSE: Duration = Duration::from_millis(200);

impl<F> Sender<F> {
    /// The peer's feedback came.
    pub fn on_feedback(&mut self, now: Instant, ack: &Ack) {
        let next = self.next_sequence();
        if before(next, ack.settled)
            || !before(ack.highest, next) && ack.highest != self.base.wrapping_sub(1)
        {
            self.counts.false_feedback += 1;
            return;
        }
        self.heard_at = Some(now);
        self.heard.feedback = true;
        self.heard.clock = Some(ack.clock);
        self.measure(now, ack);
        self.note_totals(now, ack);
        for behind in ack.recovered.behind() {
            self.recover(now, ack.highest.wrapping_sub(behind.into()));
        }
        for n in 0..ack.bitmap.bits() {
            let seq = ack.bitmap.base().wrapping_add(n);
            if ack.bitmap.get(seq) == Some(true) {
                self.arrive(now, seq);
            }
        }
        // Where nothing is open, `highest` lies right below `settled`.
        if ack.highest.wrapping_add(1) != ack.settled {
            self.arrive(now, ack.highest);
        }
        self.settle(now, ack);
        // Of all that came by itself at once: each shows a little that nothing is reordered.
        let punctual = std::mem::take(&mut self.punctual).min(4096);
        if punctual > 0 {
            self.allowance = (self.allowance - self.allowance * punctual / 4096).max(ALLOWANCE.0);
        }
        if let Some(highest) = self.highest {
            while !before(highest, self.frontier) {
                if let Some(record) = self.record(self.frontier)
                    && record.state == State::Flying
                    && record.tries == 1
                {
                    let line = usize::from(record.coded.is_some());
                    let since = now.since(record.sent_at);
                    self.tell_news(since, 1.0);
                    self.suspects[line].push_back((self.frontier, 1, now));
                }
                self.frontier = self.frontier.wrapping_add(1);
            }
            while let Some(&(seq, tries)) = self.resent.front() {
                let flying = self.flying(seq, tries);
                if flying.is_some_and(|after| before(highest, after)) {
                    break;
                }
                self.resent.pop_front();
                if flying.is_some() {
                    self.suspects[0].push_back((seq, tries, now));
                }
            }
        }
        self.judge(now);
        self.forget_done(now);
    }

    /// A round trip that probes measured; used until feedback gives its own.
    pub fn on_round_trip(&mut self, now: Instant, rtt: Duration) {
        if self.rtt.smoothed().is_none() {
            self.rtt.on_sample(now, rtt);
            self.retime();
        }
    }

    /// This machine dropped this many of the frames sent, before the link.
    pub fn on_own_drops(&mut self, now: Instant, frames: u64) {
        self.counts.local_drops += frames;
        self.heard.local_drops += frames;
        self.paused_until = now.plus(DROPS_PAUSE);
    }

    fn measure(&mut self, now: Instant, ack: &Ack) {
        // A frame sent twice does not tell which sending was answered (Karn), nor one that symbols
        // brought how long it would have taken.
        let fresh = self.record(ack.highest).filter(|r| r.state == State::Flying && r.tries == 1);
        let fresh = fresh.filter(|_| ack.recovered.behind().all(|behind| behind != 0));
        if let Some(record) = fresh {
            let trip = now.since(record.sent_at).saturating_sub(ack.delay);
            let way = ack.clock.apart(Clock::at(record.sent_at));
            if self.rtt.smoothed().is_none() || self.allowance.is_zero() {
                // Until the line has shown how much it reorders, expect an eighth of a round trip.
                self.allowance = (trip / 8).clamp(ALLOWANCE.0, ALLOWANCE.1);
            }
            self.rtt.on_sample(now, trip);
            self.heard.round_trip = Some(trip);
            self.heard.way = Some(way);
        }
        // The oldest frame this feedback is the first to confirm has waited longest for it.
        let first = self.record(self.frontier).filter(|r| r.state == State::Flying);
        if let (Some(record), Some(smoothed)) = (first, self.rtt.smoothed())
            && before(self.frontier, ack.settled)
        {
            let lag = now.since(record.sent_at).saturating_sub(smoothed);
            self.lag = lag.min(Duration::from_millis(100)).max(self.lag - self.lag / 16);
        }
        self.retime();
    }

    fn note_totals(&mut self, now: Instant, ack: &Ack) {
        let news = |total: u16, last: &mut u16| {
            // Totals only grow; what looks like less is an older feedback that came late.
            let step = total.wrapping_sub(*last);
            if step == 0 || step >= 1 << 15 {
                return 0;
            }
            *last = total;
            u64::from(step)
        };
        let ce = news(ack.ce, &mut self.peer_ce);
        self.counts.ce += ce;
        self.heard.ce += ce;
        let drops = news(ack.local_drops, &mut self.peer_drops);
        self.counts.local_drops += drops;
        self.heard.local_drops += drops;
        if drops > 0 {
            self.paused_until = now.plus(DROPS_PAUSE);
        }
    }

    /// Everything before `settled` came, but for as many as the peer gave up.
    fn settle(&mut self, now: Instant, ack: &Ack) {
        let step = ack.given_up.wrapping_sub(self.given_up);
        let mut missing = if step < 1 << 31 { step } else { 0 };
        if missing > 0 {
            self.given_up = ack.given_up;
            let known = missing.min(self.forgotten);
            self.forgotten -= known;
            missing -= known;
        }
        // Only what is open can be settled, and it lies between the base and the records' end.
        let mut seq = self.base;
        while before(seq, ack.settled) {
            if let Some(record) = self.record(seq) {
                match record.state {
                    State::Arrived => {}
                    State::Abandoned if missing > 0 => missing -= 1,
                    _ if missing > 0 => {
                        missing -= 1;
                        self.count_lost(seq);
                        self.abandon(seq);
                    }
                    _ => self.arrive(now, seq),
                }
            }
            seq = seq.wrapping_add(1);
        }
    }

    /// Symbols brought it: the line had lost it.
    fn recover(&mut self, now: Instant, seq: u32) {
        if let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i))
            && record.coded.is_some()
            && record.state == State::Flying
            && !record.lost
        {
            let since = now.since(record.sent_at);
            self.heard.on_lost(record.bytes, record.sent_at);
            self.count_lost(seq);
            if !before(seq, self.frontier) {
                self.tell_news(since, 1.0);
            }
        }
        self.arrive(now, seq);
    }

    fn arrive(&mut self, now: Instant, seq: u32) {
        let Some(index) = self.index(seq) else { return };
        let Some(record) = self.records.get_mut(index) else { return };
        if self.highest.is_none_or(|highest| before(highest, seq)) {
            self.highest = Some(seq);
        }
        if record.state == State::Arrived {
            return;
        }
        self.heard.delivered += u64::from(record.bytes);
        if record.tries == 1 {
            self.heard.newest_sent_at = self.heard.newest_sent_at.max(Some(record.sent_at));
        }
        if record.state == State::Flying {
            self.flying -= u64::from(record.bytes);
        }
        let abandoned = record.state == State::Abandoned;
        // An answer faster than any round trip was not to the last sending.
        let early = record.tries > 1 && {
            let least = self.rtt.least().unwrap_or_default();
            now.since(record.sent_at) < least - least / 8
        };
        let unsent = record.tries == 1;
        if record.lost && record.coded.is_some() && (unsent || early) {
            // Computed from repair symbols, or never lost.
            self.heard.regained += u64::from(record.bytes);
            self.heard.mended += u64::from(record.bytes);
        } else if record.lost && (unsent || early && record.tries == 2) {
            record.lost = false;
            self.heard.regained += u64::from(record.bytes);
            self.counts.lost = self.counts.lost.saturating_sub(1);
            self.counts.spurious += 1;
            if record.overtaken {
                let most = self.rtt.smoothed().unwrap_or_default() / 2;
                self.allowance = (self.allowance * 3 / 2).max(ALLOWANCE.0).min(most);
            }
        } else if record.lost && record.overtaken {
            // A few false alarms among many true ones cost less than waiting longer for each of these.
            self.allowance = (self.allowance - self.allowance / 32).max(ALLOWANCE.0);
        } else if unsent && !record.lost {
            self.counts.judged += 1;
            self.punctual += 1;
        }
        if abandoned {
            self.counts.residual = self.counts.residual.saturating_sub(1);
        }
        if abandoned && record.planned && record.coded.is_none() {
            self.tighter = (self.tighter / TIGHTER.0).max(1.0);
        }
        record.state = State::Arrived;
        if record.frame.take().is_some() {
            self.held -= record.bytes as usize;
            self.kept -= 1;
        }
    }
}
