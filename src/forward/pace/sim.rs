//! The pacer between the queue and the repair of a hop, on an invented line in virtual time.
//!
//! The line is a drop-tail queue of bytes with a rate, a delay and loss behind it. Sources are
//! models of a TCP: CUBIC's window, one loss signal a round.
//! One is inside the tunnel, whose egress restores order as the real one does; others cross the line
//! beside it. What is shown is how the control behaves, not what a kernel's TCP gets: the bounds are
//! wide, the figures of real ones come from namespaces.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::window::Window;
use super::{Credit, FRAME, LEAST_RATE, Mode, Pacer};
use crate::forward::arq::{Arrival, Receiver, Sender, Terms};
use crate::forward::queue::{Control, FairQueue, Item, QueueLimits};
use crate::rng::Dice;
use crate::time::{Instant, micros};
use crate::wire::ack::Ack;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// How long the egress holds a packet for those before it, and what they may take.
const HOLD: Duration = Duration::from_secs(1);

fn at(ms: u64) -> Instant {
    Instant::from_micros(ms * 1000)
}

/// A packet of the inner source.
#[derive(Clone, Copy, Debug)]
struct Inner(u64);

impl Item for Inner {
    fn mark(&mut self) -> bool {
        false
    }

    fn shed(&mut self) -> Option<usize> {
        None
    }
}

/// A source with always something to send.
struct Tcp {
    window: Window,
    slow_start: bool,
    frames: f64,
    next: u64,
    open: BTreeMap<u64, Instant>,
    highest: u64,
    recover: u64,
    least: Duration,
    smoothed: Duration,
    heard_at: Instant,
    delivered: u64,
    /// Bound of its window.
    most: f64,
}

impl Tcp {
    fn new(now: Instant) -> Self {
        Self {
            window: Window::new(10 * FRAME, 0.7, now),
            slow_start: true,
            frames: 10.0,
            next: 0,
            open: BTreeMap::new(),
            highest: 0,
            recover: 0,
            least: Duration::MAX,
            smoothed: ms(100),
            heard_at: now,
            delivered: 0,
            most: f64::MAX,
        }
    }

    fn size(&self) -> f64 {
        let window = self.window.bytes() as f64 / FRAME as f64;
        if self.slow_start { self.frames.min(self.most) } else { window.min(self.most) }
    }

    fn poll(&mut self, now: Instant) -> Option<u64> {
        if self.open.len() as f64 >= self.size() {
            return None;
        }
        self.next += 1;
        self.open.insert(self.next, now);
        Some(self.next)
    }

    fn cut(&mut self, now: Instant, to: Option<f64>) {
        if self.slow_start {
            self.window.restart(now, (self.frames * FRAME as f64) as u64);
            self.slow_start = false;
        }
        self.window.cut(now, u64::MAX);
        if let Some(to) = to {
            (self.slow_start, self.frames) = (true, to);
        }
        self.recover = self.next;
    }

    fn on_ack(&mut self, now: Instant, id: u64) {
        self.heard_at = now;
        self.highest = self.highest.max(id);
        let Some(sent_at) = self.open.remove(&id) else { return };
        self.delivered += FRAME;
        let trip = now.since(sent_at);
        self.least = self.least.min(trip);
        self.smoothed = (self.smoothed * 7 + trip) / 8;
        let lost: Vec<u64> =
            self.open.range(..self.highest.saturating_sub(2)).map(|(&id, _)| id).collect();
        for &id in &lost {
            self.open.remove(&id);
        }
        if lost.iter().any(|&id| id > self.recover) {
            self.cut(now, None);
        } else if self.slow_start {
            self.frames += 1.0;
        } else {
            self.window.grow(now, FRAME, self.smoothed);
        }
    }

    fn rto(&self) -> Instant {
        self.heard_at.plus(self.smoothed * 2 + ms(250))
    }

    fn on_time(&mut self, now: Instant) {
        if now >= self.rto() && !self.open.is_empty() {
            self.open.clear();
            self.cut(now, Some(2.0));
            self.heard_at = now;
        }
    }
}

#[derive(Clone, Copy)]
struct Line {
    /// Bytes per second and bytes of queue.
    rate: u64,
    buffer: u64,
    one_way: Duration,
    loss: f64,
    /// Mean lengths of good and bad spells.
    bursts: Option<(Duration, Duration)>,
}

