//! What the round trip of a link will be 5-10 minutes from now.
//!
//! On real paths there is no trend worth following; there is a level under noise, and now and then
//! it shifts and stays. So the forecast is a running low quantile of the readings since the last shift.
//! Which quantile of how many is best differs from link to link (a quiet wired path: the median of
//! five; a host that pauses: a quarter of 31), so several are kept and weighed by how well each did on
//! this very link: multiplicative weights by absolute error with a share for all (Herbster and Warmuth
//! 1998, "Tracking the best expert"), and the weighted median of what they say, which is what absolute
//! error asks for.
//!
//! Readings enter in *slots*: the least round trip of three to many probes, within 15-60 s, since the
//! least is the path and the rest is queues and hosts. Two slots in a row outside the band around the
//! median (3 %, 1 ms, three and a half deviations, whichever is widest) are a shift, and the window is cut; upwards
//! more than two on a link whose slots lie outside often, until chance would not make such a run.
//!
//! A trained model ([`super::model`]) may correct what the experts say. What is really said is the last
//! level, the experts' or the model's, whichever the gate (`gate`) lets pass on this link: nothing is
//! used before it has beaten the last level there.
//!
//! Routes are chosen by something steadier than what is likely met: the *base*, the least that a
//! dozen slots out of the last hours would show, and the *spread* of readings above it. What is likely met on a
//! link with pauses says little of the link, and the best forecaster by error is not the best for
//! choosing paths. The base counts how often a link fails to show its least, which a quantile does not.
//! On a link whose slots lie outside often, a shift moves the base only when it has lasted.
//!
//! Each forecast is judged when its time has come, against what "it stays as it is" would have said;
//! both errors are kept for all to see, and [`Forecast::confidence`] falls below a half, so that nobody uses
//! the forecast, where it was the worse of the two lately, or where a shift has left it little to go by.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::gate::{Gate, WAYS};
use super::model::{INPUTS, Model};
use crate::time::{Instant, micros};
use crate::unit::Ratio;

/// How far ahead is looked, unless configured.
pub const HORIZON: Duration = Duration::from_secs(300);

/// A slot ends when it holds three readings and is this long.
const SLOT: Duration = Duration::from_secs(15);
/// A slot ends when it is this long.
const SLOT_LIMIT: Duration = Duration::from_secs(60);
const SLOT_READINGS: u32 = 3;
/// Slots kept: the widest expert's window.
const WINDOW: usize = 31;
/// Slots without which the forecast is not trusted to be one.
const MATURE: usize = 5;
/// Slots without which the band is not trusted to show a shift.
const BAND_SLOTS: usize = 3;
/// Half the width of the band, in median deviations from the median.
const BAND: f64 = 3.5;
/// A link with a greater share of slots outside is a noisy one: half of what it is given to begin with, so
/// that some minutes must pass before one is taken for quiet.
const NOISY: f64 = OUTSIDE_RATE / 2.0;
/// So is one whose readings lie above its base by this share of it in the mean.
const NOISY_SPREAD: f64 = 0.1;
/// Slots a shift must last on a noisy link before the base follows.
const LASTING: usize = 8;
/// Slots the base is taken from: hours of rare readings, half an hour at least.
const HISTORY: usize = 121;
/// The base is the least that so many slots are expected to show. Fewer let a few pauses decide which
/// path looks shorter (with three instead of twelve, half as many again of the paths are bad ones).
const BASE_OF: f64 = 12.0;
/// Scatter of a link that shows none, µs.
const LEAST_SCATTER: f64 = 50.0;
/// Slots outside the band in a row that are a shift, on a link where they are rare.
const RUN: usize = 2;
/// And at most, on a link where they are common.
const RUN_LIMIT: usize = 12;
/// A run is a shift when chance makes it more seldom than this. Ten times less misses one shift of forty.
const CHANCE: f64 = 1e-2;
/// Share of slots outside the band that a link is given to begin with: two in a row are a shift.
const OUTSIDE_RATE: f64 = 0.1;
/// Forecasts waiting for their time: ten minutes of slots.
const PENDING: usize = 48;
/// A silence longer than this ends what was known of the level.
const SILENCE: Duration = Duration::from_secs(900);
/// Errors remembered for the band.
const ERRORS: usize = 32;
/// Errors are forgotten by this much with every new one.
const FORGET: f64 = 1.0 / 32.0;
/// Errors below this (µs) are no reason for distrust, whoever's are smaller.
const SKILL_FLOOR: f64 = 200.0;
/// A forecast may be this much worse than persistence before it is distrusted: between equals the
/// level is the steadier.
const SLACK: f64 = 1.05;
/// Learning rate of the weights, in units of the experts' mean error, and the share for all.
const RATE: f64 = 0.3;
const SHARE: f64 = 0.02;
/// The spread of single readings above the base is forgotten within this. Long: how often a link fails
/// to show its base says more of it than the last minutes do, and few readings choose by luck.
const SPREAD: Duration = Duration::from_secs(3600);

