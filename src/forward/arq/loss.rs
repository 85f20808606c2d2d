//! How a line loses, as the fates of first sendings show it: how often, and for how long at a time.
//!
//! *How often*: the share lost, over ten seconds, or over the last half second where that says clearly
//! more. What has plainly changed is forgotten at once: a few losses at four times the old rate
//! are a worse line, and a clean stretch in which nine losses were to be expected is a better one.
//!
//! *How long*: real holes have a length in time, whatever is sent meanwhile. So the model asks what
//! became of frames sent a while after a lost one, by lag (1 to 64 ms). Where losses are independent
//! that is the rate itself; in holes with exponential lengths it is `p + (1 − p) e^(−lag / τ)`, whose
//! surplus over `p`, summed over the lags, is τ. Mean hole: `τ / (1 − p)` (a two-state chain in
//! continuous time, Gilbert 1960).

use std::time::Duration;

use crate::time::{Instant, micros};

/// Upper ends of the lags that are told apart, µs. Beyond the last nothing is asked.
const LAGS_US: [u64; 7] = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000];
/// Frames that a lag's share rests on before its older half is forgotten.
const LAG_FRAMES: f64 = 512.0;
/// Frames that a lag needs to count.
const LAG_LEAST: f64 = 8.0;
/// Time constants of the two views of the rate.
const SLOW: Duration = Duration::from_secs(10);
const FAST: Duration = Duration::from_millis(500);
/// Between two fadings: an exponential for each frame would cost more than all the rest.
const FADE_EVERY: Duration = Duration::from_millis(5);
/// Losses that are no chance, and how much more frequent they must be than before.
const WORSE: (f64, f64) = (2.0, 4.0);
/// Losses that should have come in a clean stretch before it means a better line: by chance once in
/// 8,000 stretches.
const BETTER: f64 = 9.0;

/// Counts that fade.
#[derive(Clone, Copy, Debug, Default)]
struct Faded {
    frames: f64,
    lost: f64,
    /// Losses that followed a frame that came: runs count once.
    runs: f64,
}

impl Faded {
    fn fade(&mut self, by: f64) {
        self.frames *= by;
        self.lost *= by;
        self.runs *= by;
    }

    fn rate(&self) -> f64 {
        if self.frames > 0.0 { self.lost / self.frames } else { 0.0 }
    }
}

/// What is known of a line's losses in one direction.
#[derive(Clone, Debug, Default)]
pub struct LossModel {
    slow: Faded,
    fast: Faded,
    faded_at: Option<Instant>,
    /// Whether the last frame told of was lost.
    in_run: bool,
    /// Frames that came since the last loss.
    clean: f64,
    /// The loss from which lags are counted at present.
    origin: Option<Instant>,
    lags: [Faded; LAGS_US.len()],
    /// Time constant of the holes, µs; zero: losses are independent.
    tau_us: f64,
}

impl LossModel {
    /// A frame's first sending came or was lost. To be told in the order of sending.
    pub fn on_fate(&mut self, sent_at: Instant, lost: bool) {
        let faded_at = *self.faded_at.get_or_insert(sent_at);
        if sent_at >= faded_at.plus(FADE_EVERY) {
            let step = sent_at.since(faded_at).as_secs_f64();
            self.slow.fade((-step / SLOW.as_secs_f64()).exp());
            self.fast.fade((-step / FAST.as_secs_f64()).exp());
            self.faded_at = Some(sent_at);
        }
        let begins = lost && !self.in_run;
        self.in_run = lost;
        for view in [&mut self.slow, &mut self.fast] {
            view.frames += 1.0;
            if lost {
                view.lost += 1.0;
                view.runs += f64::from(begins);
            }
        }
        if self.origin.is_some() || lost {
            self.note_lag(sent_at, lost);
        }
        if lost {
            self.clean = 0.0;
            let (runs, times) = WORSE;
            if self.fast.runs >= runs && self.fast.rate() > self.slow.rate() * times {
                self.slow = self.fast;
            }
        } else {
            self.clean += 1.0;
            // Only where something was lost at all; by what was lost before the clean stretch.
            let before = || (self.slow.frames - self.clean).max(self.slow.runs);
            if self.slow.lost > 0.0 && self.clean * self.slow.runs > BETTER * before() {
                self.slow = Faded { frames: self.clean, ..Faded::default() };
                self.fast = Faded { frames: self.fast.frames, ..Faded::default() };
                self.lags.iter_mut().for_each(|lag| lag.fade(0.25));
            }
        }
    }

    /// Whether nothing was lost, as far as is remembered.
    pub fn is_clean(&self) -> bool {
        self.slow.lost == 0.0 && self.fast.lost == 0.0
    }

    /// Share of first sendings that are lost, 0 to 1. Zero before anything is known.
    pub fn rate(&self) -> f64 {
        let fast = if self.fast.runs >= WORSE.0 { self.fast.rate() } else { 0.0 };
        self.slow.rate().max(fast).min(0.95)
    }

    /// One standard error of [`LossModel::rate`]: what is lost in one run counts as one event.
    pub fn error(&self) -> f64 {
        let frames = self.slow.frames.max(1.0);
        let length = if self.slow.runs > 0.0 { self.slow.lost / self.slow.runs } else { 1.0 };
        // Nothing lost yet: the rate may still be that of the next loss (rule of succession).
        let rate = self.rate().max(1.0 / (frames + 2.0));
        (rate * (1.0 - rate) * length.max(1.0) / frames).sqrt().min(1.0)
    }

