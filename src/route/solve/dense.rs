//! All best paths of at most two relays over a mesh of hundreds, kept while single links change.
//!
//! A full mesh of a thousand nodes has a million edges. As a graph it takes 100 MB and the time to
//! build it; here an edge is one number, its cost under one objective, in a matrix by rows. Two passes of
//! "is this way shorter" over the rows find everything:
//!
//! 1. To every node the four best *ways* of at most one relay with different first nodes. Four, because a
//!    backup may have to avoid the primary's two relays and the destination.
//! 2. To every node the best way to a relay and one hop more.
//!
//! What is kept is exact, so a link that changes asks only what it can have changed: a last hop one column
//! of one destination; a first or middle hop the ways to its end, and then the destinations that went, or
//! could now go, over there. Ties go to fewer hops, then to lower positions, so that an answer does
//! not depend on the order in which links changed.
//!
//! Source: the min-plus ("tropical") matrix product over two relays; the idea of several beginnings is
//! that of `reach`.

/// No edge. Three of them and more can be added without leaving the type.
pub const NONE: u64 = u64::MAX / 8;

/// Ways kept to each node, each with another first node.
const WAYS: usize = 4;
/// No node.
const NOBODY: u32 = u32::MAX;

/// A way from the source to a node over at most one relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    cost: u64,
    /// Whether there is a relay; among ways of one cost the shorter comes first.
    relayed: bool,
    /// The first node after the source: the relay, or the node itself.
    first: u32,
}

impl Way {
    const NONE: Self = Self { cost: NONE, relayed: true, first: NOBODY };
}

/// A best path of at most two relays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Best {
    cost: u64,
    relays: u8,
    /// The last relay, or [`NOBODY`].
    last: u32,
}

impl Best {
    const NONE: Self = Self { cost: NONE, relays: u8::MAX, last: NOBODY };
}

/// A path: at most two relays in order, then the destination, as positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DensePath {
    /// What it costs.
    pub cost: u64,
    /// Relays, front to back; those that are not needed are none.
    pub relays: [Option<usize>; 2],
    /// The destination.
    pub destination: usize,
}

impl DensePath {
    fn has(&self, node: u32) -> bool {
        self.relays.contains(&Some(node as usize))
    }

    /// The nodes after the source.
    pub fn nodes(&self) -> impl Iterator<Item = usize> {
        self.relays.into_iter().flatten().chain([self.destination])
    }

    /// The first node after the source.
    pub fn first(&self) -> usize {
        self.relays[0].unwrap_or(self.destination)
    }
}

/// Costs of all edges under one objective, and the best paths from one node over them.
#[derive(Clone, Debug)]
pub struct Dense {
    nodes: usize,
    source: usize,
    relays: Vec<bool>,
    /// By rows: from, to.
    costs: Vec<u64>,
    ways: Vec<[Way; WAYS]>,
    best: Vec<Best>,
    solved: bool,
}

impl Dense {
    /// A mesh of so many nodes without edges, seen from one of them.
    ///
    /// # Panics
    /// A source that is none of the nodes.
    pub fn new(nodes: usize, source: usize) -> Self {
        assert!(source < nodes, "the source is one of the nodes");
        Self {
            nodes,
            source,
            relays: vec![false; nodes],
            costs: vec![NONE; nodes * nodes],
            ways: vec![[Way::NONE; WAYS]; nodes],
            best: vec![Best::NONE; nodes],
            solved: false,
        }
    }

    /// How many nodes there are.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether a node carries others' traffic. Whatever was solved is to be solved anew.
    pub fn set_relay(&mut self, node: usize, relay: bool) {
        self.solved &= self.relays[node] == relay;
        self.relays[node] = relay;
    }