/// Experts: quantile in percent, of how many slots.
pub(super) const EXPERTS: [(u8, usize); 8] =
    [(50, 1), (50, 3), (50, 5), (50, 15), (25, 5), (25, 15), (25, WINDOW), (0, 5)];

/// What is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The round trip that is likely met.
    pub level: Duration,
    /// The path's own round trip, without the pauses of hosts and the queues that come and go.
    /// Routes are chosen by it and by the spread above it.
    pub base: Duration,
    /// Nine of ten forecasts were missed by less than from the level to here.
    pub low: Duration,
    /// The same upwards.
    pub high: Duration,
    /// By how much single readings lie above the base in the mean.
    pub spread: Duration,
    /// A half and more: not worse than "it stays as it is" lately, and on enough readings.
    pub confidence: Ratio,
    /// How far ahead.
    pub horizon: Duration,
}

/// How forecasts have fared on a link, over all that were judged.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Skill {
    /// How many.
    pub judged: u64,
    /// Mean absolute error, µs.
    pub error_us: f64,
    /// Mean absolute error of "it stays as it is", µs.
    pub persistence_us: f64,
    /// Shifts found.
    pub shifts: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    since: Instant,
    least_us: f64,
    readings: u32,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    due: Instant,
    said_us: [f64; EXPERTS.len()],
    /// The last level, the experts', the model's.
    ways_us: [f64; WAYS],
    level_us: f64,
}

/// What a model learns from: what it would have been given, and what came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lesson {
    /// Its inputs.
    pub inputs: [f64; INPUTS],
    /// The experts' level, µs.
    pub level_us: f64,
    /// The link's scatter, in which corrections are counted, µs.
    pub scatter_us: f64,
}

/// Forecasts the round trip of one link.
#[derive(Debug)]
pub struct Forecaster {
    horizon: Duration,
    slot: Option<Slot>,
    /// Levels of past slots since the last shift, µs, oldest first.
    window: VecDeque<f64>,
    /// Slots outside the band in a row, all on one side.
    outside: Vec<f64>,
    /// Share of slots that lie outside the band.
    outside_rate: f64,
    /// Levels of past slots that the base is taken from, µs, oldest first.
    history: VecDeque<f64>,
    /// A shift on a noisy link that the base has not followed.
    unsettled: bool,
    /// Slots read.
    slots: u64,
    model: Option<Arc<Model>>,
    gate: Gate,
    ways_us: [f64; WAYS],
    lesson: Option<Lesson>,
    said_us: [f64; EXPERTS.len()],
    level_us: f64,
    base_us: f64,
    /// Mean distance of readings above the base, over how many.
    spread_us: f64,
    spread_count: f64,
    weights: [f64; EXPERTS.len()],
    scale_us: f64,
    pending: VecDeque<Pending>,
    errors: VecDeque<f64>,
    skill: Skill,
    heard_at: Instant,
}

impl Forecaster {
    /// Nothing known yet. `model` corrects the experts where it has proved better.
    pub fn new(horizon: Duration, model: Option<Arc<Model>>) -> Self {
        Self {
            horizon,
            slot: None,
            window: VecDeque::new(),
            outside: Vec::new(),
            outside_rate: OUTSIDE_RATE,
            history: VecDeque::new(),
            unsettled: false,
            slots: 0,
            model,
            gate: Gate::default(),
            ways_us: [0.0; WAYS],
            lesson: None,
            said_us: [0.0; EXPERTS.len()],
            level_us: 0.0,
            base_us: 0.0,
            spread_us: 0.0,
            spread_count: 0.0,
            weights: [1.0 / EXPERTS.len() as f64; EXPERTS.len()],
            scale_us: 0.0,
            pending: VecDeque::new(),
            errors: VecDeque::new(),
            skill: Skill::default(),
            heard_at: Instant::ZERO,
        }
    }

