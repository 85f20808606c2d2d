//! The sending side of a hop: what is under way, what was lost, what is sent again.
//!
//! Every frame gets a hop sequence and a record. A frame is *suspect* when feedback shows a later
//! one (later in the order of sending, so that retransmissions are judged by the same rule), and
//! *lost* when it stayed so for a reordering allowance: an eighth of the round trip at first, down to
//! half a millisecond while nothing is seen to be reordered, half as long again with fewer than three
//! later ones. Where no later one can show it, in a burst or at a tail, the sender's
//! own timer judges; and where the packet's time would run out before it does, as soon as feedback is
//! overdue. What was lost is sent again under the same sequence while the packet's budget leaves the
//! way to the next node; how often and how far apart is `plan`'s.
//!
//! The residual is measured as well as planned: every miss lowers what the plan may leave, every
//! frame lifts it again by as much as its class allows, so that misses settle at the target.
//!
//! Repair takes at most a third of all bytes beside a small burst, and none while the
//! hop's queue stands or the peer drops locally: there it would make the loss it mends.
//!
//! Sources: RFC 9002 section 6 (packet and time threshold), RFC 6298 (round trip).

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::plan::{Loss, repeat};
use super::{Counts, Heard, LossModel, RoundTrip, before};
use crate::forward::held::halve;
use crate::time::{Deadline, Instant, micros};
use crate::wire::ack::{Ack, Clock};

/// Later frames that make a gap a loss (RFC 9002's packet threshold).
const LATER: u32 = 3;
/// Bounds of the reordering allowance: below, one timer's grain; above, repair would come too late.
const ALLOWANCE: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(25));
/// Repair that may be sent beyond half of the first-sent bytes.
const BURST: u64 = 32 * 1024;
/// Times a frame is sent at most.
const TRIES: u8 = 8;
/// Records kept: a second at 131,000 frames/s, 10 MiB of memory.
const RECORDS: usize = 1 << 17;
/// Sendings planned ahead: beyond it a frame has to do with what feedback starts.
const PLANNED: usize = 1 << 15;
/// The number of a copy that stands for a round: last among those of one moment.
const ROUND: u32 = u32::MAX;
/// How much a miss tightens the plan, and how far that goes.
const TIGHTER: (f64, f64) = (1.3, 16.0);
/// With so much time left no timer comes too late: its own bounds and two round trips are less, but on
/// lines so long that it matters little.
const PATIENT: Duration = Duration::from_millis(400);
/// Frames after a repeated one that ask for feedback: one may be lost.
const ASKS: u8 = 2;
/// What a loss takes to be told and heeded beyond the round trip, at best.
const FEEDBACK: Duration = Duration::from_micros(1_500);
/// How long repair stays off after local drops.
const DROPS_PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Sent; nothing is known yet.
    Flying,
    /// Lost, and waiting to be sent again.
    Queued,
    /// It came.
    Arrived,
    /// Lost, and not sent again.
    Abandoned,
}

/// What a frame is sent under.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// When it must have reached the next node to be of use.
    pub by: Instant,
    /// Chance of missing that which its class allows on this hop.
    pub target: f64,
}

#[derive(Debug)]
struct Record<F> {
    first_sent_at: Instant,
    sent_at: Instant,
    /// The hop sequence that followed its last sending: what is later, is so from here on.
    after: u32,
    bytes: u32,
    tries: u8,
    state: State,
    /// Whether its first sending counts as lost.
    lost: bool,
    /// Whether a later frame showed that, not the clock.
    overtaken: bool,
    /// For how long after its sending repair symbols may bring it, if they may.
    coded: Option<Duration>,
    give_up_at: Instant,
    target: f32,
    frame: Option<F>,
}