    /// What an edge costs; [`NONE`] where there is none. Its effect on what was solved is worked in at
    /// once. An edge of a node to itself, or to the source, matters to no path.
    pub fn set(&mut self, from: usize, to: usize, cost: u64) {
        let cost = cost.min(NONE);
        let place = from * self.nodes + to;
        let old = std::mem::replace(&mut self.costs[place], cost);
        if old == cost || from == to || to == self.source || !self.solved {
            return;
        }
        if from == self.source {
            self.on_first_hop(to, cost < old);
        } else if self.relays[from] {
            let before = self.ways[to][0];
            self.rebuild_ways(to);
            if self.ways[to][0] != before {
                self.spread(to);
            }
            self.rebuild_best(to);
        }
    }

    /// Finds everything from the costs alone.
    pub fn solve(&mut self) {
        self.ways.fill([Way::NONE; WAYS]);
        self.best.fill(Best::NONE);
        let first_row = self.source * self.nodes;
        for to in (0..self.nodes).filter(|to| *to != self.source) {
            let way = Way { cost: self.costs[first_row + to], relayed: false, first: to as u32 };
            keep(&mut self.ways[to], way);
        }
        for first in (0..self.nodes).filter(|f| *f != self.source && self.relays[*f]) {
            let start = self.costs[first_row + first];
            if start >= NONE {
                continue;
            }
            let row = &self.costs[first * self.nodes..][..self.nodes];
            for (to, ways) in self.ways.iter_mut().enumerate() {
                let cost = start + row[to];
                if cost <= ways[WAYS - 1].cost && to != first {
                    keep(ways, Way { cost, relayed: true, first: first as u32 });
                }
            }
        }
        self.ways[self.source] = [Way::NONE; WAYS];
        for (to, best) in self.best.iter_mut().enumerate().filter(|(to, _)| *to != self.source) {
            *best = direct(self.costs[first_row + to]);
        }
        for last in (0..self.nodes).filter(|r| *r != self.source && self.relays[*r]) {
            let way = self.ways[last][0];
            if way.cost >= NONE {
                continue;
            }
            let relays = 1 + u8::from(way.relayed);
            let row = &self.costs[last * self.nodes..][..self.nodes];
            for (best, cost) in self.best.iter_mut().zip(row) {
                let new = Best { cost: way.cost + cost, relays, last: last as u32 };
                if new < *best {
                    *best = new;
                }
            }
        }
        self.best[self.source] = Best::NONE;
        self.solved = true;
    }

    /// The best path to a node; `None` where none leads there.
    pub fn path(&self, to: usize) -> Option<DensePath> {
        let best = self.best.get(to).filter(|best| best.cost < NONE)?;
        if best.last == NOBODY {
            return Some(DensePath { cost: best.cost, relays: [None; 2], destination: to });
        }
        let way = self.ways[best.last as usize][0];
        Some(self.joined(way, best.last, best.cost, to))
    }

    /// The best path to the same destination that shares neither a relay nor the first hop with this
    /// one; `None` where there is none.
    pub fn backup(&self, primary: &DensePath) -> Option<DensePath> {
        let to = primary.destination;
        let direct_cost = self.costs[self.source * self.nodes + to];
        let direct_is_free = primary.relays[0].is_some();
        let mut best = if direct_is_free { direct(direct_cost) } else { Best::NONE };
        let mut over = Way::NONE;
        for last in (0..self.nodes).filter(|r| self.relays[*r] && *r != self.source && *r != to) {
            let leg = self.costs[last * self.nodes + to];
            if leg >= NONE || primary.has(last as u32) || self.ways[last][0].cost + leg > best.cost
            {
                continue;
            }
            let free = |way: &&Way| way.first != to as u32 && !primary.has(way.first);
            let Some(way) = self.ways[last].iter().find(free).filter(|way| way.cost < NONE) else {
                continue;
            };
            let relays = 1 + u8::from(way.relayed);
            let new = Best { cost: way.cost + leg, relays, last: last as u32 };
            if new < best {
                (best, over) = (new, *way);
            }
        }
        match best.last {
            _ if best.cost >= NONE => None,
            NOBODY => Some(DensePath { cost: best.cost, relays: [None; 2], destination: to }),
            last => Some(self.joined(over, last, best.cost, to)),
        }
    }