    /// From now on this model is asked too, and judged anew on this link.
    pub fn on_model(&mut self, model: Option<Arc<Model>>) {
        self.model = model;
        self.gate = Gate::default();
        // What waits was said by the one before.
        self.pending.clear();
    }

    /// How many slots were read so far, and the newest.
    pub fn slot(&self) -> Option<(u64, Duration)> {
        let us = self.window.back()?;
        let newest = self.outside.last().unwrap_or(us);
        Some((self.slots, Duration::from_micros(newest.round() as u64)))
    }

    /// What a model would be given now; `None` before the first reading.
    pub fn lesson(&self) -> Option<Lesson> {
        self.lesson
    }

    /// A probe's round trip. Readings come in order of time.
    pub fn on_sample(&mut self, now: Instant, rtt: Duration) {
        let us = micros(rtt) as f64;
        let pause = now.since(self.heard_at);
        if pause > SILENCE {
            self.forget();
        }
        self.heard_at = now;
        if !self.window.is_empty() {
            let faded = 1.0 - (-pause.as_secs_f64() / SPREAD.as_secs_f64()).exp();
            self.spread_count += 1.0;
            let weight = faded.max(1.0 / self.spread_count);
            self.spread_us += ((us - self.base_us).max(0.0) - self.spread_us) * weight;
        }
        // A slot ends with the reading that no longer fits, or with its own last one.
        if let Some(slot) = self.slot
            && now.since(slot.since) >= SLOT_LIMIT
        {
            self.close(slot, now);
        }
        let slot = self.slot.get_or_insert(Slot { since: now, least_us: us, readings: 0 });
        slot.least_us = slot.least_us.min(us);
        slot.readings += 1;
        let slot = *slot;
        let long_enough = now.since(slot.since) >= SLOT && slot.readings >= SLOT_READINGS;
        // The very first reading must not wait for company, and a rare one need not.
        if long_enough || self.window.is_empty() || pause >= SLOT_LIMIT {
            self.close(slot, now);
        }
    }

    /// What is expected; `None` before the first reading.
    pub fn forecast(&self) -> Option<Forecast> {
        if self.window.is_empty() {
            return None;
        }
        let margin = self.margin_us();
        let us = |us: f64| Duration::from_micros(us.max(0.0).round() as u64);
        Some(Forecast {
            level: us(self.level_us),
            base: us(self.base_us),
            low: us(self.level_us - margin),
            high: us(self.level_us + margin),
            spread: us(self.spread_us),
            confidence: self.confidence(),
            horizon: self.horizon,
        })
    }

    /// How the forecasts have fared.
    pub const fn skill(&self) -> Skill {
        self.skill
    }

    fn close(&mut self, slot: Slot, now: Instant) {
        self.slot = None;
        let us = slot.least_us;
        self.slots += 1;
        self.judge(now, us);
        self.enter(us);
        let mut sorted: Vec<f64> = Vec::with_capacity(WINDOW);
        for (said, (percent, count)) in self.said_us.iter_mut().zip(EXPERTS) {
            sorted.clear();
            sorted.extend(self.window.iter().rev().take(count));
            *said = quantile(&mut sorted, f64::from(percent) / 100.0);
        }
        self.keep_history(us);
        sorted.clear();
        sorted.extend(&self.history);
        self.base_us = least_of(&mut sorted, BASE_OF);
        let lesson = self.teach(self.weighted_median());
        let corrected =
            |m: &Arc<Model>| lesson.level_us + m.correct(&lesson.inputs) * lesson.scatter_us;
        let learnt = self.model.as_ref().map_or(lesson.level_us, corrected).max(0.0);
        self.lesson = Some(lesson);
        self.ways_us = [us, lesson.level_us, learnt];
        self.level_us = self.ways_us[self.gate.way()];
        if self.pending.len() >= PENDING {
            self.pending.pop_front();
        }
        let due = now.plus(self.horizon);
        let (said_us, ways_us) = (self.said_us, self.ways_us);
        self.pending.push_back(Pending { due, said_us, ways_us, level_us: self.level_us });
    }

    /// Whether a few slots off the level say little of this link.
    fn is_noisy(&self) -> bool {
        self.outside_rate > NOISY || self.spread_us > self.base_us * NOISY_SPREAD
    }

