//! The link model both floors share: one direction of a link between two sites.
//!
//! A packet first waits in a queue in front of a line of some rate (drop-tail, ECN marking above a
//! threshold), which others' packets may fill too ([`cross`]), then crosses a line with delay and
//! *weather*. Weather is a function of time, not of
//! packets: holes have a length in milliseconds and jitter is a wandering level, so two schemes that
//! send different numbers of packets over one link meet the same link. Its dice are separate from
//! those rolled per packet, hence one seed gives one weather whatever traffic crosses it.
//!
//! ```text
//! offer ─ cut? too long? ─ queue (bytes, rate) ─ hole? ─ independent loss? ─ delay + jitter level ─ at
//!                           ↑  full → drop         by time    by packet         in order, unless reordered
//!                         cross traffic                                         there: dropped by its host?
//! ```
//!
//! Source for the two-state loss in time: Gilbert's model with exponential sojourns (a
//! continuous-time Markov chain). Nothing here reads a clock; instants must not run backwards.

use std::time::Duration;

use thalweg::rng::Dice;
use thalweg::time::{Instant, micros};
use thalweg::unit::Ratio;

pub mod cross;

use cross::{CROSS_BYTES, Cross, Load};

/// What one direction of a link does to packets. Every field may change while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkParams {
    /// Propagation delay, one way.
    pub delay: Duration,
    /// Mean of the wandering extra delay (exponential, at most [`JITTER_CAP`] times its mean).
    pub jitter: Duration,
    /// Independent loss of single packets.
    pub loss: Ratio,
    /// Holes in which everything is lost.
    pub burst: Option<Burst>,
    /// Line rate in bits per second; none: no queue ever forms.
    pub rate_bps: Option<u64>,
    /// Most bytes waiting for the line; a packet that would exceed them is dropped.
    pub queue_bytes: u64,
    /// ECN-capable packets that find more bytes than this waiting are marked.
    pub ecn_bytes: Option<u64>,
    /// What others send over the same line, through the same queue; nothing where there is no line.
    pub cross: Option<Cross>,
    /// Packets that others may overtake.
    pub reorder: Option<Reorder>,
    /// Chance that a delivered packet arrives twice.
    pub duplicate: Ratio,
    /// Chance that a packet that arrived is dropped by the receiver's own machine, which counts it.
    pub local_loss: Ratio,
    /// Longer IP packets are lost without a word, as by a router whose ICMP a firewall drops.
    pub mtu: Option<u64>,
    /// Nothing that is offered arrives. What is already under way does.
    pub cut: bool,
}

impl Default for LinkParams {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Ratio::ZERO,
            burst: None,
            rate_bps: None,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            ecn_bytes: None,
            cross: None,
            reorder: None,
            duplicate: Ratio::ZERO,
            local_loss: Ratio::ZERO,
            mtu: None,
            cut: false,
        }
    }
}

/// Holes in time: good and bad spells of exponential length, everything lost in the bad ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// Mean length of a good spell.
    pub good: Duration,
    /// Mean length of a hole.
    pub bad: Duration,
}

impl Burst {
    /// The share of time spent in holes.
    pub fn share(&self) -> Ratio {
        Ratio::of(micros(self.bad), micros(self.bad).saturating_add(micros(self.good)))
    }
}

/// Reordering: some packets are held back while those behind them pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reorder {
    /// Share of packets held back.
    pub share: Ratio,
    /// How long.
    pub by: Duration,
}

/// What becomes of an offered packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When.
        at: Instant,
        /// Its two ECN bits on arrival.
        ecn: u8,
        /// When a second copy arrives, if one does.
        again: Option<Instant>,
    },
    /// It arrives, and the receiver's own machine drops it for want of room.
    Discard {
        /// When.
        at: Instant,
    },
    /// It does not, and why.
    Drop(Lost),
}

/// Why a link lost a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The link is cut.
    Cut,
    /// It is longer than the link's MTU.
    TooLong,
    /// No room in the queue.
    QueueFull,
    /// Independent loss.
    Random,
    /// A hole in time.
    Hole,
}

