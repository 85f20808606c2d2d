//! Judges what `netsim replay` wrote by the record itself.
//!
//! Reads the files alone: nothing here knows how forecasts or choices come about, so what is judged
//! may as well come from elsewhere. What each figure means stands in `docs/replay.md`.

mod paths;
mod series;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::record::{Record, RecordError};
use crate::replay::step_of;

/// What is judged.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Forecasts.
    pub forecasts: Option<PathBuf>,
    /// Paths.
    pub choices: Option<PathBuf>,
    /// Shifts of the level.
    pub shifts: Option<PathBuf>,
    /// How far ahead choices are judged, in slices.
    pub horizons: Vec<u32>,
    /// Only what was said in this part of the record.
    pub part: Part,
    /// Time between two slices of a matrix, where the record does not tell it.
    pub step: Option<Duration>,
}

/// A part of the record. What is developed on one part is reported on another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// All of it.
    #[default]
    All,
    /// The first two thirds.
    First,
    /// The last third.
    Last,
}

impl Part {
    /// Whether place `at` of `count` belongs to it.
    pub fn holds(self, at: usize, count: usize) -> bool {
        let first = 3 * at < 2 * count;
        match self {
            Self::All => true,
            Self::First => first,
            Self::Last => !first,
        }
    }
}

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// What was judged: `base`, `raw`, `value` for matrices, `traces` for traces.
    pub judged_on: &'static str,
    /// How far ahead, slices or samples; `None` where that means nothing.
    pub h: Option<u32>,
    /// Its name.
    pub metric: &'static str,
    /// Its value; `None` where nothing could be judged.
    pub value: Option<f64>,
    /// Of how many cases.
    pub of: u64,
    /// The case that stands out, where one does.
    pub note: Option<String>,
}

/// Why nothing was judged.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// What was said is not readable.
    #[error("{}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// What was said does not fit the record.
    #[error("{} line {line}: {what}", .path.display())]
    Said {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
        /// What is wrong there.
        what: String,
    },
}

/// Judges.
///
/// # Errors
/// A record that is none; a file of forecasts, choices or shifts that is none or speaks of another record.
pub fn run(files: &[PathBuf], ask: &Ask) -> Result<Vec<Figure>, ScoreError> {
    match Record::open(files)? {
        Record::Matrices(matrices) => {
            let step = ask.step.unwrap_or_else(|| step_of(files, &matrices));
            paths::judge(&matrices, step, ask)
        }
        Record::Traces(traces) => series::judge(&traces, ask),
    }
}

/// Reads a table line by line, its head checked.
fn table(
    path: &Path,
    head: &str,
    mut each: impl FnMut(&[&str]) -> Result<(), String>,
) -> Result<(), ScoreError> {
    let failed = |source| ScoreError::Read { path: path.to_path_buf(), source };
    let lines = BufReader::new(File::open(path).map_err(failed)?).lines();
    let wants = head.split(',').count();
    for (at, line) in lines.enumerate() {
        let line = line.map_err(failed)?;
        let said = |what| ScoreError::Said { path: path.to_path_buf(), line: at + 1, what };
        if at == 0 {
            if line.trim_end() != head {
                return Err(said(format!("{line:?} where `{head}` is expected")));
            }
            continue;
        }
        let cells: Vec<&str> = line.trim_end().split(',').collect();
        if cells.len() != wants {
            return Err(said(format!("{} cells where {wants} are expected", cells.len())));
        }
        each(&cells).map_err(said)?;
    }
    Ok(())
}

fn number<T: std::str::FromStr>(cell: &str) -> Result<T, String> {
    cell.parse().map_err(|_| format!("{cell:?} is no number that can stand here"))
}

/// A share, where there is a whole.
fn share(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}
