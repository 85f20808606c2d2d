//! `netsim bench recovery`: what repair leaves, and what it costs, cell by cell, in virtual time.
//!
//! A cell is a line, a flow and a deadline. `iid5_rtt20_pps1000_d45`: 5 % independent loss both ways,
//! round trip 20 ms, 1,000 packets/s, a packet counts as lost when it comes later than the line's own
//! delay and 45 ms. `burst8ms5_...`: holes of 8 ms mean in which all is lost, 5 % of the time.
//! `hops3_...`: three such lines in a row, the deadline over all of them. Some cells, and all of TCP, are
//! also measured with real daemons ([`run_daemons`]).
//!
//! Overhead is (repair + retransmitted) / first-sent bytes with all headers on both sides; beside it
//! stands the floor: what an ideal block code needs (a sliding window can lie below it where no round
//! fits), and under bursts the share of packets whose hole outlasts their deadline. The machines are the daemon's, with real keys; the line is a model,
//! the clock is virtual, so every figure repeats for its seed on any machine.

pub mod adapt;
pub mod chain;
pub mod floor;
mod ns;
mod tcp;

use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thalweg::unit::Ratio;

use super::{BenchReport, Sheet};
use crate::link::{Burst, LinkParams};
use crate::netns::stop::Stop;
use chain::{Chain, Load};

/// Residual that floors are computed for, and that classes ask for by default; over a row of lines a
/// tenth of it.
const TARGET: f64 = 1e-4;

/// How long a stream runs before it counts, and for how long it does.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    settle: Duration,
    measure: Duration,
}

/// How a line loses.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    /// Packet by packet.
    Independent(f64),
    /// In holes of this mean length, this share of the time.
    Holes(u64, f64),
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    hops: usize,
    loss: Loss,
    rtt_ms: u64,
    pps: u64,
    deadline_ms: u64,
}

impl Loss {
    fn name(&self) -> String {
        let percent = |share: f64| format!("{}", share * 100.0).replace('.', "p");
        match self {
            Self::Independent(share) => format!("iid{}", percent(*share)),
            Self::Holes(ms, share) => format!("burst{ms}ms{}", percent(*share)),
        }
    }

    /// What has this name; `None` where nothing has.
    fn of_name(name: &str) -> Option<Self> {
        let share = |percent: &str| {
            let share = percent.replace('p', ".").parse::<f64>().ok()? / 100.0;
            (0.0..1.0).contains(&share).then_some(share)
        };
        if let Some(percent) = name.strip_prefix("iid") {
            return share(percent).map(Self::Independent);
        }
        let (ms, percent) = name.strip_prefix("burst")?.split_once("ms")?;
        let (ms, share) = (within(ms, 1..=1000)?, share(percent)?);
        (share > 0.0).then_some(Self::Holes(ms, share))
    }
}

/// A number that lies within these bounds.
fn within(text: &str, bounds: RangeInclusive<u64>) -> Option<u64> {
    text.parse().ok().filter(|n| bounds.contains(n))
}

impl Cell {
    fn name(&self) -> String {
        let loss = self.loss.name();
        let row = if self.hops > 1 { format!("hops{}_", self.hops) } else { String::new() };
        format!("{row}{loss}_rtt{}_pps{}_d{}", self.rtt_ms, self.pps, self.deadline_ms)
    }