/// What a link did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets offered.
    pub offered: u64,
    /// Packets that arrive, duplicates not counted.
    pub delivered: u64,
    /// Bytes of the packets that arrive.
    pub delivered_bytes: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Packets marked CE.
    pub marked: u64,
    /// Lost because cut.
    pub lost_cut: u64,
    /// Lost because longer than the link's MTU.
    pub lost_long: u64,
    /// Lost at the queue.
    pub lost_queue: u64,
    /// Lost independently.
    pub lost_random: u64,
    /// Lost in holes.
    pub lost_hole: u64,
    /// Arrived and dropped by the receiver's own machine; not among the delivered.
    pub discarded: u64,
    /// Others' packets that the line took.
    pub cross: u64,
    /// Others' packets that found the queue full.
    pub cross_lost: u64,
}

/// One direction of a link at work.
#[derive(Clone, Debug)]
pub struct LinkModel {
    params: LinkParams,
    dice: Dice,
    weather: Weather,
    load: Load,
    /// When the line is free again, ns: microseconds are too coarse for a fast line.
    busy_until_ns: u64,
    /// The latest arrival promised: nothing but a reordered packet comes after a later one.
    last_at: Instant,
    stats: LinkStats,
}

impl LinkModel {
    /// A link that rolls the same for the same seed.
    pub fn new(params: LinkParams, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let weather = Weather::new(&mut dice, &params);
        let load = Load::new(seed ^ CROSS_SEED, params.cross);
        Self {
            params,
            dice,
            weather,
            load,
            busy_until_ns: 0,
            last_at: Instant::ZERO,
            stats: LinkStats::default(),
        }
    }

    /// Changes what the link does from `now` on. Bytes in the queue stay and leave at the new rate.
    pub fn install(&mut self, now: Instant, params: LinkParams) {
        let waiting = self.queued_bytes(now);
        self.weather.install(now, &self.params, &params);
        if (self.params.cross, self.params.rate_bps.is_some())
            != (params.cross, params.rate_bps.is_some())
        {
            self.load.begin(nanos(now), params.cross);
        }
        self.params = params;
        self.busy_until_ns = nanos(now).saturating_add(self.line_ns(waiting));
    }

    /// What the link does at present.
    pub fn params(&self) -> &LinkParams {
        &self.params
    }

    /// What it did so far.
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    /// Bytes that wait for the line at `now`, others' among them.
    pub fn queued_bytes(&mut self, now: Instant) -> u64 {
        self.let_others_in(now);
        self.waiting_bytes(nanos(now))
    }

    /// How long a packet offered at `now` would wait until the line begins with it.
    pub fn queueing(&mut self, now: Instant) -> Duration {
        self.let_others_in(now);
        Duration::from_nanos(self.busy_until_ns.saturating_sub(nanos(now)))
    }

    /// Offers an IP packet of `bytes` with the ECN bits `ecn` to the link.
    pub fn offer(&mut self, now: Instant, bytes: usize, ecn: u8) -> Verdict {
        self.stats.offered += 1;
        if self.params.cut {
            self.stats.lost_cut += 1;
            return Verdict::Drop(Lost::Cut);
        }
        let bytes = bytes as u64;
        if self.params.mtu.is_some_and(|mtu| bytes > mtu) {
            self.stats.lost_long += 1;
            return Verdict::Drop(Lost::TooLong);
        }
        let mut ecn = ecn & 0b11;
        self.let_others_in(now);
        let waiting = self.waiting_bytes(nanos(now));
        if !self.enqueue(nanos(now), bytes) {
            self.stats.lost_queue += 1;
            return Verdict::Drop(Lost::QueueFull);
        }
        if ecn != 0 && self.params.ecn_bytes.is_some_and(|threshold| waiting > threshold) {
            ecn = 0b11;
            self.stats.marked += 1;
        }
        let left = Instant::from_micros(self.busy_until_ns.div_ceil(1000)).max(now);

        let sky = self.weather.at(left, &self.params);
        if sky.hole {
            self.stats.lost_hole += 1;
            return Verdict::Drop(Lost::Hole);
        }
        if self.chance(self.params.loss) {
            self.stats.lost_random += 1;
            return Verdict::Drop(Lost::Random);
        }
        let due = left.plus(self.params.delay).plus(sky.extra);
        let mut at = due.max(self.last_at);
        self.last_at = at;
        if let Some(reorder) = self.params.reorder
            && self.chance(reorder.share)
        {
            at = at.plus(reorder.by);
        }
        if self.chance(self.params.local_loss) {
            self.stats.discarded += 1;
            return Verdict::Discard { at };
        }
        let again = self.chance(self.params.duplicate).then_some(at);
        self.stats.duplicated += u64::from(again.is_some());
        self.stats.delivered += 1;
        self.stats.delivered_bytes += bytes;
        Verdict::Deliver { at, ecn, again }
    }

