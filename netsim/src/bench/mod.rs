//! Benchmarks: what the machine gives, what an unencrypted pump gives, what the daemon gives.
//!
//! Every bench makes a [`BenchReport`]: rows of (case, metric) with median, least and greatest over
//! its runs. What could not be measured is null there, `n/a` in the table, and named with its reason
//! on standard error. Only ratios of one report count: machines differ, and the same one by the hour.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command;

use serde::{Deserialize, Serialize};
pub mod control;
pub mod fairness;
pub mod ground;
pub mod load;
pub mod mesh;
pub mod pair;
pub mod peers;
pub mod pump;
pub mod recovery;
pub mod soak;
pub mod steps;
pub mod throughput;

/// What a bench found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// Its name.
    pub bench: String,
    /// The commit of the working directory, `-dirty` if files differ from it; else `unknown`.
    pub commit: String,
    /// The figures.
    pub rows: Vec<Row>,
}

/// One figure over all runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// What it was measured on.
    pub case: String,
    /// What; a baseline's figure carries the baseline's name in front (`raw_tcp1_gbps`).
    pub metric: String,
    /// In which unit.
    pub unit: String,
    /// Median of the runs; none where nothing could be measured.
    pub median: Option<f64>,
    /// Least.
    pub min: Option<f64>,
    /// Greatest.
    pub max: Option<f64>,
    /// Runs that gave a figure.
    pub runs: usize,
}

/// Figures as they come in, run by run.
#[derive(Clone, Debug, Default)]
pub struct Sheet {
    rows: Vec<(String, String, &'static str, Vec<f64>)>,
}

impl Sheet {
    /// Takes one run's figure; none makes the row, which stays empty unless another run fills it.
    pub fn note(&mut self, case: &str, metric: &str, unit: &'static str, value: Option<f64>) {
        let row = match self.rows.iter().position(|r| r.0 == case && r.1 == metric) {
            Some(at) => at,
            None => {
                self.rows.push((case.to_owned(), metric.to_owned(), unit, Vec::new()));
                self.rows.len() - 1
            }
        };
        self.rows[row].3.extend(value.filter(|v| v.is_finite()));
    }

    /// The report of everything taken.
    pub fn report(self, bench: &str) -> BenchReport {
        let rows = self.rows.into_iter().map(|(case, metric, unit, mut values)| {
            values.sort_unstable_by(f64::total_cmp);
            let (min, max) = (values.first().copied(), values.last().copied());
            let (unit, runs) = (unit.to_owned(), values.len());
            Row { case, metric, unit, median: median(&values), min, max, runs }
        });
        BenchReport { bench: bench.to_owned(), commit: commit(), rows: rows.collect() }
    }
}

/// The middle of sorted values, the mean of both where there are two.
fn median(sorted: &[f64]) -> Option<f64> {
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => Some(sorted[half]),
        _ => Some((sorted.get(half.checked_sub(1)?)? + sorted.get(half)?) / 2.0),
    }
}

/// What is checked out where we run, as far as git knows.
fn commit() -> String {
    let args = ["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
    let said = Command::new("git").args(args).output().ok().filter(|o| o.status.success());
    let text = said.and_then(|o| String::from_utf8(o.stdout).ok()).unwrap_or_default();
    if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() }
}

/// Baselines by the prefix of their metrics and their name in the table, in the table's order.
pub const BASELINES: [(&str, &str); 9] = [
    ("floor_", "floor"),
    ("bare_", "bare line"),
    ("raw_", "raw"),
    ("pump_", "pump"),
    ("lanes_", "with --lanes"),
    ("boringtun_", "boringtun"),
    ("wireguard_go_", "wireguard-go"),
    ("nebula_", "nebula"),
    ("tinc_", "tinc"),
];

impl BenchReport {
    /// Whether every figure of ours is there; a baseline may be missing.
    pub fn is_whole(&self) -> bool {
        self.rows.iter().all(|r| r.median.is_some() || !split(&r.metric).0.is_empty())
    }

