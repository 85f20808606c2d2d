//! Trains the small model that corrects forecasts, from recorded traces.
//!
//! The daemon's own forecaster plays every trace and shows at each sample what a model would be given
//! ([`Lesson`]). The model learns what came one, two and three samples later, by absolute error in
//! units of the link's scatter (Adam, Kingma and Ba 2015), so it learns medians as the forecaster asks for.
//! Each trace counts by its own persistence error: a noisy one must not speak for all.
//!
//! Every third trace is kept back whole, and the last third of the others: what the figures in the file
//! are measured on was never learnt from. The same seed and data give the same file.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use netsim::record::{Record, Trace};
use netsim::replay::LOST_MS;
use thalweg::probe::forecast::{Forecaster, HORIZON, Lesson};
use thalweg::probe::model::{INPUTS, Model, REACH};
use thalweg::rng::Dice;
use thalweg::time::Instant;

/// How to train.
pub(crate) const USAGE: &str = "\
train FILE... --out MODEL --data TEXT --licence TEXT --date DATE [--seed N]
    FILE     recorded traces (csv, gzipped or not), as `thalweg record` writes them
    --out    the model file to write
    --data, --licence, --date
             the origin of the data, its licence and today's date, for the file's head";

/// Units of the hidden layer.
const HIDDEN: usize = 12;
/// Passes over all lessons.
const EPOCHS: usize = 12;
/// Lessons per step.
const BATCH: usize = 256;
const RATE: f64 = 0.004;
/// Errors below this (in scatters) are squared, so that the end is approached and not jumped over.
const SMOOTH: f64 = 0.05;
/// How far ahead is learnt, in samples.
const AHEAD: [usize; 3] = [1, 2, 3];
/// One link's lesson counts for at most this many others'.
const WEIGHT_LIMIT: f64 = 10.0;

#[derive(Default)]
struct Options {
    files: Vec<PathBuf>,
    out: Option<PathBuf>,
    origin: [Option<String>; 3],
    seed: u64,
}

struct Example {
    lesson: Lesson,
    /// What came, µs.
    came_us: f64,
    /// The last level, µs.
    last_us: f64,
}

/// One trace's examples, in order of time.
struct Pupil {
    examples: Vec<Example>,
    /// Mean error of persistence, µs.
    persistence_us: f64,
    kept_back: bool,
}

/// Reads the arguments, trains, writes the file and tells the figures.
///
/// # Errors
/// Wrong arguments, files that are no traces, too little data, a file that cannot be written.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let options = options(arguments)?;
    let Record::Traces(traces) = Record::open(&options.files)? else {
        bail!("matrices hold no traces to learn from");
    };
    let pupils: Vec<Pupil> = traces
        .list
        .iter()
        .enumerate()
        .map(|(at, trace)| pupil(trace, at % 3 == 2))
        .filter(|p| p.persistence_us > 0.0 && p.examples.len() >= 300)
        .collect();
    ensure!(
        pupils.len() >= 3,
        "three traces of a hundred samples that move are the least to learn from"
    );
    let network = train(&pupils, options.seed);
    let own = figures(&pupils, &network, false);
    let others = figures(&pupils, &network, true);
    let told = format!(
        "error of persistence's, 1-3 samples ahead, geometric mean (worst trace), before any gate: last third \
         of {} traces: model {:.3} ({:.3}), experts {:.3}; {} traces never seen: model {:.3} ({:.3}), experts {:.3}",
        own.traces,
        own.model,
        own.worst,
        own.experts,
        others.traces,
        others.model,
        others.worst,
        others.experts
    );
    let [data, licence, date] = options.origin;
    let split = format!(
        "learnt from the first two thirds of every trace but each third one; {} lessons; seed {}",
        pupils.iter().map(|p| learnt(p).len()).sum::<usize>(),
        options.seed
    );
    let origin = [
        ("data", data),
        ("licence", licence),
        ("date", date),
        ("split", Some(split)),
        ("figures", Some(told.clone())),
    ];
    let origin = origin.map(|(key, value)| (key.to_string(), value.unwrap_or_default()));
    let (hidden, out) = network.weights();
    let model = Model::new(origin.to_vec(), hidden, out)?;
    let path = options.out.context("--out is missing")?;
    std::fs::write(&path, model.write())
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{}: {told}", path.display());
    Ok(())
}