    /// Mean length of a hole, in time. Zero where losses are independent, as far as the lags of the
    /// traffic can tell.
    pub fn hole(&self) -> Duration {
        Duration::from_micros((self.tau_us / (1.0 - self.rate())) as u64)
    }

    /// The chance that what is sent this long after a lost frame is lost as well.
    pub fn again(&self, lag: Duration) -> f64 {
        let rate = self.rate();
        if self.tau_us <= 0.0 {
            return rate;
        }
        rate + (1.0 - rate) * (-(micros(lag) as f64) / self.tau_us).exp()
    }

    /// Frames that the present rate rests on.
    pub fn frames(&self) -> f64 {
        self.slow.frames
    }

    fn note_lag(&mut self, sent_at: Instant, lost: bool) {
        let Some(origin) = self.origin else {
            self.origin = Some(sent_at);
            return;
        };
        let lag = micros(sent_at.since(origin));
        let Some(at) = LAGS_US.iter().position(|&end| lag < end) else {
            self.origin = lost.then_some(sent_at);
            self.fit();
            return;
        };
        let counted = &mut self.lags[at];
        counted.frames += 1.0;
        counted.lost += f64::from(lost);
        if counted.frames > LAG_FRAMES {
            counted.fade(0.5);
        }
    }

    /// The time constant from the surplus over the rate; what chance alone may add is taken off.
    fn fit(&mut self) {
        let rate = self.slow.rate();
        let mut surplus = [None; LAGS_US.len()];
        for (lag, found) in self.lags.iter().zip(&mut surplus) {
            if lag.frames >= LAG_LEAST {
                let error = (rate * (1.0 - rate) / lag.frames).sqrt();
                *found = Some(((lag.rate() - rate - error) / (1.0 - rate)).max(0.0));
            }
        }
        // Lags shorter than the traffic's own spacing are at least as bad as the next that is known.
        let mut tau = 0.0;
        let mut known = 0.0;
        for at in (0..LAGS_US.len()).rev() {
            known = surplus[at].unwrap_or(known);
            let begin = if at == 0 { 0 } else { LAGS_US[at - 1] };
            tau += known * (LAGS_US[at] - begin) as f64;
        }
        // What is shorter than the least lag cannot be told from chance.
        self.tau_us = if tau < LAGS_US[0] as f64 { 0.0 } else { tau };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Dice;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    /// Frames each `every` µs for `seconds`, with this chance of loss.
    fn independent(model: &mut LossModel, from: u64, every: u64, seconds: u64, p: f64, seed: u64) {
        let mut dice = Dice::new(seed);
        for n in 0..seconds * 1_000_000 / every {
            model.on_fate(at(from + n * every), dice.unit() < p);
        }
    }

    fn holes(every: u64, seconds: u64, good: f64, bad: f64, seed: u64) -> LossModel {
        let (mut model, mut dice) = (LossModel::default(), Dice::new(seed));
        let (mut hole, mut until) = (false, 0.0);
        for n in 0..seconds * 1_000_000 / every {
            let now = (n * every) as f64;
            while until <= now {
                hole = !hole;
                until -= if hole { bad } else { good } * (1.0 - dice.unit()).ln();
            }
            model.on_fate(at(n * every), hole);
        }
        model
    }

    #[test]
    fn independent_loss_is_a_rate_without_holes() {
        for seed in 0..20 {
            let mut model = LossModel::default();
            independent(&mut model, 0, 1000, 30, 0.05, seed);
            assert!((model.rate() - 0.05).abs() < 0.02, "{}", model.rate());
            assert!(model.hole() < Duration::from_micros(700), "{:?}", model.hole());
            assert!(model.error() < 0.008, "{}", model.error());
        }
    }

    #[test]
    fn holes_are_measured_in_time_whatever_the_traffic() {
        for (every, seconds) in [(1000, 120), (200, 60), (5000, 300)] {
            let mut sum = 0.0;
            for seed in 0..10 {
                let model = holes(every, seconds, 152_000.0, 8_000.0, seed);
                sum += model.hole().as_secs_f64() / 10.0;
                assert!(model.again(Duration::from_millis(1)) > 0.6, "a frame each {every} us");
            }
            assert!((0.005..0.012).contains(&sum), "a frame each {every} us: {sum}");
        }
    }

    #[test]
    fn a_worse_line_is_known_within_a_second_and_a_better_one_within_two() {
        for seed in 0..200 {
            let mut model = LossModel::default();
            independent(&mut model, 0, 10_000, 20, 0.0, seed);
            assert_eq!(model.rate(), 0.0);
            independent(&mut model, 20_000_000, 10_000, 1, 0.1, seed);
            let known = model.rate();
            independent(&mut model, 21_000_000, 10_000, 9, 0.1, seed);
            let settled = model.rate();
            independent(&mut model, 30_000_000, 10_000, 2, 0.0, seed);
            assert!(known > 0.008, "seed {seed}: {known}");
            assert!((0.04..0.3).contains(&settled), "seed {seed}: {settled}");
            assert!(model.rate() < 1e-9, "seed {seed}: {}", model.rate());
        }
    }

    #[test]
    fn nothing_known_is_no_loss_and_much_doubt() {
        let model = LossModel::default();
        assert_eq!((model.rate(), model.hole()), (0.0, Duration::ZERO));
        assert!(model.error() > 0.4);
    }
}
