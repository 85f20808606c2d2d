//! How fast a hop may be used: so fast that nothing queues on the line, and no faster than fair.
//!
//! Three modes. **Free**: no queue was ever seen, nothing is held back. **Steady**: the queue is
//! ours. The rate is the greatest at which frames came of late (ten round trips), tried upwards now
//! and then and drained after; what is under way is bounded by the least round trip and the bound on
//! the queue. **Shared**: the queue stays though we slowed, so somebody else fills it; a delay bound
//! would yield everything to them, so a window grows and falls as CUBIC's does (RFC 9438), and from
//! time to time a short drain asks whether the queue follows us alone again.
//!
//! Nothing is held back for a queue that cannot be ours: a thin flow beside others' queue would wait twice.
//! A queue is believed where both the round trip and the way there say so. The way back has a queue of its
//! own, which is none of ours; and what one way takes is the difference of two clocks, which drift.
//!
//! Loss does not lower the rate by itself; only in the shared mode loss at a full queue does, and CE.
//! A breaker (RFC 8084) throttles what loses half of everything for seconds whatever the delay says.
//!
//! A pure machine: one per link and lane. Bytes are of frames, without IP and UDP headers.
//! Design and figures: `docs/decisions/rate.md`.

use std::collections::VecDeque;
use std::time::Duration;

use super::arq::Heard;
use crate::time::{Deadline, Instant, micros};
use crate::wire::ack::Clock;

mod breaker;
mod busy;
mod cause;
mod credit;
mod shared;
mod signal;
mod steady;
mod window;

use breaker::Breaker;
use busy::Busy;
use cause::Cause;
pub use credit::Credit;
use window::Window;

/// The standing queue that is nobody's harm: this, or an eighth of the round trip.
const QUEUE: Duration = Duration::from_millis(10);
/// Shortest span that is judged as one round: below it timers and batches are all one sees.
const ROUND: Duration = Duration::from_millis(10);
/// Rounds of standing queue that engage the pacer. Two, and at least 50 ms: a scheduler's hiccup on a
/// fast machine must not.
const ENGAGE: (u32, Duration) = (2, Duration::from_millis(50));
/// Below this round trip a late turn of either machine looks like a full queue, and what it makes late
/// like a loss: there one of the rounds above has to have stood before a loss engages.
const NEAR: Duration = Duration::from_millis(2);
/// Rounds for which a delivery rate is remembered.
const RATE_ROUNDS: usize = 10;
/// Rounds between two tries upwards.
const CRUISE: u32 = 6;
/// Rounds that a queue outlives our slowing until it is somebody else's.
const STUCK: u32 = 6;
/// Between two questions whether the queue is ours alone again.
const ASK_EVERY: Duration = Duration::from_secs(3);
/// For so long unneeded, the pacer lets go.
const RELEASE: Duration = Duration::from_secs(60);
/// How long the least round trip is believed: while drains empty our own queue, and while others
/// keep it full.
const LEAST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// A frame of full size, about; windows and bursts hold a few whatever the rate.
const FRAME: u64 = 1500;
/// What a cut leaves of the shared mode's window. CUBIC leaves 0.7; but the flows inside, told by the
/// queue that grows then, give way once more by themselves.
const KEPT: f64 = 0.8;
/// Least rate, bytes per second: 64 kbit/s.
const LEAST_RATE: u64 = 8_000;

/// Highest rate that goes on as before whatever the queue says, bytes per second: 1 Mbit/s.
const MOST_FLOOR: u64 = 125_000;

/// How much of the line's rate may be used with what nobody waits for.
const ROOM: f64 = 0.97;

/// What rules the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing is held back.
    #[default]
    Free,
    /// The queue is ours and kept short.
    Steady,
    /// Others fill the queue; a fair share is held.
    Shared,
}

impl Mode {
    /// Its word in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Steady => "steady",
            Self::Shared => "shared",
        }
    }
}

/// Steady mode's cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A round at a higher rate; how many in succession found no queue.
    Up(u32),
    /// A round that shows what the higher rate did.
    Look(u32),
    /// Slower, until no more is under way than the line holds without a queue.
    Down,
    /// It no longer is: at the rate, for it takes a round trip to be seen. Should the queue be there after
    /// this many ends of rounds, slower again.
    Drained(u32),
    /// The same at first: what was known before it may be of a time with little to send, so that a
    /// try upwards follows at once.
    First,
    /// At the rate; rounds since.
    Cruise(u32),
}

