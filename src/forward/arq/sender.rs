//! The sending side of a hop: what is under way, what was lost, what is sent again.
//!
//! Every frame gets a hop sequence and a `record`. Feedback is heard (`hear`), what is missing is
//! judged by later frames and by timers (`judge`), and what was lost is sent again (`repair`).
//!
//! The residual is measured as well as planned: every miss lowers what the plan may leave, every
//! frame lifts it again by as much as its class allows, so that misses settle at the target. What a
//! class's bound on repair left lost is none of these misses, and its frames lift nothing while that is
//! used up.

mod hear;
mod judge;
mod record;
mod repair;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::news::News;
use super::{Counts, Heard, Longest, LossModel, RoundTrip};
use crate::forward::held::halve;
use crate::time::Instant;
use judge::Waits;
use record::Record;

/// Bounds of the reordering allowance: below, one timer's grain; above, repair would come too late.
const ALLOWANCE: (Duration, Duration) = (Duration::from_micros(500), Duration::from_millis(25));
/// Repair that may be sent beyond half of the first-sent bytes.
const BURST: u64 = 32 * 1024;
/// Times a frame is sent at most.
const TRIES: u8 = 8;
/// Sendings planned ahead: beyond it a frame has to do with what feedback starts.
const PLANNED: usize = 1 << 15;
/// The number of a copy that stands for a round: last among those of one moment.
const ROUND: u32 = u32::MAX;
/// How much a miss tightens the plan, and how far that goes.
const TIGHTER: (f64, f64) = (1.3, 16.0);

/// What a frame is sent under.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// When it must have reached the next node to be of use.
    pub by: Instant,
    /// Chance of missing that which its class allows on this hop.
    pub target: f64,
    /// Whether, once lost, it goes twice: so much waits for it at the egress that a copy is cheaper than
    /// another round.
    pub twice: bool,
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
    news: News,
    /// Every sequence before this one has told the model its fate.
    fated: u32,
    /// Mean time between frames, of late: all of them, where the coder reckons with those that are source
    /// symbols. News of a loss rides on any frame, a symbol's window holds only its own.
    spacing_us: f64,
    pushed_at: Option<Instant>,
    /// What the plan's choices left of a copy.
    carry: f64,
    /// By how much the plan aims below the target: what was measured above it.
    tighter: f64,
    rtt: RoundTrip,
    /// How much longer than a round trip feedback takes at worst, of late.
    lag: Duration,
    /// Known once the round trip is.
    waits: Option<Waits>,
    /// Widened while reordering makes false alarms.
    allowance: Duration,
    /// Frames that the feedback in hand is the first to tell of, neither lost nor sent again.
    punctual: u32,
    heard_at: Option<Instant>,
    /// The latest reading of the clock.
    now: Instant,
    /// Frames to come that ask for feedback, because they can show the loss of a repair.
    asks: u8,
    asked_at: Option<Instant>,
    /// What repair may take, in halves of a byte: a first-sent byte brings one and a byte of repair takes
    /// two, so that repair gets half of the first-sent bytes, a third of all. At most [`BURST`] and what is
    /// kept for repair may be saved up; there is a [`BURST`] at the start.
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
    /// The most of late.
    most_flying: u64,
    heard: Heard,
    counts: Counts,
    reported: Counts,
    longest: Longest,
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
            news: News::default(),
            fated: 0,
            spacing_us: 10_000.0,
            pushed_at: None,
            carry: 0.0,
            tighter: 1.0,
            rtt: RoundTrip::default(),
            lag: Duration::ZERO,
            waits: None,
            allowance: Duration::ZERO,
            punctual: 0,
            heard_at: None,
            now: Instant::ZERO,
            asks: 0,
            asked_at: None,
            tokens: 2 * BURST,
            paused_until: Instant::ZERO,
            standing: false,
            given_up: 0,
            forgotten: 0,
            peer_drops: 0,
            peer_ce: 0,
            flying: 0,
            most_flying: 0,
            heard: Heard::default(),
            counts: Counts::default(),
            reported: Counts::default(),
            longest: Longest::default(),
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

    /// The clock reached `now`: the sender's own timers may judge.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.judge(now);
        self.forget_done(now);
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

    /// The longest frames whose fate became known since this was last asked.
    pub fn take_longest(&mut self) -> Longest {
        std::mem::take(&mut self.longest)
    }
}
