//! Recorded round trips, played sample by sample into the daemon's own estimator, forecaster, solver
//! and chooser.
//!
//! What they say is written at a slice before the next slice is read into them, so nothing can know
//! what comes. `netsim score` judges what was written, by itself and later.
//!
//! Beside the daemon two things are different, since a record has no probes and no messages: a
//! link is *stale* after four of the record's usual times between two measurements, because how often it was
//! measured is the record's business; and every node knows at once what the others measured.

mod mesh;
mod series;

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thalweg::probe::model::Model;

use crate::record::{Record, RecordError};

pub use mesh::step_of;

/// A round trip above this counts as this.
pub const LOST_MS: f64 = 2_000.0;
/// Horizons at most.
const HORIZONS: usize = 16;

/// What is played, and when something is written.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The first slice (as numbered in the file) or sample (from 1) at which something is written.
    pub from: u32,
    /// And every so many from there on.
    pub every: u32,
    /// How far ahead forecasts look, in slices or samples.
    pub horizons: Vec<u32>,
    /// Time between two slices, where the record does not tell it.
    pub step: Option<Duration>,
    /// The model that corrects forecasts; none: the experts alone.
    pub model: Option<Arc<Model>>,
    /// Seed of the moments at which paths are computed anew.
    pub seed: u64,
}

/// Where it is written; nowhere what nobody asked for.
#[derive(Default)]
pub struct Sinks<'a> {
    /// Forecasts.
    pub forecasts: Option<&'a mut dyn Write>,
    /// Paths in force.
    pub choices: Option<&'a mut dyn Write>,
    /// Shifts of the level, when they were seen.
    pub shifts: Option<&'a mut dyn Write>,
}

/// What was played.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Played {
    /// Slices or samples.
    pub steps: u64,
    /// Round trips fed in.
    pub readings: u64,
    /// Samples without a round trip, and round trips too long to be one.
    pub lost: u64,
    /// Pauses longer than a step and a half, missing slices.
    pub gaps: u64,
    /// Samples that stand after a later one; the clock does not go back for them.
    pub late: u64,
    /// Shifts of the level found.
    pub shifts: u64,
    /// Time between two slices, s; of the first trace between two samples.
    pub step_s: f64,
    /// Remarks: what was asked for and cannot be.
    pub remarks: Vec<String>,
}

/// Why nothing was played.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The plan does not fit the record.
    #[error("{0}")]
    Plan(String),
    /// What came of it could not be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Plays a record.
///
/// # Errors
/// A record that is none, a plan that does not fit it, a sink that does not take what is written.
pub fn run(files: &[PathBuf], plan: &Plan, sinks: Sinks<'_>) -> Result<Played, ReplayError> {
    let wrong = |what: &str| Err(ReplayError::Plan(what.into()));
    if plan.every == 0 {
        return wrong("--every 0: write at least every first slice");
    }
    if plan.horizons.is_empty() || plan.horizons.len() > HORIZONS {
        return wrong("--horizons: one to sixteen of them");
    }
    if plan.horizons.contains(&0) {
        return wrong("--horizons 0: the present is no forecast");
    }
    match Record::open(files)? {
        Record::Matrices(matrices) => {
            let step = plan.step.unwrap_or_else(|| step_of(files, &matrices));
            mesh::run(&matrices, step, plan, sinks)
        }
        Record::Traces(traces) => series::run(&traces, plan, sinks),
    }
}

impl Plan {
    /// Whether something is written at this slice or sample.
    fn writes(&self, number: u32) -> bool {
        number >= self.from && (number - self.from).is_multiple_of(self.every)
    }
}
