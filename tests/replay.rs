//! Forecasts and path choice replayed on recorded round trips (`tests/data`, MIT).
//!
//! What these show is that the mechanisms keep what the data has to give; the whole sets and the
//! figures for them are in `docs/decisions`.

use std::collections::BTreeMap;
use std::time::Duration;

use thalweg::id::{LinkId, NodeId};
use thalweg::probe::forecast::{Forecaster, HORIZON, Skill};
use thalweg::quality::{LinkQuality, LinkState};
use thalweg::route::policy::Policy;
use thalweg::route::solve::Solver;
use thalweg::time::Instant;
use thalweg::topology::graph::Graph;
use thalweg::unit::Ratio;

const STEP: Duration = Duration::from_secs(240);

fn replay(samples: impl Iterator<Item = Option<f64>>) -> Skill {
    let mut forecaster = Forecaster::new(HORIZON);
    let mut now = Instant::ZERO;
    for sample in samples {
        now = now.plus(STEP);
        if let Some(ms) = sample {
            forecaster.on_sample(now, Duration::from_secs_f64(ms.min(2000.0) / 1e3));
        }
    }
    forecaster.skill()
}

#[test]
fn forecasts_of_recorded_paths_err_less_than_persistence() {
    let text = include_str!("data/atlas-3-traces.csv");
    let rows: Vec<Vec<Option<f64>>> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').map(|cell| cell.parse().ok()).collect())
        .collect();
    assert_eq!(rows.len(), 3000);
    for trace in 0..3 {
        let skill = replay(rows.iter().map(|row| row[trace]));
        let ratio = skill.error_us / skill.persistence_us;
        println!("trace {trace}: {skill:?}, ratio {ratio:.3}");
        assert!(skill.judged > 2900);
        assert!(ratio < 0.95, "trace {trace}: {ratio}");
    }
}

type Matrix = BTreeMap<(u16, u16), f64>;

/// The round trips of both slices, both ways, in ms.
fn planetlab() -> (Matrix, Matrix) {
    let (mut first, mut second) = (Matrix::new(), Matrix::new());
    for line in include_str!("data/planetlab-40-nodes.csv").lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let (a, b): (u16, u16) = (cells[0].parse().unwrap(), cells[1].parse().unwrap());
        for (from, to) in [(a, b), (b, a)] {
            first.insert((from, to), cells[2].parse().unwrap());
            second.insert((from, to), cells[3].parse().unwrap());
        }
    }
    (first, second)
}

fn id(node: u16) -> NodeId {
    NodeId::new(node + 1).unwrap()
}

fn number(node: NodeId) -> u16 {
    node.get() - 1
}

fn graph(source: u16, rtt: &Matrix) -> Graph {
    let mut graph = Graph::new(id(source));
    for (from, _) in rtt.keys() {
        graph.add_node(id(*from), true);
    }
    for (&(from, to), &ms) in rtt {
        let state = LinkState::measured(LinkQuality {
            delay: Duration::from_secs_f64(ms / 2e3),
            jitter: Duration::ZERO,
            loss: Ratio::ZERO,
        });
        let link = (from == source).then_some(LinkId(to));
        assert!(graph.add_edge(id(from), id(to), link, state));
    }
    graph
}

fn length(rtt: &Matrix, source: u16, nodes: &[NodeId]) -> f64 {
    let mut at = source;
    nodes.iter().map(|n| rtt[&(std::mem::replace(&mut at, number(*n)), number(*n))]).sum()
}

#[test]
fn paths_chosen_on_one_day_keep_most_of_what_hindsight_would_gain_on_another() {
    let (first, second) = planetlab();
    let sources: std::collections::BTreeSet<u16> = first.keys().map(|(from, _)| *from).collect();
    assert_eq!(sources.len(), 40);
    let (mut direct, mut chosen, mut best, mut relayed) = (0.0, 0.0, 0.0, 0);
    for &source in &sources {
        for (destination, found) in Solver::new(&graph(source, &first), &Policy::default()).solve()
        {
            let to = number(destination);
            let straight = second[&(source, to)];
            let relays = sources.iter().filter(|r| **r != source && **r != to);
            let hindsight =
                relays.map(|&r| second[&(source, r)] + second[&(r, to)]).fold(straight, f64::min);
            direct += straight;
            chosen += length(&second, source, &found.best.nodes);
            best += hindsight;
            relayed += usize::from(found.best.nodes.len() > 1);
        }
    }
    let kept = (direct - chosen) / (direct - best);
    println!(
        "kept {kept:.3}; mean {:.1} -> {:.1}, hindsight {:.1} ms; {relayed} of 1560 relayed",
        direct / 1560.0,
        chosen / 1560.0,
        best / 1560.0
    );
    assert!(kept >= 0.75, "{kept}");
}
