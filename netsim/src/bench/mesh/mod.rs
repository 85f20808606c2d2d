//! `netsim bench mesh`: what a mesh of hundreds costs each of its nodes, and how well it knows itself.
//!
//! `n100` and `n500` are whole meshes in virtual time: the real `Node` and `Forwarder` of every site, on
//! the round trips of [`ground`]. All sites start at once, know three of them, and are watched while
//! levels shift and a tenth of them sends; then nodes die. `n1000` is the solver alone.

pub mod ground;
mod solver;

use std::time::Duration;

use anyhow::Context;
use thalweg::id::Class;

use super::{BenchReport, Sheet};
use crate::netns::fleet::process_cpu_s;
use crate::netns::stop::Stop;
use crate::world::{Said, World};
use ground::Ground;

/// The class whose paths are judged: the built-in one that takes everything, latency-first.
const CLASS: Class = Class(4);
/// Between two looks at how many links are up.
const LOOK: Duration = Duration::from_millis(100);
/// Between two shifts of weather.
const WEATHER: Duration = Duration::from_secs(1);
/// A mesh that is not whole by now never will be.
const PATIENCE: Duration = Duration::from_secs(300);
/// Given to each death to be known everywhere.
const MOURNING: Duration = Duration::from_secs(10);

/// A mesh on the virtual floor, and what is known of it.
pub struct Mesh {
    world: World,
    ground: Ground,
    sites: usize,
    stop: Stop,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({} sites at {})", self.sites, self.world.now())
    }
}

/// What a mesh said in a span of time, for each node.
#[derive(Clone, Copy, Debug)]
pub struct Spoken {
    /// Probes, questions whether links work, and answers to both, kbit/s.
    pub probe_kbit_s: f64,
    /// Link state: records, digests, wants, kbit/s.
    pub link_state_kbit_s: f64,
}

impl Mesh {
    /// Every site has just started.
    ///
    /// # Errors
    /// Data that cannot be read; a machine that spins.
    pub fn new(sites: usize, flows: usize, seed: u64, stop: &Stop) -> anyhow::Result<Self> {
        let ground = Ground::new(sites, seed)?;
        let world = World::new(&ground.scenario(flows), seed)?;
        Ok(Self { world, ground, sites, stop: stop.clone() })
    }

    /// Plays on for `span`, under weather.
    ///
    /// # Errors
    /// A machine that spins.
    pub fn play(&mut self, span: Duration) -> anyhow::Result<()> {
        let end = self.world.now().plus(span);
        while self.world.now() < end {
            anyhow::ensure!(!self.stop.asked(), "stopped");
            let step = WEATHER.min(end.since(self.world.now()));
            for (a, b) in self.ground.shift(step) {
                for pair in [(a, b), (b, a)] {
                    let params = self.ground.params(pair);
                    self.world.set_link(pair, |p| p.clone_from(&params));
                }
            }
            self.world.run(self.world.now().plus(step))?;
        }
        Ok(())
    }

    /// Plays until every node of every living site holds its links to all others for up; how long
    /// that took, none where it never came to it.
    ///
    /// # Errors
    /// A machine that spins.
    pub fn play_until_whole(&mut self) -> anyhow::Result<Option<Duration>> {
        let began = self.world.now();
        let living = self.world.living().len();
        while self.world.now().since(began) < PATIENCE {
            if self.world.links_up() == living * (living - 1) {
                return Ok(Some(self.world.now().since(began)));
            }
            anyhow::ensure!(!self.stop.asked(), "stopped");
            self.world.run(self.world.now().plus(LOOK))?;
        }
        Ok(None)
    }

    /// What the nodes say in the next `span`.
    ///
    /// # Errors
    /// A machine that spins.
    pub fn listen(&mut self, span: Duration) -> anyhow::Result<Spoken> {
        let before = self.world.said();
        self.play(span)?;
        Ok(self.spoken(self.world.said().since(before), span))
    }

    fn spoken(&self, said: Said, span: Duration) -> Spoken {
        let rate = |bytes: u64| bytes as f64 * 8e-3 / span.as_secs_f64() / self.sites as f64;
        Spoken {
            probe_kbit_s: rate(said.probe_bytes + said.hello_bytes),
            link_state_kbit_s: rate(said.link_state_bytes),
        }
    }

    /// How much more than the best ones the paths in force cost, on average over all pairs of living
    /// sites; none where a pair has no path.
    pub fn regret(&self) -> Option<f64> {
        let costs = self.ground.costs();
        let living = self.world.living();
        let (mut sum, mut pairs) = (0.0, 0.0);
        for &from in &living {
            let best = self.ground.best(from, &costs, &living);
            let routes = self.world.routes(from)?;
            for &to in living.iter().filter(|&&to| to != from) {
                let route = routes.lookup(World::node_of(to), CLASS)?;
                let mut at = from;
                let mut cost = 0;
                for node in &route.primary.nodes {
                    let next = World::site_of(*node);
                    cost += costs[at][next];
                    at = next;
                }
                sum += cost as f64 / best[to] as f64 - 1.0;
                pairs += 1.0;
            }
        }
        (pairs > 0.0).then(|| sum / pairs)
    }

