//! Matrices: paths beside the direct one and beside hindsight, forecasts beside what came.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Ask, Figure, ScoreError, number, share, table};
use crate::record::Matrices;
use crate::replay::LOST_MS;

/// A link's base at a slice is sought in so many slices before and after it.
const WINDOW: u32 = 13;
/// Measurements within the window without which there is no base.
const LEAST: usize = 2;
/// A chosen path longer than the direct one by this is a bad choice.
const WORSE: f64 = 1.2;

/// What stands for the truth at a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Truth {
    /// The least of what was measured around it: the path without its hosts' pauses.
    Base,
    /// What stands there, if measured within the window.
    Raw,
    /// What stands there.
    Value,
}

impl Truth {
    const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Raw => "raw",
            Self::Value => "value",
        }
    }

    fn at(self, m: &Matrices, at: usize) -> Vec<f64> {
        let nodes = m.nodes();
        let mut values = vec![f64::NAN; nodes * nodes];
        let number = m.numbers()[at];
        let begin = m.numbers().partition_point(|n| *n + WINDOW <= number);
        let end = m.numbers().partition_point(|n| *n <= number + WINDOW);
        for from in 0..nodes {
            let around: Vec<usize> = (begin..end).filter(|&s| m.renewed(s, from)).collect();
            let lately = around.iter().any(|s| *s <= at);
            for to in (0..nodes).filter(|to| *to != from) {
                let value = match self {
                    Self::Value => m.value(at, from, to),
                    Self::Raw => m.value(at, from, to).filter(|_| lately),
                    Self::Base => {
                        let fresh = around.iter().filter_map(|&s| m.value(s, from, to));
                        let (count, least) =
                            fresh.fold((0, f64::INFINITY), |(n, a), b| (n + 1, a.min(b)));
                        (count >= LEAST).then_some(least)
                    }
                };
                values[from * nodes + to] = value.map_or(f64::NAN, |ms| ms.min(LOST_MS));
            }
        }
        values
    }
}

/// A slice and a horizon, where the slice stands if it is judged, and what came by each truth.
type Judged = (u32, u32, Option<usize>, Vec<Vec<f64>>);

/// Sums over judged pairs.
#[derive(Default)]
struct Sums {
    direct: f64,
    chosen: f64,
    best: f64,
    worse: u64,
    /// Pairs whose chosen path has a leg of which the record knows nothing then.
    unknown: u64,
    count: u64,
}

pub(super) fn judge(m: &Matrices, step: Duration, ask: &Ask) -> Result<Vec<Figure>, ScoreError> {
    let truths: &[Truth] =
        if m.between() > 1.5 { &[Truth::Base, Truth::Raw] } else { &[Truth::Value] };
    let mut figures = Vec::new();
    if ask.choices.is_some() {
        figures.extend(choices(m, step, ask, truths)?);
    }
    if ask.forecasts.is_some() {
        figures.extend(forecasts(m, ask, truths)?);
    }
    Ok(figures)
}

fn choices(
    m: &Matrices,
    step: Duration,
    ask: &Ask,
    truths: &[Truth],
) -> Result<Vec<Figure>, ScoreError> {
    let Some(path) = &ask.choices else { return Ok(Vec::new()) };
    let nodes = m.nodes();
    // What is in force at the slice being read, `[from][to]`, and at the slice before it.
    let mut force: Vec<Option<Vec<usize>>> = vec![None; nodes * nodes];
    let mut slice: Option<u32> = None;
    let (mut switches, mut kept) = (0_u64, 0_u64);
    let mut slices: Vec<usize> = Vec::new();
    let mut sums: BTreeMap<(Truth, u32), Sums> = BTreeMap::new();
    let mut close = |slice: Option<u32>, force: &[Option<Vec<usize>>]| {
        let Some(slice) = slice.filter(|_| !force.is_empty()) else { return };
        for &h in &ask.horizons {
            let Some(at) = m.position(slice.saturating_add(h)) else { continue };
            for &truth in truths {
                let sums = sums.entry((truth, h)).or_default();
                add(sums, nodes, &truth.at(m, at), force);
            }
        }
    };
    let mut skipped = false;
    table(path, "slice,from,to,via", |cells| {
        let said: u32 = number(cells[0])?;
        if slice != Some(said) {
            if !skipped {
                close(slice, &force);
            }
            let at = m.position(said).ok_or("no such slice in the record")?;
            skipped = !ask.part.holds(at, m.numbers().len());
            slice = Some(said);
            if !skipped {
                slices.push(at);
            }
        }
        if skipped {
            return Ok(());
        }
        let (from, to): (usize, usize) = (number(cells[1])?, number(cells[2])?);
        if from >= nodes || to >= nodes || from == to {
            return Err(format!("no pair {from}, {to} in the record"));
        }
        let mut via = Vec::new();
        for relay in cells[3].split('+').filter(|_| cells[3] != "-") {
            let relay = number(relay)?;
            if relay >= nodes {
                return Err(format!("no node {relay} in the record"));
            }
            via.push(relay);
        }
        let old = &mut force[from * nodes + to];
        match old {
            Some(before) if slices.len() > 1 => {
                kept += 1;
                switches += u64::from(*before != via);
            }
            _ => {}
        }
        *old = Some(via);
        Ok(())
    })?;
    if !skipped {
        close(slice, &force);
    }
    let mut figures: Vec<Figure> =
        sums.iter().flat_map(|((truth, h), sums)| paths(*truth, *h, sums)).collect();
    let number = |at: &usize| f64::from(m.numbers()[*at]);
    let span = slices.last().map_or(0.0, number) - slices.first().map_or(0.0, number);
    let hours = span * step.as_secs_f64() / 3600.0;
    let pairs = kept as f64 / slices.len().saturating_sub(1).max(1) as f64;
    figures.push(Figure {
        judged_on: "choices",
        h: None,
        metric: "switches_per_pair_hour",
        value: share(switches as f64, pairs * hours),
        of: switches,
        note: None,
    });
    Ok(figures)
}