    /// Takes a slot into what the base is taken from.
    fn keep_history(&mut self, us: f64) {
        if self.unsettled && self.window.len() >= LASTING {
            self.unsettled = false;
            self.history.clear();
        }
        if self.history.is_empty() {
            self.history.extend(&self.window);
            return;
        }
        if self.history.len() >= HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(us);
    }

    /// What a model is given, the experts' level beside it.
    fn teach(&self, level_us: f64) -> Lesson {
        let (median, scatter) = self.scatter_us();
        let scatter_us = scatter.max(level_us * 1e-3).max(LEAST_SCATTER);
        // Squashed: one wild slot is no reason for a wild correction.
        let squash = |us: f64| {
            let x = us / scatter_us;
            x / (1.0 + x.abs())
        };
        let mut inputs = [0.0; INPUTS];
        for (input, said) in inputs.iter_mut().zip(self.said_us) {
            *input = squash(said - level_us);
        }
        let rest = &mut inputs[EXPERTS.len()..];
        let before = self.window.iter().rev().nth(1).copied().unwrap_or(median);
        rest[0] = squash(before - level_us);
        rest[1] = self.window.len() as f64 / WINDOW as f64;
        rest[2] = self.outside_rate;
        rest[3] = self.outside.len().min(3) as f64 / 3.0;
        Lesson { inputs, level_us, scatter_us }
    }

    /// Takes a slot into the window, or into the suspicion that the level has shifted.
    fn enter(&mut self, us: f64) {
        if self.window.len() >= BAND_SLOTS {
            let (median, band) = self.band_us();
            let off = us - median;
            let turned = self.outside.last().is_some_and(|last| (last - median) * off < 0.0);
            if off.abs() <= band || turned {
                // The run came to nothing: its slots were what this link does now and then.
                for _ in self.outside.drain(..) {
                    self.outside_rate += (1.0 - self.outside_rate) * FORGET;
                }
            }
            if off.abs() > band {
                self.outside.push(us);
                // How long a run chance alone does not make.
                let usual = (CHANCE.ln() / self.outside_rate.ln()).ceil() as usize;
                let run = if off > 0.0 { usual.clamp(RUN, RUN_LIMIT) } else { RUN };
                if self.outside.len() >= run {
                    if self.unsettled {
                        // The shift before did not last: it was what this link does now and then.
                        self.outside_rate += (1.0 - self.outside_rate) * FORGET * RUN as f64;
                    }
                    if self.is_noisy() {
                        self.unsettled = true;
                    } else {
                        self.unsettled = false;
                        self.history.clear();
                    }
                    self.window.clear();
                    self.window.extend(self.outside.drain(..));
                    self.skill.shifts += 1;
                    return;
                }
            } else {
                self.outside_rate -= self.outside_rate * FORGET;
            }
        }
        if self.window.len() >= WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(us);
    }

    /// Judges the forecasts whose time has come by the slot that has just ended.
    fn judge(&mut self, now: Instant, us: f64) {
        let mut judged = None;
        while let Some(first) = self.pending.front().filter(|p| p.due <= now) {
            judged = Some(*first);
            self.pending.pop_front();
        }
        // Of several that wait for the same slot the latest counts; after a silence none does.
        let Some(due) = judged.filter(|p| now.since(p.due) <= self.horizon) else { return };
        let own = (due.level_us - us).abs();
        let persistence = (due.said_us[0] - us).abs();
        let count = self.skill.judged as f64;
        let mean = |old: f64, new: f64| old + (new - old) / (count + 1.0);
        self.skill.error_us = mean(self.skill.error_us, own);
        self.skill.persistence_us = mean(self.skill.persistence_us, persistence);
        self.skill.judged += 1;
        self.gate.on_judged(due.ways_us.map(|said| (said - us).abs()), own);
        if self.errors.len() >= ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(own);
        self.learn(&due, us);
    }

    fn learn(&mut self, due: &Pending, us: f64) {
        let errors = due.said_us.map(|said| (said - us).abs());
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let fade = FORGET.max(1.0 / self.skill.judged as f64);
        self.scale_us += (mean - self.scale_us) * fade;
        let scale = self.scale_us.max(1.0);
        let least = errors.iter().fold(f64::INFINITY, |a, b| a.min(*b));
        for (weight, error) in self.weights.iter_mut().zip(errors) {
            // One wild reading must not silence an expert for good.
            *weight *= (-RATE * ((error - least) / scale).min(5.0)).exp();
        }
        let sum: f64 = self.weights.iter().sum();
        for weight in &mut self.weights {
            *weight = *weight / sum * (1.0 - SHARE) + SHARE / EXPERTS.len() as f64;
        }
    }