/// The sending side of one hop and lane. `F` is what it takes to send a frame again.
#[derive(Debug)]
pub struct Sender<F> {
    /// Most bytes kept for repair.
    cap: usize,
    held: usize,
    kept: usize,
    records: VecDeque<Record<F>>,
    /// Hop sequence of the first record.
    base: u32,
    /// The highest hop sequence that is known to have come.
    highest: Option<u32>,
    /// Every sequence before this one has been acknowledged, suspected or judged once.
    frontier: u32,
    /// Frames that later ones overtook, with which sending and since when: those that symbols may yet
    /// bring wait longer, in a line of their own.
    suspects: [VecDeque<(u32, u8, Instant)>; 2],
    resent: VecDeque<(u32, u8)>,
    queue: VecDeque<u32>,
    /// First sendings to be judged early, for want of time.
    hedges: BTreeSet<(Instant, u32)>,
    /// Copies to come, numbered, so that those of one moment are several; [`ROUND`]: a last round, of
    /// frames that were sent again and have no news yet.
    copies: BTreeSet<(Instant, u32, u32)>,
    line: LossModel,
    /// Every sequence before this one has told the model its fate.
    fated: u32,
    /// Mean time between frames, of late.
    spacing_us: f64,
    pushed_at: Option<Instant>,
    /// What the plan's choices left of a copy.
    carry: f64,
    /// By how much the plan aims below the target: what was measured above it.
    tighter: f64,
    rtt: RoundTrip,
    /// How much longer than a round trip feedback takes at worst, of late.
    lag: Duration,
    /// Widened while reordering makes false alarms.
    allowance: Duration,
    heard_at: Option<Instant>,
    /// The latest reading of the clock.
    now: Instant,
    /// Frames to come that ask for feedback, because they can show the loss of a repair.
    asks: u8,
    asked_at: Option<Instant>,
    tokens: u64,
    paused_until: Instant,
    standing: bool,
    given_up: u32,
    /// Abandoned frames that were forgotten before the peer gave them up.
    forgotten: u32,
    peer_drops: u16,
    peer_ce: u16,
    /// Bytes under way: sent, neither arrived nor judged lost.
    flying: u64,
    heard: Heard,
    counts: Counts,
    reported: Counts,
}

impl<F> Sender<F> {
    /// A sender whose first frame has hop sequence zero and which keeps at most `cap` bytes.
    pub fn new(cap: usize) -> Self {
        Self {
            cap,
            held: 0,
            kept: 0,
            records: VecDeque::new(),
            base: 0,
            highest: None,
            frontier: 0,
            suspects: Default::default(),
            resent: VecDeque::new(),
            queue: VecDeque::new(),
            hedges: BTreeSet::new(),
            copies: BTreeSet::new(),
            line: LossModel::default(),
            fated: 0,
            spacing_us: 10_000.0,
            pushed_at: None,
            carry: 0.0,
            tighter: 1.0,
            rtt: RoundTrip::default(),
            lag: Duration::ZERO,
            allowance: Duration::ZERO,
            heard_at: None,
            now: Instant::ZERO,
            asks: 0,
            asked_at: None,
            tokens: 3 * BURST,
            paused_until: Instant::ZERO,
            standing: false,
            given_up: 0,
            forgotten: 0,
            peer_drops: 0,
            peer_ce: 0,
            flying: 0,
            heard: Heard::default(),
            counts: Counts::default(),
            reported: Counts::default(),
        }
    }

    /// The same whose first frame has another number.
    #[cfg(test)]
    pub(super) fn starting_at(cap: usize, first: u32) -> Self {
        Self { base: first, frontier: first, fated: first, ..Self::new(cap) }
    }