    /// A site's node dies without a word. How long it took each other one to give up its paths to it, or
    /// `MOURNING` where it did not.
    ///
    /// # Errors
    /// A machine that spins.
    pub fn bury(&mut self, site: usize) -> anyhow::Result<Vec<Duration>> {
        let died = self.world.now();
        self.world.kill(site);
        self.play(MOURNING)?;
        let known = |other: &usize| {
            let at = self.world.knew_gone(*other, site).filter(|at| *at >= died);
            at.map_or(MOURNING, |at| at.since(died))
        };
        Ok(self.world.living().iter().map(known).collect())
    }

    /// The world it lives in.
    pub fn world(&mut self) -> &mut World {
        &mut self.world
    }
}

/// One mesh of the bench.
struct Case {
    sites: usize,
    /// Between the whole mesh and the first look.
    settle: Duration,
    /// How long it is listened to.
    listen: Duration,
    deaths: usize,
}

/// Between the whole mesh and the first look: the first recomputation is over.
const SETTLE: Duration = Duration::from_secs(60);
/// The same where it has to be quick. In a mesh beyond [`LARGE`] a node says what moved once in 15 s and more,
/// so that each has said it once or twice.
const SETTLE_QUICK: Duration = Duration::from_secs(30);
/// A minute of a larger mesh takes minutes.
const LARGE: usize = 200;
/// The sizes of whole meshes where none is asked for.
const SIZES: [usize; 3] = [100, 500, SOLVED];
/// The size at which the solver is measured alone. Whole meshes are smaller.
const SOLVED: usize = 1000;

impl Case {
    fn of(sites: usize, quick: bool) -> Self {
        let large = sites > LARGE;
        let (settle, listen_s, deaths) = match (large, quick) {
            (false, false) => (SETTLE, 600, 5),
            (false, true) => (SETTLE, 60, 5),
            (true, false) => (SETTLE, 120, 2),
            (true, true) => (SETTLE_QUICK, 30, 1),
        };
        Self { sites, settle, listen: Duration::from_secs(listen_s), deaths }
    }

    fn name(&self) -> String {
        format!("n{}", self.sites)
    }
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Only these cases; none: all.
    pub only: Vec<String>,
    /// A minute of listening instead; half of one in a large mesh, and half the time before it.
    pub quick: bool,
    /// The first seed; each run takes the next.
    pub seed: u64,
    /// Runs of every case.
    pub runs: usize,
}

/// Runs it.
///
/// # Errors
/// No case has such a name; a machine that spins.
pub fn run(plan: &Plan, stop: &Stop) -> anyhow::Result<BenchReport> {
    let asked: anyhow::Result<Vec<usize>> = plan.only.iter().map(|name| size(name)).collect();
    let sizes = if plan.only.is_empty() { SIZES.to_vec() } else { asked? };
    let mut sheet = Sheet::default();
    for run in 0..plan.runs {
        let seed = plan.seed + run as u64;
        for &sites in &sizes {
            if sites == SOLVED {
                solver::measure("n1000", sites, seed, stop, &mut sheet)?;
                continue;
            }
            measure(&Case::of(sites, plan.quick), seed, stop, &mut sheet)?;
        }
    }
    Ok(sheet.report("mesh"))
}

/// How many sites the name of a case asks for.
fn size(name: &str) -> anyhow::Result<usize> {
    let sites = name.strip_prefix('n').and_then(|number| number.parse().ok());
    let sites = sites.filter(|sites| (12..=SOLVED).contains(sites));
    sites
        .with_context(|| format!("no case is named {name:?}: n100, n500, n1000, or another number"))
}

fn measure(case: &Case, seed: u64, stop: &Stop, sheet: &mut Sheet) -> anyhow::Result<()> {
    let name = case.name();
    // Who waits for a large mesh hears of each figure when it is there.
    let mut note = |metric: &str, unit, value: Option<f64>| {
        if case.sites > LARGE {
            eprintln!("{name}: {metric} {value:?} {unit}");
        }
        sheet.note(&name, metric, unit, value);
    };
    let began = own_cpu_s();
    let mut mesh = Mesh::new(case.sites, case.sites / 10, seed, stop)?;
    let whole = mesh.play_until_whole()?;
    note("full_mesh_s", "s", whole.map(|span| span.as_secs_f64()));
    let start = own_cpu_s().zip(began).map(|(after, before)| after - before);
    note("full_mesh_cpu_s", "s", start);
    note("full_mesh_rss_mib", "MiB", own_rss_mib());
    mesh.play(case.settle)?;
    let cpu = own_cpu_s();
    let spoken = mesh.listen(case.listen)?;
    let minutes = case.listen.as_secs_f64() / 60.0;
    let cpu = own_cpu_s().zip(cpu).map(|(after, before)| (after - before) / minutes);
    note("probe_kbit_s", "kbit/s", Some(spoken.probe_kbit_s));
    note("link_state_kbit_s", "kbit/s", Some(spoken.link_state_kbit_s));
    note("regret", "share", mesh.regret());
    note("cpu_s_per_virtual_min", "s/min", cpu);
    note("rss_mib", "MiB", own_rss_mib());
    let mut known = Vec::new();
    for death in 0..case.deaths {
        // Not a seed, and not the same part of the world each time.
        let site = 10 + death * (case.sites - 10) / case.deaths;
        known.extend(mesh.bury(site)?);
    }
    known.sort_unstable();
    let rank = (known.len() * 99).div_ceil(100).saturating_sub(1);
    note("death_known_ms_p99", "ms", known.get(rank).map(|span| span.as_secs_f64() * 1e3));
    Ok(())
}

fn own_cpu_s() -> Option<f64> {
    process_cpu_s(std::process::id())
}

fn own_rss_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib / 1024.0)
}
