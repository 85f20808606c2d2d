//! What was measured of one link: round trip, jitter, loss in each direction, and how old it all is.
//!
//! Round trips come from probes, which feel the link as it is. Loss comes from the probes' numbers
//! and, outward, from the data itself ([`HopFigures`]): far more frames than there are probes. It
//! is counted twice ([`loss`](super::loss)), once forgotten within half a minute (the present) and once within
//! a quarter of an hour (the forecast: minutes ahead, loss is a property of the link and not of the moment).
//! Where the present lies above what the slow count and its bursts can explain, the forecast is not
//! confident and the present decides.
//!
//! A direction whose newest reading is older than its limit has no state at all.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::probe::forecast::{Forecast, Forecaster, Skill};
use crate::probe::loss::{Fading, Loss, Seen, Usual};
use crate::probe::model::Model;
use crate::probe::prober::Reading;
use crate::quality::{LinkQuality, LinkState};
use crate::time::{Instant, micros};
use crate::unit::{Price, Ratio};

/// Round trips kept.
const SAMPLES: usize = 128;
/// Round trips older than this leave.
const SAMPLES_AGE: Duration = Duration::from_secs(300);
/// The present level is the median of what came within this, if it is [`PRESENT_COUNT`] at least.
const PRESENT: Duration = Duration::from_secs(10);
/// Else of so many of the newest.
const PRESENT_COUNT: usize = 5;
/// So many in a row beyond four fifths of those before, all on the same side, are a new level and count
/// alone: the median would follow after half its window only. Chance alone makes one such run in 5 million
/// readings.
const RUN: usize = 10;
/// Data frames that must be known of (and not yet forgotten) before a residual loss is told.
const RESIDUAL_COUNT: f64 = 50.0;
/// Residual loss is forgotten within this.
const RESIDUAL: Duration = Duration::from_secs(60);
/// One report's frames count for no more than this, so that a burst of data cannot outvote minutes.
const REPORT_LIMIT: f64 = 2_000.0;

/// One of the two ways along a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// From this node to the peer.
    Outward,
    /// From the peer to this node.
    Inward,
}

/// What the data itself showed of a link's outward direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopFigures {
    /// Frames whose fate is known.
    pub judged: u64,
    /// Of those: lost on first sending.
    pub lost: u64,
    /// Of those: lost for good.
    pub residual: u64,
    /// Least round trip through feedback.
    pub rtt: Option<Duration>,
}

/// The figures of a link as operators see them. Every one was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EstimateView {
    /// Least round trip of the last minutes.
    pub rtt_least: Duration,
    /// Median round trip of the last minutes.
    pub rtt_median: Duration,
    /// 95th percentile of the last minutes.
    pub rtt_p95: Duration,
    /// Mean distance of single round trips from the present level.
    pub jitter: Duration,
    /// Loss towards the peer lately.
    pub loss_outward: Ratio,
    /// Loss from the peer lately.
    pub loss_inward: Ratio,
    /// Loss that repair left, if data crossed the link lately.
    pub residual: Option<Ratio>,
    /// Frames that the outward loss rests on.
    pub counted_outward: u64,
    /// Frames that the inward loss rests on.
    pub counted_inward: u64,
    /// How long ago the newest round trip was measured.
    pub age: Duration,
}

/// Everything measured of one link.
#[derive(Debug)]
pub struct Estimate {
    /// When, and µs.
    samples: VecDeque<(Instant, f64)>,
    outward: Loss,
    inward: Loss,
    residual: Fading,
    /// The least round trip that data met, and when. It tells what the way can be, not what it is.
    data_least: Option<(Instant, Duration)>,
    forecaster: Forecaster,
}

impl Estimate {
    /// Nothing measured yet. `horizon` is how far the forecast looks ahead.
    /// `model` corrects it, where it has proved better.
    pub fn new(horizon: Duration, model: Option<Arc<Model>>) -> Self {
        Self {
            samples: VecDeque::new(),
            outward: Loss::new(),
            inward: Loss::new(),
            residual: Fading::new(RESIDUAL),
            data_least: None,
            forecaster: Forecaster::new(horizon, model),
        }
    }