impl Line {
    /// 50 Mbit/s and a queue of one bandwidth-delay product.
    fn of(rtt: Duration) -> Self {
        let rate = 6_250_000;
        let buffer = rate * micros(rtt) / 1_000_000;
        Self { rate, buffer, one_way: rtt / 2, loss: 0.0, bursts: None }
    }
}

#[derive(Clone, Copy, Debug)]
enum Parcel {
    /// Hop sequence, the stream's number and the inner packet, whether it asks for feedback.
    Frame(u32, (u64, u64), bool),
    Cross(u64),
}

enum Step {
    /// The line has sent what it was sending.
    Out,
    Arrive(Parcel),
    Feedback(Ack),
    InnerAck(u64),
    CrossAck(u64),
    Sample,
}

struct World {
    line: Line,
    now: Instant,
    steps: BTreeMap<(Instant, u64), Step>,
    serial: u64,
    dice: Dice,
    waiting: VecDeque<(Parcel, u64)>,
    backlog: u64,
    bad: bool,
    weather_until: Instant,
    inner: Tcp,
    cross: Option<Tcp>,
    cross_active: bool,
    queue: FairQueue<Inner>,
    sender: Sender<(u64, u64)>,
    numbered: u64,
    receiver: Receiver,
    pacer: Pacer,
    /// The egress: what waits for those before it, and what is next.
    held: BTreeMap<u64, (u64, Instant)>,
    expected: u64,
    queued_ms: Vec<f64>,
    warm_at: Instant,
    at_warm: (u64, u64),
}

/// What came of a run, after the first seconds.
#[derive(Debug)]
struct Outcome {
    /// Of the line's rate, what the inner and the cross source got.
    inner: f64,
    cross: f64,
    /// The line's queue, 95th percentile, ms.
    p95: f64,
    mode: Mode,
    stats: super::PaceStats,
    repair_share: f64,
    signals: u64,
}

impl World {
    fn new(line: Line, cross: bool, seed: u64) -> Self {
        let now = Instant::ZERO;
        Self {
            line,
            now,
            steps: BTreeMap::new(),
            serial: 0,
            dice: Dice::new(seed),
            waiting: VecDeque::new(),
            backlog: 0,
            bad: false,
            weather_until: now,
            inner: Tcp::new(now),
            cross: cross.then(|| Tcp::new(now)),
            cross_active: cross,
            queue: FairQueue::new(QueueLimits::default()),
            sender: Sender::new(16 << 20),
            numbered: 0,
            receiver: Receiver::new(now),
            pacer: Pacer::new(now),
            held: BTreeMap::new(),
            expected: 1,
            queued_ms: Vec::new(),
            warm_at: at(5000),
            at_warm: (0, 0),
        }
    }

    fn add(&mut self, at: Instant, step: Step) {
        self.serial += 1;
        self.steps.insert((at, self.serial), step);
    }

    fn put(&mut self, parcel: Parcel) {
        // Where all is exact, two sources fall in step at a full queue and one of them takes every loss
        // (Floyd and Jacobson, phase effects). Others' small packets make the difference.
        let others = self.dice.below(8 * FRAME);
        if self.backlog + FRAME + others > self.line.buffer {
            return;
        }
        self.backlog += FRAME;
        self.waiting.push_back((parcel, FRAME));
        if self.waiting.len() == 1 {
            self.serve();
        }
    }

    fn serve(&mut self) {
        if let Some(&(_, bytes)) = self.waiting.front() {
            let at = self.now.plus(Duration::from_micros(bytes * 1_000_000 / self.line.rate));
            self.add(at, Step::Out);
        }
    }