/// One round trip's worth of news.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    began: Instant,
    /// The shortest queue that a sample showed.
    least_queue: Option<Duration>,
    most_queue: Duration,
    delivered: u64,
    lost: u64,
    /// Of the lost: what came all the same, or by symbols; and only the latter.
    regained: u64,
    mended: u64,
    /// What was lost while the line was not full.
    by_chance: u64,
    /// Bytes of repair symbols sent, which no feedback tells of.
    symbols: u64,
    /// Whether more would have been sent but for the pacer.
    limited: bool,
    /// The most that was under way.
    most_in_flight: u64,
    /// Whether at times there was nothing more to send: its rate says little of the line then.
    idle: bool,
}

/// A question whether the queue follows us: what was under way and how long the queue was before.
#[derive(Clone, Copy, Debug)]
struct Question {
    under_way: u64,
    queue: Duration,
    rounds: u32,
}

/// What is in force from one feedback to the next: asked for each packet.
#[derive(Clone, Copy, Debug)]
struct Allowed {
    /// Bytes per second; none: nothing is held back.
    rate: Option<u64>,
    /// Bytes under way.
    in_flight: u64,
}

/// What the pacer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaceStats {
    /// Times a standing queue engaged it.
    pub engaged: u64,
    /// Times others were found to fill the queue.
    pub shared: u64,
    /// Times the circuit breaker opened.
    pub trips: u64,
    /// Bytes lost while the queue was full or CE was seen.
    pub congestion_lost: u64,
    /// Bytes lost at other times.
    pub random_lost: u64,
    /// Frames that bore the congestion mark.
    pub ce: u64,
}

impl PaceStats {
    /// Adds another lane's.
    pub fn absorb(&mut self, other: &Self) {
        self.engaged += other.engaged;
        self.shared += other.shared;
        self.trips += other.trips;
        self.congestion_lost += other.congestion_lost;
        self.random_lost += other.random_lost;
        self.ce += other.ce;
    }
}

/// The rate controller of one link and lane.
#[derive(Debug)]
pub struct Pacer {
    mode: Mode,
    phase: Phase,
    credit: Credit,
    allowed: Allowed,
    limited_at: Instant,
    round: Round,
    /// Delivery rates of the last rounds, newest last.
    rates: VecDeque<u64>,
    /// Loss of the last rounds, in thousandths, newest last.
    losses: VecDeque<u32>,
    /// The same of what was lost while the line was not full.
    chances: VecDeque<u32>,
    /// Least round trips of the last slots, with the slot's end.
    trips: VecDeque<(Instant, Duration)>,
    /// The same of the way there, µs beside that of the first sample; and that sample.
    ways: VecDeque<(Instant, i64)>,
    first_way: Option<Clock>,
    smoothed: Duration,
    /// What the last round trips took beyond the least that no queue there explains.
    elsewhere: Duration,
    /// Rate that is never gone below, bytes per second: what was usual before, if it was little.
    floor: u64,
    /// Whose doing a queue can be, as long as nothing is held back.
    cause: Cause,
    /// What the line gave while it was never without work.
    busy: Busy,
    /// The round trip of the empty line, as far as is known.
    least: Duration,
    /// Bytes per second that the line takes.
    line: u64,
    /// What the last round used of it but for symbols, bytes per second.
    used: u64,
    /// Bytes of symbols sent in it, and whether it ran out of what to send.
    last_symbols: u64,
    last_idle: bool,
    /// The queue as the last samples show it, and the greatest of late.
    queue: Duration,
    greatest_queue: Duration,
    last_sample: Option<Duration>,
    /// The most that was under way in the round before.
    last_in_flight: u64,
    /// Rounds in a row with a standing queue, and since when; rounds without any.
    standing: u32,
    standing_since: Instant,
    /// What was under way when the queue began to stand.
    before_standing: u64,
    empty: u32,
    /// Rounds for which a short queue has outlived that we go slower, and what was under way before.
    yielding: u32,
    before_yielding: u64,
    full_loss: u32,
    congested_until: Instant,
    window: Window,
    cut_at: Instant,
    asked_at: Instant,
    question: Option<Question>,
    alone: u32,
    breaker: Breaker,
    stats: PaceStats,
}