    /// A reply, or a probe of the peer, was read.
    pub fn on_reading(&mut self, now: Instant, reading: &Reading) {
        if let Some(rtt) = reading.rtt {
            self.push(now, rtt);
            self.forecaster.on_sample(now, rtt);
        }
        self.outward.on_tally(now, reading.outward);
        self.inward.on_tally(now, reading.inward);
    }

    /// The data plane reported. Its round trips hold the feedback's own delay, so they serve only to
    /// find a lower least.
    pub fn on_hop_report(&mut self, now: Instant, figures: &HopFigures) {
        if figures.judged == 0 {
            return;
        }
        let share = (REPORT_LIMIT / figures.judged as f64).min(1.0);
        let part = |count: u64| count.min(figures.judged) as f64 * share;
        self.outward.add(now, part(figures.judged), part(figures.lost));
        self.residual.add(now, part(figures.judged), part(figures.residual));
        if let Some(rtt) = figures.rtt {
            let lasting =
                |(at, least): &(Instant, Duration)| *least < rtt && now.since(*at) <= SAMPLES_AGE;
            self.data_least = self.data_least.filter(lasting).or(Some((now, rtt)));
        }
    }

    /// The link was down: what was counted while it died says nothing of how it is when it lives.
    pub fn on_down(&mut self) {
        self.samples.clear();
        self.data_least = None;
        self.residual = Fading::new(RESIDUAL);
        self.outward.forget_present();
        self.inward.forget_present();
    }

    /// One direction as it is told to others; `None` while the newest reading is older than `fresh`.
    pub fn state(
        &self,
        now: Instant,
        direction: Direction,
        fresh: Duration,
        price: Price,
    ) -> Option<LinkState> {
        let both = self.both(now, fresh)?;
        Some(self.one_way(now, direction, both, price))
    }

    /// Both directions as [`Estimate::state`] has them, outward and inward: only sending costs `price`.
    pub fn states(
        &self,
        now: Instant,
        fresh: Duration,
        price: Price,
    ) -> Option<(LinkState, LinkState)> {
        let both = self.both(now, fresh)?;
        let outward = self.one_way(now, Direction::Outward, both, price);
        Some((outward, self.one_way(now, Direction::Inward, both, Price(0))))
    }

    /// The present delay and jitter of either direction: half of the round trip's.
    fn both(&self, now: Instant, fresh: Duration) -> Option<(Duration, Duration)> {
        if self.age(now)? > fresh {
            return None;
        }
        let level = self.level_us(now);
        let half = |us: f64| Duration::from_micros((us / 2.0).round() as u64);
        Some((half(level), half(self.jitter_us(level))))
    }

    fn one_way(
        &self,
        now: Instant,
        direction: Direction,
        (delay, jitter): (Duration, Duration),
        price: Price,
    ) -> LinkState {
        let loss = self.loss(direction);
        let present = LinkQuality { delay, jitter, loss: loss.present(now) };
        let forecast = self.forecaster.forecast();
        let expected = forecast.map(|f| LinkQuality {
            delay: f.base / 2,
            jitter: f.spread / 2,
            loss: loss.expected(now),
        });
        let confidence = match forecast {
            None => Ratio::ZERO,
            Some(f) if loss.surprises(now) => f.confidence.min(Ratio::from_ppm(250_000)),
            Some(f) => f.confidence,
        };
        let residual = match direction {
            Direction::Outward => self.residual_loss(now),
            Direction::Inward => None,
        };
        LinkState { present, expected, confidence, residual, price }
    }

