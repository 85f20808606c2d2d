//! The receiving side of a hop: what came, what is missing, and when to say so.
//!
//! A ring of bits holds the newest 65,536 hop sequences. Everything before `settled` came or is not
//! waited for any more; between `settled` and `highest` the bits tell. Gaps are given up after half
//! a second to a second, far beyond any packet's budget, so that one loss for good does not pin the
//! window.
//!
//! Feedback is due when a gap opens or is filled (at most once a millisecond), after 64 frames, or a quarter of the
//! hop's round trip (1-25 ms) after the first frame not yet acknowledged. A token bucket keeps it
//! within one percent of the data's bytes and 32 kbit/s, whatever the peer sends.

use std::collections::VecDeque;
use std::time::Duration;

use super::before;
use crate::time::{Deadline, Instant, micros};
use crate::wire::ack::{Ack, Bitmap, Clock, Recovered};

/// Hop sequences remembered: 65 ms at a million frames a second, 8 KiB of memory.
const WINDOW: u32 = 1 << 16;
/// Feedback after this many frames whatever the clock says.
const FRAMES: u32 = 64;
/// Least time between feedback for gaps.
const GAP_SPACE: Duration = Duration::from_millis(1);
/// Longest wait after a gap was filled.
const FILLED_WAIT: Duration = Duration::from_micros(1_500);
/// Bounds of the wait after the first unacknowledged frame.
const WAIT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(25));
/// A feedback frame with its outer headers, bytes, without bitmap: 28 of IPv4 and UDP, 28 of clear
/// header and tag, the body.
const BARE: u64 = 56 + Ack::HEAD as u64;
/// The same with the bitmap of a bad line.
const COST: u64 = BARE + 16;
const COST_MILLIONTHS: i64 = COST as i64 * 1_000_000;
/// What the budget may save up: forty feedback frames.
const SAVED_MILLIONTHS: i64 = 40 * COST_MILLIONTHS;
/// Recovered frames that may wait to be told, and how often each is told: one feedback may be lost.
const RECOVERED: (usize, u8) = (256, 2);
/// Places reported in one go: a burst of arrivals, and repairs that trail behind.
const CLUSTERS: usize = 8;

/// What an arriving frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Never seen before.
    New,
    /// Came already.
    Duplicate,
    /// Too old to be known.
    Stale,
}

/// What the receiver saw so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiverStats {
    /// Frames never seen before.
    pub received: u64,
    /// Frames seen before.
    pub duplicates: u64,
    /// Frames older than the window.
    pub stale: u64,
    /// Jumps ahead by more than the window: a long outage, or a peer out of its mind.
    pub jumps: u64,
    /// Feedback frames built.
    pub feedback: u64,
}

/// Hop sequences that arrived since they were last reported, close enough for one bitmap.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    low: u32,
    high: u32,
}

/// The receiving side of one hop and lane.
#[derive(Debug)]
pub struct Receiver {
    /// Eight kilobytes that a link on which no data came does without.
    bits: Vec<u64>,
    settled: u32,
    highest: u32,
    highest_at: Instant,
    given_up: u32,
    ce: u16,
    local_drops: u16,
    /// Two marks in time: what lay below the older one's number has waited long enough.
    marks: [(Instant, u32); 2],
    rtt: Option<Duration>,
    /// When the first frame after the last feedback came.
    open_since: Option<Instant>,
    open_frames: u32,
    /// Feedback is wanted at once: a gap opened, or the sender asks.
    urgent: bool,
    asked: bool,
    /// A gap was filled since the last feedback.
    filled: bool,
    last_feedback: Option<Instant>,
    clusters: Vec<Cluster>,
    /// Whether feedback was begun and more places are to be told: a round is never torn apart.
    telling: bool,
    /// Millionths of a byte; below zero after a round longer than what was saved.
    tokens: i64,
    tokens_at: Instant,
    /// Frames that repair symbols brought and feedback has to tell of, with how often it did.
    recovered: VecDeque<(u32, u8)>,
    stats: ReceiverStats,
}