    /// Lays in whatever others sent by `now`.
    fn let_others_in(&mut self, now: Instant) {
        let Some(cross) = self.params.cross.filter(|_| self.params.rate_bps.is_some()) else {
            return;
        };
        while let Some(at_ns) = self.load.poll(nanos(now), cross) {
            if self.enqueue(at_ns, CROSS_BYTES) {
                self.stats.cross += 1;
            } else {
                self.stats.cross_lost += 1;
            }
        }
    }

    /// Puts a packet behind what waits; false where there is no room for it.
    fn enqueue(&mut self, at_ns: u64, bytes: u64) -> bool {
        let waiting = self.waiting_bytes(at_ns);
        if self.params.rate_bps.is_some() && waiting + bytes > self.params.queue_bytes {
            return false;
        }
        self.busy_until_ns = self.busy_until_ns.max(at_ns).saturating_add(self.line_ns(bytes));
        true
    }

    fn waiting_bytes(&self, at_ns: u64) -> u64 {
        let Some(rate) = self.params.rate_bps else { return 0 };
        let ns = self.busy_until_ns.saturating_sub(at_ns);
        let bytes = u128::from(ns) * u128::from(rate) / 8_000_000_000;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// How long the line needs for `bytes`, ns.
    fn line_ns(&self, bytes: u64) -> u64 {
        match self.params.rate_bps {
            None => 0,
            Some(0) => u64::MAX / 2,
            Some(rate) => {
                let ns = u128::from(bytes) * 8_000_000_000 / u128::from(rate);
                u64::try_from(ns).unwrap_or(u64::MAX / 2)
            }
        }
    }

    fn chance(&mut self, share: Ratio) -> bool {
        share > Ratio::ZERO && self.dice.below(1_000_000) < u64::from(share.as_ppm())
    }
}

/// What the line is like at an instant.
struct Sky {
    hole: bool,
    extra: Duration,
}

/// Holes and jitter as functions of time.
#[derive(Clone, Debug)]
struct Weather {
    hole_dice: Dice,
    hole: bool,
    /// When the present spell ends.
    spell_ends: Instant,
    jitter_dice: Dice,
    extra: Duration,
    /// When the jitter level next moves.
    level_ends: Instant,
}

impl Weather {
    fn new(dice: &mut Dice, params: &LinkParams) -> Self {
        let mut weather = Self {
            hole_dice: dice.fork(),
            hole: false,
            spell_ends: Instant::ZERO,
            jitter_dice: dice.fork(),
            extra: Duration::ZERO,
            level_ends: Instant::ZERO,
        };
        weather.begin_spell(Instant::ZERO, params.burst);
        weather
    }

    /// A spell under way ends with the old parameters: holes begin anew where they changed.
    fn install(&mut self, now: Instant, old: &LinkParams, new: &LinkParams) {
        if old.burst != new.burst {
            self.begin_spell(now, new.burst);
        }
        if old.jitter != new.jitter {
            self.level_ends = Instant::ZERO;
        }
    }

    /// Draws whether `now` lies in a hole, from the share of time that does, and how long still.
    fn begin_spell(&mut self, now: Instant, burst: Option<Burst>) {
        match burst {
            None => (self.hole, self.spell_ends) = (false, Instant::FAR),
            Some(burst) => {
                let roll = self.hole_dice.below(1_000_000);
                self.hole = roll < u64::from(burst.share().as_ppm());
                let mean = if self.hole { burst.bad } else { burst.good };
                self.spell_ends = now.plus(exponential(&mut self.hole_dice, mean));
            }
        }
    }

