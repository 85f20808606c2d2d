//! Matrices: every node measures every other, and each chooses its paths.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thalweg::id::{Class, LinkId, NodeId};
use thalweg::probe::estimate::{Direction, Estimate};
use thalweg::probe::forecast::{Forecaster, HORIZON};
use thalweg::probe::model::Model;
use thalweg::probe::prober::{Reading, Tally};
use thalweg::quality::LinkState;
use thalweg::rng::Dice;
use thalweg::route::choose::{ChooseConfig, Chooser};
use thalweg::route::policy::Policy;
use thalweg::time::Instant;
use thalweg::topology::graph::Graph;
use thalweg::unit::Price;

use super::{LOST_MS, Plan, Played, ReplayError, Sinks};
use crate::record::Matrices;

/// Time between slices where rows stand unchanged over several: the Seattle record, 688 slices in
/// three hours.
const SWEPT: Duration = Duration::from_millis(15_700);
/// Time between slices where each is measured anew.
const STEPPED: Duration = Duration::from_secs(240);
/// Rows change less often than this where slices are finer than measurements.
const SWEEP: f64 = 1.5;
/// A link is stale after so many of its usual times between two measurements.
const STALE: f64 = 4.0;
/// Where the clock starts: before it there was no reading.
const START: Instant = Instant::from_micros(3_600_000_000);

/// The time between two slices: a number of seconds in the first file's name (`mesh-240s`), else by how
/// often rows are measured anew.
pub fn step_of(files: &[PathBuf], matrices: &Matrices) -> Duration {
    let name = files.first().and_then(|f| f.file_name()).unwrap_or_default().to_string_lossy();
    let parts = name.split(|c: char| !c.is_ascii_alphanumeric());
    let mut told = parts.filter_map(|part| part.strip_suffix('s')?.parse::<u32>().ok());
    match told.next_back().filter(|s| *s > 0) {
        Some(seconds) => Duration::from_secs(seconds.into()),
        None if matrices.between() > SWEEP => SWEPT,
        None => STEPPED,
    }
}

/// One link as its first node measures it.
struct Link {
    estimate: Estimate,
    /// For horizons other than the daemon's.
    ahead: Vec<Forecaster>,
    shifts: u64,
}

struct Mesh<'a> {
    matrices: &'a Matrices,
    links: BTreeMap<(usize, usize), Link>,
    choosers: Vec<Chooser>,
    model: Option<Arc<Model>>,
    fresh: Duration,
}

pub(super) fn run(
    matrices: &Matrices,
    step: Duration,
    plan: &Plan,
    mut sinks: Sinks<'_>,
) -> Result<Played, ReplayError> {
    let numbers = matrices.numbers();
    let (Some(&first), Some(&last)) = (numbers.first(), numbers.last()) else {
        return Err(ReplayError::Plan("no slices".into()));
    };
    if plan.from > last {
        let what = format!("--from {}: the record holds slices {first} to {last}", plan.from);
        return Err(ReplayError::Plan(what));
    }
    let mut played = Played {
        gaps: u64::from(last - first + 1) - numbers.len() as u64,
        step_s: step.as_secs_f64(),
        ..Played::default()
    };
    if let Some(out) = &mut sinks.forecasts {
        writeln!(out, "slice,h,from,to,rtt_ms")?;
    }
    if let Some(out) = &mut sinks.choices {
        writeln!(out, "slice,from,to,via")?;
    }
    if let Some(out) = &mut sinks.shifts {
        writeln!(out, "slice,from,to")?;
    }
    let mut dice = Dice::new(plan.seed);
    let chooser =
        |_| Chooser::new(ChooseConfig::default(), &[Policy::default()], dice.fork(), START);
    let mut mesh = Mesh {
        matrices,
        links: BTreeMap::new(),
        choosers: (0..matrices.nodes()).map(chooser).collect(),
        model: plan.model.clone(),
        fresh: step.mul_f64(STALE * matrices.between()),
    };
    let horizons: Vec<Duration> = match sinks.forecasts {
        Some(_) => plan.horizons.iter().map(|h| step.saturating_mul(*h)).collect(),
        None => Vec::new(),
    };
    for (at, &number) in numbers.iter().enumerate() {
        let now = START.plus(step.saturating_mul(number - first));
        played.steps += 1;
        mesh.feed(at, now, &horizons, &mut played);
        mesh.say_shifts(number, plan, &mut sinks, &mut played)?;
        let writes = plan.writes(number);
        if let Some(out) = sinks.forecasts.as_mut().filter(|_| writes) {
            mesh.write_forecasts(number, &plan.horizons, out)?;
        }
        if let Some(out) = &mut sinks.choices {
            mesh.weigh(now, writes);
            if writes {
                mesh.write_choices(number, out)?;
            }
            // What falls due before the next slice is done with what is known now.
            let next = numbers.get(at + 1).map(|n| START.plus(step.saturating_mul(n - first)));
            mesh.weigh_until(next.unwrap_or(now));
        }
    }
    Ok(played)
}