    fn lost(&mut self) -> bool {
        if let Some((good, bad)) = self.line.bursts {
            while self.weather_until <= self.now {
                self.bad = !self.bad;
                let mean = if self.bad { bad } else { good };
                let span = mean.mul_f64(-(1.0 - self.dice.unit()).ln());
                self.weather_until = self.weather_until.plus(span.max(Duration::from_micros(1)));
            }
        }
        self.bad || self.dice.unit() < self.line.loss
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        match step {
            Step::Out => {
                if let Some((parcel, bytes)) = self.waiting.pop_front() {
                    self.backlog -= bytes;
                    if !self.lost() {
                        self.add(now.plus(self.line.one_way), Step::Arrive(parcel));
                    }
                }
                self.serve();
            }
            Step::Arrive(Parcel::Cross(id)) => {
                self.add(now.plus(self.line.one_way), Step::CrossAck(id));
            }
            Step::Arrive(Parcel::Frame(seq, (number, id), asks)) => {
                let arrival = self.receiver.on_frame(now, seq, FRAME as usize, false, asks);
                if arrival == Arrival::New {
                    self.held.insert(number, (id, now));
                }
            }
            Step::Feedback(ack) => {
                self.sender.on_feedback(now, &ack);
                if let Some(rtt) = self.sender.round_trip().smoothed() {
                    self.receiver.on_round_trip(rtt);
                }
            }
            Step::InnerAck(id) => self.inner.on_ack(now, id),
            Step::CrossAck(id) => {
                if let Some(cross) = &mut self.cross {
                    cross.on_ack(now, id);
                }
            }
            Step::Sample => {
                let wait = self.backlog as f64 * 1000.0 / self.line.rate as f64;
                if now >= self.warm_at {
                    self.queued_ms.push(wait);
                }
                if now == self.warm_at {
                    let cross = self.cross.as_ref().map_or(0, |c| c.delivered);
                    self.at_warm = (self.inner.delivered, cross);
                }
                self.add(now.plus(Duration::from_millis(5)), Step::Sample);
            }
        }
    }

    /// The egress passes on what is in order, or has waited for long enough.
    fn release(&mut self) {
        while let Some((&number, &(id, since))) = self.held.first_key_value() {
            if number > self.expected && self.now.since(since) < HOLD {
                break;
            }
            self.held.pop_first();
            self.expected = self.expected.max(number + 1);
            self.add(self.now.plus(self.line.one_way), Step::InnerAck(id));
        }
    }

    fn transmit(&mut self) {
        let now = self.now;
        while let Some(id) = self.inner.poll(now) {
            self.queue.push(now, 1, FRAME as usize, 1, Inner(id));
        }
        if self.cross_active
            && let Some(mut cross) = self.cross.take()
        {
            while let Some(id) = cross.poll(now) {
                self.put(Parcel::Cross(id));
            }
            self.cross = Some(cross);
        }
        while let Some(ack) = self.receiver.poll_feedback(now) {
            self.add(now.plus(self.line.one_way), Step::Feedback(ack));
        }
        let unruled = self.pacer.mode() == Mode::Free && self.pacer.is_congested(now);
        self.sender.on_standing(if unruled { Duration::MAX } else { Duration::ZERO });
        while self.pacer.has_credit(now) {
            let Some((seq, &what)) = self.sender.poll_repair(now) else { break };
            self.pacer.on_sent(FRAME as usize);
            self.put(Parcel::Frame(seq, what, false));
        }
        self.queue.set_control(self.pacer.control().unwrap_or(Control::DEFAULT));
        while !self.queue.is_empty() && self.pacer.admits(now, self.sender.in_flight()) {
            let Some((&mut Inner(id), _)) = self.queue.front(now) else { break };
            self.queue.served(FRAME as usize, false);
            let asks = self.sender.asks_feedback(now);
            self.numbered += 1;
            let what = (self.numbered, id);
            let twice = self.pacer.loses_by_chance(now) && self.sender.copies_pay();
            let terms = Terms { by: now.plus(HOLD), target: 1e-5, twice };
            let seq = self.sender.push(now, FRAME as usize, Some(terms), Some(what), None);
            self.pacer.on_sent(FRAME as usize);
            self.put(Parcel::Frame(seq, what, asks));
        }
        self.pacer.on_rest(!self.queue.is_empty());
    }