    fn at(&mut self, now: Instant, params: &LinkParams) -> Sky {
        if let Some(burst) = params.burst {
            if now.since(self.spell_ends) > LONG_IDLE {
                self.begin_spell(now, Some(burst));
            }
            while self.spell_ends <= now {
                self.hole = !self.hole;
                let mean = if self.hole { burst.bad } else { burst.good };
                // A spell of at least 1 µs, so that means of zero cannot stop time.
                let spell = exponential(&mut self.hole_dice, mean).max(Duration::from_micros(1));
                self.spell_ends = self.spell_ends.plus(spell);
            }
        }
        if params.jitter.is_zero() {
            self.extra = Duration::ZERO;
        } else {
            if now.since(self.level_ends) > LONG_IDLE {
                self.level_ends = now;
            }
            while self.level_ends <= now {
                let level = exponential(&mut self.jitter_dice, params.jitter);
                self.extra = level.min(params.jitter * JITTER_CAP);
                let hold = exponential(&mut self.jitter_dice, JITTER_HOLD);
                self.level_ends = self.level_ends.plus(hold.max(Duration::from_micros(1)));
            }
        }
        Sky { hole: self.hole, extra: self.extra }
    }
}

/// An exponentially distributed span with the given mean, whole microseconds.
fn exponential(dice: &mut Dice, mean: Duration) -> Duration {
    let span = -(1.0 - dice.unit()).ln() * micros(mean) as f64;
    Duration::from_micros(span as u64)
}

fn nanos(at: Instant) -> u64 {
    at.as_micros().saturating_mul(1000)
}

/// The jitter level is never more than this many times its mean: e⁻⁸ of the draws would be.
pub const JITTER_CAP: u32 = 8;

/// Mean time for which a jitter level holds: of the order at which queues on the Internet's paths
/// move. Much shorter and in-order delivery would lift everything to the highest level.
const JITTER_HOLD: Duration = Duration::from_millis(10);

/// A link unused for longer draws its weather anew (it is memoryless) instead of replaying it.
const LONG_IDLE: Duration = Duration::from_secs(10);

/// Others roll dice of their own: a seed's weather and losses stay what they are beside them.
const CROSS_SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// 64 KiB: a small router's buffer; scenarios that care state their own.
const DEFAULT_QUEUE_BYTES: u64 = 65_536;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn arrival(verdict: Verdict) -> Option<Instant> {
        match verdict {
            Verdict::Deliver { at, .. } => Some(at),
            Verdict::Discard { .. } | Verdict::Drop(_) => None,
        }
    }

    #[test]
    fn independent_loss_keeps_its_rate() {
        let params = LinkParams { loss: Ratio::from_ppm(50_000), ..LinkParams::default() };
        let mut link = LinkModel::new(params, 1);
        let n = 200_000;
        for i in 0..n {
            link.offer(at(i * 100), 200, 0);
        }
        let stats = link.stats();
        let loss = stats.lost_random as f64 / n as f64;
        // Five standard deviations of a binomial share.
        assert!((loss - 0.05).abs() < 5.0 * (0.05 * 0.95 / n as f64).sqrt(), "{loss}");
        assert_eq!(stats.delivered + stats.lost_random, n);
    }

    #[test]
    fn holes_have_a_length_in_time_whatever_is_sent() {
        let burst = Burst { good: ms(152), bad: ms(8) };
        for spacing_us in [200, 1000] {
            let params = LinkParams { burst: Some(burst), ..LinkParams::default() };
            let mut link = LinkModel::new(params, 42);
            let (mut lost, mut holes, mut inside) = (0u64, 0u64, false);
            let n = 2_000_000_000 / spacing_us;
            for i in 0..n {
                let hit = arrival(link.offer(at(i * spacing_us), 200, 0)).is_none();
                holes += u64::from(hit && !inside);
                lost += u64::from(hit);
                inside = hit;
            }
            let share = lost as f64 / n as f64;
            assert!((share - 0.05).abs() < 0.004, "{share}");
            // A hole shorter than the spacing may slip through unseen, so the seen ones are longer
            // by about the spacing: the mean of those caught is bad + half the spacing, at most.
            let length_ms = lost as f64 * spacing_us as f64 / holes as f64 / 1000.0;
            assert!((length_ms - 8.0).abs() < 0.8, "{length_ms} at {spacing_us}");
        }
    }