impl Pacer {
    /// A pacer that lets everything pass.
    pub fn new(now: Instant) -> Self {
        Self {
            mode: Mode::Free,
            phase: Phase::Cruise(0),
            credit: Credit::new(now),
            allowed: Allowed { rate: None, in_flight: u64::MAX },
            limited_at: now,
            round: Round { began: now, ..Round::default() },
            rates: VecDeque::new(),
            losses: VecDeque::new(),
            chances: VecDeque::new(),
            trips: VecDeque::new(),
            ways: VecDeque::new(),
            first_way: None,
            smoothed: Duration::ZERO,
            elsewhere: Duration::ZERO,
            floor: LEAST_RATE,
            cause: Cause::default(),
            busy: Busy::default(),
            least: Duration::ZERO,
            line: LEAST_RATE,
            used: 0,
            last_symbols: 0,
            last_idle: true,
            queue: Duration::ZERO,
            greatest_queue: Duration::ZERO,
            last_sample: None,
            last_in_flight: 0,
            standing: 0,
            standing_since: now,
            before_standing: 0,
            empty: 0,
            yielding: 0,
            before_yielding: 0,
            full_loss: 0,
            congested_until: Instant::ZERO,
            window: Window::new(4 * FRAME, KEPT, now),
            cut_at: now,
            asked_at: now,
            question: None,
            alone: 0,
            breaker: Breaker::new(now),
            stats: PaceStats::default(),
        }
    }

    /// Whether there is credit to send.
    pub fn has_credit(&mut self, now: Instant) -> bool {
        let Some(rate) = self.allowed.rate else { return true };
        self.credit.earn(now, rate) > 0
    }

    /// Whether a frame that waits may be sent for the first time now, with so many bytes under way.
    pub fn admits(&mut self, now: Instant, in_flight: u64) -> bool {
        if self.allowed.rate.is_none() {
            return true;
        }
        self.round.most_in_flight = self.round.most_in_flight.max(in_flight);
        let admits = in_flight < self.allowed.in_flight && self.has_credit(now);
        if !admits {
            (self.round.limited, self.limited_at) = (true, now);
        }
        admits
    }

    /// A frame was sent, of whatever kind: those that ask no leave are paid for as well.
    pub fn on_sent(&mut self, bytes: usize) {
        self.credit.spend(bytes, self.allowed.rate);
        self.breaker.on_sent(bytes as u64);
    }

    /// The same of a repair symbol.
    pub fn on_symbol_sent(&mut self, bytes: usize) {
        self.round.symbols += bytes as u64;
        self.on_sent(bytes);
    }

    /// All is sent that may be sent for now; `left`: more waits. Where credit ended that, the clock is
    /// wanted.
    pub fn on_rest(&mut self, left: bool) {
        self.round.idle |= !left;
        self.credit.rest(self.rate().is_some());
    }

    /// The clock came that [`Pacer::poll_timeout`] asked for.
    pub fn on_wake(&mut self) {
        self.credit.wake();
    }

    /// Feedback came, or the sender's timers judged. `in_flight`: bytes under way after it.
    pub fn on_heard(&mut self, now: Instant, heard: &Heard, in_flight: u64) {
        if !heard.feedback && heard.lost == 0 {
            return;
        }
        let spared = heard.local_drops.saturating_mul(FRAME);
        let lost = heard.lost.saturating_sub(spared);
        self.round.delivered += heard.delivered;
        self.round.lost += lost;
        self.round.regained += heard.regained;
        self.round.mended += heard.mended;
        self.stats.ce += heard.ce;
        if let Some(trip) = heard.round_trip {
            self.on_trip(now, trip, heard.way);
        }
        if let Some(clock) = heard.clock {
            self.busy.on_delivered(
                now,
                clock,
                heard.delivered.saturating_sub(heard.mended),
                self.queue,
            );
        }
        let span = self.smoothed.max(ROUND);
        let ours = self.mode != Mode::Free || self.cause.is_ours();
        if heard.ce > 0 || self.queue > self.loss_bound() && ours {
            self.congested_until = now.plus(span);
        }
        let congested = self.is_congested(now);
        if congested {
            self.stats.congestion_lost += lost;
        } else {
            self.stats.random_lost += lost;
            self.round.by_chance += lost;
        }
        self.breaker.on_regained(heard.regained);
        self.stats.trips += u64::from(self.breaker.on_heard(now, heard.delivered, lost));
        let far = self.least >= NEAR || self.standing > 0;
        match self.mode {
            Mode::Free if heard.ce > 0 || congested && lost > 0 && far => self.engage(now),
            Mode::Free => {}
            Mode::Steady => self.steer(heard.ce > 0, in_flight),
            Mode::Shared => {
                // Once for all that was under way then, however late the rest of it is missed.
                let lost = heard.lost_sent_at.filter(|_| congested && lost > 0);
                let marked = heard.newest_sent_at.filter(|_| heard.ce > 0);
                if lost.max(marked).is_some_and(|sent_at| sent_at > self.cut_at) {
                    self.cut_at = now;
                    // What is held back for a question's sake is no measure.
                    let most = self.round.most_in_flight.max(self.last_in_flight);
                    self.window.cut(now, most.max(in_flight + heard.lost));
                } else if in_flight * 3 / 2 >= self.window.bytes() && self.question.is_none() {
                    self.window.grow(now, heard.delivered, self.smoothed);
                }
            }
        }
        let turned = heard.newest_sent_at.is_some_and(|sent_at| sent_at >= self.round.began);
        if turned && now.since(self.round.began) >= ROUND {
            self.end_round(now, in_flight);
        }
        self.reckon();
    }