impl Receiver {
    /// A receiver that waits for hop sequence zero.
    pub fn new(now: Instant) -> Self {
        Self {
            bits: Vec::new(),
            settled: 0,
            highest: u32::MAX,
            highest_at: now,
            given_up: 0,
            ce: 0,
            local_drops: 0,
            marks: [(now, 0); 2],
            rtt: None,
            open_since: None,
            open_frames: 0,
            urgent: false,
            asked: false,
            filled: false,
            last_feedback: None,
            clusters: Vec::new(),
            telling: false,
            tokens: SAVED_MILLIONTHS,
            tokens_at: now,
            recovered: VecDeque::new(),
            stats: ReceiverStats::default(),
        }
    }

    /// The same that waits for another number.
    #[cfg(test)]
    pub(super) fn starting_at(now: Instant, first: u32) -> Self {
        let (highest, marks) = (first.wrapping_sub(1), [(now, first); 2]);
        Self { settled: first, highest, marks, ..Self::new(now) }
    }

    /// An authenticated frame came. `ce`: its outer header bore the congestion mark. `asks`: the
    /// sender wants feedback at once.
    pub fn on_frame(
        &mut self,
        now: Instant,
        seq: u32,
        bytes: usize,
        ce: bool,
        asks: bool,
    ) -> Arrival {
        self.ce = self.ce.wrapping_add(u16::from(ce));
        self.asked |= asks;
        self.urgent |= asks;
        // One percent of the data's bytes.
        self.tokens = (self.tokens + bytes as i64 * 10_000).min(SAVED_MILLIONTHS);
        self.mark_time(now);
        let arrival = self.place(now, seq);
        match arrival {
            Arrival::New => self.stats.received += 1,
            Arrival::Duplicate => {
                self.stats.duplicates += 1;
                // Its symbols had overtaken it: it was not lost.
                self.recovered.retain(|&(known, told)| known != seq || told > 0);
            }
            Arrival::Stale => {
                self.stats.stale += 1;
                return arrival;
            }
        }
        // A duplicate says that the sender does not know: it is reported again.
        self.note(seq);
        self.open_since.get_or_insert(now);
        self.open_frames += 1;
        arrival
    }

    /// A lost frame was computed from repair symbols: it has come, and feedback tells besides that the
    /// line lost it.
    pub fn on_recovered(&mut self, now: Instant, seq: u32) -> Arrival {
        let arrival = self.place(now, seq);
        if arrival == Arrival::New {
            self.stats.received += 1;
            self.note(seq);
            self.open_since.get_or_insert(now);
            if self.recovered.len() < RECOVERED.0 {
                self.recovered.push_back((seq, 0));
            }
        }
        arrival
    }

    /// The local kernel dropped this many more datagrams.
    pub fn on_local_drops(&mut self, drops: u64) {
        self.local_drops = self.local_drops.wrapping_add(drops as u16);
    }

    /// The hop's round trip, as this node's own sender or probes know it.
    pub fn on_round_trip(&mut self, rtt: Duration) {
        self.rtt = Some(rtt);
    }

    /// Feedback that is due; ask until there is none.
    pub fn poll_feedback(&mut self, now: Instant) -> Option<Ack> {
        if self.due().is_none_or(|at| at > now) {
            return None;
        }
        self.earn(now);
        self.stats.feedback += 1;
        let ack = self.build(now);
        let more = ack.bitmap.bits() as usize / 8 + ack.recovered.behind().count() * 2;
        self.tokens -= (BARE + more as u64) as i64 * 1_000_000;
        self.telling = !self.clusters.is_empty();
        if !self.telling {
            self.open_since = None;
            self.open_frames = 0;
            self.urgent = false;
            self.asked = false;
            self.filled = false;
            self.last_feedback = Some(now);
        }
        Some(ack)
    }