    fn joined(&self, way: Way, last: u32, cost: u64, destination: usize) -> DensePath {
        let last = Some(last as usize);
        let relays = if way.relayed { [Some(way.first as usize), last] } else { [last, None] };
        DensePath { cost, relays, destination }
    }

    /// Our own link to `to` changed: the ways that begin with it did, and the one hop.
    fn on_first_hop(&mut self, to: usize, better: bool) {
        let first = to as u32;
        let start = self.costs[self.source * self.nodes + to];
        self.rebuild_ways(to);
        let mut moved = vec![to];
        if self.relays[to] {
            let source = self.source;
            for node in (0..self.nodes).filter(|n| *n != source && *n != to) {
                let cost = (start + self.costs[to * self.nodes + node]).min(NONE);
                let held = self.ways[node].iter().any(|way| way.first == first);
                let before = self.ways[node][0];
                if held && !better {
                    self.rebuild_ways(node);
                } else if cost <= self.ways[node][WAYS - 1].cost {
                    keep(&mut self.ways[node], Way { cost, relayed: true, first });
                }
                if self.ways[node][0] != before {
                    moved.push(node);
                }
            }
        }
        // Where most of it moved, two passes over everything are the shorter way.
        if moved.len() * 16 > self.nodes {
            return self.solve();
        }
        for node in moved {
            self.spread(node);
        }
        self.rebuild_best(to);
    }

    /// The ways to a node, from its column.
    fn rebuild_ways(&mut self, to: usize) {
        let first_row = self.source * self.nodes;
        let mut ways = [Way::NONE; WAYS];
        keep(&mut ways, Way { cost: self.costs[first_row + to], relayed: false, first: to as u32 });
        for first in (0..self.nodes).filter(|f| *f != self.source && *f != to && self.relays[*f]) {
            let cost = self.costs[first_row + first] + self.costs[first * self.nodes + to];
            if cost <= ways[WAYS - 1].cost {
                keep(&mut ways, Way { cost, relayed: true, first: first as u32 });
            }
        }
        self.ways[to] = ways;
    }

    /// The ways to `over` changed: so may the best paths that end over it.
    fn spread(&mut self, over: usize) {
        if !self.relays[over] {
            return;
        }
        let way = self.ways[over][0];
        let relays = 1 + u8::from(way.relayed);
        let source = self.source;
        for to in (0..self.nodes).filter(|to| *to != source && *to != over) {
            let cost = way.cost + self.costs[over * self.nodes + to];
            let new =
                if cost < NONE { Best { cost, relays, last: over as u32 } } else { Best::NONE };
            let held = self.best[to];
            if new < held {
                self.best[to] = new;
            } else if held.last == over as u32 && new != held {
                self.rebuild_best(to);
            }
        }
    }

    /// The best path to a node, from its column.
    fn rebuild_best(&mut self, to: usize) {
        let mut best = direct(self.costs[self.source * self.nodes + to]);
        for last in (0..self.nodes).filter(|r| *r != self.source && *r != to && self.relays[*r]) {
            let way = self.ways[last][0];
            let cost = way.cost + self.costs[last * self.nodes + to];
            if cost <= best.cost && cost < NONE {
                let relays = 1 + u8::from(way.relayed);
                best = best.min(Best { cost, relays, last: last as u32 });
            }
        }
        self.best[to] = best;
    }
}

fn direct(cost: u64) -> Best {
    if cost < NONE { Best { cost, relays: 0, last: NOBODY } } else { Best::NONE }
}