    fn run(&mut self, until: Instant) {
        if self.serial == 0 {
            self.add(self.now, Step::Sample);
        }
        while self.now < until {
            self.transmit();
            let mut timers: Vec<Instant> = [
                self.sender.poll_timeout(),
                self.receiver.poll_timeout(),
                self.pacer.poll_timeout(),
            ]
            .into_iter()
            .flatten()
            .map(|deadline| deadline.at)
            .collect();
            timers.extend(self.held.first_key_value().map(|(_, (_, since))| since.plus(HOLD)));
            timers.push(self.inner.rto());
            timers.extend(self.cross.iter().map(Tcp::rto));
            let timer = timers.into_iter().filter(|&at| at > self.now).min();
            let timer = timer.unwrap_or(Instant::FAR);
            let next = self.steps.first_key_value().map_or(Instant::FAR, |(&(at, _), _)| at);
            self.now = next.min(timer);
            while let Some(entry) = self.steps.first_entry().filter(|e| e.key().0 <= self.now) {
                let step = entry.remove();
                self.step(step);
            }
            self.release();
            if self.pacer.poll_timeout().is_some_and(|deadline| deadline.at <= self.now) {
                self.pacer.on_wake();
            }
            self.sender.handle_timeout(self.now);
            let heard = self.sender.poll_heard();
            self.pacer.on_heard(self.now, &heard, self.sender.in_flight());
            self.inner.on_time(self.now);
            if let Some(cross) = &mut self.cross {
                cross.on_time(self.now);
            }
        }
    }

    fn outcome(&mut self) -> Outcome {
        let seconds = self.now.since(self.warm_at).as_secs_f64();
        let of_line = |bytes: u64| bytes as f64 / seconds / self.line.rate as f64;
        let cross = self.cross.as_ref().map_or(0, |c| c.delivered);
        self.queued_ms.sort_by(f64::total_cmp);
        let p95 = self.queued_ms[self.queued_ms.len() * 95 / 100];
        let counts = self.sender.counts();
        let queue = self.queue.stats();
        Outcome {
            inner: of_line(self.inner.delivered - self.at_warm.0),
            cross: of_line(cross - self.at_warm.1),
            p95,
            mode: self.pacer.mode(),
            stats: self.pacer.stats(),
            repair_share: counts.repair_bytes as f64 / counts.bytes as f64,
            signals: queue.dropped_signal + queue.dropped_late,
        }
    }
}

/// Twenty seconds, of which the last fifteen count.
fn played(line: Line, cross: bool, seed: u64) -> Outcome {
    let mut world = World::new(line, cross, seed);
    world.run(at(20_000));
    world.outcome()
}

#[test]
fn alone_the_line_is_full_and_its_queue_short() {
    for rtt in [40, 100] {
        let outcome = played(Line::of(ms(rtt)), false, 1);
        assert!(outcome.inner > 0.9, "{outcome:?}");
        assert!(outcome.p95 < 20.0, "{outcome:?}");
        assert_eq!((outcome.mode, outcome.stats.engaged), (Mode::Steady, 1));
        assert!(outcome.signals > 0, "the source was told: {outcome:?}");
        assert!(outcome.repair_share < 0.02, "{outcome:?}");
    }
}

#[test]
fn loss_by_chance_neither_slows_the_line_nor_fills_it() {
    let bursts = Some((ms(152), ms(8)));
    for (line, least) in [
        (Line { loss: 0.02, ..Line::of(ms(40)) }, 0.7),
        (Line { loss: 0.02, ..Line::of(ms(100)) }, 0.6),
        (Line { loss: 0.1, ..Line::of(ms(40)) }, 0.35),
        (Line { bursts, ..Line::of(ms(40)) }, 0.5),
    ] {
        let outcome = played(line, false, 2);
        assert!(outcome.inner > least, "{outcome:?}");
        assert!(outcome.p95 < 25.0, "{outcome:?}");
        assert!(outcome.stats.random_lost > outcome.stats.congestion_lost, "{outcome:?}");
        assert_eq!(outcome.mode, Mode::Steady);
    }
}

#[test]
fn beside_another_the_line_is_shared() {
    let mut shares = Vec::new();
    for rtt in [20, 40, 60, 80, 100] {
        let mut world = World::new(Line::of(ms(rtt)), true, 3);
        world.run(at(40_000));
        let outcome = world.outcome();
        shares.push(outcome.inner / outcome.cross);
        assert_eq!(outcome.mode, Mode::Shared, "{outcome:?}");
        assert!(outcome.inner + outcome.cross > 0.95, "{outcome:?}");
        assert!(outcome.repair_share < 0.01, "{outcome:?}");
    }
    // Both have their ups and downs, of tens of seconds.
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!((0.5..2.0).contains(&mean), "{shares:?}");
    assert!(shares.iter().all(|share| (0.3..3.0).contains(share)), "{shares:?}");
}

