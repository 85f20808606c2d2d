//! `n1000`: the solver alone, on a full mesh of a thousand nodes on the bench's ground.
//!
//! It asks nobody and waits for nothing, so what is measured is the processor time of its thread: whoever
//! else uses the machine takes none of that, but for what it takes out of the caches.

use std::time::Duration;

use thalweg::id::LinkId;
use thalweg::quality::{LinkQuality, LinkState};
use thalweg::rng::Dice;
use thalweg::route::cost;
use thalweg::route::policy::{Objective, Policy};
use thalweg::route::solve::dense::Dense;
use thalweg::route::solve::{Map, Solver};
use thalweg::topology::graph::Graph;

use super::ground::Ground;
use crate::bench::Sheet;
use crate::netns::stop::Stop;
use crate::netns::sys;
use crate::world::World;

/// Single changes that are timed.
const CHANGES: usize = 1000;

/// Measures it.
///
/// # Errors
/// Data that cannot be read.
pub(super) fn measure(
    name: &str,
    sites: usize,
    seed: u64,
    stop: &Stop,
    sheet: &mut Sheet,
) -> anyhow::Result<()> {
    let ground = Ground::new(sites, seed)?;
    let state = |pair| LinkState::measured(quality(&ground, pair));
    let mut solvers: Vec<(Objective, Dense)> =
        Objective::ALL.iter().map(|objective| (*objective, Dense::new(sites, 0))).collect();
    let mut timed = |metric: &str, ms: f64| sheet.note(name, metric, "ms", Some(ms));

    let began = sys::thread_cpu_ns();
    for (objective, dense) in &mut solvers {
        (0..sites).for_each(|node| dense.set_relay(node, true));
        for from in 0..sites {
            for to in (0..sites).filter(|to| *to != from) {
                dense.set(from, to, cost::price(&state((from, to)), *objective).cost);
            }
        }
    }
    timed("price_all_ms", since_ms(began));

    let began = sys::thread_cpu_ns();
    let mut found = 0;
    for (_, dense) in &mut solvers {
        dense.solve();
        found += with_backups(dense);
    }
    timed("all_policies_ms", since_ms(began));
    anyhow::ensure!(found == 3 * (sites - 1), "every site has a path and a backup");

    let began = sys::thread_cpu_ns();
    solvers.iter_mut().for_each(|(_, dense)| dense.follow());
    timed("follow_ms", since_ms(began));

    let mut dice = Dice::new(seed);
    for (metric, own) in [("one_change_ms", false), ("one_own_change_ms", true)] {
        let mut spans = Vec::with_capacity(CHANGES);
        for _ in 0..CHANGES {
            anyhow::ensure!(!stop.asked(), "stopped");
            let from = if own { 0 } else { dice.below(sites as u64) as usize };
            let to = dice.below(sites as u64) as usize;
            if from == to {
                continue;
            }
            // A shift of level up or down; one in ten dies or returns at a tenth of its delay.
            let factor = [0.1, 0.93, 0.96, 0.98, 1.02, 1.04, 1.07, 10.0][dice.below(8) as usize];
            let mut changed = state((from, to));
            changed.present.delay = changed.present.delay.mul_f64(factor);
            let began = sys::thread_cpu_ns();
            for (objective, dense) in &mut solvers {
                dense.set(from, to, cost::price(&changed, *objective).cost);
            }
            spans.push(since_ms(began));
        }
        spans.sort_unstable_by(f64::total_cmp);
        timed(metric, spans[spans.len() * 99 / 100]);
        timed(&metric.replace("_ms", "_median_ms"), spans[spans.len() / 2]);
        timed(&metric.replace("_ms", "_worst_ms"), spans[spans.len() - 1]);
    }

    let began = sys::thread_cpu_ns();
    let mut graph = Graph::new(World::node_of(0));
    (1..sites).for_each(|site| graph.add_node(World::node_of(site), true));
    for from in 0..sites {
        for to in (0..sites).filter(|to| *to != from) {
            let link = (from == 0).then_some(LinkId(to as u16));
            graph.add_edge(World::node_of(from), World::node_of(to), link, state((from, to)));
        }
    }
    timed("graph_ms", since_ms(began));
    let began = sys::thread_cpu_ns();
    for objective in Objective::ALL {
        let policy = Policy { objective, ..Policy::default() };
        let terms = graph.terms(&policy);
        anyhow::ensure!(Solver::new(&graph, &terms).solve().len() == sites - 1, "a path to each");
    }
    timed("all_policies_from_graph_ms", since_ms(began));
    Ok(())
}

/// How many sites have a path and a backup.
fn with_backups(dense: &Dense) -> usize {
    let paths = (0..).map_while(|to| (to < dense.nodes()).then(|| dense.path(to)));
    paths.flatten().filter(|path| dense.backup(path).is_some()).count()
}

fn quality(ground: &Ground, pair: (usize, usize)) -> LinkQuality {
    let params = ground.params(pair);
    LinkQuality { delay: params.delay, jitter: params.jitter, loss: params.loss }
}

fn since_ms(began_ns: u64) -> f64 {
    Duration::from_nanos(sys::thread_cpu_ns() - began_ns).as_secs_f64() * 1e3
}