    fn weighted_median(&self) -> f64 {
        let mut said: Vec<_> = self.said_us.iter().copied().zip(self.weights).collect();
        said.sort_by(|a, b| a.0.total_cmp(&b.0));
        let half = self.weights.iter().sum::<f64>() / 2.0;
        let mut sum = 0.0;
        let middle = said.iter().find(|(_, weight)| {
            sum += weight;
            sum >= half
        });
        middle.or(said.last()).map_or(0.0, |(us, _)| *us)
    }

    /// The window's median, and how far from it a slot of the same level lies at most.
    fn band_us(&self) -> (f64, f64) {
        let (median, deviation) = self.scatter_us();
        (median, (median * 0.03).max(1_000.0).max(BAND * deviation))
    }

    /// The window's median and the median distance from it.
    fn scatter_us(&self) -> (f64, f64) {
        let mut sorted: Vec<f64> = self.window.iter().copied().collect();
        let median = quantile(&mut sorted, 0.5);
        let mut deviations: Vec<f64> = self.window.iter().map(|x| (x - median).abs()).collect();
        (median, quantile(&mut deviations, 0.5))
    }

    fn margin_us(&self) -> f64 {
        if self.errors.len() < 8 {
            return self.band_us().1;
        }
        let mut errors: Vec<f64> = self.errors.iter().copied().collect();
        quantile(&mut errors, 0.9)
    }

    fn confidence(&self) -> Ratio {
        // On a noisy link a shift is no reason for doubt: the base has not moved yet.
        let slots = if self.unsettled { self.history.len() } else { self.window.len() };
        if slots < MATURE {
            return Ratio::of(slots as u64, 2 * MATURE as u64);
        }
        let (own, persistence) = self.gate.recent();
        let allowed = persistence * SLACK + SKILL_FLOOR;
        Ratio::from_f64(allowed / (allowed + own))
    }

    fn forget(&mut self) {
        self.slot = None;
        self.window.clear();
        self.history.clear();
        self.unsettled = false;
        self.outside.clear();
        self.pending.clear();
        (self.spread_us, self.spread_count) = (0.0, 0.0);
    }
}

/// The least that `count` draws from these are expected to show; zero of nothing.
fn least_of(values: &mut [f64], count: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let of = values.len() as f64;
    let none_below = |place: usize| ((of - place as f64) / of).powf(count);
    let chance = |place: usize| none_below(place) - none_below(place + 1);
    values.iter().enumerate().map(|(place, value)| value * chance(place)).sum()
}