fn add(sums: &mut Sums, nodes: usize, truth: &[f64], force: &[Option<Vec<usize>>]) {
    for from in 0..nodes {
        let row = &truth[from * nodes..(from + 1) * nodes];
        // Best over one relay, for all destinations at once.
        let mut best = row.to_vec();
        for (relay, first) in row.iter().enumerate().filter(|(_, ms)| ms.is_finite()) {
            let second = &truth[relay * nodes..(relay + 1) * nodes];
            for (best, leg) in best.iter_mut().zip(second) {
                // A leg that was not measured (NaN) is never less.
                if first + leg < *best {
                    *best = first + leg;
                }
            }
        }
        for to in 0..nodes {
            let direct = row[to];
            let Some(via) = force[from * nodes + to].as_ref().filter(|_| direct.is_finite()) else {
                continue;
            };
            let mut at = from;
            let mut chosen = 0.0;
            for &next in via.iter().chain([&to]) {
                let leg = truth[at * nodes + next];
                chosen += leg;
                at = next;
            }
            if !chosen.is_finite() {
                sums.unknown += 1;
                continue;
            }
            let chosen = chosen.min(LOST_MS);
            sums.direct += direct;
            sums.chosen += chosen;
            sums.best += best[to];
            sums.worse += u64::from(chosen > WORSE * direct);
            sums.count += 1;
        }
    }
}

fn paths(truth: Truth, h: u32, sums: &Sums) -> Vec<Figure> {
    let figure = |metric, value| Figure {
        judged_on: truth.name(),
        h: Some(h),
        metric,
        value,
        of: sums.count,
        note: None,
    };
    vec![
        figure("kept", share(sums.direct - sums.chosen, sums.direct - sums.best)),
        figure("much_worse", share(sums.worse as f64, sums.count as f64)),
        figure("of_direct", share(sums.chosen, sums.direct)),
        figure("oracle_of_direct", share(sums.best, sums.direct)),
        figure("unjudged", share(sums.unknown as f64, (sums.unknown + sums.count) as f64)),
    ]
}

fn forecasts(m: &Matrices, ask: &Ask, truths: &[Truth]) -> Result<Vec<Figure>, ScoreError> {
    let Some(path) = &ask.forecasts else { return Ok(Vec::new()) };
    let nodes = m.nodes();
    let mut cache: Option<Judged> = None;
    // Error, error of the last value, count.
    let mut sums: BTreeMap<(Truth, u32), (f64, f64, u64)> = BTreeMap::new();
    table(path, "slice,h,from,to,rtt_ms", |cells| {
        let (slice, h): (u32, u32) = (number(cells[0])?, number(cells[1])?);
        let (from, to): (usize, usize) = (number(cells[2])?, number(cells[3])?);
        let said: f64 = number(cells[4])?;
        if from >= nodes || to >= nodes || from == to {
            return Err(format!("no pair {from}, {to} in the record"));
        }
        if cache.as_ref().is_none_or(|(s, ahead, ..)| (*s, *ahead) != (slice, h)) {
            let now = m.position(slice).ok_or("no such slice in the record")?;
            let part = ask.part.holds(now, m.numbers().len());
            let at = m.position(slice.saturating_add(h)).filter(|_| part);
            let values = at.map_or(Vec::new(), |at| truths.iter().map(|t| t.at(m, at)).collect());
            cache = Some((slice, h, at.map(|_| now), values));
        }
        let Some((.., Some(now), values)) = &cache else { return Ok(()) };
        let Some(last) = m.value(*now, from, to) else { return Ok(()) };
        for (truth, values) in truths.iter().zip(values) {
            let came = values[from * nodes + to];
            if came.is_finite() {
                let sum = sums.entry((*truth, h)).or_default();
                sum.0 += (said - came).abs();
                sum.1 += (last.min(LOST_MS) - came).abs();
                sum.2 += 1;
            }
        }
        Ok(())
    })?;
    let each = |(&(truth, h), &(own, last, count)): (&(Truth, u32), &(f64, f64, u64))| {
        let figure = |metric, value| Figure {
            judged_on: truth.name(),
            h: Some(h),
            metric,
            value,
            of: count,
            note: None,
        };
        [
            figure("mae_ms", share(own, count as f64)),
            figure("persistence_mae_ms", share(last, count as f64)),
            figure("of_persistence", share(own, last)),
        ]
    };
    Ok(sums.iter().flat_map(each).collect())
}