fn options(arguments: impl Iterator<Item = String>) -> anyhow::Result<Options> {
    let mut options = Options { seed: 1, ..Options::default() };
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} wants a value"));
        match argument.as_str() {
            "--out" => options.out = Some(value()?.into()),
            "--data" => options.origin[0] = Some(value()?),
            "--licence" => options.origin[1] = Some(value()?),
            "--date" => options.origin[2] = Some(value()?),
            "--seed" => options.seed = value()?.parse().context("--seed wants a number")?,
            other if other.starts_with("--") => bail!("{other} is unknown\n{USAGE}"),
            file => options.files.push(file.into()),
        }
    }
    ensure!(!options.files.is_empty() && options.out.is_some(), "{USAGE}");
    let names = ["--data", "--licence", "--date"];
    for (name, value) in names.iter().zip(&options.origin) {
        let fits = |v: &String| !v.trim().is_empty() && !v.contains(['\n', '\r']);
        ensure!(value.as_ref().is_some_and(fits), "{name} is missing: a model tells its origin");
    }
    Ok(options)
}

/// Plays a trace into the daemon's forecaster.
fn pupil(trace: &Trace, kept_back: bool) -> Pupil {
    let mut forecaster = Forecaster::new(HORIZON, None);
    let mut seen: Vec<(Option<Lesson>, Option<f64>)> = Vec::with_capacity(trace.samples.len());
    let first = trace.samples.first().map_or(0, |s| s.epoch_s);
    let mut now = Instant::ZERO;
    let mut last = None;
    for sample in &trace.samples {
        let since = u64::try_from(sample.epoch_s - first).unwrap_or(0);
        now = now.max(Instant::from_micros((since + 3600) * 1_000_000));
        let came = sample.rtt_ms.filter(|ms| *ms <= LOST_MS);
        if let Some(ms) = came {
            forecaster.on_sample(now, std::time::Duration::from_secs_f64(ms / 1e3));
            last = Some(ms * 1e3);
        }
        seen.push((forecaster.lesson(), last));
    }
    let mut examples = Vec::new();
    for (at, (lesson, last)) in seen.iter().enumerate() {
        let (Some(lesson), Some(last_us)) = (lesson, last) else { continue };
        for ahead in AHEAD {
            let came = trace.samples.get(at + ahead).and_then(|s| s.rtt_ms);
            if let Some(ms) = came.filter(|ms| *ms <= LOST_MS) {
                let example = Example { lesson: *lesson, came_us: ms * 1e3, last_us: *last_us };
                examples.push(example);
            }
        }
    }
    let errors = examples.iter().map(|e| (e.came_us - e.last_us).abs()).sum::<f64>();
    let persistence_us = errors / examples.len().max(1) as f64;
    Pupil { examples, persistence_us, kept_back }
}

/// The part of a trace that is learnt from.
fn learnt(pupil: &Pupil) -> &[Example] {
    let until = if pupil.kept_back { 0 } else { pupil.examples.len() * 2 / 3 };
    &pupil.examples[..until]
}

struct Figures {
    traces: usize,
    model: f64,
    worst: f64,
    experts: f64,
}

/// Errors of the model and of the experts alone on what was not learnt from, as shares of persistence's.
fn figures(pupils: &[Pupil], network: &Network, kept_back: bool) -> Figures {
    let (mut traces, mut model, mut experts, mut worst) = (0, 0.0, 0.0, 0.0_f64);
    for pupil in pupils.iter().filter(|p| p.kept_back == kept_back) {
        let rest = &pupil.examples[learnt(pupil).len()..];
        let sum = |said: &dyn Fn(&Example) -> f64| {
            rest.iter().map(|e| (said(e) - e.came_us).abs()).sum::<f64>()
        };
        let last = sum(&|e| e.last_us);
        if last <= 0.0 {
            continue;
        }
        let corrected = |e: &Example| {
            e.lesson.level_us
                + network.say(&e.lesson.inputs).1.clamp(-REACH, REACH) * e.lesson.scatter_us
        };
        let ratio = sum(&corrected) / last;
        traces += 1;
        model += ratio.ln();
        worst = worst.max(ratio);
        experts += (sum(&|e| e.lesson.level_us) / last).ln();
    }
    let mean = |logs: f64| (logs / f64::from(traces.max(1))).exp();
    Figures { traces: traces as usize, model: mean(model), worst, experts: mean(experts) }
}