    /// The hop sequence of the next frame.
    pub fn next_sequence(&self) -> u32 {
        self.base.wrapping_add(self.records.len() as u32)
    }

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
        if let Some(last) = self.pushed_at.replace(now) {
            let step = micros(now.since(last)).min(1_000_000);
            self.spacing_us += (step as f64 - self.spacing_us) / 8.0;
        }
        // In halves of a byte: a third of all is half of the first-sent. What may be saved up grows
        // with what is under way: a burst takes that.
        self.tokens = (self.tokens + bytes as u64).min(2 * (BURST + self.held as u64));
        let wanted = frame.filter(|_| terms.is_some());
        let fits = self.held + bytes <= self.cap;
        self.counts.unprotected += u64::from(wanted.is_some() && !fits);
        let frame = wanted.filter(|_| fits);
        self.held += if frame.is_some() { bytes } else { 0 };
        self.kept += usize::from(frame.is_some());
        let terms = terms.unwrap_or(Terms { by: Instant::ZERO, target: 1.0 });
        if frame.is_some() {
            if self.tighter > 1.0 {
                self.tighter = (self.tighter * (1.0 - (TIGHTER.0 - 1.0) * terms.target)).max(1.0);
            }
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
            coded,
            give_up_at: terms.by,
            target: terms.target as f32,
            frame,
        });
        if self.records.len() > RECORDS {
            self.forget_first();
        }
        seq
    }

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
        if let Some(highest) = self.highest {
            while !before(highest, self.frontier) {
                if let Some(record) = self.record(self.frontier)
                    && record.state == State::Flying
                    && record.tries == 1
                {
                    let line = usize::from(record.coded.is_some());
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

    /// How long the packets of this hop's queue wait at least: see `FairQueue::standing`.
    pub fn on_standing(&mut self, wait: Duration) {
        let bound = (self.rtt.smoothed().unwrap_or_default() / 8).max(Duration::from_millis(10));
        self.standing = wait > bound;
    }

    /// A round trip that probes measured; used until feedback gives its own.
    pub fn on_round_trip(&mut self, now: Instant, rtt: Duration) {
        if self.rtt.smoothed().is_none() {
            self.rtt.on_sample(now, rtt);
        }
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
        let may = self.may_repair(now, asked) && affords();
        if may {
            self.tokens -= 2 * bytes;
            self.counts.repair_bytes += bytes;
        }
        may
    }

    /// What is known of the line's losses.
    pub fn line(&self) -> &LossModel {
        &self.line
    }

    /// Frames whose fate is remembered.
    pub fn records(&self) -> usize {
        self.records.len()
    }

    /// Gives back memory that a burst has left behind: half of what is spare.
    pub fn give_back(&mut self) {
        halve(&mut self.records);
        self.suspects.iter_mut().for_each(halve);
        halve(&mut self.resent);
        halve(&mut self.queue);
    }

    /// This machine dropped this many of the frames sent, before the link.
    pub fn on_own_drops(&mut self, now: Instant, frames: u64) {
        self.counts.local_drops += frames;
        self.heard.local_drops += frames;
        self.paused_until = now.plus(DROPS_PAUSE);
    }

    /// The clock reached `now`: the sender's own timers may judge.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.judge(now);
        self.forget_done(now);
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
                self.counts.over_budget += 1;
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
                self.counts.over_budget += 1;
                continue;
            }
            if copy == ROUND {
                self.plan(now, seq);
            }
            return self.send_again(now, seq);
        }
        None
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
        let Some(smoothed) = self.rtt.smoothed() else { return false };
        let shows = self.asks > 0;
        let overdue = || {
            let oldest = self.record(self.frontier)?;
            let timer = self.timer(oldest.after)?;
            Some(now.since(oldest.sent_at) > smoothed + (timer - smoothed) / 4 * 3)
        };
        let space = smoothed / 4;
        let spaced = self.asked_at.is_none_or(|at| now.since(at) >= space);
        let asks = shows || spaced && overdue().unwrap_or(false);
        if asks {
            self.asked_at = Some(now);
        }
        asks
    }

    /// The hop's round trip.
    pub fn round_trip(&self) -> &RoundTrip {
        &self.rtt
    }

    /// Bytes under way: sent, neither known to have come nor judged lost, repeated sendings among
    /// them.
    pub fn in_flight(&self) -> u64 {
        self.flying
    }

    /// What was learnt since this was last asked.
    pub fn poll_heard(&mut self) -> Heard {
        std::mem::take(&mut self.heard)
    }

    /// When feedback last came: proof that both directions work.
    pub fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// What became of the frames so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes kept for repair.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Frames kept for repair.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// What became of frames since the last report. A loss that turns out to be none after it was
    /// reported shows as that much less in a later one.
    pub fn take_report(&mut self) -> Counts {
        self.counts.take(&mut self.reported)
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
            self.heard.lost += u64::from(record.bytes);
            self.heard.lost_sent_at = self.heard.lost_sent_at.max(Some(record.sent_at));
            self.count_lost(seq);
        }
        self.arrive(now, seq);
    }

    fn arrive(&mut self, now: Instant, seq: u32) {
        let least = self.rtt.least().unwrap_or_default();
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
        let early = record.tries > 1 && now.since(record.sent_at) < least - least / 8;
        let unsent = record.tries == 1;
        if record.lost && record.coded.is_some() && (unsent || early) {
            // Computed from repair symbols, or never lost.
            self.heard.regained += u64::from(record.bytes);
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
            self.allowance = (self.allowance - self.allowance / 4096).max(ALLOWANCE.0);
        }
        if abandoned {
            self.counts.residual = self.counts.residual.saturating_sub(1);
        }
        if abandoned && record.coded.is_none() {
            self.tighter = (self.tighter / TIGHTER.0).max(1.0);
        }
        record.state = State::Arrived;
        if record.frame.take().is_some() {
            self.held -= record.bytes as usize;
            self.kept -= 1;
        }
    }

    /// Judges everything whose time has come.
    fn judge(&mut self, now: Instant) {
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
            let (at, lost) = (record.first_sent_at, record.lost);
            self.line.on_fate(at, lost);
            self.fated = self.fated.wrapping_add(1);
        }
    }

    fn lose(&mut self, now: Instant, seq: u32) {
        self.count_lost(seq);
        let one_way = self.rtt.one_way();
        let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) else { return };
        self.heard.lost += u64::from(record.bytes);
        self.heard.lost_sent_at = self.heard.lost_sent_at.max(Some(record.sent_at));
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

    fn count_lost(&mut self, seq: u32) {
        let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) else { return };
        if record.tries == 1 && !record.lost {
            record.lost = true;
            self.counts.judged += 1;
            self.counts.lost += 1;
        }
    }

    fn abandon(&mut self, seq: u32) {
        let Some(record) = self.index(seq).and_then(|i| self.records.get_mut(i)) else { return };
        if record.state == State::Flying {
            self.flying -= u64::from(record.bytes);
        }
        record.state = State::Abandoned;
        self.counts.residual += 1;
        // Whether symbols brought it is known when it is forgotten.
        if record.frame.is_some() && record.coded.is_none() {
            self.tighter = (self.tighter * TIGHTER.0).min(TIGHTER.1);
        }
        if record.frame.take().is_some() {
            self.held -= record.bytes as usize;
            self.kept -= 1;
        }
    }

    /// How long a frame with later ones before it may still come. Of a coded one the first sending waits
    /// for its symbols as well.
    fn allowance(&self, seq: u32, tries: u8) -> Duration {
        let symbols = self.record(seq).and_then(|r| r.coded).filter(|_| tries == 1);
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
    fn hedge(&self, now: Instant, by: Instant) -> Option<Instant> {
        let smoothed = self.rtt.smoothed()?;
        let slack = by.since(now.plus(self.rtt.one_way()));
        if slack > PATIENT {
            return None;
        }
        let wait = self.feedback_wait();
        let (evident, timer) =
            (smoothed + self.rtt.margin() + wait, smoothed + self.rtt.margin() + wait * 2);
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
    fn timer(&self, after: u32) -> Option<Duration> {
        let smoothed = self.rtt.smoothed()?;
        let wait = self.feedback_wait();
        let tail = self.next_sequence().wrapping_sub(after) < LATER;
        Some(whole(smoothed + self.rtt.margin() + if tail { wait } else { wait * 2 }))
    }

    /// [`Sender::timer`] for this frame: longer where many rounds fit after it. In a hole of the way back
    /// all frames look lost, and in a hole of the way there what is sent again is lost as well.
    fn patience(&self, record: &Record<F>) -> Option<Duration> {
        let symbols = record.coded.filter(|_| record.tries == 1).unwrap_or_default();
        let timer = self.timer(record.after)? + whole(symbols);
        if self.next_sequence().wrapping_sub(record.after) < LATER {
            return Some(timer);
        }
        let end = record.give_up_at.minus(self.rtt.one_way());
        let spare = end.since(record.sent_at).saturating_sub(timer);
        let wait = self.feedback_wait();
        Some(if spare > self.round() * 3 + wait { timer + whole(wait) } else { timer })
    }

    /// Twice what the receiver waits when nothing is urgent: its budget may hold it back.
    fn feedback_wait(&self) -> Duration {
        let half = self.rtt.smoothed().unwrap_or_default() / 2;
        half.clamp(Duration::from_millis(2), Duration::from_millis(30)).max(self.lag)
    }

    /// What followed the last sending of a frame that is still under way since its `tries`-th.
    fn flying(&self, seq: u32, tries: u8) -> Option<u32> {
        let record = self.record(seq)?;
        (record.state == State::Flying && record.tries == tries).then_some(record.after)
    }

    fn index(&self, seq: u32) -> Option<usize> {
        let index = seq.wrapping_sub(self.base) as usize;
        (index < self.records.len()).then_some(index)
    }

    fn record(&self, seq: u32) -> Option<&Record<F>> {
        self.records.get(self.index(seq)?)
    }

    /// Forgets what is decided, oldest first. What was abandoned stays a while: it may yet come, and
    /// then it was not lost.
    fn forget_done(&mut self, now: Instant) {
        let linger = self.timer(self.base).unwrap_or(Duration::from_millis(100)) * 2;
        while let Some(record) = self.records.front() {
            let done = match record.state {
                State::Arrived => true,
                State::Abandoned if record.coded.is_some() => {
                    now.since(record.sent_at) > linger * 2
                }
                State::Abandoned => now.since(record.sent_at) > linger,
                State::Flying | State::Queued => false,
            };
            if !done {
                break;
            }
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some(record) = self.records.pop_front() {
            let abandoned = record.state == State::Abandoned;
            self.forgotten += u32::from(abandoned);
            if abandoned && record.coded.is_some() {
                self.tighter = (self.tighter * TIGHTER.0).min(TIGHTER.1);
            }
            if record.state == State::Flying {
                self.flying -= u64::from(record.bytes);
            }
            if record.frame.is_some() {
                self.held -= record.bytes as usize;
                self.kept -= 1;
            }
            self.base = self.base.wrapping_add(1);
            if before(self.frontier, self.base) {
                self.frontier = self.base;
            }
            if before(self.fated, self.base) {
                self.fated = self.base;
            }
        }
    }
}

/// A span in whole microseconds: a finer one would set a timer that comes before its judgement.
fn whole(span: Duration) -> Duration {
    Duration::from_micros(micros(span))
}