/// The quantile by linear interpolation (the usual definition 7 of Hyndman and Fan); zero of nothing.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let place = share * last as f64;
    let low = place as usize;
    let part = place - low as f64;
    values[low] + (values[(low + 1).min(last)] - values[low]) * part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Dice;

    /// Feeds a reading each `step_ms`, made by `rtt_us` from seconds.
    fn feed(
        f: &mut Forecaster,
        from_s: u64,
        to_s: u64,
        step_ms: u64,
        mut rtt_us: impl FnMut(u64) -> u64,
    ) {
        for ms in (from_s * 1000..to_s * 1000).step_by(step_ms as usize) {
            f.on_sample(Instant::from_micros(ms * 1000), Duration::from_micros(rtt_us(ms / 1000)));
        }
    }

    fn level_ms(f: &Forecaster) -> u64 {
        f.forecast().unwrap().level.as_millis() as u64
    }

    #[test]
    fn the_level_is_found_under_spikes() {
        let mut dice = Dice::new(1);
        let mut f = Forecaster::new(HORIZON, None);
        feed(&mut f, 0, 1800, 1000, |_| {
            if dice.unit() < 0.3 { 450_000 } else { 40_000 + dice.below(500) }
        });
        let forecast = f.forecast().unwrap();
        assert_eq!(level_ms(&f), 40);
        assert!(forecast.confidence >= Ratio::from_ppm(500_000));
        assert!(forecast.spread > Duration::from_millis(80), "{forecast:?}");
        assert!(forecast.high < Duration::from_millis(45));
    }

    #[test]
    fn a_shift_is_followed_within_two_slots_and_doubted_until_it_lasts() {
        let mut f = Forecaster::new(HORIZON, None);
        feed(&mut f, 0, 1200, 1000, |_| 40_000);
        feed(&mut f, 1200, 1235, 1000, |_| 60_000);
        assert_eq!((level_ms(&f), f.skill().shifts), (60, 1));
        assert!(f.forecast().unwrap().confidence < Ratio::from_ppm(500_000));
        feed(&mut f, 1235, 3600, 1000, |_| 60_000);
        assert!(f.forecast().unwrap().confidence >= Ratio::from_ppm(500_000));
        assert_eq!(f.skill().shifts, 1);
    }

    #[test]
    fn on_a_link_that_often_pauses_two_pauses_in_a_row_are_no_shift_and_a_lower_base_is() {
        let mut dice = Dice::new(4);
        let mut f = Forecaster::new(HORIZON, None);
        // Rare readings, each a slot of its own, as on a link that is hardly probed.
        let mut pauses = |base: u64| if dice.unit() < 0.3 { base + 300_000 } else { base };
        feed(&mut f, 0, 40_000, 80_000, |_| pauses(100_000));
        // Of 500 slots about 45 follow a first pause with a second.
        assert!(f.skill().shifts <= 6, "{:?}", f.skill());
        assert_eq!(f.forecast().unwrap().base.as_millis(), 100);
        let before = f.skill().shifts;
        feed(&mut f, 40_000, 41_000, 80_000, |_| pauses(60_000));
        assert_eq!(f.forecast().unwrap().base.as_millis(), 60);
        assert!(f.skill().shifts > before);
    }

    #[test]
    fn one_wild_slot_is_no_shift() {
        let mut f = Forecaster::new(HORIZON, None);
        feed(&mut f, 0, 1200, 1000, |_| 40_000);
        feed(&mut f, 1200, 1216, 1000, |_| 90_000);
        feed(&mut f, 1216, 1300, 1000, |_| 40_000);
        assert_eq!((level_ms(&f), f.skill().shifts), (40, 0));
    }

    #[test]
    fn the_first_reading_already_gives_a_level_that_nobody_need_trust() {
        let mut f = Forecaster::new(HORIZON, None);
        assert_eq!(f.forecast(), None);
        f.on_sample(Instant::from_micros(5), Duration::from_millis(30));
        let forecast = f.forecast().unwrap();
        assert_eq!(forecast.level, Duration::from_millis(30));
        assert!(forecast.confidence < Ratio::from_ppm(500_000));
    }

    #[test]
    fn where_it_was_the_worse_one_lately_the_last_level_is_said() {
        let mut f = Forecaster::new(HORIZON, None);
        feed(&mut f, 0, 3600, 1000, |_| 40_000);
        assert!(f.forecast().unwrap().confidence > Ratio::from_ppm(900_000));
        for _ in 0..40 {
            f.gate.on_judged([4_000.0, 6_000.0, 6_000.0], 6_000.0);
        }
        assert_eq!(f.gate.way(), 0);
        assert!(f.forecast().unwrap().confidence >= Ratio::from_ppm(500_000));
    }

    #[test]
    fn each_forecast_is_judged_once_against_what_came() {
        let mut f = Forecaster::new(HORIZON, None);
        feed(&mut f, 0, 3600, 240_000, |_| 50_000);
        // Slots of 240 s: forecasts for 300 s on are judged 480 s on.
        assert_eq!(f.skill().judged, 13);
        assert_eq!((f.skill().error_us, f.skill().persistence_us), (0.0, 0.0));
    }

    #[test]
    fn a_long_silence_ends_what_was_known() {
        let mut f = Forecaster::new(HORIZON, None);
        feed(&mut f, 0, 1200, 1000, |_| 40_000);
        feed(&mut f, 5000, 5001, 1000, |_| 80_000);
        assert_eq!(level_ms(&f), 80);
        assert!(f.forecast().unwrap().confidence < Ratio::from_ppm(500_000));
    }

    #[test]
    fn memory_does_not_grow_with_time() {
        let mut f = Forecaster::new(Duration::from_secs(3600), None);
        feed(&mut f, 0, 40_000, 1000, |s| 40_000 + s % 700);
        assert_eq!((f.window.len(), f.pending.len()), (WINDOW, PENDING));
        assert!(f.errors.len() <= ERRORS);
    }
}