    /// When feedback will be due.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.due().map(|at| Deadline { at, why: "hop feedback" })
    }

    /// What was seen so far.
    pub fn stats(&self) -> ReceiverStats {
        self.stats
    }

    fn due(&self) -> Option<Instant> {
        let since = self.open_since?;
        let quarter = self.rtt.map_or(WAIT.1 / 4, |rtt| rtt / 4);
        // As the savings run low the wait grows step by step, so that the sender, who learns how
        // long feedback takes, is never surprised by a budget that is spent at once.
        let half = SAVED_MILLIONTHS / 2;
        let short = (half - self.tokens).clamp(0, half) as u64;
        let thrift = Duration::from_micros(micros(WAIT.1) * (short >> 16) / (half as u64 >> 16));
        let mut at = since.plus(quarter.clamp(WAIT.0, WAIT.1).max(thrift));
        if self.urgent || self.open_frames >= FRAMES {
            // What cannot be told one by one for want of bytes is told together, not later and later.
            let thrift = GAP_SPACE * 3 * (short >> 16) as u32 / (half as u64 >> 16) as u32;
            let full = self.open_frames >= FRAMES;
            let space = if full { Duration::ZERO } else { GAP_SPACE + thrift };
            let soon = self.last_feedback.map_or(since, |last| last.plus(space).max(since));
            at = at.min(soon);
        }
        if self.filled {
            // A reordered frame closes its gap soon after opening it; a repaired one is followed by a
            // frame that asks. Either way one feedback tells all.
            at = at.min(since.plus(FILLED_WAIT));
        }
        Some(if self.telling { at } else { self.afford(at) })
    }

    /// Not before the budget can bear it: 32 kbit/s are 250 µs a byte.
    fn afford(&self, at: Instant) -> Instant {
        let lacking = COST_MILLIONTHS - self.tokens;
        let wait = Duration::from_micros(lacking.max(0).unsigned_abs().div_ceil(4000));
        if lacking > 0 { at.max(self.tokens_at.plus(wait)) } else { at }
    }

    fn earn(&mut self, now: Instant) {
        // 4,000 bytes a second are 4,000 millionths a microsecond.
        let earned = micros(now.since(self.tokens_at)).min(1_000_000) as i64 * 4000;
        self.tokens = (self.tokens + earned).min(SAVED_MILLIONTHS);
        self.tokens_at = self.tokens_at.max(now);
    }

    fn build(&mut self, now: Instant) -> Ack {
        let top = self.highest.wrapping_add(1);
        let mut bitmap = Bitmap::new(self.settled, 0);
        // What lies below `settled` needs no bit.
        self.clusters.retain(|c| !before(c.high, self.settled));
        if self.settled == top {
            self.clusters.clear();
        } else if !self.clusters.is_empty() {
            let cluster = self.clusters.remove(0);
            // Some history costs little and makes up for feedback that was lost.
            let mut base = cluster.high.wrapping_sub(Bitmap::BITS / 2 - 1);
            if before(cluster.low, base) {
                base = cluster.low;
            }
            if before(base, self.settled) {
                base = self.settled;
            }
            bitmap = Bitmap::new(base, cluster.high.wrapping_sub(base).wrapping_add(1));
            // Rounded up to bytes it may tell of a few more, but of nothing beyond the highest.
            let known = top.wrapping_sub(base).min(bitmap.bits());
            for seq in (0..known).map(|n| base.wrapping_add(n)) {
                if self.has(seq) {
                    bitmap.insert(seq);
                }
            }
        }
        let mut recovered = Recovered::default();
        // The new ones first: one that is told as come and not as recovered was never lost, to the sender.
        let mut now_told = [0_usize; RECOVERED.1 as usize];
        for times in 0..RECOVERED.1 {
            for (seq, _) in self.recovered.iter().filter(|&&(_, told)| told == times) {
                // What lies too far back is of no use to the sender any more.
                let behind = u16::try_from(self.highest.wrapping_sub(*seq));
                if behind.is_ok_and(|behind| !recovered.push(behind)) {
                    break;
                }
                now_told[usize::from(times)] += 1;
            }
        }
        for (_, told) in &mut self.recovered {
            let left = &mut now_told[usize::from(*told)];
            (*told, *left) = (*told + u8::from(*left > 0), left.saturating_sub(1));
        }
        self.recovered.retain(|&(_, told)| told < RECOVERED.1);
        Ack {
            settled: self.settled,
            highest: self.highest,
            delay: now.since(self.highest_at),
            clock: Clock::at(self.highest_at),
            given_up: self.given_up,
            ce: self.ce,
            local_drops: self.local_drops,
            asked: self.asked,
            bitmap,
            recovered,
        }
    }

    fn place(&mut self, now: Instant, seq: u32) -> Arrival {
        if before(self.highest, seq) {
            let step = seq.wrapping_sub(self.highest);
            if step >= WINDOW {
                self.stats.jumps += 1;
                self.bits.fill(0);
            } else {
                for n in 1..step {
                    self.forget(self.highest.wrapping_add(n));
                }
            }
            self.urgent |= step > 1;
            self.set(seq);
            self.highest = seq;
            self.highest_at = now;
            let lowest = seq.wrapping_sub(Ack::SPAN - 1);
            if before(self.settled, lowest) {
                self.settle(lowest);
            }
        } else {
            if self.highest.wrapping_sub(seq) >= WINDOW {
                return Arrival::Stale;
            }
            if self.has(seq) {
                return Arrival::Duplicate;
            }
            self.set(seq);
            // It fills a gap: told late, it would be sent again for nothing.
            self.filled = true;
        }
        self.advance();
        Arrival::New
    }

    /// Moves `settled` over what came.
    fn advance(&mut self) {
        let top = self.highest.wrapping_add(1);
        while self.settled != top && self.has(self.settled) {
            self.settled = self.settled.wrapping_add(1);
        }
    }

    /// Moves `settled` to `to`, and counts what did not come on the way.
    fn settle(&mut self, to: u32) {
        let span = to.wrapping_sub(self.settled);
        if span >= WINDOW {
            // Numbers whose bits are gone already; whether they came is not known any more.
            self.given_up = self.given_up.wrapping_add(span - WINDOW + 1);
            self.settled = to.wrapping_sub(WINDOW - 1);
        }
        while self.settled != to {
            let seq = self.settled;
            let missing = !self.has(seq);
            self.given_up = self.given_up.wrapping_add(u32::from(missing));
            self.settled = self.settled.wrapping_add(1);
        }
        self.advance();
    }

    fn mark_time(&mut self, now: Instant) {
        let horizon = self.rtt.unwrap_or_default() * 4;
        let horizon = horizon.clamp(Duration::from_millis(500), Duration::from_secs(2));
        if now.since(self.marks[1].0) < horizon {
            return;
        }
        // What lay open at the mark before, a horizon ago, is not waited for any more.
        let old = self.marks[1].1;
        if before(self.settled, old) && !before(self.highest.wrapping_add(1), old) {
            self.settle(old);
        }
        self.marks = [self.marks[1], (now, self.highest.wrapping_add(1))];
    }

    fn note(&mut self, seq: u32) {
        for cluster in self.clusters.iter_mut().rev() {
            let (low, high) = (cluster.low, cluster.high);
            let reach = Bitmap::BITS;
            if seq.wrapping_sub(low) < reach {
                cluster.high = if before(high, seq) { seq } else { high };
                return;
            }
            if high.wrapping_sub(seq) < reach {
                cluster.low = seq;
                return;
            }
        }
        if self.clusters.len() == CLUSTERS {
            // `settled` will tell of it in the end.
            self.clusters.remove(0);
        }
        self.clusters.push(Cluster { low: seq, high: seq });
    }

    fn has(&self, seq: u32) -> bool {
        let at = seq % WINDOW;
        self.bits.get(at as usize / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    fn set(&mut self, seq: u32) {
        let at = seq % WINDOW;
        self.bits.resize(WINDOW as usize / 64, 0);
        self.bits[at as usize / 64] |= 1 << (at % 64);
    }

    fn forget(&mut self, seq: u32) {
        let at = seq % WINDOW;
        if let Some(word) = self.bits.get_mut(at as usize / 64) {
            *word &= !(1 << (at % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    fn parsed(ack: &Ack) -> Ack {
        let mut bytes = Vec::new();
        ack.write(&mut bytes);
        Ack::parse(&bytes).expect("the receiver builds only what its own codec reads")
    }

    #[test]
    fn without_gaps_feedback_is_one_number_and_waits_for_a_quarter_round_trip() {
        let mut r = Receiver::new(at(0));
        r.on_round_trip(Duration::from_millis(40));
        for seq in 0..5 {
            assert_eq!(r.on_frame(at(u64::from(seq) * 100), seq, 1000, false, false), Arrival::New);
        }
        assert_eq!(r.poll_timeout().unwrap().at, at(10_000));
        assert_eq!(r.poll_feedback(at(9_999)), None);
        let ack = parsed(&r.poll_feedback(at(10_000)).unwrap());
        assert_eq!((ack.settled, ack.highest, ack.bitmap.bits()), (5, 4, 0));
        assert_eq!(ack.delay, Duration::from_micros(9_600));
        assert_eq!(r.poll_timeout(), None);
    }

    #[test]
    fn a_gap_is_told_at_once_but_at_most_once_a_millisecond() {
        let mut r = Receiver::new(at(0));
        r.on_frame(at(0), 0, 1000, false, false);
        r.on_frame(at(10), 2, 1000, false, false);
        let ack = parsed(&r.poll_feedback(at(10)).unwrap());
        assert_eq!((ack.came(0), ack.came(1), ack.came(2)), (Some(true), Some(false), Some(true)));
        r.on_frame(at(20), 4, 1000, false, false);
        assert_eq!(r.poll_timeout().unwrap().at, at(1010));
        let ack = parsed(&r.poll_feedback(at(1010)).unwrap());
        assert_eq!([1, 3].map(|s| ack.came(s)), [Some(false); 2]);
    }

    #[test]
    fn many_frames_are_told_without_waiting() {
        let mut r = Receiver::new(at(0));
        r.on_round_trip(Duration::from_millis(100));
        for seq in 0..64 {
            r.on_frame(at(u64::from(seq)), seq, 1000, seq == 3, false);
        }
        let ack = parsed(&r.poll_feedback(at(63)).unwrap());
        assert_eq!((ack.settled, ack.ce), (64, 1));
    }

    #[test]
    fn a_repair_far_behind_is_reported_beside_the_newest() {
        let mut r = Receiver::new(at(0));
        for seq in (0..1000).filter(|s| ![5, 6].contains(s)) {
            r.on_frame(at(u64::from(seq) * 100), seq, 1400, false, false);
            while r.poll_feedback(at(u64::from(seq) * 100)).is_some() {}
        }
        r.on_frame(at(100_000), 6, 1400, false, false);
        r.on_frame(at(100_000), 1000, 1400, false, false);
        let mut acks = Vec::new();
        while let Some(ack) = r.poll_feedback(at(130_000)) {
            acks.push(parsed(&ack));
        }
        let told = |seq| acks.iter().any(|a| a.came(seq) == Some(true));
        assert!(told(6) && told(1000) && !told(5), "{acks:?}");
        assert!(acks.len() <= 2);
    }

    #[test]
    fn a_gap_does_not_pin_the_window_for_ever() {
        let mut r = Receiver::new(at(0));
        let mut last = None;
        for seq in (0..300u32).filter(|&s| s != 7) {
            let now = at(u64::from(seq) * 10_000);
            r.on_frame(now, seq, 1000, false, false);
            while let Some(ack) = r.poll_feedback(now) {
                last = Some((ack.settled, ack.given_up));
                if seq < 50 && seq > 7 {
                    assert_eq!(ack.settled, 7, "half a second is waited at least");
                }
            }
        }
        let (settled, given_up) = last.unwrap();
        assert!(settled > 290 && given_up == 1, "{settled} {given_up}");
        assert_eq!(r.on_frame(at(3_000_000), 7, 1000, false, false), Arrival::New, "late is new");
        assert_eq!(r.on_frame(at(3_000_000), 7, 1000, false, false), Arrival::Duplicate);
    }

    #[test]
    fn a_recovered_frame_has_come_and_is_told_as_recovered_twice() {
        // Behind the highest, and ahead of it: the symbol came before the next frame.
        for ahead in [false, true] {
            let mut r = Receiver::new(at(0));
            r.on_round_trip(Duration::from_millis(20));
            r.on_frame(at(0), 0, 1000, false, false);
            if ahead {
                assert_eq!(r.on_recovered(at(2_000), 1), Arrival::New);
            }
            r.on_frame(at(10_000), 2, 1000, false, false);
            if !ahead {
                assert_eq!(r.on_recovered(at(10_000), 1), Arrival::New);
            }
            assert_eq!(r.on_recovered(at(10_000), 1), Arrival::Duplicate);
            for told in [1, 1, 0] {
                let ack = loop {
                    let due = r.poll_timeout().unwrap().at;
                    if let Some(ack) = r.poll_feedback(due) {
                        break parsed(&ack);
                    }
                };
                assert_eq!((ack.settled, ack.given_up), (ack.highest + 1, 0), "ahead: {ahead}");
                let recovered = ack.recovered.behind().map(|n| ack.highest - u32::from(n));
                assert_eq!(recovered.collect::<Vec<_>>(), vec![1; told]);
                r.on_frame(at(50_000), ack.highest + 1, 1000, false, true);
            }
            assert_eq!(r.on_frame(at(60_000), 1, 1000, false, false), Arrival::Duplicate);
        }
    }

    #[test]
    fn many_recovered_frames_are_all_told_and_the_new_ones_first() {
        let mut r = Receiver::new(at(0));
        for seq in (0..400).step_by(4) {
            r.on_frame(at(u64::from(seq)), seq, 1000, false, false);
        }
        let recovered: Vec<u32> = (0..396).filter(|seq| seq % 4 == 2).collect();
        let mut told = std::collections::BTreeMap::new();
        let tell = |r: &mut Receiver, now: u64, told: &mut std::collections::BTreeMap<u32, u32>| {
            while let Some(ack) = r.poll_feedback(at(now)) {
                let numbers = ack.recovered.behind().map(|n| ack.highest - u32::from(n));
                numbers.for_each(|seq| *told.entry(seq).or_default() += 1);
            }
        };
        for (n, &seq) in recovered.iter().enumerate() {
            assert_eq!(r.on_recovered(at(1000 + n as u64), seq), Arrival::New);
        }
        tell(&mut r, 1300, &mut told);
        assert!(told.values().all(|&times| times <= 2), "{told:?}");
        for n in 0..40_u32 {
            r.on_frame(at(1_400 + 30_000 * u64::from(n)), 400 + n, 1000, false, false);
            tell(&mut r, 1_400 + 30_000 * u64::from(n) + 29_000, &mut told);
        }
        assert_eq!(told.len(), recovered.len());
        assert!(told.values().all(|&times| times == 2), "{told:?}");
    }

    #[test]
    fn what_comes_after_all_is_not_told_as_recovered() {
        let mut r = Receiver::new(at(0));
        r.on_recovered(at(0), 0);
        r.on_frame(at(10), 0, 1000, false, true);
        let ack = parsed(&r.poll_feedback(at(10)).unwrap());
        assert_eq!((ack.settled, ack.recovered.behind().count()), (1, 0));
    }

    #[test]
    fn a_frame_that_its_symbol_overtook_comes_once() {
        let mut r = Receiver::new(at(0));
        assert_eq!(r.on_recovered(at(0), 0), Arrival::New);
        assert_eq!(r.on_frame(at(10), 0, 1000, false, false), Arrival::Duplicate);
        assert_eq!(r.on_recovered(at(20), 0), Arrival::Duplicate);
    }

    #[test]
    fn feedback_keeps_within_its_budget() {
        let mut r = Receiver::new(at(0));
        r.on_round_trip(Duration::from_millis(4));
        let (mut bytes, mut frames) = (0u64, 0u64);
        // Every other frame is missing: each one opens a gap, 2,000 a second of 60 bytes.
        for n in 0..20_000u64 {
            let now = at(n * 500);
            r.on_frame(now, n as u32 * 2, 60, false, false);
            bytes += 60;
            while let Some(ack) = r.poll_feedback(now) {
                parsed(&ack);
                frames += 1;
            }
        }
        let allowed = 10 * 4000 + bytes / 100 + 41 * COST;
        assert!(frames * BARE <= allowed, "{frames} feedback frames");
        assert!(frames * COST >= allowed / 3, "and it is used: {frames}");
    }

    #[test]
    fn absurd_jumps_are_survived() {
        let mut r = Receiver::new(at(0));
        for (n, seq) in [0, 1 << 30, 1 << 29, (1u32 << 31) + 5, 3, u32::MAX, 0].iter().enumerate() {
            r.on_frame(at(n as u64 * 700_000), *seq, 100, false, true);
            while let Some(ack) = r.poll_feedback(at(n as u64 * 700_000 + 30_000)) {
                parsed(&ack);
            }
        }
        assert!(r.stats().jumps >= 2);
        assert!(r.stats().stale >= 1);
    }

    proptest! {
        /// Against a set: every number within the window is new once, and what feedback says is
        /// true, whatever order the numbers come in, across the wrap.
        #[test]
        fn verdicts_and_feedback_agree_with_a_plain_set(
            start: u32, steps in proptest::collection::vec((-300i32..400, 0u64..40_000), 1..300),
        ) {
            let mut r = Receiver::new(at(0));
            r.settled = start;
            r.highest = start.wrapping_sub(1);
            r.marks = [(at(0), start); 2];
            let mut seen = BTreeSet::new();
            let (mut top, mut now) = (0i64, 0);
            for (step, wait) in steps {
                now += wait;
                let seq = (top + i64::from(step)).max(0);
                let arrival = r.on_frame(at(now), start.wrapping_add(seq as u32), 500, false, false);
                let expected = if seen.insert(seq) { Arrival::New } else { Arrival::Duplicate };
                prop_assert_eq!(arrival, expected);
                top = top.max(seq);
                while let Some(ack) = r.poll_feedback(at(now)) {
                    let ack = parsed(&ack);
                    prop_assert_eq!(ack.highest, start.wrapping_add(top as u32));
                    for n in 0..ack.bitmap.bits() {
                        let number = ack.bitmap.base().wrapping_add(n);
                        let told = ack.bitmap.get(number) == Some(true);
                        let truth = seen.contains(&i64::from(number.wrapping_sub(start)));
                        prop_assert_eq!(told, truth);
                    }
                    let settled = i64::from(ack.settled.wrapping_sub(start));
                    let missing = settled - seen.range(..settled).count() as i64;
                    prop_assert!(missing <= i64::from(ack.given_up));
                }
            }
        }
    }
}
