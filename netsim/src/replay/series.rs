//! Traces: one link each.

use std::time::Duration;

use thalweg::probe::forecast::Forecaster;
use thalweg::time::Instant;

use super::{LOST_MS, Plan, Played, ReplayError, Sinks};
use crate::record::{Trace, Traces};

/// Where a trace's clock starts: before it there was no reading.
const START: Instant = Instant::from_micros(3_600_000_000);

pub(super) fn run(
    traces: &Traces,
    plan: &Plan,
    mut sinks: Sinks<'_>,
) -> Result<Played, ReplayError> {
    let longest = traces.list.iter().map(|t| t.samples.len()).max().unwrap_or(0);
    if plan.from as usize > longest {
        let what = format!("--from {}: the longest trace has {longest} samples", plan.from);
        return Err(ReplayError::Plan(what));
    }
    let mut played = Played {
        gaps: traces.gaps as u64,
        late: traces.late as u64,
        step_s: traces.list.first().map_or(0.0, |t| t.step_s),
        ..Played::default()
    };
    if let Some(out) = &mut sinks.forecasts {
        writeln!(out, "trace,epoch_s,h,rtt_ms")?;
    }
    if let Some(out) = &mut sinks.shifts {
        writeln!(out, "trace,epoch_s")?;
    }
    if let Some(out) = &mut sinks.choices {
        writeln!(out, "slice,from,to,via")?;
        played.remarks.push("traces hold no mesh: no choices".into());
    }
    for trace in &traces.list {
        play(trace, plan, &mut sinks, &mut played)?;
    }
    Ok(played)
}

fn play(
    trace: &Trace,
    plan: &Plan,
    sinks: &mut Sinks<'_>,
    played: &mut Played,
) -> Result<(), ReplayError> {
    let ahead = |h: &u32| Duration::from_secs_f64(trace.step_s * f64::from(*h));
    let mut links: Vec<Forecaster> =
        plan.horizons.iter().map(|h| Forecaster::new(ahead(h), plan.model.clone())).collect();
    let mut seen = 0;
    let mut now = START;
    let first_s = trace.samples.first().map_or(0, |s| s.epoch_s);
    for (at, sample) in trace.samples.iter().enumerate() {
        let since = u64::try_from(sample.epoch_s - first_s).unwrap_or(0);
        now = now.max(START.plus(Duration::from_secs(since)));
        played.steps += 1;
        match sample.rtt_ms.filter(|ms| *ms <= LOST_MS) {
            Some(ms) => {
                let rtt = Duration::from_secs_f64(ms / 1e3);
                for link in &mut links {
                    link.on_sample(now, rtt);
                }
                played.readings += 1;
            }
            None => played.lost += 1,
        }
        // The level is the link's, whatever the horizon: the first forecaster's shifts are everyone's.
        let shifts = links.first().map_or(0, |l| l.skill().shifts);
        let number = u32::try_from(at + 1).unwrap_or(u32::MAX);
        if shifts > seen {
            seen = shifts;
            played.shifts += 1;
            if let Some(out) = sinks.shifts.as_mut().filter(|_| number >= plan.from) {
                writeln!(out, "{},{}", trace.name, sample.epoch_s)?;
            }
        }
        let Some(out) = sinks.forecasts.as_mut().filter(|_| plan.writes(number)) else { continue };
        for (link, h) in links.iter().zip(&plan.horizons) {
            if let Some(forecast) = link.forecast() {
                let ms = forecast.level.as_secs_f64() * 1e3;
                writeln!(out, "{},{},{h},{ms:.3}", trace.name, sample.epoch_s)?;
            }
        }
    }
    Ok(())
}
