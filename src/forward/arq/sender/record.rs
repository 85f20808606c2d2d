//! The records of what was sent: how one begins, what state it is in, and when it is forgotten.
//!
//! There is one for each hop sequence from the oldest that is not decided to the newest. With them
//! goes the count of bytes kept for repair and of bytes under way.

use std::time::Duration;

use super::{BURST, PLANNED, Sender, TIGHTER, Terms};
use crate::forward::arq::before;
use crate::time::{Instant, micros};

/// Records kept: a second at 131,000 frames/s, 10 MiB of memory.
const RECORDS: usize = 1 << 17;
/// Frames over which the most that was under way is forgotten: at 50 Mbit/s two seconds.
const FORGET: u64 = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Sent; nothing is known yet.
    Flying,
    /// Lost, and waiting to be sent again.
    Queued,
    /// It came.
    Arrived,
    /// Lost, and not sent again.
    Abandoned,
}

#[derive(Debug)]
pub(super) struct Record<F> {
    pub(super) first_sent_at: Instant,
    pub(super) sent_at: Instant,
    /// The hop sequence that followed its last sending: what is later, is so from here on.
    pub(super) after: u32,
    pub(super) bytes: u32,
    pub(super) tries: u8,
    pub(super) state: State,
    /// Whether its first sending counts as lost.
    pub(super) lost: bool,
    /// Whether a later frame showed that, not the clock.
    pub(super) overtaken: bool,
    /// For how many microseconds after its sending repair symbols may bring it, if they may.
    pub(super) coded: Option<u32>,
    pub(super) give_up_at: Instant,
    pub(super) target: f32,
    pub(super) twice: bool,
    /// Whether losing it for good is a miss of the plan: not where nothing was kept to send again, nor
    /// where its class's bound refused one of its sendings.
    pub(super) planned: bool,
    pub(super) frame: Option<F>,
}

impl<F> Record<F> {
    /// For how long its present sending waits for repair symbols: only the first does.
    pub(super) fn symbols(&self) -> Duration {
        let coded = self.coded.filter(|_| self.tries == 1).unwrap_or_default();
        Duration::from_micros(coded.into())
    }
}

impl<F> Sender<F> {
    /// Remembers the frame that is being sent under [`Sender::next_sequence`], and returns that.
    /// No `terms` or no `frame`: it is not repaired. `coded`: for how long repair symbols may bring
    /// it; so much later than others it counts as lost.
    pub fn push(
        &mut self,
        now: Instant,
        bytes: usize,
        terms: Option<Terms>,
        frame: Option<F>,
        coded: Option<Duration>,
    ) -> u32 {
        let seq = self.next_sequence();
        self.asks = self.asks.saturating_sub(1);
        self.counts.sent += 1;
        self.counts.bytes += bytes as u64;
        self.flying += bytes as u64;
        self.most_flying = self.flying.max(self.most_flying - self.most_flying / FORGET);
        if let Some(last) = self.pushed_at.replace(now) {
            let step = now.micros_since(last).min(1_000_000);
            self.spacing_us += (step as f64 - self.spacing_us) / 8.0;
        }
        // What may be saved up grows with what is under way: a burst takes that.
        self.tokens = (self.tokens + bytes as u64).min(2 * (BURST + self.held as u64));
        let wanted = frame.is_some() && terms.is_some();
        let keeps = wanted && self.held + bytes <= self.cap;
        self.counts.unprotected += u64::from(wanted && !keeps);
        let terms = terms.unwrap_or(Terms { by: Instant::ZERO, target: 1.0, twice: false });
        if keeps {
            self.held += bytes;
            self.kept += 1;
            if let Some(at) = self.hedge(now, terms.by)
                && self.hedges.len() < PLANNED
            {
                self.hedges.insert((at, seq));
            }
        }
        self.records.push_back(Record {
            first_sent_at: now,
            sent_at: now,
            after: seq.wrapping_add(1),
            bytes: bytes as u32,
            tries: 1,
            state: State::Flying,
            lost: false,
            overtaken: false,
            coded: coded.map(|span| u32::try_from(micros(span)).unwrap_or(u32::MAX)),
            give_up_at: terms.by,
            target: terms.target as f32,
            twice: terms.twice,
            planned: keeps,
            frame: if keeps { frame } else { None },
        });
        if self.records.len() > RECORDS {
            self.forget(1);
        }
        seq
    }

    pub(super) fn index(&self, seq: u32) -> Option<usize> {
        let index = seq.wrapping_sub(self.base) as usize;
        (index < self.records.len()).then_some(index)
    }

    pub(super) fn record(&self, seq: u32) -> Option<&Record<F>> {
        self.records.get(self.index(seq)?)
    }

    /// What followed the last sending of a frame that is still under way since its `tries`-th.
    pub(super) fn flying(&self, seq: u32, tries: u8) -> Option<u32> {
        let record = self.record(seq)?;
        (record.state == State::Flying && record.tries == tries).then_some(record.after)
    }

    pub(super) fn count_lost(&mut self, seq: u32) {
        let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) else { return };
        if record.tries == 1 && !record.lost {
            record.lost = true;
            self.counts.judged += 1;
            self.counts.lost += 1;
        }
    }

    pub(super) fn abandon(&mut self, seq: u32) {
        let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) else { return };
        if record.state == State::Flying {
            self.flying -= u64::from(record.bytes);
        }
        record.state = State::Abandoned;
        self.counts.residual += 1;
        // Whether symbols brought it is known when it is forgotten.
        if record.planned && record.coded.is_none() {
            self.tighter = (self.tighter * TIGHTER.0).min(TIGHTER.1);
        }
        if record.frame.take().is_some() {
            self.held -= record.bytes as usize;
            self.kept -= 1;
        }
    }

    /// Forgets what is decided, oldest first. What was abandoned stays a while: it may yet come, and
    /// then it was not lost.
    pub(super) fn forget_done(&mut self, now: Instant) {
        let linger = self.timer(self.base).unwrap_or(Duration::from_millis(100)) * 2;
        let done = |record: &&Record<F>| match record.state {
            State::Arrived => true,
            State::Abandoned if record.coded.is_some() => now.since(record.sent_at) > linger * 2,
            State::Abandoned => now.since(record.sent_at) > linger,
            State::Flying | State::Queued => false,
        };
        self.forget(self.records.iter().take_while(done).count());
    }

    /// Forgets so many, the oldest.
    fn forget(&mut self, count: usize) {
        for record in self.records.iter().take(count) {
            if record.planned && self.tighter > 1.0 {
                let relaxed = 1.0 - (TIGHTER.0 - 1.0) * f64::from(record.target);
                self.tighter = (self.tighter * relaxed).max(1.0);
            }
            match record.state {
                State::Arrived | State::Queued => {}
                State::Flying => self.flying -= u64::from(record.bytes),
                State::Abandoned => {
                    self.forgotten += 1;
                    if record.planned && record.coded.is_some() {
                        self.tighter = (self.tighter * TIGHTER.0).min(TIGHTER.1);
                    }
                }
            }
            if record.frame.is_some() {
                self.held -= record.bytes as usize;
                self.kept -= 1;
            }
        }
        self.records.drain(..count);
        self.base = self.base.wrapping_add(count as u32);
        for next in [&mut self.frontier, &mut self.fated] {
            if before(*next, self.base) {
                *next = self.base;
            }
        }
    }
}