    /// When credit will be there again for what was refused.
    pub fn poll_timeout(&self) -> Option<Deadline> {
        self.credit.poll_timeout(self.rate()?)
    }

    /// What rules the rate.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The rate in force, bytes per second; `None` where nothing is held back.
    pub fn rate(&self) -> Option<u64> {
        self.allowed.rate
    }

    /// Something was heard: what is allowed until more is.
    fn reckon(&mut self) {
        self.allowed = Allowed { rate: self.rate_now(), in_flight: self.in_flight_limit() };
    }

    fn rate_now(&self) -> Option<u64> {
        let own = match self.mode {
            Mode::Free => None,
            Mode::Steady => Some(scale(self.line, self.gain())),
            Mode::Shared => {
                let trip = micros(self.smoothed).max(1000);
                Some((self.window.bytes() * 1_000_000 / trip).saturating_mul(5) / 4)
            }
        };
        // The breaker goes below it: what loses half of everything is no usual time.
        let own = own.map(|rate| rate.max(self.floor));
        let rate = match (own, self.breaker.rate()) {
            (Some(a), Some(b)) => a.min(b),
            (a, b) => a.or(b)?,
        };
        Some(rate.max(LEAST_RATE))
    }

    /// Whether loss now means that the line is full: then it is a signal, and repairing it makes it
    /// worse.
    pub fn is_congested(&self, now: Instant) -> bool {
        now < self.congested_until
    }

    /// Whether what is lost now is lost by chance, whoever fills the line.
    pub fn loses_by_chance(&self, now: Instant) -> bool {
        self.mode != Mode::Shared && !self.is_congested(now)
    }

    /// Whether the line has room for `share` more than what was sent of late: what nobody waits for.
    pub fn has_room(&self, now: Instant, share: f64) -> bool {
        match self.mode {
            Mode::Free => !self.is_congested(now) && self.queue <= self.bound() / 2,
            // A rate that is still found too low says nothing of the line.
            Mode::Steady => {
                matches!(self.phase, Phase::Up(1..) | Phase::Look(1..))
                    || self.last_idle && self.used as f64 * (1.0 + share) < self.line as f64 * ROOM
            }
            Mode::Shared => false,
        }
    }

    /// The queue on the line as the last round trips show it.
    pub fn queue(&self) -> Duration {
        self.queue
    }

    /// What was done so far.
    pub fn stats(&self) -> PaceStats {
        self.stats
    }

    /// A frame took this round trip and, by two clocks, this one way.
    fn on_trip(&mut self, now: Instant, trip: Duration, way: Option<Clock>) {
        let span = if self.mode == Mode::Steady { LEAST.0 } else { LEAST.1 };
        self.least = least_of(&mut self.trips, now, span, trip);
        let excess = trip.saturating_sub(self.least);
        let there = way.map(|way| {
            let first = *self.first_way.get_or_insert(way);
            let way = way.since(first);
            let least = least_of(&mut self.ways, now, span, way);
            Duration::from_micros((way - least).max(0).unsigned_abs())
        });
        let sample = there.map_or(excess, |there| there.min(excess));
        self.elsewhere = (self.elsewhere * 7 + (excess - sample)) / 8;
        self.smoothed = if self.smoothed.is_zero() { trip } else { (self.smoothed * 7 + trip) / 8 };
        // One late frame is no queue: the smaller of two neighbours.
        self.queue = self.last_sample.map_or(sample, |last| last.min(sample));
        self.last_sample = Some(sample);
        self.round.most_queue = self.round.most_queue.max(self.queue);
        self.greatest_queue = self.greatest_queue.max(self.queue);
        let least = self.round.least_queue.map_or(sample, |least| least.min(sample));
        self.round.least_queue = Some(least);
    }