    /// The cell of this name, be it in the table or not; `None` where it is no cell's.
    fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.split('_').peekable();
        let hops = match parts.peek()?.strip_prefix("hops") {
            Some(hops) => {
                parts.next();
                within(hops, 2..=3)? as usize
            }
            None => 1,
        };
        let loss = Loss::of_name(parts.next()?)?;
        let mut number = |prefix, bounds| within(parts.next()?.strip_prefix(prefix)?, bounds);
        let cell = Self {
            hops,
            loss,
            rtt_ms: number("rtt", 1..=2000)?,
            pps: number("pps", 1..=100_000)?,
            deadline_ms: number("d", 1..=5000)?,
        };
        parts.next().is_none().then_some(cell)
    }

    fn line(&self) -> LinkParams {
        let delay = Duration::from_micros(self.rtt_ms * 500);
        match self.loss {
            Loss::Independent(share) => {
                LinkParams { delay, loss: ratio(share), ..LinkParams::default() }
            }
            Loss::Holes(ms, share) => {
                let bad = Duration::from_millis(ms);
                let burst = Some(Burst { good: bad.mul_f64((1.0 - share) / share), bad });
                LinkParams { delay, burst, ..LinkParams::default() }
            }
        }
    }

    fn load(&self, packets: u64) -> Load {
        Load {
            every: Duration::from_micros(1_000_000 / self.pps),
            payload: if self.pps == 50 { 160 } else { 1200 },
            packets,
            deadline: Duration::from_millis(self.deadline_ms),
            residual: if self.hops > 1 { TARGET / 10.0 } else { TARGET },
        }
    }

    /// Least overhead, and least residual where that is not simply the target.
    fn floor(&self) -> (Option<f64>, f64) {
        let deadline = Duration::from_millis(self.deadline_ms);
        match self.loss {
            // Over several lines the split of the deadline is free: not computed.
            _ if self.hops > 1 => (None, 0.0),
            Loss::Independent(share) => {
                let window = (self.pps * self.deadline_ms / 1000).clamp(1, 20) as usize;
                let round_ms = self.rtt_ms as f64 + 1000.0 / self.pps as f64;
                let rounds = 1 + (self.deadline_ms as f64 / round_ms) as u32;
                (Some(floor::overhead(share, window, rounds.min(8), TARGET)), 0.0)
            }
            Loss::Holes(ms, share) => {
                let residual = floor::hole_residual(share, Duration::from_millis(ms), deadline);
                (Some(share), residual)
            }
        }
    }
}

fn ratio(share: f64) -> Ratio {
    Ratio::from_ppm((share * 1e6).round() as u32)
}

const fn cell(loss: Loss, rtt_ms: u64, pps: u64, deadline_ms: u64) -> Cell {
    Cell { hops: 1, loss, rtt_ms, pps, deadline_ms }
}

const fn iid(share: f64, rtt_ms: u64, pps: u64, deadline_ms: u64) -> Cell {
    cell(Loss::Independent(share), rtt_ms, pps, deadline_ms)
}

const fn holes(ms: u64, rtt_ms: u64, pps: u64, deadline_ms: u64) -> Cell {
    cell(Loss::Holes(ms, 0.05), rtt_ms, pps, deadline_ms)
}

/// The cells with a figure to reach: the choice of `--quick`, and the first of the full table.
const CHOICE: [Cell; 12] = [
    iid(0.0, 20, 1000, 45),
    iid(0.05, 20, 1000, 45),
    iid(0.05, 20, 1000, 75),
    iid(0.05, 20, 1000, 20),
    iid(0.1, 20, 1000, 45),
    iid(0.1, 20, 1000, 75),
    iid(0.1, 20, 1000, 20),
    holes(8, 20, 1000, 60),
    holes(8, 20, 1000, 80),
    holes(8, 20, 1000, 120),
    holes(3, 20, 1000, 60),
    Cell { hops: 3, loss: Loss::Independent(0.05), rtt_ms: 10, pps: 1000, deadline_ms: 50 },
];

/// Every cell: what the choice has, then round trips × losses × flows × deadlines.
fn all() -> Vec<Cell> {
    let mut cells = CHOICE.to_vec();
    let independent = [0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3].map(Loss::Independent);
    let mut losses = independent.to_vec();
    for ms in [3, 8, 20] {
        losses.extend([0.01, 0.02, 0.05, 0.1].map(|share| Loss::Holes(ms, share)));
    }
    for rtt_ms in [10, 40, 100, 200] {
        for &loss in &losses {
            for pps in [50, 100, 1000] {
                // One, two and a half, and four round trips: none, one, and three fit.
                for deadline_ms in [rtt_ms, rtt_ms * 5 / 2, rtt_ms * 4] {
                    cells.push(cell(loss, rtt_ms, pps, deadline_ms));
                }
            }
        }
    }
    cells
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only cells whose name contains one of these; none: all.
    pub only: Vec<String>,
    /// Packets of each cell; none: a million of the choice, two hundred thousand of the others.
    pub packets: Option<u64>,
    /// The choice alone, a tenth of the packets.
    pub quick: bool,
    /// The first seed; each run takes the next.
    pub seed: u64,
    /// Runs of every cell.
    pub runs: usize,
}

