//! The optimum without limits for every destination: Dijkstra on (node × hops used).
//!
//! A plain Dijkstra knows no bound on hops. A copy of the graph per hop count does: an edge leads
//! from (a, h) to (b, h + 1), for at most three hops, and only out of the source or a node that
//! consents to relay.

use petgraph::algo::dijkstra;
use petgraph::graph::{DiGraph, EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use super::Solver;
use crate::route::table::Path;

type Layered = DiGraph<(), (u64, EdgeIndex<u32>), u32>;

/// For each destination that can be reached, in order of position: the edges of its best path.
pub(super) fn optima(solver: &Solver) -> Vec<(NodeIndex<u32>, Vec<EdgeIndex<u32>>)> {
    let (layered, width) = build(solver);
    let start = solver.graph.source_position();
    let costs = dijkstra(&layered, start, None, |e| e.weight().0);
    let mut found = Vec::new();
    for destination in solver.graph.inner().node_indices().filter(|&d| d != start) {
        // Equal cost goes to fewer hops, so layers are tried from the lowest.
        let layers = (1..=Path::LIMIT).map(|hops| at(destination, hops, width));
        let best = layers.filter_map(|n| Some((*costs.get(&n)?, n))).min();
        if let Some((_, end)) = best {
            let edges = walk_back(&layered, |n| costs.get(&n).copied(), start, end);
            found.push((destination, edges));
        }
    }
    found
}

fn at(node: NodeIndex<u32>, hops: usize, width: usize) -> NodeIndex<u32> {
    NodeIndex::new(hops * width + node.index())
}

fn build(solver: &Solver) -> (Layered, usize) {
    let inner = solver.graph.inner();
    let start = solver.graph.source_position();
    let width = inner.node_count();
    let mut layered = Layered::with_capacity(width * (Path::LIMIT + 1), 2 * inner.edge_count());
    for _ in 0..width * (Path::LIMIT + 1) {
        layered.add_node(());
    }
    for edge in inner.edge_references().filter(|e| e.target() != start) {
        let cost = (solver.price_of(edge.id()).cost, edge.id());
        let layers = if edge.source() == start {
            0..1
        } else if solver.relays(edge.source()) {
            1..Path::LIMIT
        } else {
            0..0
        };
        for h in layers {
            layered.add_edge(at(edge.source(), h, width), at(edge.target(), h + 1, width), cost);
        }
    }
    (layered, width)
}

/// petgraph returns costs alone; a step back is an edge that accounts for its end's cost exactly.
/// Among several the first edge of the graph is taken, so the answer does not depend on the heap.
fn walk_back(
    layered: &Layered,
    cost: impl Fn(NodeIndex<u32>) -> Option<u64>,
    start: NodeIndex<u32>,
    end: NodeIndex<u32>,
) -> Vec<EdgeIndex<u32>> {
    let mut edges = Vec::with_capacity(Path::LIMIT);
    let mut here = end;
    while here != start {
        let incoming = layered.edges_directed(here, petgraph::Incoming);
        let step = incoming
            .filter(|e| cost(e.source()).is_some_and(|c| Some(c + e.weight().0) == cost(here)))
            .min_by_key(|e| e.weight().1)
            .expect("a node with a cost was reached over an edge that explains it");
        edges.push(step.weight().1);
        here = step.source();
    }
    edges.reverse();
    edges
}
