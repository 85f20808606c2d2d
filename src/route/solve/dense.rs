//! All best paths of at most two relays over a mesh of hundreds, kept while single links change.
//!
//! A full mesh of a thousand nodes has a million edges. As a graph it takes 100 MB and the time to
//! build it; here an edge is one number, its cost under one objective, in a matrix by rows. Two passes of
//! "is this way shorter" over the rows find everything:
//!
//! 1. To every node the best *ways* of at most one relay with different first nodes. Four at least, because a
//!    backup may have to avoid the primary's two relays and the destination.
//! 2. To every node the best way to a relay and one hop more.
//!
//! **When links change** one by one ([`Dense::follow`]) what is kept stays exact, and a change asks only what
//! it can have touched. The ways that begin with it, or end with it, are put where they belong among those
//! kept; a way that got worse than all of them is forgotten, and a node's ways are sought anew only where fewer
//! than four are left. Of the nodes whose best way moved, one that is nearer now may be a better last relay
//! for whom its row says; and whoever went over one that is further now is sought a better one in his column. Those
//! rows and columns are read in a coarse picture of the costs (`coarse`), and in the costs themselves only
//! where that leaves a doubt. Ties go to fewer hops, then to lower positions, so that an answer does not depend on
//! the order in which links changed.
//!
//! Source: the min-plus ("tropical") matrix product over two relays; the idea of several beginnings is
//! that of `reach`.

use super::coarse::{self, Coarse, FAR};

/// No edge. Three of them and more can be added without leaving the type.
pub const NONE: u64 = u64::MAX / 8;

/// Ways that a backup may need to each node, each with another first node.
const NEEDED: usize = 4;
/// Ways kept to each node: so many may get worse and be forgotten, and some more, before others are sought.
const WAYS: usize = 6;
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
    /// Best first. Unless fewer than [`NEEDED`] are there, others may exist, none better than the last.
    ways: Vec<[Way; WAYS]>,
    best: Vec<Best>,
    /// There while changes are followed.
    trail: Option<Box<Trail>>,
}

/// What the changes of single links are found by. Its lines hold a place for each node.
#[derive(Clone, Debug)]
struct Trail {
    coarse: Coarse,
    /// Steps of our own links to those that relay; [`FAR`] to all others.
    starts: Vec<i16>,
    /// Steps of the best ways to those that relay; [`FAR`] to all others.
    ways: Vec<i16>,
    /// Steps of the best paths; below zero to ourselves, where none is sought.
    best: Vec<i16>,
}