/// Runs it.
///
/// # Errors
/// No cell has such a name.
pub fn run(plan: &Plan) -> anyhow::Result<BenchReport> {
    let chosen = if plan.quick { CHOICE.to_vec() } else { all() };
    let wanted = |cell: &Cell| {
        plan.only.is_empty() || plan.only.iter().any(|part| cell.name().contains(part.as_str()))
    };
    let mut cells: Vec<Cell> = chosen.into_iter().filter(wanted).collect();
    let named = plan.only.iter().filter_map(|name| Cell::of_name(name));
    let others: Vec<Cell> = named.filter(|cell| !cells.contains(cell)).collect();
    cells.extend(others);
    anyhow::ensure!(
        !cells.is_empty(),
        "no cell has such a name; try `iid5_rtt20`, or a whole name such as `iid5_rtt20_pps1000_d30`"
    );
    let work: Vec<(usize, Cell)> =
        (0..plan.runs).flat_map(|run| cells.iter().map(move |&cell| (run, cell))).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(&(run, cell)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let place = CHOICE.contains(&cell);
                    let packets = plan.packets.unwrap_or(match (plan.quick, place) {
                        (true, _) => 200_000,
                        (false, true) => 1_000_000,
                        (false, false) => 200_000,
                    });
                    let outcome = play(&cell, packets, plan.seed + run as u64);
                    let mut found = found.lock().expect("no worker panics while it holds this");
                    found.push((cell, outcome));
                }
            });
        }
    });
    let mut found = found.into_inner().expect("the workers are done");
    found.sort_by_key(|(cell, _)| cells.iter().position(|c| c == cell));
    let mut sheet = Sheet::default();
    for (cell, outcome) in &found {
        note(&mut sheet, cell, outcome);
    }
    Ok(sheet.report("recovery"))
}

/// How repair follows a line that changes: see [`adapt`]. A thousand seeds of each row, a hundred if
/// `quick`.
pub fn run_adapt(plan: &Plan) -> BenchReport {
    let seeds = if plan.quick { 100 } else { 1000 };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut sheet = Sheet::default();
    for run in 0..plan.runs as u64 {
        let first = plan.seed + run * seeds;
        for deadline_ms in [60, 20] {
            let deadline = Duration::from_millis(deadline_ms);
            let share = |thread: u64| {
                let mut sum = adapt::Adapted::default();
                let own = (0..seeds).filter(|n| n % threads == thread);
                own.for_each(|n| sum.add(&adapt::play(deadline, TARGET, first + n)));
                sum
            };
            let mut all = adapt::Adapted::default();
            std::thread::scope(|scope| {
                let share = &share;
                let workers: Vec<_> = (0..threads).map(|n| scope.spawn(move || share(n))).collect();
                for worker in workers {
                    all.add(&worker.join().expect("a seed panicked"));
                }
            });
            note_adapted(&mut sheet, deadline_ms, &all);
        }
    }
    sheet.report("recovery")
}

fn note_adapted(sheet: &mut Sheet, deadline_ms: u64, all: &adapt::Adapted) {
    let case = format!("adapt10_rtt20_pps100_d{deadline_ms}");
    let (first, repair) = all.under_loss;
    let spent = (first > 0).then(|| repair as f64 / first as f64);
    // Where no round fits, a third of all bytes sets the bound.
    let reach = if deadline_ms > 20 { TARGET } else { adapt::in_pairs(adapt::LOSS) };
    sheet.note(&case, "adapt_residual_after_1s", "share", all.residual());
    sheet.note(&case, "reference_residual", "share", Some(reach));
    sheet.note(&case, "overhead", "share", spent);
    sheet.note(&case, "adapt_overhead_after_2s", "share", all.overhead());
    let seeds = all.seeds_with_repair as f64;
    sheet.note(&case, "seeds_with_repair_after_2s", "count", Some(seeds));
}