#[test]
fn when_the_other_leaves_the_queue_is_short_again() {
    let mut world = World::new(Line::of(ms(40)), true, 4);
    world.cross_active = false;
    world.run(at(5_000));
    assert_eq!(world.pacer.mode(), Mode::Steady);
    world.cross_active = true;
    world.run(at(20_000));
    assert_eq!(world.pacer.mode(), Mode::Shared);
    world.cross_active = false;
    world.run(at(35_000));
    world.queued_ms.clear();
    world.run(at(45_000));
    let outcome = world.outcome();
    assert_eq!(outcome.mode, Mode::Steady, "{outcome:?}");
    assert!(outcome.p95 < 25.0, "{outcome:?}");
}

#[test]
fn a_line_without_a_queue_is_never_ruled() {
    let mut world = World::new(Line { rate: 125_000_000, ..Line::of(ms(40)) }, false, 5);
    world.inner.most = 100.0;
    world.run(at(10_000));
    let outcome = world.outcome();
    assert_eq!((outcome.mode, outcome.stats), (Mode::Free, super::PaceStats::default()));
    assert_eq!((outcome.signals, world.pacer.rate()), (0, None));
}

#[test]
fn what_is_sent_at_once_is_a_millisecond_of_the_rate() {
    let (mut credit, rate) = (Credit::new(at(0)), 6_250_000);
    let mut sent = 0;
    let mut now = at(1000);
    for turn in 0..1000 {
        let mut burst = 0;
        while credit.earn(now, rate) > 0 {
            credit.spend(FRAME as usize, Some(rate));
            burst += FRAME;
        }
        credit.rest(true);
        assert!(burst <= 6_250 + FRAME, "turn {turn}: {burst}");
        sent += burst;
        let deadline = credit.poll_timeout(rate).unwrap();
        assert!(deadline.at > now && deadline.at <= now.plus(ms(1)), "{deadline:?}");
        now = deadline.at;
        credit.wake();
    }
    let rate = sent as f64 / now.since(at(1000)).as_secs_f64();
    assert!((0.97..1.03).contains(&(rate / 6.25e6)), "{rate}");
}

#[test]
fn what_loses_most_of_everything_for_seconds_is_throttled_and_let_go_after() {
    let mut pacer = Pacer::new(at(0));
    let heard = |pacer: &mut Pacer, n: u64, delivered: u64, lost: u64| {
        pacer.on_sent((delivered + lost) as usize);
        let sent_at = Some(at(n * 100));
        let heard = crate::forward::arq::Heard {
            feedback: true,
            delivered,
            lost,
            newest_sent_at: sent_at,
            ..Default::default()
        };
        pacer.on_heard(at(n * 100 + 40), &heard, 0);
    };
    // What was usual before is no floor to it.
    pacer.floor = super::MOST_FLOOR;
    (0..100).for_each(|n| heard(&mut pacer, n, 10_000, 40_000));
    assert_eq!(pacer.stats().trips, 1);
    assert!(pacer.rate().is_some_and(|rate| (LEAST_RATE..100_000).contains(&rate)));
    (100..400).for_each(|n| heard(&mut pacer, n, 10_000, 0));
    assert_eq!((pacer.rate(), pacer.stats().trips), (None, 1));
}

#[test]
fn a_thin_flow_goes_on_as_before_when_its_way_becomes_longer_and_loses() {
    let mut pacer = Pacer::new(at(0));
    let rate = 60_000;
    let round = |pacer: &mut Pacer, n: u64, trip: u64, lost: u64| {
        pacer.admits(at(n * 100), 0);
        let heard = crate::forward::arq::Heard {
            feedback: true,
            delivered: rate / 10 - lost,
            lost,
            lost_sent_at: (lost > 0).then(|| at(n * 100)),
            newest_sent_at: Some(at(n * 100)),
            round_trip: Some(ms(trip)),
            ..Default::default()
        };
        pacer.on_heard(at(n * 100 + 40), &heard, rate / 10);
    };
    (0..50).for_each(|n| round(&mut pacer, n, 100, 0));
    // A burst engages it at worst.
    pacer.engage(at(5_200));
    (52..200).for_each(|n| round(&mut pacer, n, 180, if n % 3 == 0 { 600 } else { 0 }));
    assert!(pacer.rate().is_none_or(|now| now >= rate), "{:?} {:?}", pacer.mode(), pacer.rate());
    assert!(pacer.in_flight_limit() >= rate * 180 / 1000);
}