    #[test]
    fn one_seed_gives_one_weather_whatever_traffic_crosses() {
        let params = LinkParams {
            burst: Some(Burst { good: ms(80), bad: ms(20) }),
            loss: Ratio::from_ppm(1000),
            ..LinkParams::default()
        };
        let mut sparse = LinkModel::new(params.clone(), 9);
        let mut dense = LinkModel::new(params, 9);
        for i in 0..100_000u64 {
            let hole = dense.offer(at(i * 100), 1200, 0) == Verdict::Drop(Lost::Hole);
            if i % 10 == 0 {
                let also = sparse.offer(at(i * 100), 60, 0) == Verdict::Drop(Lost::Hole);
                assert_eq!(hole, also, "at {i}");
            }
        }
    }

    #[test]
    fn a_line_takes_its_time_and_its_queue_is_bounded() {
        let params = LinkParams {
            rate_bps: Some(8_000_000),
            queue_bytes: 10_000,
            delay: ms(10),
            ..LinkParams::default()
        };
        let mut link = LinkModel::new(params, 1);
        let arrivals: Vec<_> =
            (0..20).filter_map(|_| arrival(link.offer(at(0), 1000, 0))).collect();
        // 1000 bytes at 1 byte/µs: one a millisecond; ten fit the queue.
        let expected: Vec<_> = (1..=10).map(|i| at(i * 1000 + 10_000)).collect();
        assert_eq!(arrivals, expected);
        assert_eq!(link.stats().lost_queue, 10);
        assert_eq!(link.queued_bytes(at(5000)), 5000);
        assert_eq!(arrival(link.offer(at(20_000), 1000, 0)), Some(at(31_000)), "the queue drains");
    }

    #[test]
    fn a_long_run_over_a_line_gets_exactly_its_rate() {
        let params =
            LinkParams { rate_bps: Some(20_000_000), queue_bytes: 30_000, ..LinkParams::default() };
        let mut link = LinkModel::new(params, 1);
        for i in 0..100_000 {
            link.offer(at(i * 100), 1200, 0);
        }
        let mbit = link.stats().delivered_bytes as f64 * 8.0 / 10.0 / 1e6;
        assert!((19.9..=20.1).contains(&mbit), "{mbit}");
    }

    #[test]
    fn cross_traffic_takes_its_share_of_line_and_queue_under_the_same_rule() {
        let cross = Cross { rate_bps: 20_000_000, on: Duration::ZERO, off: Duration::ZERO };
        let params = LinkParams {
            rate_bps: Some(20_000_000),
            queue_bytes: 60_000,
            cross: Some(cross),
            ..LinkParams::default()
        };
        let mut link = LinkModel::new(params, 1);
        // 20 Mbit/s of ours against 20 of theirs on a line of 20: half of either comes through. (At
        // even gaps ours would always come just when there is room, and theirs never.)
        let (mut dice, mut now) = (Dice::new(7), at(0));
        for _ in 0..20_000 {
            now = now.plus(exponential(&mut dice, Duration::from_micros(600)));
            link.offer(now, 1500, 0);
            let most = Duration::from_micros(60_000 * 8 / 20);
            assert!(link.queueing(now) <= most, "others respect the queue too");
        }
        let stats = link.stats();
        let ours = stats.delivered as f64 / stats.offered as f64;
        let theirs = stats.cross as f64 / (stats.cross + stats.cross_lost) as f64;
        assert!((0.45..0.55).contains(&ours) && (0.45..0.55).contains(&theirs), "{stats:?}");
    }

    #[test]
    fn cross_traffic_changes_neither_weather_nor_losses() {
        let params = LinkParams {
            burst: Some(Burst { good: ms(80), bad: ms(20) }),
            loss: Ratio::from_ppm(20_000),
            rate_bps: Some(1_000_000_000),
            queue_bytes: 1_000_000,
            ..LinkParams::default()
        };
        let cross = Some(Cross { rate_bps: 100_000_000, on: ms(50), off: ms(50) });
        let mut alone = LinkModel::new(params.clone(), 9);
        let mut beside = LinkModel::new(LinkParams { cross, ..params }, 9);
        let lost = |verdict| matches!(verdict, Verdict::Drop(_));
        for i in 0..20_000 {
            let (a, b) = (alone.offer(at(i * 1000), 100, 0), beside.offer(at(i * 1000), 100, 0));
            assert_eq!(lost(a), lost(b), "at {i}");
        }
        assert!(beside.stats().cross > 50_000, "{:?}", beside.stats());
    }