    /// The queue that may stand.
    fn bound(&self) -> Duration {
        QUEUE.max(self.least / 8)
    }

    /// The queue from which on a loss is taken for the line's being full.
    fn loss_bound(&self) -> Duration {
        match self.mode {
            Mode::Free => self.bound(),
            // Beyond what our own tries upwards bring.
            Mode::Steady => self.bound() * 2,
            // A queue that others keep is not full all the time.
            Mode::Shared => self.bound().max(self.greatest_queue * 3 / 5),
        }
    }

    /// Bytes per second that the line takes: the greatest of late, and what is lost at any rate on
    /// top, or loss by chance would wear the rate down.
    fn line_rate(&self) -> u64 {
        // While a queue stands the last rounds say what the line gives now.
        let rounds = if self.standing > 1 { 2 } else { RATE_ROUNDS };
        let rate = self.rates.iter().rev().take(rounds).copied().max().unwrap_or(LEAST_RATE);
        let floor = self.losses.iter().copied().min().unwrap_or(0).min(300);
        rate * 1000 / u64::from(1000 - floor)
    }

    /// The steady mode's factor on the rate, in hundredths.
    fn gain(&self) -> u64 {
        match self.phase {
            Phase::Up(0) => 125,
            Phase::Up(_) => 200,
            Phase::Look(_) | Phase::Cruise(_) | Phase::Drained(..2) => 100,
            Phase::Down | Phase::First | Phase::Drained(_) => 75,
        }
    }

    /// How long a frame counts as under way beyond its round trip: feedback waits.
    fn feedback_lag(&self) -> Duration {
        (self.least / 4).clamp(Duration::from_millis(2), Duration::from_millis(25))
    }

    fn in_flight_limit(&self) -> u64 {
        let limit = match self.mode {
            Mode::Free => return u64::MAX,
            Mode::Steady => {
                let least = self.least;
                let factor = if let Phase::Up(1..) = self.phase { 2 } else { 1 };
                let span = least * factor + self.elsewhere + self.bound() + self.feedback_lag();
                self.line * micros(span) / 1_000_000
            }
            Mode::Shared if self.question.is_some() => self.window.bytes() * 3 / 4,
            Mode::Shared => self.window.bytes(),
        };
        limit
            .max(4 * FRAME)
            .max(self.floor * micros(self.smoothed + self.feedback_lag()) / 1_000_000)
    }

    fn engage(&mut self, now: Instant) {
        if self.trips.is_empty() || self.rates.is_empty() {
            return;
        }
        // Rounds in which little was sent say little of the line; what it gave while it was full, much.
        let busy = self.busy.rate(now).unwrap_or(0);
        if self.rates.iter().all(|&rate| rate < busy) {
            keep(&mut self.rates, busy, RATE_ROUNDS);
        }
        self.line = self.line_rate();
        // Thin flows that were there before are not what fills the line; held back, they would only
        // wait a second time. Where it is not the queue that has grown but the way, for long.
        self.floor = (self.cause.usual() * 5 / 4).clamp(LEAST_RATE, MOST_FLOOR);
        self.mode = Mode::Steady;
        self.phase = Phase::First;
        self.stats.engaged += 1;
        self.standing = 0;
        self.limited_at = now;
        self.credit = Credit::new(now);
    }