    /// For people: one table a case; beside each baseline's median our share of it.
    pub fn text(&self) -> String {
        let mut text = format!("{} at {}\n", self.bench, self.commit);
        let mut cases: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !cases.contains(&row.case.as_str()) {
                cases.push(&row.case);
            }
        }
        for case in cases {
            let _ = writeln!(text, "\n{}", self.table(case));
        }
        text
    }

    fn table(&self, case: &str) -> comfy_table::Table {
        let mut metrics: Vec<&str> = Vec::new();
        let mut cells: BTreeMap<(&str, &str), &Row> = BTreeMap::new();
        for row in self.rows.iter().filter(|r| r.case == case) {
            let (prefix, metric) = split(&row.metric);
            if !metrics.contains(&metric) {
                metrics.push(metric);
            }
            cells.insert((metric, prefix), row);
        }
        let present: Vec<_> = BASELINES
            .into_iter()
            .filter(|(prefix, _)| cells.keys().any(|(_, p)| p == prefix))
            .collect();
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        let mut header = vec![case.to_owned(), "unit".into(), "thalweg".into(), "min-max".into()];
        header.extend(present.iter().map(|(_, name)| format!("{name} (thalweg/it)")));
        table.set_header(header);
        for metric in metrics {
            let ours = cells.get(&(metric, ""));
            let unit = cells.iter().find(|((m, _), _)| *m == metric).map(|(_, r)| &r.unit);
            let median = ours.and_then(|r| r.median);
            let span = ours.and_then(|r| Some(format!("{}-{}", figure(r.min?), figure(r.max?))));
            let mut line = vec![
                metric.to_owned(),
                unit.cloned().unwrap_or_default(),
                ours.map_or(String::new(), |_| median.map_or("n/a".into(), figure)),
                span.unwrap_or_default(),
            ];
            for (prefix, _) in &present {
                line.push(match cells.get(&(metric, *prefix)).map(|r| r.median) {
                    None => String::new(),
                    Some(None) => "n/a".into(),
                    Some(Some(theirs)) => {
                        let ratio = median.filter(|&ours| ours > 0.0 && theirs > 0.0);
                        let ratio = ratio.map(|ours| ours / theirs);
                        let ratio = ratio.map_or(String::new(), |r| format!(" ({r:.2})"));
                        figure(theirs) + &ratio
                    }
                });
            }
            table.add_row(line);
        }
        table
    }
}

/// A metric's baseline and its name without it.
fn split(metric: &str) -> (&'static str, &str) {
    BASELINES
        .into_iter()
        .find_map(|(prefix, _)| Some((prefix, metric.strip_prefix(prefix)?)))
        .unwrap_or(("", metric))
}

/// Three figures or so: more would be noise.
fn figure(x: f64) -> String {
    match x.abs() {
        a if a >= 100.0 => format!("{x:.0}"),
        a if a >= 10.0 => format!("{x:.1}"),
        a if a >= 0.1 || a == 0.0 => format!("{x:.2}"),
        a if a >= 0.001 => format!("{x:.4}"),
        _ => format!("{x:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_hold_median_and_ends_and_what_was_not_measured_is_null() {
        let mut sheet = Sheet::default();
        for value in [3.0, 1.0, 2.0, 10.0] {
            sheet.note("direct", "tcp1_gbps", "Gbit/s", Some(value));
        }
        sheet.note("direct", "raw_tcp1_gbps", "Gbit/s", Some(5.0));
        sheet.note("direct", "udp64_pps", "1/s", None);
        let report = sheet.report("throughput");
        let row = &report.rows[0];
        assert_eq!((row.median, row.min, row.max), (Some(2.5), Some(1.0), Some(10.0)));
        assert_eq!((report.rows[1].median, report.rows[1].runs), (Some(5.0), 1));
        assert_eq!((report.rows[2].median, report.rows[2].runs), (None, 0));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["rows"][2]["median"], serde_json::Value::Null);
        assert_eq!(serde_json::from_value::<BenchReport>(json).unwrap(), report);
        let text = report.text();
        assert!(text.contains("5.00 (0.50)") && text.contains("n/a"), "{text}");
    }
}
