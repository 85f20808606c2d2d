//! What the data shows of a link's line, for people to see; nothing is decided by it.
//!
//! Each lane of a link has a hop of its own, with a loss model of its own, and reports about once a
//! second. They are joined here, each weighted by the frames it rests on, and fade by time.

use std::time::Duration;

use crate::forward::event::LineFigures;
use crate::report::HopRow;
use crate::time::Instant;

/// Time constant of forgetting: the models forget by themselves, so a few reports of each lane.
const MODELS: Duration = Duration::from_secs(2);
/// The same for bytes, which are counted afresh in every report.
const BYTES: Duration = Duration::from_secs(10);
/// Silence after which nothing is shown: without data nobody knows the line as data finds it.
const SILENCE: Duration = Duration::from_secs(30);

/// A weighted mean that fades.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    weight: f64,
}

impl Mean {
    fn fade(&mut self, by: f64) {
        self.sum *= by;
        self.weight *= by;
    }

    fn add(&mut self, value: Option<f64>, weight: f64) {
        if let Some(value) = value {
            self.sum += value * weight;
            self.weight += weight;
        }
    }

    /// `None` before anything was added.
    fn value(&self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// The line of one link, outbound.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HopView {
    loss: Mean,
    loss_error: Mean,
    burst: Mean,
    rtt: Mean,
    rtt_spread: Mean,
    /// Bytes of repair for each byte sent for the first time.
    overhead: Mean,
    newest: Option<Instant>,
}

impl HopView {
    /// A hop reported: what its model says, the frames it judged since its last report, and the bytes
    /// it sent for the first time and for repair.
    pub(super) fn on_report(
        &mut self,
        now: Instant,
        line: &LineFigures,
        judged: u64,
        bytes: u64,
        repair_bytes: u64,
    ) {
        let passed = self.newest.map_or(Duration::ZERO, |newest| now.since(newest));
        let fade = |span: Duration| (-passed.as_secs_f64() / span.as_secs_f64()).exp();
        let models = [
            &mut self.loss,
            &mut self.loss_error,
            &mut self.burst,
            &mut self.rtt,
            &mut self.rtt_spread,
        ];
        let share = |ratio: crate::unit::Ratio| ratio.as_f64();
        let seconds = |span: Duration| span.as_secs_f64();
        let figures = [
            line.loss.map(share),
            line.loss_error.map(share),
            line.burst.map(seconds),
            line.rtt.map(seconds),
            line.rtt_spread.map(seconds),
        ];
        for (mean, figure) in models.into_iter().zip(figures) {
            mean.fade(fade(MODELS));
            mean.add(figure, judged.max(1) as f64);
        }
        self.overhead.fade(fade(BYTES));
        self.overhead.sum += repair_bytes as f64;
        self.overhead.weight += bytes as f64;
        self.newest = Some(now);
    }

    /// What is shown; `None` where no data went for a while.
    pub(super) fn row(&self, now: Instant) -> Option<HopRow> {
        let age = now.since(self.newest?);
        let ms = |mean: &Mean| mean.value().map(|seconds| seconds * 1e3);
        (age <= SILENCE).then(|| HopRow {
            loss_ratio: self.loss.value(),
            loss_error_ratio: self.loss_error.value(),
            burst_ms: ms(&self.burst),
            rtt_ms: ms(&self.rtt),
            rtt_spread_ms: ms(&self.rtt_spread),
            repair_overhead_ratio: self.overhead.value(),
            age_s: age.as_secs_f64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unit::Ratio;

    fn at(s: u64) -> Instant {
        Instant::from_micros(s * 1_000_000)
    }

    fn line(loss_ppm: u32, burst_ms: u64) -> LineFigures {
        LineFigures {
            loss: Some(Ratio::from_ppm(loss_ppm)),
            burst: Some(Duration::from_millis(burst_ms)),
            ..LineFigures::default()
        }
    }

    #[test]
    fn lanes_count_by_the_frames_they_rest_on() {
        let mut view = HopView::default();
        view.on_report(at(1), &line(100_000, 8), 900, 90_000, 9_000);
        view.on_report(at(1), &line(0, 0), 100, 10_000, 0);
        let row = view.row(at(1)).unwrap();
        assert!((row.loss_ratio.unwrap() - 0.09).abs() < 1e-9);
        assert!((row.burst_ms.unwrap() - 7.2).abs() < 1e-9);
        assert!((row.repair_overhead_ratio.unwrap() - 0.09).abs() < 1e-9);
        assert_eq!(row.rtt_ms, None, "not measured is not zero");
    }

    #[test]
    fn what_is_over_is_forgotten_and_silence_shows_nothing() {
        let mut view = HopView::default();
        assert_eq!(view.row(at(0)), None);
        view.on_report(at(1), &line(200_000, 20), 1000, 0, 0);
        assert_eq!(view.row(at(1)).unwrap().repair_overhead_ratio, None, "of nothing");
        for s in 2..20 {
            view.on_report(at(s), &line(0, 0), 1000, 1000, 0);
        }
        let row = view.row(at(20)).unwrap();
        assert!(row.loss_ratio.unwrap() < 1e-3 && row.burst_ms.unwrap() < 0.1, "{row:?}");
        assert!((row.age_s - 1.0).abs() < 1e-9);
        assert_eq!(view.row(at(50)), None);
    }

    #[test]
    fn absurd_counts_stay_figures() {
        let mut view = HopView::default();
        view.on_report(at(9), &line(1_000_000, u64::MAX >> 1), u64::MAX, u64::MAX, u64::MAX);
        view.on_report(at(1), &LineFigures::default(), 0, 0, u64::MAX);
        let row = view.row(at(9)).unwrap();
        let all = [row.loss_ratio, row.burst_ms, row.repair_overhead_ratio];
        assert!(all.iter().flatten().all(|figure| figure.is_finite()), "{row:?}");
    }
}
