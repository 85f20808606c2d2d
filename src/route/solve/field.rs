//! Paths sought over a large mesh without a graph.
//!
//! A mesh of hundreds as a graph takes longer to build than all its paths take to find. Here the edges go
//! straight from the records into one matrix of costs for each objective ([`Dense`]); policies of one
//! objective share it. Limits are no affair of a matrix: what it finds is priced on the map, and where that
//! breaks a limit the [`Solver`] is asked, which makes the graph then.

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::dense::{Dense, DensePath};
use super::{Candidate, LARGE, Map, Solution, Solver, weigh};
use crate::id::{LinkId, NodeId};
use crate::route::cost;
use crate::route::policy::Objective;
use crate::route::table::Path;
use crate::route::terms::Terms;

/// No place in the matrix.
const NOWHERE: u16 = u16::MAX;

/// The costs of all edges of a map.
#[derive(Debug)]
pub struct Field {
    nodes: Vec<NodeId>,
    /// Where each node stands, by number.
    places: Vec<u16>,
    /// Our link to each node, by place.
    links: Vec<Option<LinkId>>,
    costs: Vec<(Objective, Dense)>,
}

impl Field {
    /// The map's edges under these objectives, solved; `None` for a mesh that the graph serves better: a small
    /// one, or one where several links of ours lead to one node.
    pub fn of(map: &dyn Map, objectives: &[Objective]) -> Option<Self> {
        let nodes = map.nodes();
        if nodes.len() < LARGE {
            return None;
        }
        let most = nodes.iter().map(|node| usize::from(node.get())).max().unwrap_or(0);
        let mut places = vec![NOWHERE; most + 1];
        for (place, node) in (0..).zip(&nodes) {
            places[usize::from(node.get())] = place;
        }
        let place = |node: NodeId| {
            let place = places.get(usize::from(node.get())).copied();
            place.filter(|place| *place != NOWHERE).map(usize::from)
        };
        let source = place(map.source())?;
        let mut costs: Vec<(Objective, Dense)> = Vec::new();
        for objective in objectives {
            if costs.iter().all(|(known, _)| known != objective) {
                costs.push((*objective, Dense::new(nodes.len(), source)));
            }
        }
        let mut links: Vec<Option<LinkId>> = vec![None; nodes.len()];
        let mut parallel = false;
        map.each_edge(&mut |from, to, link, state| {
            let (Some(from), Some(to)) = (place(from), place(to)) else { return };
            if let Some(link) = link {
                parallel |= links[to].replace(link).is_some();
            }
            for (objective, dense) in &mut costs {
                dense.set(from, to, cost::price(state, *objective).cost);
            }
        });
        if parallel {
            return None;
        }
        for (place, node) in nodes.iter().enumerate() {
            let relays = map.relays(*node);
            costs.iter_mut().for_each(|(_, dense)| dense.set_relay(place, relays));
        }
        costs.iter_mut().for_each(|(_, dense)| dense.solve());
        Some(Self { nodes, places, links, costs })
    }

    fn dense(&self, objective: Objective) -> Option<&Dense> {
        self.costs.iter().find(|(held, _)| *held == objective).map(|(_, dense)| dense)
    }

    fn place(&self, node: NodeId) -> Option<usize> {
        let place = self.places.get(usize::from(node.get())).copied()?;
        (place != NOWHERE).then_some(place.into())
    }

    fn candidate(&self, map: &dyn Map, terms: &Terms, path: &DensePath) -> Option<Candidate> {
        let nodes: Vec<NodeId> = path.nodes().map(|place| self.nodes[place]).collect();
        weigh(map, terms, self.links[path.first()]?, &nodes)
    }

    fn best(&self, map: &dyn Map, terms: &Terms, destination: NodeId) -> Option<Candidate> {
        let path = self.dense(terms.objective)?.path(self.place(destination)?)?;
        self.candidate(map, terms, &path)
    }

    fn backup(&self, map: &dyn Map, terms: &Terms, primary: &Candidate) -> Option<Candidate> {
        let dense = self.dense(terms.objective)?;
        let (destination, relays) = primary.nodes.split_last()?;
        let mut taken = [None; Path::LIMIT - 1];
        for (slot, relay) in taken.iter_mut().zip(relays) {
            *slot = self.place(*relay);
        }
        let destination = self.place(*destination)?;
        let primary = DensePath { cost: primary.priced.cost, relays: taken, destination };
        self.candidate(map, terms, &dense.backup(&primary)?)
    }
}

/// Seeks paths under one policy, the shortest way.
pub struct Seeker<'a> {
    map: &'a dyn Map,
    terms: &'a Terms,
    field: Option<&'a Field>,
    solver: OnceCell<Solver<'a>>,
    solved: OnceCell<BTreeMap<NodeId, Solution>>,
}

impl<'a> Seeker<'a> {
    /// Over this map; `field` is made of it, and of no use where some relays are not as good as others.
    pub fn new(map: &'a dyn Map, terms: &'a Terms, field: Option<&'a Field>) -> Self {
        let plain = terms.avoid.is_empty() && terms.prefer.is_empty() && !terms.spent;
        let field = field.filter(|_| plain);
        Self { map, terms, field, solver: OnceCell::new(), solved: OnceCell::new() }
    }

    fn solver(&self) -> &Solver<'a> {
        self.solver.get_or_init(|| Solver::new(self.map.graph(), self.terms))
    }

    /// The best path to a destination and its backup.
    pub fn best(&self, destination: NodeId) -> Option<Solution> {
        if let Some(field) = self.field {
            let best = field.best(self.map, self.terms, destination)?;
            if best.broken.is_none() {
                let backup = self.backup(&best);
                return Some(Solution { best, backup });
            }
        }
        self.solved.get_or_init(|| self.solver().solve()).get(&destination).cloned()
    }

    /// The best path that shares no relay and no first link with this one.
    pub fn backup(&self, primary: &Candidate) -> Option<Candidate> {
        let Some(field) = self.field else { return self.solver().backup(primary) };
        let backup = field.backup(self.map, self.terms, primary)?;
        if backup.broken.is_none() { Some(backup) } else { self.solver().backup(primary) }
    }
}