/// One hidden layer, its weights in one row so that the optimiser need not know of layers.
struct Network {
    weights: Vec<f64>,
}

const ROW: usize = INPUTS + 1;
const OUT: usize = HIDDEN * ROW;

impl Network {
    fn new(dice: &mut Dice) -> Self {
        let spread = (1.0 / INPUTS as f64).sqrt();
        let mut weights: Vec<f64> =
            (0..OUT + HIDDEN + 1).map(|_| (2.0 * dice.unit() - 1.0) * spread).collect();
        // It begins by correcting nothing.
        weights[OUT..].fill(0.0);
        Self { weights }
    }

    /// The hidden units' values, and the output.
    fn say(&self, inputs: &[f64; INPUTS]) -> ([f64; HIDDEN], f64) {
        let mut units = [0.0; HIDDEN];
        let mut out = self.weights[OUT + HIDDEN];
        for (place, unit) in units.iter_mut().enumerate() {
            let row = &self.weights[place * ROW..(place + 1) * ROW];
            let sum: f64 = row.iter().zip(inputs).map(|(w, x)| w * x).sum();
            *unit = (sum + row[INPUTS]).tanh();
            out += self.weights[OUT + place] * *unit;
        }
        (units, out)
    }

    /// Adds one lesson's gradient.
    fn learn(&self, example: &Example, weight: f64, gradient: &mut [f64]) {
        let (units, out) = self.say(&example.lesson.inputs);
        let target = (example.came_us - example.lesson.level_us) / example.lesson.scatter_us;
        let slope = weight * ((out - target) / SMOOTH).clamp(-1.0, 1.0);
        gradient[OUT + HIDDEN] += slope;
        for (place, unit) in units.iter().enumerate() {
            gradient[OUT + place] += slope * unit;
            let inner = slope * self.weights[OUT + place] * (1.0 - unit * unit);
            let row = &mut gradient[place * ROW..(place + 1) * ROW];
            for (g, x) in row.iter_mut().zip(&example.lesson.inputs) {
                *g += inner * x;
            }
            row[INPUTS] += inner;
        }
    }

    fn weights(&self) -> (Vec<[f64; ROW]>, Vec<f64>) {
        let rows = self.weights[..OUT].chunks_exact(ROW).map(|chunk| {
            let mut row = [0.0; ROW];
            row.copy_from_slice(chunk);
            row
        });
        (rows.collect(), self.weights[OUT..].to_vec())
    }
}

fn train(pupils: &[Pupil], seed: u64) -> Network {
    let mut dice = Dice::new(seed);
    let mut network = Network::new(&mut dice);
    let mut lessons: Vec<(&Example, f64)> = Vec::new();
    for pupil in pupils {
        let examples = learnt(pupil);
        // Each trace as a share of its own persistence error, and all traces alike.
        let each = |e: &Example| e.lesson.scatter_us / pupil.persistence_us;
        let share = 10_000.0 / examples.len().max(1) as f64;
        lessons.extend(examples.iter().map(|e| (e, each(e).min(WEIGHT_LIMIT) * share)));
    }
    let count = network.weights.len();
    let (mut first, mut second) = (vec![0.0; count], vec![0.0; count]);
    let (mut step, steps) = (0.0, (EPOCHS * lessons.len().div_ceil(BATCH)) as f64);
    for _ in 0..EPOCHS {
        for at in (1..lessons.len()).rev() {
            lessons.swap(at, dice.below(at as u64 + 1) as usize);
        }
        for batch in lessons.chunks(BATCH) {
            let mut gradient = vec![0.0; count];
            for (example, weight) in batch {
                network.learn(example, *weight / batch.len() as f64, &mut gradient);
            }
            step += 1.0;
            let rate = RATE * (1.0 - step / (steps + 1.0));
            let (bias1, bias2) = (1.0 - 0.9_f64.powf(step), 1.0 - 0.999_f64.powf(step));
            for at in 0..count {
                first[at] += 0.1 * (gradient[at] - first[at]);
                second[at] += 0.001 * (gradient[at] * gradient[at] - second[at]);
                let slope = first[at] / bias1 / ((second[at] / bias2).sqrt() + 1e-8);
                network.weights[at] -= rate * slope;
            }
        }
    }
    network
}
