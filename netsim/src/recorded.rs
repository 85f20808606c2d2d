//! `netsim replay` and `netsim score`: the command line of recorded round trips.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use netsim::replay::{self, Plan, Sinks};
use netsim::score::{self, Ask, Figure, Part};
use thalweg::probe::model::Model;

/// Files of what is said of a record: written by `replay`, judged by `score`.
#[derive(Args)]
struct Said {
    /// Forecasts: slice,h,from,to,rtt_ms or trace,epoch_s,h,rtt_ms.
    #[arg(long, value_name = "FILE")]
    forecasts: Option<PathBuf>,
    /// Paths in force: slice,from,to,via (`-` direct, `12` one relay, `12+40` two).
    #[arg(long, value_name = "FILE")]
    choices: Option<PathBuf>,
    /// Level shifts, when they are seen: trace,epoch_s or slice,from,to.
    #[arg(long, value_name = "FILE")]
    shifts: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Replay {
    /// The record: matrices (`.rttm`) or traces (`.csv`), gzipped or not; several files are one record.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// First slice (as numbered in the file), or sample of each trace (from 1), at which to write.
    #[arg(long, value_name = "S", default_value_t = 1)]
    from: u32,
    /// Write at every so many from there on.
    #[arg(long, value_name = "N", default_value_t = 1)]
    every: u32,
    /// How far ahead forecasts look, in slices or samples.
    #[arg(long, value_name = "H,...", value_delimiter = ',', default_value = "1")]
    horizons: Vec<u32>,
    #[command(flatten)]
    said: Said,
    /// Seconds between two slices. Without it a number in the first file's name (mesh-240s); else 15.7
    /// where rows stand unchanged over several slices, 240 where they do not.
    #[arg(long, value_name = "SECONDS")]
    step: Option<f64>,
    /// The model that corrects forecasts: a file, `shipped`, or `none` for the online mixture alone.
    #[arg(long, value_name = "FILE", default_value = "shipped")]
    model: String,
    /// Seed of the moments at which paths are computed anew.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Args)]
pub(crate) struct Score {
    /// The record that was played.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    said: Said,
    /// How far ahead paths are judged, in slices.
    #[arg(long, value_name = "H,...", value_delimiter = ',', default_value = "1")]
    horizons: Vec<u32>,
    /// Only what was said in this part of the record.
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// Seconds between two slices, as in `replay`.
    #[arg(long, value_name = "SECONDS")]
    step: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Replay {
    /// Plays and writes; true.
    pub(crate) fn run(self) -> anyhow::Result<bool> {
        let plan = Plan {
            from: self.from,
            every: self.every,
            horizons: self.horizons,
            step: seconds(self.step)?,
            model: model(&self.model)?.map(Arc::new),
            seed: self.seed,
        };
        let mut forecasts = sink(self.said.forecasts.as_deref())?;
        let mut choices = sink(self.said.choices.as_deref())?;
        let mut shifts = sink(self.said.shifts.as_deref())?;
        let sinks = Sinks {
            forecasts: forecasts.as_mut().map(|f| f as &mut dyn Write),
            choices: choices.as_mut().map(|f| f as &mut dyn Write),
            shifts: shifts.as_mut().map(|f| f as &mut dyn Write),
        };
        let played = replay::run(&self.files, &plan, sinks)?;
        for file in [forecasts, choices, shifts].iter_mut().flatten() {
            file.flush().context("cannot write")?;
        }
        for remark in &played.remarks {
            eprintln!("netsim: {remark}");
        }
        eprintln!(
            "{} steps of {} s: {} round trips, {} lost, {} gaps, {} late; {} shifts",
            played.steps,
            played.step_s,
            played.readings,
            played.lost,
            played.gaps,
            played.late,
            played.shifts
        );
        Ok(true)
    }
}

impl Score {
    /// Judges and prints; true.
    pub(crate) fn run(self) -> anyhow::Result<bool> {
        let ask = Ask {
            forecasts: self.said.forecasts,
            choices: self.said.choices,
            shifts: self.said.shifts,
            horizons: self.horizons,
            part: self.part,
            step: seconds(self.step)?,
        };
        let figures = score::run(&self.files, &ask)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&figures)?);
        } else {
            println!("{}", text(&figures));
        }
        Ok(true)
    }
}

fn text(figures: &[Figure]) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["judged on", "h", "metric", "value", "of", ""]);
    for f in figures {
        table.add_row([
            f.judged_on.to_string(),
            f.h.map_or(String::new(), |h| h.to_string()),
            f.metric.to_string(),
            f.value.map_or("n/a".into(), |v| format!("{v:.4}")),
            f.of.to_string(),
            f.note.clone().unwrap_or_default(),
        ]);
    }
    table.trim_fmt()
}

fn model(named: &str) -> anyhow::Result<Option<Model>> {
    match named {
        "none" => Ok(None),
        "shipped" => Ok(Some(Model::shipped())),
        file => {
            let text =
                std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
            Ok(Some(Model::parse(&text).with_context(|| file.to_string())?))
        }
    }
}

fn seconds(step: Option<f64>) -> anyhow::Result<Option<Duration>> {
    let Some(step) = step else { return Ok(None) };
    anyhow::ensure!((0.001..=1e7).contains(&step), "--step {step}: from 0.001 to 10,000,000 s");
    Ok(Some(Duration::from_secs_f64(step)))
}

fn sink(path: Option<&Path>) -> anyhow::Result<Option<BufWriter<File>>> {
    let Some(path) = path else { return Ok(None) };
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(Some(BufWriter::new(file)))
}