    fn end_round(&mut self, now: Instant, in_flight: u64) {
        let round = std::mem::replace(&mut self.round, Round { began: now, ..Round::default() });
        if self.question.is_none() {
            self.last_in_flight = round.most_in_flight;
        }
        let span = micros(now.since(round.began)).max(1);
        let sent = (round.delivered + round.lost).saturating_sub(round.regained);
        self.used = sent * 1_000_000 / span;
        // What symbols brought did not come itself, but they did, those of a round trip ago: as many of
        // them as of all else.
        let itself = round.delivered.saturating_sub(round.mended).min(sent);
        let symbols = std::mem::replace(&mut self.last_symbols, round.symbols);
        let came = itself + (symbols * itself).checked_div(sent).unwrap_or(0);
        let rate = came * 1_000_000 / span;
        self.last_idle = round.idle;
        let queue = round.least_queue;
        let known = self.rates.iter().copied().max().unwrap_or(0);
        // What was sent less than it might says nothing of the line, unless it shows more.
        let standing = queue.is_some_and(|queue| queue > self.bound());
        if round.limited && !round.idle || standing || rate > known || self.mode == Mode::Free {
            keep(&mut self.rates, rate, RATE_ROUNDS);
        }
        let all = sent;
        if let Some(share) = (round.lost * 1000).checked_div(all) {
            keep(&mut self.losses, share as u32, RATE_ROUNDS);
            keep(&mut self.chances, (round.by_chance * 1000 / all) as u32, RATE_ROUNDS);
        }
        let forget = self.greatest_queue.mul_f64((span as f64 / 1e7).min(1.0));
        self.greatest_queue -= forget;
        if standing {
            if self.standing == 0 {
                self.standing_since = round.began;
                self.before_standing = in_flight;
            }
            self.standing += 1;
        } else {
            self.standing = 0;
        }
        self.line = self.line_rate();
        let clear = queue.is_some_and(|queue| queue < self.bound() / 2);
        self.empty = if clear { self.empty + 1 } else { 0 };
        match self.mode {
            Mode::Free => self.watch(now, &round, rate, known),
            Mode::Steady => self.cycle(now, &round, in_flight),
            Mode::Shared => self.ask(now, &round, queue, rate, in_flight),
        }
        if self.mode != Mode::Free && now.since(self.limited_at) > RELEASE {
            self.mode = Mode::Free;
        }
    }

    /// Free: whether there is a reason to engage.
    fn watch(&mut self, now: Instant, round: &Round, rate: u64, known: u64) {
        let (rounds, span) = ENGAGE;
        let queue = round.least_queue.filter(|_| self.standing > 0);
        self.cause.on_round(now, self.used, queue, self.bound());
        if self.cause.is_way(now) {
            return self.forget_way();
        }
        if self.cause.is_ours() && self.standing >= rounds && now.since(self.standing_since) >= span
        {
            return self.engage(now);
        }
        // A short buffer shows no queue: more loss than is usual, clearly more sent than ever came,
        // and nothing more comes for it. (A steady flow over a lossy line sends what it always sent.)
        let all = (round.delivered + round.lost).max(1);
        let loss = (round.lost * 1000 / all) as u32;
        // The middle one: with few frames a round, some lose nothing on any line.
        let usual = middle(self.losses.iter().copied()).unwrap_or(0);
        let pressed = all.saturating_mul(rate) > round.delivered.saturating_mul(known + known / 4);
        let vain =
            loss > 2 * usual + 50 && rate < known + known / 20 && pressed && all > 20 * FRAME;
        self.full_loss = if vain { self.full_loss + 1 } else { 0 };
        if self.full_loss >= 3 {
            self.full_loss = 0;
            self.engage(now);
        }
    }

    /// The way has become longer: its least is learnt anew.
    fn forget_way(&mut self) {
        self.trips.clear();
        self.ways.clear();
        (self.standing, self.cause) = (0, Cause::default());
    }
}

/// Hundredths of a rate.
const fn scale(rate: u64, hundredths: u64) -> u64 {
    rate.saturating_mul(hundredths) / 100
}

/// The least of late: `slots` hold that of each second with its end, those of the last `span`.
fn least_of<T: Copy + Ord>(
    slots: &mut VecDeque<(Instant, T)>,
    now: Instant,
    span: Duration,
    sample: T,
) -> T {
    const SLOT: Duration = Duration::from_secs(1);
    match slots.back_mut() {
        Some((end, least)) if now < *end => *least = (*least).min(sample),
        _ => slots.push_back((now.plus(SLOT), sample)),
    }
    while slots.front().is_some_and(|(end, _)| now.since(*end) > span) {
        slots.pop_front();
    }
    slots.iter().map(|&(_, least)| least).min().unwrap_or(sample)
}

/// The middle one of a few, the greater of two.
fn middle<T: Copy + Ord>(few: impl Iterator<Item = T>) -> Option<T> {
    let mut few: Vec<T> = few.collect();
    few.sort_unstable();
    few.get(few.len() / 2).copied()
}

fn keep<T>(list: &mut VecDeque<T>, value: T, most: usize) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(value);
}

#[cfg(test)]
mod sim;
