//! Traces: forecasts beside persistence, shifts beside labels.

use std::collections::BTreeMap;

use super::{Ask, Figure, ScoreError, number, share, table};
use crate::record::{Trace, Traces};
use crate::replay::LOST_MS;

/// A shift that is found within so many samples of its label counts as found.
const WITHIN: usize = 8;
/// And so many before: people mark a change late, too.
const EARLY: usize = 3;
/// Samples on either side of a label from whose median its size is taken.
const AROUND: usize = 15;
/// Labelled changes below this share are no shifts.
const SIZE: f64 = 0.05;

#[derive(Default)]
struct Errors {
    own: f64,
    persistence: f64,
    count: u64,
}

pub(super) fn judge(traces: &Traces, ask: &Ask) -> Result<Vec<Figure>, ScoreError> {
    let mut figures = Vec::new();
    if let Some(path) = &ask.forecasts {
        let places: BTreeMap<(&str, i64), (usize, usize)> = traces
            .list
            .iter()
            .enumerate()
            .flat_map(|(t, trace)| {
                let samples = trace.samples.iter().enumerate();
                samples.map(move |(at, s)| ((trace.name.as_str(), s.epoch_s), (t, at)))
            })
            .collect();
        let lasts: Vec<Vec<Option<f64>>> = traces.list.iter().map(lasts).collect();
        let mut errors: BTreeMap<(u32, usize), Errors> = BTreeMap::new();
        table(path, "trace,epoch_s,h,rtt_ms", |cells| {
            let key = (cells[0], number(cells[1])?);
            let h: u32 = number(cells[2])?;
            let said: f64 = number(cells[3])?;
            let &(t, at) = places.get(&key).ok_or("no such sample in the record")?;
            let samples = &traces.list[t].samples;
            let came = samples.get(at + h as usize).and_then(|s| s.rtt_ms);
            let part = ask.part.holds(at, samples.len());
            if let (true, Some(came), Some(last)) = (part, came, lasts[t][at]) {
                let came = came.min(LOST_MS);
                let errors = errors.entry((h, t)).or_default();
                errors.own += (said - came).abs();
                errors.persistence += (last - came).abs();
                errors.count += 1;
            }
            Ok(())
        })?;
        let mut by_h: BTreeMap<u32, Vec<(usize, Errors)>> = BTreeMap::new();
        for ((h, t), e) in errors {
            by_h.entry(h).or_default().push((t, e));
        }
        for (h, errors) in by_h {
            figures.extend(forecasts(traces, h, &errors));
        }
    }
    if let Some(path) = &ask.shifts {
        let mut said: BTreeMap<(String, i64), usize> = BTreeMap::new();
        table(path, "trace,epoch_s", |cells| {
            *said.entry((cells[0].into(), number(cells[1])?)).or_default() += 1;
            Ok(())
        })?;
        figures.extend(shifts(traces, &said, ask));
    }
    Ok(figures)
}

/// The last round trip there was at each sample.
fn lasts(trace: &Trace) -> Vec<Option<f64>> {
    let mut last = None;
    let mut step = |s: &crate::record::Sample| {
        last = s.rtt_ms.map(|ms| ms.min(LOST_MS)).or(last);
        last
    };
    trace.samples.iter().map(&mut step).collect()
}

fn forecasts(traces: &Traces, h: u32, errors: &[(usize, Errors)]) -> Vec<Figure> {
    let ratio = |e: &Errors| share(e.own, e.persistence);
    let ratios: Vec<(f64, usize)> =
        errors.iter().filter_map(|(t, e)| Some((ratio(e)?, *t))).collect();
    let logs: f64 = ratios.iter().map(|(r, _)| r.ln()).sum();
    let mean = share(logs, ratios.len() as f64).map(f64::exp);
    let worst = ratios.iter().copied().max_by(|a, b| a.0.total_cmp(&b.0));
    let sum = |f: fn(&Errors) -> f64| errors.iter().map(|(_, e)| f(e)).sum::<f64>();
    let count = errors.iter().map(|(_, e)| e.count).sum::<u64>();
    let figure = |metric, value, note| Figure {
        judged_on: "traces",
        h: Some(h),
        metric,
        value,
        of: count,
        note,
    };
    let name = worst.map(|(_, t)| traces.list[t].name.clone());
    vec![
        figure("mae_ms", share(sum(|e| e.own), count as f64), None),
        figure("persistence_mae_ms", share(sum(|e| e.persistence), count as f64), None),
        figure("of_persistence", mean, None),
        figure("of_persistence_worst", worst.map(|(r, _)| r), name),
    ]
}

fn shifts(traces: &Traces, said: &BTreeMap<(String, i64), usize>, ask: &Ask) -> Vec<Figure> {
    let (mut labels, mut found, mut alarms, mut days) = (0_u64, 0_u64, 0_u64, 0.0);
    let mut lags = Vec::new();
    for trace in &traces.list {
        let count = trace.samples.len();
        let told: Vec<usize> = (0..count)
            .filter(|&at| said.contains_key(&(trace.name.clone(), trace.samples[at].epoch_s)))
            .collect();
        let mut used = vec![false; told.len()];
        let marks: Vec<usize> = (0..count).filter(|&at| trace.samples[at].change).collect();
        for (place, &mark) in marks.iter().enumerate() {
            let end = marks.get(place + 1).copied().unwrap_or(count).min(mark + WITHIN);
            let hit = told.iter().position(|&at| (mark.saturating_sub(EARLY)..end).contains(&at));
            if let Some(hit) = hit {
                used[hit] = true;
            }
            let begin = place.checked_sub(1).map_or(0, |before| marks[before]);
            let next = marks.get(place + 1).copied().unwrap_or(count);
            let size = size(trace, begin, mark, next);
            if !ask.part.holds(mark, count) || size.is_none_or(|s| s <= SIZE) {
                continue;
            }
            labels += 1;
            if let Some(hit) = hit {
                found += 1;
                lags.push((told[hit] + 1).saturating_sub(mark));
            }
        }
        let unlabelled =
            told.iter().zip(&used).filter(|(at, used)| !**used && ask.part.holds(**at, count));
        alarms += unlabelled.count() as u64;
        let judged = (0..count).filter(|&at| ask.part.holds(at, count)).count();
        days += judged as f64 * trace.step_s / 86_400.0;
    }
    lags.sort_unstable();
    let lag = (!lags.is_empty()).then(|| lags[lags.len() / 2] as f64);
    let figure =
        |metric, value, of| Figure { judged_on: "traces", h: None, metric, value, of, note: None };
    vec![
        figure("shifts_found", share(found as f64, labels as f64), labels),
        figure("shift_lag_median", lag, found),
        figure("alarms_per_day", share(alarms as f64, days), alarms),
    ]
}

/// By what share of the lower level a labelled change moves the median around it.
fn size(trace: &Trace, begin: usize, mark: usize, next: usize) -> Option<f64> {
    let median = |from: usize, to: usize| {
        let mut values: Vec<f64> =
            trace.samples[from..to].iter().filter_map(|s| s.rtt_ms).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    };
    let before = median(begin.max(mark.saturating_sub(AROUND)), mark)?;
    let after = median(mark, next.min(mark + AROUND))?;
    Some((after - before).abs() / before.min(after))
}