    /// The figures for operators; `None` before the first round trip.
    pub fn view(&self, now: Instant) -> Option<EstimateView> {
        let age = self.age(now)?;
        let mut sorted: Vec<f64> = self.samples.iter().map(|(_, us)| *us).collect();
        sorted.sort_by(f64::total_cmp);
        // The nearest rank: a value that was measured, not one between two.
        let rank = |share: f64| {
            let place = (share * sorted.len() as f64).ceil() as usize;
            Duration::from_micros(sorted[place.clamp(1, sorted.len()) - 1].round() as u64)
        };
        let jitter = self.jitter_us(self.level_us(now));
        let data_least = self.data_least.filter(|(at, _)| now.since(*at) <= SAMPLES_AGE);
        let probed_least = rank(0.0);
        Some(EstimateView {
            rtt_least: data_least.map_or(probed_least, |(_, least)| least.min(probed_least)),
            rtt_median: rank(0.5),
            rtt_p95: rank(0.95),
            jitter: Duration::from_micros(jitter.round() as u64),
            loss_outward: self.outward.own(now),
            loss_inward: self.inward.own(now),
            residual: self.residual_loss(now),
            counted_outward: self.outward.counted(now),
            counted_inward: self.inward.counted(now),
            age,
        })
    }

    /// What is expected of the round trip.
    pub fn forecast(&self) -> Option<Forecast> {
        self.forecaster.forecast()
    }

    /// How many slots the forecast has read, and the newest: the least round trip of 15 to 60 s.
    pub fn slot(&self) -> Option<(u64, Duration)> {
        self.forecaster.slot()
    }

    /// What is usual among the links of this node, outward and inward: so much is expected of this one as far
    /// as its own frames say nothing else.
    pub fn on_usual_loss(&mut self, (outward, inward): (Usual, Usual)) {
        self.outward.set_usual(outward);
        self.inward.set_usual(inward);
    }

    /// What was seen of the loss of one direction, to learn from it what is usual.
    pub fn loss_seen(&self, now: Instant, direction: Direction) -> Seen {
        self.loss(direction).seen(now)
    }

    fn loss(&self, direction: Direction) -> &Loss {
        match direction {
            Direction::Outward => &self.outward,
            Direction::Inward => &self.inward,
        }
    }

    /// Forecasts are corrected by this model from now on.
    pub fn on_model(&mut self, model: Option<Arc<Model>>) {
        self.forecaster.on_model(model);
    }

    /// How the forecasts have fared.
    pub const fn skill(&self) -> Skill {
        self.forecaster.skill()
    }

    /// How long ago the newest round trip was measured.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.samples.back().map(|(at, _)| now.since(*at))
    }

    fn push(&mut self, now: Instant, rtt: Duration) {
        self.samples.push_back((now, micros(rtt) as f64));
        while self.samples.len() > SAMPLES
            || self.samples.front().is_some_and(|(at, _)| now.since(*at) > SAMPLES_AGE)
        {
            self.samples.pop_front();
        }
    }

    /// The present level of the round trip, µs.
    fn level_us(&self, now: Instant) -> f64 {
        let recent = self.samples.iter().rev();
        let within = recent.clone().take_while(|(at, _)| now.since(*at) <= PRESENT).count();
        let values: Vec<f64> = recent.take(within.max(PRESENT_COUNT)).map(|(_, us)| *us).collect();
        let median = quantile(&values, 0.5);
        let Some(newest) = values.get(..RUN) else { return median };
        if !newest.iter().all(|us| *us > median) && !newest.iter().all(|us| *us < median) {
            return median;
        }
        // How many are of the new level is not known; of those before them, few may be.
        for count in RUN..=values.len() / 2 {
            let (new, old) = values.split_at(count);
            let mut old = old.to_vec();
            old.sort_unstable_by(f64::total_cmp);
            let (low, high) = (old[place_of(old.len(), 0.2)], old[place_of(old.len(), 0.8)]);
            if new.iter().all(|us| *us > high) || new.iter().all(|us| *us < low) {
                return quantile(new, 0.5);
            }
        }
        median
    }

    fn jitter_us(&self, level: f64) -> f64 {
        let off = self.samples.iter().map(|(_, us)| (us - level).abs());
        off.sum::<f64>() / self.samples.len().max(1) as f64
    }

    fn residual_loss(&self, now: Instant) -> Option<Ratio> {
        let (sent, lost) = self.residual.read(now);
        (sent >= RESIDUAL_COUNT).then(|| Ratio::from_f64(lost / sent))
    }
}