/// Keeps the best way per first node, best first.
fn keep(ways: &mut [Way; WAYS], new: Way) {
    if new.cost >= NONE {
        return;
    }
    // The place of an older way with the same first node, or the last, gives way.
    let same = ways.iter().position(|way| way.first == new.first);
    let mut place = same.unwrap_or(WAYS - 1);
    if ways[place] <= new {
        return;
    }
    while place > 0 && ways[place - 1] > new {
        ways[place] = ways[place - 1];
        place -= 1;
    }
    ways[place] = new;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every path of at most two relays, the slow way.
    fn all(dense: &Dense, to: usize) -> Vec<DensePath> {
        let cost = |a: usize, b: usize| dense.costs[a * dense.nodes + b];
        let source = dense.source;
        let relays = || (0..dense.nodes).filter(|r| *r != source && *r != to && dense.relays[*r]);
        let mut found =
            vec![DensePath { cost: cost(source, to), relays: [None; 2], destination: to }];
        for first in relays() {
            let start = cost(source, first);
            let whole = start + cost(first, to);
            found.push(DensePath { cost: whole, relays: [Some(first), None], destination: to });
            for last in relays().filter(|last| *last != first) {
                let whole = start + cost(first, last) + cost(last, to);
                let relays = [Some(first), Some(last)];
                found.push(DensePath { cost: whole, relays, destination: to });
            }
        }
        found.retain(|path| {
            path.nodes()
                .zip([source].into_iter().chain(path.nodes()))
                .all(|(b, a)| cost(a, b) < NONE)
        });
        found
    }

    fn is_right(dense: &Dense) {
        for to in (0..dense.nodes).filter(|to| *to != dense.source) {
            let all = all(dense, to);
            let best = dense.path(to);
            let least = all.iter().map(|p| p.cost).min();
            assert_eq!(best.map(|p| p.cost), least, "to {to}");
            let Some(best) = best else { continue };
            assert!(all.contains(&best), "{best:?} is a path");
            let apart = |p: &&DensePath| {
                p.first() != best.first() && p.relays.iter().flatten().all(|r| !best.has(*r as u32))
            };
            let least = all.iter().filter(apart).map(|p| p.cost).min();
            let backup = dense.backup(&best);
            assert_eq!(backup.map(|p| p.cost), least, "backup of {best:?}");
            assert!(backup.is_none_or(|b| all.contains(&b) && apart(&&b)), "{backup:?}");
        }
    }

    fn cost() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 1..60u64, 1 => Just(NONE)]
    }

    proptest! {
        #[test]
        fn paths_and_backups_are_what_exhaustive_search_finds_after_every_change(
            costs in proptest::collection::vec(cost(), 64),
            relays in proptest::collection::vec(any::<bool>(), 8),
            changes in proptest::collection::vec((0..8usize, 0..8usize, cost()), 1..20),
        ) {
            let mut dense = Dense::new(8, 2);
            relays.iter().enumerate().for_each(|(node, relay)| dense.set_relay(node, *relay));
            for (place, cost) in costs.iter().enumerate() {
                dense.set(place / 8, place % 8, *cost);
            }
            dense.solve();
            is_right(&dense);
            for (from, to, cost) in changes {
                dense.set(from, to, cost);
                is_right(&dense);
                let mut anew = dense.clone();
                anew.solve();
                prop_assert_eq!(&anew.ways, &dense.ways);
                prop_assert_eq!(&anew.best, &dense.best);
            }
        }
    }

    #[test]
    fn equal_costs_go_to_fewer_hops_and_then_to_lower_positions() {
        let mut dense = Dense::new(5, 0);
        for (from, to, cost) in [(0, 4, 10), (0, 1, 5), (1, 4, 5), (0, 2, 5), (2, 4, 5), (0, 3, 5)]
        {
            dense.set(from, to, cost);
        }
        (1..4).for_each(|node| dense.set_relay(node, true));
        dense.solve();
        let relays = |dense: &Dense| dense.path(4).unwrap().relays;
        assert_eq!(relays(&dense), [None, None]);
        dense.set(0, 4, 11);
        assert_eq!(relays(&dense), [Some(1), None]);
    }
}