/// A node, and what the best way to it was before a change.
type Moved = (usize, Way);

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
            trail: None,
        }
    }

    /// How many nodes there are.
    pub const fn nodes(&self) -> usize {
        self.nodes
    }

    /// Whether a node carries others' traffic. Ends the following of changes; everything is to be solved anew.
    pub fn set_relay(&mut self, node: usize, relay: bool) {
        if self.relays[node] != relay {
            self.relays[node] = relay;
            self.trail = None;
        }
    }

    /// What an edge costs; [`NONE`] where there is none. While changes are followed its effect is worked in
    /// at once, else by the next [`Dense::solve`]. An edge of a node to itself, or to the source, matters to no
    /// path.
    pub fn set(&mut self, from: usize, to: usize, cost: u64) {
        let cost = cost.min(NONE);
        let place = from * self.nodes + to;
        let old = std::mem::replace(&mut self.costs[place], cost);
        if old == cost || from == to || to == self.source {
            return;
        }
        let Some(trail) = &mut self.trail else { return };
        trail.coarse.put(from, to, cost);
        if from == self.source {
            if self.relays[to] {
                trail.starts[to] = trail.coarse.of(cost);
            }
            self.on_own_link(to);
        } else if self.relays[from] {
            self.on_link(from, to);
        }
    }

    /// Solves, and works in every change from now on.
    pub fn follow(&mut self) {
        self.solve();
        let mut costs: Vec<u64> = self.best.iter().map(|best| best.cost).collect();
        costs.retain(|cost| *cost < NONE);
        let middle = costs.len() / 2;
        let reach = if costs.is_empty() { 0 } else { *costs.select_nth_unstable(middle).1 };
        let coarse = Coarse::new(self.nodes, &self.costs, reach);
        let (mut starts, mut ways) = (coarse.line(FAR), coarse.line(FAR));
        let mut best = coarse.line(-1);
        let first_row = self.source * self.nodes;
        for node in (0..self.nodes).filter(|node| *node != self.source) {
            best[node] = coarse.of(self.best[node].cost);
            if self.relays[node] {
                starts[node] = coarse.of(self.costs[first_row + node]);
                ways[node] = coarse.of(self.ways[node][0].cost);
            }
        }
        self.trail = Some(Box::new(Trail { coarse, starts, ways, best }));
    }

    /// Finds everything from the costs alone. Ends the following of changes.
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
        self.trail = None;
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

    /// Our own link to `to` changed: so did the ways that begin with it, and the path of one hop.
    fn on_own_link(&mut self, to: usize) {
        let first = to as u32;
        let source = self.source;
        let start = self.costs[source * self.nodes + to];
        let mut moved = Vec::new();
        self.restate(to, Way { cost: start, relayed: false, first }, &mut moved);
        if self.relays[to] {
            for node in (0..self.nodes).filter(|node| *node != source && *node != to) {
                let cost = (start + self.costs[to * self.nodes + node]).min(NONE);
                self.restate(node, Way { cost, relayed: true, first }, &mut moved);
            }
        }
        let held = self.best[to];
        let new = direct(start);
        if new < held {
            self.keep_best(to, new);
        } else if held.last == NOBODY && new != held {
            self.keep_best(to, Best::NONE);
        }
        self.settle(&moved, to);
    }

    /// A link between two others changed, of which the first relays.
    fn on_link(&mut self, from: usize, to: usize) {
        let mut moved = Vec::new();
        let start = self.costs[self.source * self.nodes + from];
        let cost = (start + self.costs[from * self.nodes + to]).min(NONE);
        self.restate(to, Way { cost, relayed: true, first: from as u32 }, &mut moved);
        let (held, new) = (self.best[to], self.over(from, to));
        if new < held {
            self.keep_best(to, new);
        } else if held.last == from as u32 && new != held {
            self.keep_best(to, Best::NONE);
        }
        self.settle(&moved, to);
    }

    /// Of the ways to a node the one with this first node is now this one. Where another one is the best now,
    /// the node is among the moved.
    fn restate(&mut self, node: usize, new: Way, moved: &mut Vec<Moved>) {
        let ways = &mut self.ways[node];
        let held = ways.iter().position(|way| way.first == new.first);
        // None of those that are not kept is better than the last; where few are there, none is missing.
        let listed = ways.iter().take_while(|way| way.cost < NONE).count();
        let whole = listed < NEEDED;
        let fits = new.cost < NONE && (whole || new < ways[listed - 1]);
        let before = ways[0];
        if held.is_none() && !fits {
            return;
        }
        if let Some(at) = held {
            ways.copy_within(at + 1.., at);
            ways[WAYS - 1] = Way::NONE;
        }
        if fits {
            keep(ways, new);
        } else if !whole && listed - 1 < NEEDED {
            self.rebuild_ways(node);
        }
        if self.ways[node][0] != before {
            moved.push((node, before));
        }
    }

    /// Works in that the best ways to these nodes moved; and seeks the best path to `end`, where it was lost.
    fn settle(&mut self, moved: &[Moved], end: usize) {
        let Some(mut trail) = self.trail.take() else { return };
        let mut nearer = Vec::new();
        let mut further = vec![false; self.nodes];
        let mut any_further = false;
        for (node, before) in moved.iter().filter(|(node, _)| self.relays[*node]) {
            let now = self.ways[*node][0];
            trail.ways[*node] = trail.coarse.of(now.cost);
            // Other hops may mean another order among equals, for better or worse.
            if now.cost < before.cost {
                nearer.push((now.cost, *node));
            } else {
                further[*node] = true;
                any_further = true;
                nearer.extend((now.cost == before.cost).then_some((now.cost, *node)));
            }
        }
        let lost = |best: &Best| further.get(best.last as usize) == Some(&true);
        let mut sought = if self.best[end] == Best::NONE { vec![end] } else { Vec::new() };
        if any_further {
            let each = self.best.iter().enumerate();
            sought.extend(each.filter(|(_, best)| lost(best)).map(|(to, _)| to));
        }
        // The nearest first, since what it reaches is not reached by the others.
        nearer.sort_unstable();
        for to in sought {
            self.rebuild_best(to, &mut trail);
        }
        let mut found = Vec::new();
        for (cost, node) in nearer {
            let (start, row) = (trail.coarse.of(cost), trail.coarse.row(node));
            coarse::within(start, row, &trail.best, |to| found.push(to));
            for to in found.drain(..) {
                let new = self.over(node, to);
                if new < self.best[to] {
                    self.best[to] = new;
                    trail.best[to] = trail.coarse.of(new.cost);
                }
            }
        }
        self.trail = Some(trail);
    }

    /// The best path to a node whose last relay is this one.
    fn over(&self, last: usize, to: usize) -> Best {
        let way = self.ways[last][0];
        let cost = way.cost + self.costs[last * self.nodes + to];
        let possible = cost < NONE && self.relays[last] && last != to;
        let relays = 1 + u8::from(way.relayed);
        if possible { Best { cost, relays, last: last as u32 } } else { Best::NONE }
    }

    fn keep_best(&mut self, to: usize, best: Best) {
        self.best[to] = best;
        if let Some(trail) = &mut self.trail {
            trail.best[to] = trail.coarse.of(best.cost);
        }
    }

    /// The ways to a node, from its column.
    fn rebuild_ways(&mut self, to: usize) {
        let Some(trail) = &self.trail else { return };
        let first_row = self.source * self.nodes;
        let mut ways = [Way::NONE; WAYS];
        keep(&mut ways, Way { cost: self.costs[first_row + to], relayed: false, first: to as u32 });
        coarse::least(&trail.starts, trail.coarse.column(to), WAYS, |first| {
            if first < self.nodes && first != to && first != self.source && self.relays[first] {
                let cost = self.costs[first_row + first] + self.costs[first * self.nodes + to];
                keep(&mut ways, Way { cost, relayed: true, first: first as u32 });
            }
        });
        self.ways[to] = ways;
    }

    /// The best path to a node, from its column.
    fn rebuild_best(&mut self, to: usize, trail: &mut Trail) {
        let mut best = direct(self.costs[self.source * self.nodes + to]);
        coarse::least(&trail.ways, trail.coarse.column(to), 1, |last| {
            if last < self.nodes && last != self.source {
                best = best.min(self.over(last, to));
            }
        });
        self.best[to] = best;
        trail.best[to] = trail.coarse.of(best.cost);
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

    /// Whether what was followed is what is found anew.
    fn is_as_solved(dense: &Dense) {
        let mut anew = dense.clone();
        anew.solve();
        assert_eq!(anew.best, dense.best);
        for (anew, kept) in anew.ways.iter().zip(&dense.ways) {
            assert_eq!(anew[..NEEDED], kept[..NEEDED]);
        }
    }

    /// Few of them and far apart, so that there are ties, what is far, and what is near it.
    fn cost_in_large() -> impl Strategy<Value = u64> {
        prop_oneof![
            5 => 1_000..90_000u64,
            3 => (1..40u64).prop_map(|cost| cost * 2_000),
            1 => (1..9u64).prop_map(|money| money << 28),
            1 => Just(0),
            1 => Just(NONE),
        ]
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
            dense.follow();
            is_right(&dense);
            for (from, to, cost) in changes {
                dense.set(from, to, cost);
                is_right(&dense);
                is_as_solved(&dense);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_large_mesh_that_is_followed_is_as_if_solved_anew_after_every_change(
            seed in any::<u64>(),
            hubs in proptest::collection::vec((0..70usize, 1..5u64), 0..6),
            changes in proptest::collection::vec(
                (any::<bool>(), 0..70usize, 0..70usize, cost_in_large()), 1..60),
        ) {
            let mut dice = crate::rng::Dice::new(seed);
            let mut dense = Dense::new(70, 40);
            for node in 0..70 {
                dense.set_relay(node, dice.below(9) > 0);
            }
            for from in 0..70 {
                for to in 0..70 {
                    dense.set(from, to, 20_000 + dice.below(60_000));
                }
            }
            // Near us and near everyone: most paths lead over them.
            for (hub, near) in &hubs {
                dense.set(40, *hub, near * 3_000);
                (0..70).for_each(|to| dense.set(*hub, to, near * 4_000 + dice.below(9_000)));
            }
            dense.follow();
            for (own, from, to, cost) in changes {
                let to = hubs.get(to % 8).map_or(to, |(hub, _)| *hub);
                dense.set(if own { 40 } else { from }, to, cost);
                is_as_solved(&dense);
            }
        }
    }

    #[test]
    fn a_link_that_many_paths_begin_with_gets_worse_and_better_again() {
        let mut dense = Dense::new(200, 0);
        (0..200).for_each(|node| dense.set_relay(node, true));
        let mut dice = crate::rng::Dice::new(5);
        for from in 0..200 {
            (0..200).for_each(|to| dense.set(from, to, 50_000 + dice.below(90_000)));
        }
        for hub in 1..9 {
            dense.set(0, hub, 5_000 + 100 * hub as u64);
            (9..200).for_each(|to| dense.set(hub, to, 30_000 + dice.below(20_000)));
        }
        dense.follow();
        for cost in [60_000, 6_000_000, NONE, 4_000, 300_000, 5_000] {
            for hub in 1..9 {
                dense.set(0, hub, cost + hub as u64);
                is_as_solved(&dense);
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
        dense.follow();
        let relays = |dense: &Dense| dense.path(4).unwrap().relays;
        assert_eq!(relays(&dense), [None, None]);
        dense.set(0, 4, 11);
        assert_eq!(relays(&dense), [Some(1), None]);
    }
}