impl Mesh<'_> {
    fn feed(&mut self, at: usize, now: Instant, horizons: &[Duration], played: &mut Played) {
        let nodes = self.matrices.nodes();
        let model = &self.model;
        for from in (0..nodes).filter(|row| self.matrices.renewed(at, *row)) {
            for to in (0..nodes).filter(|to| *to != from) {
                let Some(ms) = self.matrices.value(at, from, to) else { continue };
                let link = self.links.entry((from, to)).or_insert_with(|| Link {
                    estimate: Estimate::new(HORIZON, model.clone()),
                    ahead: horizons.iter().map(|h| Forecaster::new(*h, model.clone())).collect(),
                    shifts: 0,
                });
                // What came too late to be an answer was no answer lost: it says how long it took.
                played.lost += u64::from(ms > LOST_MS);
                played.readings += 1;
                let rtt = Duration::from_secs_f64(ms.min(LOST_MS) / 1e3);
                let tally = Tally { sent: 1, lost: 0 };
                let reading = Reading { rtt: Some(rtt), outward: tally, inward: tally };
                link.estimate.on_reading(now, &reading);
                link.ahead.iter_mut().for_each(|f| f.on_sample(now, rtt));
            }
        }
    }

    fn say_shifts(
        &mut self,
        number: u32,
        plan: &Plan,
        sinks: &mut Sinks<'_>,
        played: &mut Played,
    ) -> Result<(), ReplayError> {
        for ((from, to), link) in &mut self.links {
            let shifts = link.estimate.skill().shifts;
            if shifts == link.shifts {
                continue;
            }
            link.shifts = shifts;
            played.shifts += 1;
            if let Some(out) = sinks.shifts.as_mut().filter(|_| number >= plan.from) {
                writeln!(out, "{number},{from},{to}")?;
            }
        }
        Ok(())
    }

    fn write_forecasts(
        &self,
        number: u32,
        horizons: &[u32],
        out: &mut dyn std::io::Write,
    ) -> Result<(), ReplayError> {
        for (place, h) in horizons.iter().enumerate() {
            for ((from, to), link) in &self.links {
                if let Some(forecast) = link.ahead[place].forecast() {
                    let ms = forecast.level.as_secs_f64() * 1e3;
                    writeln!(out, "{number},{h},{from},{to},{ms:.3}")?;
                }
            }
        }
        Ok(())
    }

    /// Every direction of every link as the mesh knows it now.
    fn edges(&self, now: Instant) -> Vec<(usize, usize, LinkState)> {
        let state = |link: &Link| {
            link.estimate.state(now, Direction::Outward, self.fresh, Price::default())
        };
        self.links.iter().filter_map(|(&(from, to), l)| Some((from, to, state(l)?))).collect()
    }

    /// Weighs the paths of the nodes whose time has come, or of all.
    fn weigh(&mut self, now: Instant, all: bool) {
        let due = |c: &Chooser| c.poll_timeout().is_some_and(|d| d.at <= now);
        if !all && !self.choosers.iter().any(due) {
            return;
        }
        let edges = self.edges(now);
        let nodes = self.matrices.nodes();
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let share = nodes.div_ceil(workers);
        std::thread::scope(|scope| {
            for (part, choosers) in self.choosers.chunks_mut(share).enumerate() {
                let edges = &edges;
                scope.spawn(move || {
                    for (place, chooser) in choosers.iter_mut().enumerate() {
                        if all || due(chooser) {
                            chooser.weigh(now, &graph(part * share + place, nodes, edges));
                            while chooser.poll_change().is_some() {}
                        }
                    }
                });
            }
        });
    }

    fn weigh_until(&mut self, next: Instant) {
        // Once for each node is enough: without news its second thoughts are its first.
        let due = self.choosers.iter().filter_map(Chooser::poll_timeout).map(|d| d.at);
        if let Some(at) = due.filter(|at| *at < next).max() {
            self.weigh(at, false);
        }
    }

    fn write_choices(&self, number: u32, out: &mut dyn std::io::Write) -> Result<(), ReplayError> {
        for (from, chooser) in self.choosers.iter().enumerate() {
            for to in (0..self.choosers.len()).filter(|to| *to != from) {
                let held = chooser.held(id(to), Class(0));
                let nodes = held.map_or(&[][..], |h| &h.primary.nodes);
                let relays: Vec<String> = nodes[..nodes.len().saturating_sub(1)]
                    .iter()
                    .map(|n| (n.get() - 1).to_string())
                    .collect();
                let via = if relays.is_empty() { "-".into() } else { relays.join("+") };
                writeln!(out, "{number},{from},{to},{via}")?;
            }
        }
        Ok(())
    }
}

/// The mesh as one node sees it.
fn graph(source: usize, nodes: usize, edges: &[(usize, usize, LinkState)]) -> Graph {
    let mut graph = Graph::new(id(source));
    for node in (0..nodes).filter(|node| *node != source) {
        graph.add_node(id(node), true);
    }
    for &(from, to, state) in edges {
        let link = (from == source).then_some(LinkId(to as u16));
        graph.add_edge(id(from), id(to), link, state);
    }
    graph
}

fn id(node: usize) -> NodeId {
    let number = u16::try_from(node + 1).ok().and_then(NodeId::new);
    number.expect("a record holds no more nodes than there are numbers")
}