    #[test]
    fn what_the_receivers_machine_drops_has_crossed_the_line() {
        let params = LinkParams {
            delay: ms(5),
            rate_bps: Some(8_000_000),
            local_loss: Ratio::ONE,
            ..LinkParams::default()
        };
        let mut link = LinkModel::new(params, 1);
        assert_eq!(link.offer(at(0), 1000, 0), Verdict::Discard { at: at(6000) });
        assert_eq!((link.stats().discarded, link.stats().delivered), (1, 0));
        assert_eq!(link.queued_bytes(at(0)), 1000);
    }

    #[test]
    fn capable_packets_are_marked_above_the_threshold_and_others_never() {
        let params = LinkParams {
            rate_bps: Some(8_000_000),
            queue_bytes: 100_000,
            ecn_bytes: Some(2_500),
            ..LinkParams::default()
        };
        let mut link = LinkModel::new(params, 1);
        let ecn: Vec<_> = [2, 2, 2, 2, 0, 1]
            .map(|bits| match link.offer(at(0), 1000, bits) {
                Verdict::Deliver { ecn, .. } => ecn,
                other => panic!("{other:?}"),
            })
            .to_vec();
        assert_eq!(ecn, [2, 2, 2, 3, 0, 3]);
        assert_eq!(link.stats().marked, 2);
    }

    #[test]
    fn jitter_keeps_the_order_and_its_mean() {
        let params = LinkParams { delay: ms(20), jitter: ms(2), ..LinkParams::default() };
        let mut link = LinkModel::new(params, 3);
        let (mut last, mut sum) = (Instant::ZERO, 0u64);
        let n = 200_000u64;
        for i in 0..n {
            let sent = at(i * 1000);
            let got = arrival(link.offer(sent, 200, 0)).unwrap();
            assert!(got >= last, "overtaken at {i}");
            last = got;
            sum += micros(got.since(sent)) - 20_000;
        }
        // In-order delivery lets a falling level out slowly, so the mean lies a little higher.
        let mean = sum as f64 / n as f64 / 1000.0;
        assert!((1.8..=2.8).contains(&mean), "{mean}");
    }

    #[test]
    fn reordering_and_duplication_happen_only_where_asked() {
        let params = LinkParams {
            reorder: Some(Reorder { share: Ratio::from_ppm(100_000), by: ms(5) }),
            duplicate: Ratio::from_ppm(20_000),
            ..LinkParams::default()
        };
        let mut link = LinkModel::new(params, 5);
        let (mut latest, mut overtaken) = (Instant::ZERO, 0);
        for i in 0..50_000u64 {
            let got = arrival(link.offer(at(i * 1000), 200, 0)).unwrap();
            overtaken += u32::from(got < latest);
            latest = latest.max(got);
        }
        assert!(overtaken > 10_000, "{overtaken}");
        let copies = link.stats().duplicated as f64 / 50_000.0;
        assert!((copies - 0.02).abs() < 0.004, "{copies}");
    }

    #[test]
    fn parameters_change_while_packets_wait() {
        let params =
            LinkParams { rate_bps: Some(8_000_000), queue_bytes: 100_000, ..LinkParams::default() };
        let mut link = LinkModel::new(params.clone(), 1);
        for _ in 0..10 {
            link.offer(at(0), 1000, 0);
        }
        let faster = LinkParams { rate_bps: Some(80_000_000), ..params.clone() };
        link.install(at(2000), faster);
        assert_eq!(link.queued_bytes(at(2000)), 8000, "what waits stays");
        assert_eq!(link.queued_bytes(at(2800)), 0, "and leaves at the new rate");
        link.install(at(3000), LinkParams { cut: true, ..params.clone() });
        assert_eq!(link.offer(at(3000), 100, 0), Verdict::Drop(Lost::Cut));
        link.install(at(4000), params);
        assert!(arrival(link.offer(at(4000), 100, 0)).is_some());
    }

    #[test]
    fn a_line_of_rate_zero_and_spells_of_zero_do_not_hang() {
        let params = LinkParams {
            rate_bps: Some(0),
            burst: Some(Burst { good: Duration::ZERO, bad: Duration::ZERO }),
            ..LinkParams::default()
        };
        let mut link = LinkModel::new(params, 1);
        for i in 0..10 {
            link.offer(at(i * 1000), 1000, 0);
        }
        assert_eq!(link.stats().offered, 10);
    }
}
