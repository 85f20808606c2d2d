//! Paths of at most two relays, walked directly: within limits, apart from a primary, or all of them.

use petgraph::graph::{EdgeIndex, NodeIndex};
use petgraph::visit::EdgeRef;

use super::{Solver, Taken};
use crate::route::cost::{Bounds, Priced};

/// Beginnings kept per relay. A backup may have to avoid two relays of the primary and the
/// destination itself as first node, so the fourth best with a first node of its own always serves.
const BEGINNINGS: usize = 4;

/// A way from the source to a relay over at most one other.
#[derive(Clone, Copy, Debug)]
struct Beginning {
    cost: u64,
    /// The first node after the source.
    first: NodeIndex<u32>,
    first_edge: EdgeIndex<u32>,
    /// The edge from `first` to the relay; none where `first` is the relay.
    second_edge: Option<EdgeIndex<u32>>,
}

/// The best ways to every relay, for finding all backups in one pass over the edges.
#[derive(Debug)]
pub(super) struct Beginnings(Vec<Vec<Beginning>>);

impl Beginnings {
    pub(super) fn build(solver: &Solver) -> Self {
        let inner = solver.graph.inner();
        let source = solver.graph.source_position();
        let mut ways: Vec<Vec<Beginning>> = vec![Vec::new(); inner.node_count()];
        for (node, first_edge) in firsts(solver) {
            let cost = solver.price_of(first_edge).cost;
            let direct = Beginning { cost, first: node, first_edge, second_edge: None };
            keep(&mut ways[node.index()], direct);
            if !solver.relays(node) {
                continue;
            }
            for edge in inner.edges(node).filter(|e| e.target() != source) {
                let cost = cost + solver.price_of(edge.id()).cost;
                let second_edge = Some(edge.id());
                let via = Beginning { cost, first: node, first_edge, second_edge };
                keep(&mut ways[edge.target().index()], via);
            }
        }
        Self(ways)
    }

    /// The best path to `destination` that touches nothing of what is taken.
    pub(super) fn best(
        &self,
        solver: &Solver,
        destination: NodeIndex<u32>,
        taken: &Taken,
    ) -> Option<Vec<EdgeIndex<u32>>> {
        let inner = solver.graph.inner();
        let mut best = Least::new();
        for edge in inner.edges_directed(destination, petgraph::Incoming) {
            let (relay, last) = (edge.source(), edge.id());
            if relay == solver.graph.source_position() {
                if edge.weight().link != Some(taken.link) {
                    best.offer(solver.price_of(last).cost, &[last]);
                }
                continue;
            }
            if !solver.relays(relay) || taken.has(relay) {
                continue;
            }
            let free = self.0[relay.index()].iter().find(|way| {
                way.first != destination
                    && !taken.has(way.first)
                    && inner[way.first_edge].link != Some(taken.link)
            });
            if let Some(way) = free {
                let cost = way.cost + solver.price_of(last).cost;
                match way.second_edge {
                    Some(second) => best.offer(cost, &[way.first_edge, second, last]),
                    None => best.offer(cost, &[way.first_edge, last]),
                }
            }
        }
        best.into_edges()
    }
}

/// The least path offered so far: by key, then by hops, then by the order of its edges.
struct Least<K>(Option<(K, Vec<EdgeIndex<u32>>)>);

impl<K: Ord + Copy> Least<K> {
    const fn new() -> Self {
        Self(None)
    }

    fn offer(&mut self, key: K, edges: &[EdgeIndex<u32>]) {
        let new = (key, edges.len(), edges);
        if self.0.as_ref().is_none_or(|(k, e)| new < (*k, e.len(), e)) {
            self.0 = Some((key, edges.to_vec()));
        }
    }

    fn key(&self) -> Option<K> {
        self.0.as_ref().map(|(key, _)| *key)
    }

    fn into_edges(self) -> Option<Vec<EdgeIndex<u32>>> {
        self.0.map(|(_, edges)| edges)
    }
}