/// The same with real daemons in namespaces: some of the cells, and TCP. None if told to stop.
///
/// # Errors
/// No row has such a name.
pub fn run_daemons(plan: &Plan, stop: &Stop) -> anyhow::Result<Option<BenchReport>> {
    let wanted =
        |name: &str| plan.only.is_empty() || plan.only.iter().any(|part| name.contains(part));
    let mut sheet = Sheet::default();
    for run in 0..plan.runs {
        let seed = plan.seed + run as u64;
        ns::run(&mut sheet, &wanted, plan.quick, seed, stop);
        tcp::run(&mut sheet, &wanted, plan.quick, seed, stop);
        if stop.asked() {
            return Ok(None);
        }
    }
    let report = sheet.report("recovery");
    anyhow::ensure!(!report.rows.is_empty(), "no row has such a name; try `cubic_iid2`");
    Ok(Some(report))
}

fn play(cell: &Cell, packets: u64, seed: u64) -> chain::Outcome {
    let load = cell.load(packets);
    Chain::new(&vec![cell.line(); cell.hops], &load, seed).run(&load, &[])
}

fn note(sheet: &mut Sheet, cell: &Cell, outcome: &chain::Outcome) {
    let case = cell.name();
    let of_first = |bytes: u64| (outcome.first > 0).then(|| bytes as f64 / outcome.first as f64);
    let residual = outcome.missing as f64 / outcome.sent.max(1) as f64;
    let (least, unsaved) = cell.floor();
    sheet.note(&case, "residual", "share", Some(residual));
    sheet.note(&case, "floor_residual", "share", Some(unsaved));
    sheet.note(&case, "overhead", "share", of_first(outcome.repair));
    if least.is_some() {
        sheet.note(&case, "floor_overhead", "share", least);
    }
    let framing = outcome.first.saturating_sub(outcome.inner) as f64;
    let framing = (outcome.inner > 0).then(|| framing / outcome.inner as f64);
    sheet.note(&case, "framing", "share", framing);
    sheet.note(&case, "feedback_bytes", "share", of_first(outcome.feedback));
    for (name, share) in [("delay_p50_ms", 0.5), ("delay_p99_ms", 0.99), ("delay_p999_ms", 0.999)] {
        sheet.note(&case, name, "ms", outcome.delay_ms(share));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn with_time_for_a_round_and_little_more_packets_are_coded() {
        // News of a loss is lost itself, or waits: rounds alone leave 1.3e-3 and 5e-2 here.
        for (name, most) in [("iid5_rtt20_pps1000_d28", 3e-4), ("iid5_rtt40_pps100_d50", 3e-3)] {
            let outcome = play(&Cell::of_name(name).unwrap(), 40_000, 1);
            let residual = outcome.missing as f64 / outcome.sent as f64;
            assert!(residual < most, "{name}: {residual}");
            let overhead = outcome.repair as f64 / outcome.first as f64;
            assert!(overhead < 0.51, "{name}: {overhead}");
        }
        // Where next to none is lost, next to nothing is sent.
        let outcome = play(&Cell::of_name("iid0p1_rtt20_pps1000_d28").unwrap(), 40_000, 1);
        assert!((outcome.repair as f64) < outcome.first as f64 / 50.0, "{}", outcome.repair);
    }

    #[test]
    fn a_name_says_the_whole_cell() {
        for cell in all() {
            assert_eq!(Cell::of_name(&cell.name()), Some(cell), "{}", cell.name());
        }
        let own = Cell::of_name("iid0p3_rtt31_pps7_d1");
        assert_eq!(own, Some(iid(0.003, 31, 7, 1)));
        for other in [
            "",
            "iid5",
            "iid100_rtt20_pps1000_d45",
            "iid5_rtt0_pps1000_d45",
            "iid5_rtt20_pps1000_d45_d45",
            "burst8ms0_rtt20_pps1000_d45",
            "hops4_iid5_rtt20_pps1000_d45",
            "cubic_iid2_rtt100_50m",
        ] {
            assert_eq!(Cell::of_name(other), None, "{other}");
        }
    }
}
