//! Series of round trips, one per link.

use std::collections::BTreeMap;

/// How the first line begins.
pub(super) const HEAD: &str = "trace,epoch_s,rtt_ms";
const LABELLED: &str = "trace,epoch_s,rtt_ms,changepoint";
/// A sample so much earlier than the one before (s) came late; beyond it the file is out of order.
const LATE: i64 = 60;
/// A pause between two samples above this many usual ones is a gap.
const GAP: f64 = 1.5;
/// A round trip above this (ms, a day) was never measured.
const RTT_LIMIT: f64 = 86_400_000.0;
/// Traces in one record at most.
const TRACES: usize = 65_536;

/// One sample of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When, in seconds of Unix time, as written.
    pub epoch_s: i64,
    /// The round trip, ms; `None` where nothing came back.
    pub rtt_ms: Option<f64>,
    /// Whether a person marked the first sample of a new level here.
    pub change: bool,
}

/// One link's series.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Its name.
    pub name: String,
    /// Its samples, in the file's order.
    pub samples: Vec<Sample>,
    /// The usual time between two samples, s.
    pub step_s: f64,
}

/// Every series of a record.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    /// In order of their first sample.
    pub list: Vec<Trace>,
    /// Samples that stand after a later one.
    pub late: usize,
    /// Pauses longer than a step and a half.
    pub gaps: usize,
    place: BTreeMap<String, usize>,
}

impl Traces {
    /// Takes a file in.
    pub(super) fn read(&mut self, text: &str) -> Result<(), String> {
        let mut lines = text.lines().enumerate();
        let head = lines.next().map_or("", |(_, line)| line.trim_end());
        let labelled = match head {
            HEAD => false,
            LABELLED => true,
            _ => return Err(format!("line 1: {head:?} where `{LABELLED}` is expected")),
        };
        for (at, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            self.line(line, labelled).map_err(|what| format!("line {}: {what}", at + 1))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, labelled: bool) -> Result<(), String> {
        let wants = if labelled { 4 } else { 3 };
        let cells: Vec<&str> = line.split(',').map(str::trim).collect();
        if cells.len() != wants {
            return Err(format!("{} cells where {wants} are expected", cells.len()));
        }
        let name = cells[0];
        if name.is_empty() || name.len() > 64 || name.contains(['"', '\0']) {
            return Err(format!("{name:?} is no name of a trace"));
        }
        let epoch_s: i64 =
            cells[1].parse().map_err(|_| format!("{:?} is no time in whole seconds", cells[1]))?;
        if !(0..=1 << 40).contains(&epoch_s) {
            return Err(format!("{epoch_s} s is out of range"));
        }
        let rtt_ms = match cells[2] {
            "" => None,
            cell => match cell.parse::<f64>() {
                Ok(ms) if ms > 0.0 && ms <= RTT_LIMIT => Some(ms),
                _ => return Err(format!("{cell:?} is no round trip in ms")),
            },
        };
        let change = match cells.get(3) {
            None | Some(&"0" | &"") => false,
            Some(&"1") => true,
            Some(cell) => return Err(format!("{cell:?} where 0 or 1 is expected")),
        };
        let place = match self.place.get(name) {
            Some(&place) => place,
            None if self.list.len() >= TRACES => return Err(format!("more than {TRACES} traces")),
            None => {
                self.place.insert(name.into(), self.list.len());
                self.list.push(Trace { name: name.into(), samples: Vec::new(), step_s: 0.0 });
                self.list.len() - 1
            }
        };
        let samples = &mut self.list[place].samples;
        if let Some(last) = samples.last() {
            if last.epoch_s - epoch_s > LATE {
                let early = last.epoch_s - epoch_s;
                return Err(format!("trace {name} goes back by {early} s; sort it by time"));
            }
            self.late += usize::from(epoch_s <= last.epoch_s);
        }
        samples.push(Sample { epoch_s, rtt_ms, change });
        Ok(())
    }

    /// Works out each trace's step and counts its gaps.
    pub(super) fn finish(mut self) -> Self {
        for trace in &mut self.list {
            let pairs = trace.samples.windows(2);
            let mut steps: Vec<i64> =
                pairs.map(|w| w[1].epoch_s - w[0].epoch_s).filter(|s| *s > 0).collect();
            steps.sort_unstable();
            trace.step_s = steps.get(steps.len() / 2).map_or(1.0, |s| *s as f64);
            self.gaps += steps.iter().filter(|s| **s as f64 > GAP * trace.step_s).count();
        }
        self
    }
}