/// Keeps the cheapest beginning per first node, cheapest first, at most [`BEGINNINGS`] of them.
fn keep(ways: &mut Vec<Beginning>, new: Beginning) {
    let key = |w: &Beginning| (w.cost, w.second_edge.is_some(), w.first_edge, w.second_edge);
    if let Some(same) = ways.iter().position(|w| w.first == new.first) {
        if key(&ways[same]) <= key(&new) {
            return;
        }
        ways.remove(same);
    }
    let place = ways.partition_point(|w| key(w) <= key(&new));
    if place < BEGINNINGS {
        ways.insert(place, new);
        ways.truncate(BEGINNINGS);
    }
}

/// Nodes this one has links to, each with the edge there.
fn firsts<'s>(solver: &'s Solver) -> impl Iterator<Item = (NodeIndex<u32>, EdgeIndex<u32>)> + 's {
    let source = solver.graph.source_position();
    solver.graph.inner().edges(source).map(|e| (e.target(), e.id()))
}

/// Every path to `destination` with at most two relays and no node twice, consent or not.
pub(super) fn each_path(
    solver: &Solver,
    destination: NodeIndex<u32>,
    mut visit: impl FnMut(&[EdgeIndex<u32>]),
) {
    let inner = solver.graph.inner();
    let source = solver.graph.source_position();
    for last in inner.edges_directed(destination, petgraph::Incoming) {
        let relay = last.source();
        if relay == source {
            visit(&[last.id()]);
            continue;
        }
        for second in inner.edges_directed(relay, petgraph::Incoming) {
            let first = second.source();
            if first == source {
                visit(&[second.id(), last.id()]);
            } else if first != destination {
                for edge in inner.edges_connecting(source, first) {
                    visit(&[edge.id(), second.id(), last.id()]);
                }
            }
        }
    }
}

/// The best path within limits, apart from what is taken. Partial paths are cut as soon as they pass
/// a limit or the best cost so far; all parts are sums of what is not negative, so this is exact.
pub(super) fn best_within(
    solver: &Solver,
    destination: NodeIndex<u32>,
    bounds: &Bounds,
    taken: Option<&Taken>,
) -> Option<Vec<EdgeIndex<u32>>> {
    best_by(solver, destination, bounds, taken, |priced| (priced.cost, 0))
}

/// The path of least money, and of those the one of least cost.
pub(super) fn cheapest(
    solver: &Solver,
    destination: NodeIndex<u32>,
) -> Option<Vec<EdgeIndex<u32>>> {
    best_by(solver, destination, &Bounds::NONE, None, |priced| (priced.parts.money, priced.cost))
}

fn best_by(
    solver: &Solver,
    destination: NodeIndex<u32>,
    bounds: &Bounds,
    taken: Option<&Taken>,
    key: impl Fn(&Priced) -> (u64, u64),
) -> Option<Vec<EdgeIndex<u32>>> {
    let inner = solver.graph.inner();
    let source = solver.graph.source_position();
    let mut best = Least::new();
    let hopeless = |priced: &Priced, best: &Least<(u64, u64)>| {
        priced.broken(bounds).is_some() || best.key().is_some_and(|least| key(priced) > least)
    };
    let free_link = |edge: EdgeIndex<u32>| {
        taken.is_none_or(|t| inner[edge].link.is_none() || inner[edge].link != Some(t.link))
    };
    let usable = |n: NodeIndex<u32>| solver.relays(n) && taken.is_none_or(|t| !t.has(n));
    for last in inner.edges_directed(destination, petgraph::Incoming) {
        let tail = *solver.price_of(last.id());
        if hopeless(&tail, &best) || !free_link(last.id()) {
            continue;
        }
        let relay = last.source();
        if relay == source {
            best.offer(key(&tail), &[last.id()]);
            continue;
        }
        if !usable(relay) {
            continue;
        }
        for second in inner.edges_directed(relay, petgraph::Incoming) {
            let middle = solver.price_of(second.id()).plus(tail);
            if hopeless(&middle, &best) || !free_link(second.id()) {
                continue;
            }
            let first = second.source();
            if first == source {
                best.offer(key(&middle), &[second.id(), last.id()]);
            } else if first != destination && usable(first) {
                for edge in inner.edges_connecting(source, first) {
                    let whole = solver.price_of(edge.id()).plus(middle);
                    if !hopeless(&whole, &best) && free_link(edge.id()) {
                        best.offer(key(&whole), &[edge.id(), second.id(), last.id()]);
                    }
                }
            }
        }
    }
    best.into_edges()
}