/// The quantile of what was measured, the lower of two; 0 of nothing.
fn quantile(values: &[f64], share: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let mut values = values.to_vec();
    let place = place_of(values.len(), share);
    *values.select_nth_unstable_by(place, f64::total_cmp).1
}

/// Where a quantile of so many sorted values stands, the lower of two places.
fn place_of(count: usize, share: f64) -> usize {
    (share * count.saturating_sub(1) as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::forecast::HORIZON;
    use crate::probe::prober::Tally;
    use crate::rng::Dice;

    const FRESH: Duration = Duration::from_secs(3);

    fn at(ms: u64) -> Instant {
        Instant::from_micros(ms * 1000)
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn reading(rtt_ms: u64, outward_lost: u32, inward_lost: u32) -> Reading {
        Reading {
            rtt: Some(ms(rtt_ms)),
            outward: Tally { sent: 1 + outward_lost, lost: outward_lost },
            inward: Tally { sent: 1 + inward_lost, lost: inward_lost },
        }
    }

    fn out(e: &Estimate, now: Instant) -> LinkState {
        e.state(now, Direction::Outward, FRESH, Price(0)).unwrap()
    }

    #[test]
    fn a_one_way_fault_shows_in_its_direction_alone() {
        let mut e = Estimate::new(HORIZON, None);
        for i in 0..200 {
            e.on_reading(at(i * 500), &reading(40, u32::from(i % 5 == 0), 0));
        }
        let now = at(100_000);
        let view = e.view(now).unwrap();
        assert!((140_000..200_000).contains(&view.loss_outward.as_ppm()), "{view:?}");
        assert_eq!(view.loss_inward, Ratio::ZERO);
        assert_eq!(out(&e, now).present.delay, ms(20));
        let inward = e.state(now, Direction::Inward, FRESH, Price(7)).unwrap();
        assert_eq!((inward.present.loss, inward.price), (Ratio::ZERO, Price(7)));
    }

    #[test]
    fn a_stale_link_has_no_state_and_an_unmeasured_one_no_view() {
        let mut e = Estimate::new(HORIZON, None);
        assert_eq!((e.view(at(0)), e.age(at(0))), (None, None));
        e.on_reading(at(0), &reading(40, 0, 0));
        assert!(e.state(at(3_000), Direction::Outward, FRESH, Price(0)).is_some());
        assert_eq!(e.state(at(3_001), Direction::Outward, FRESH, Price(0)), None);
        assert_eq!(e.view(at(60_000)).unwrap().age, ms(60_000), "shown with its age");
    }

    #[test]
    fn the_present_follows_within_seconds_and_the_quantiles_keep_the_minutes() {
        let mut e = Estimate::new(HORIZON, None);
        for i in 0..120 {
            e.on_reading(at(i * 750), &reading(40 + i % 3, 0, 0));
        }
        for i in 120..130 {
            e.on_reading(at(i * 750), &reading(90, 0, 0));
        }
        let now = at(129 * 750);
        assert_eq!(out(&e, now).present.delay, ms(45));
        let view = e.view(now).unwrap();
        assert_eq!((view.rtt_least, view.rtt_median, view.rtt_p95), (ms(40), ms(41), ms(90)));
    }

    #[test]
    fn a_new_level_is_seen_after_ten_readings_whatever_was_met_before() {
        let mut e = Estimate::new(HORIZON, None);
        // Every seventh met a queue, so the level before is no flat line.
        let usual = |i: u64| if i.is_multiple_of(7) { 150 } else { 40 + i % 3 };
        (0..100).for_each(|i| e.on_reading(at(i * 200), &reading(usual(i), 0, 0)));
        (100..109).for_each(|i| e.on_reading(at(i * 200), &reading(90, 0, 0)));
        assert_eq!(out(&e, at(108 * 200)).present.delay, ms(21));
        e.on_reading(at(109 * 200), &reading(90, 0, 0));
        for i in 110..200 {
            assert_eq!(out(&e, at((i - 1) * 200)).present.delay, ms(45), "and from then on");
            e.on_reading(at(i * 200), &reading(90, 0, 0));
        }
        (200..210).for_each(|i| e.on_reading(at(i * 200), &reading(40, 0, 0)));
        assert_eq!(out(&e, at(209 * 200)).present.delay, ms(20), "and down as fast");
    }

    #[test]
    fn one_spike_moves_neither_the_present_nor_the_forecast() {
        let mut e = Estimate::new(HORIZON, None);
        for i in 0..400 {
            e.on_reading(at(i * 750), &reading(if i == 399 { 900 } else { 40 }, 0, 0));
        }
        let state = out(&e, at(399 * 750));
        assert_eq!(state.present.delay, ms(20));
        assert_eq!(state.expected.unwrap().delay, ms(20));
        assert!(state.confidence >= Ratio::from_ppm(500_000));
    }

    #[test]
    fn the_data_s_own_losses_outweigh_a_few_probes() {
        let mut e = Estimate::new(HORIZON, None);
        for i in 0..40 {
            e.on_reading(at(i * 750), &reading(40, 0, 0));
            let figures = HopFigures { judged: 500, lost: 25, residual: 1, rtt: Some(ms(39)) };
            e.on_hop_report(at(i * 750), &figures);
        }
        let state = out(&e, at(30_000));
        assert!((48_000..50_000).contains(&state.present.loss.as_ppm()), "{state:?}");
        assert_eq!(state.residual, Some(Ratio::from_ppm(2_000)));
        assert_eq!(e.view(at(30_000)).unwrap().rtt_least, ms(39));
        let silent = e.view(at(30_000 + 900_000)).unwrap();
        assert_eq!(silent.residual, None, "forgotten when no data crosses the link");
    }

    #[test]
    fn what_data_met_at_best_says_nothing_of_how_the_link_is_now() {
        let mut e = Estimate::new(HORIZON, None);
        (0..50).for_each(|i| e.on_reading(at(i * 200), &reading(40, 0, 0)));
        for i in 50..65 {
            e.on_reading(at(i * 200), &reading(90, 0, 0));
            // The least of the last ten seconds is still that of before.
            let figures = HopFigures { judged: 50, lost: 0, residual: 0, rtt: Some(ms(40)) };
            e.on_hop_report(at(i * 200), &figures);
        }
        assert_eq!(out(&e, at(64 * 200)).present.delay, ms(45));
        assert_eq!(e.view(at(64 * 200)).unwrap().rtt_least, ms(40));
    }

    #[test]
    fn a_sudden_loss_takes_the_forecast_s_confidence_until_it_is_usual() {
        let mut e = Estimate::new(HORIZON, None);
        let mut dice = Dice::new(2);
        let mut feed = |e: &mut Estimate, from: u64, to: u64, loss: f64| {
            for i in from..to {
                e.on_reading(at(i * 750), &reading(40, u32::from(dice.unit() < loss), 0));
            }
            out(e, at((to - 1) * 750))
        };
        let clean = feed(&mut e, 0, 1_000, 0.0);
        assert!(clean.confidence >= Ratio::from_ppm(500_000));
        let sudden = feed(&mut e, 1_000, 1_040, 0.3);
        assert!(sudden.confidence < Ratio::from_ppm(500_000), "{sudden:?}");
        assert!(sudden.present.loss > Ratio::from_ppm(100_000));
        let usual = feed(&mut e, 1_040, 4_000, 0.3);
        assert!(usual.confidence >= Ratio::from_ppm(500_000));
        assert!(usual.expected.unwrap().loss > Ratio::from_ppm(180_000), "{usual:?}");
    }

    #[test]
    fn figures_that_contradict_each_other_stay_shares() {
        let mut e = Estimate::new(HORIZON, None);
        e.on_reading(at(0), &reading(40, 0, 0));
        let absurd = HopFigures { judged: 100, lost: u64::MAX, residual: u64::MAX, rtt: None };
        e.on_hop_report(at(0), &absurd);
        e.on_hop_report(at(0), &HopFigures { judged: 0, lost: 9, ..absurd });
        assert!(out(&e, at(0)).present.loss <= Ratio::ONE);
        assert_eq!(out(&e, at(0)).residual, Some(Ratio::ONE));
    }
}
