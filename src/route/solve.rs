//! The best path to every destination under a policy, and a backup that shares nothing with it.
//!
//! 1. The optimum without limits, for all destinations at once: Dijkstra on a layered graph
//!    (node × hops used), so that at most two relays are used (`layered`); from `LARGE` nodes on by
//!    min-plus passes over a matrix ([`dense`]), which a node fills without any graph ([`field`]).
//! 2. Where it breaks a limit: every path of at most two relays, cut as soon as a limit or the best
//!    cost so far is passed. Exact, and paid only by destinations that need it (`reach`).
//! 3. The backup: the best path that shares no relay and no first link with the primary, from the four
//!    best beginnings to every relay (`reach`); within the limits where there is one.
//!
//! A node that does not consent to relay is only ever a destination, and so is one that the policy avoids
//! wherever another way leads to the destination, within the limits or not. Where nothing keeps the
//! limits, the least evil is taken and marked: the direct link where the policy falls back on it; else
//! delay and loss are let go before money is, since packets that come late are a bad call and money
//! spent is gone. The same graph and terms always give the same answer.

mod coarse;
pub mod dense;
pub mod field;
mod layered;
mod reach;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use petgraph::graph::{EdgeIndex, EdgeReference, NodeIndex};
use petgraph::visit::EdgeRef;

use crate::id::{LinkId, NodeId};
use crate::quality::LinkState;
use crate::route::cost::{Bounds, Limit, Priced};
use crate::route::policy::{Fallback, Policy};
use crate::route::table::Path;
use crate::route::terms::Terms;
use crate::topology::graph::{Graph, GraphEdge};
use dense::Dense;
use reach::Beginnings;

/// Meshes of so many nodes are solved by a matrix: below, graph and layered graph take less than half a
/// millisecond.
const LARGE: usize = 32;

/// A path with its price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Our link that the first hop crosses.
    pub link: LinkId,
    /// Relays in order, then the destination.
    pub nodes: Vec<NodeId>,
    /// What it costs, by part, and what limits are checked against.
    pub priced: Priced,
    /// The first limit it does not keep.
    pub broken: Option<Limit>,
}

impl Candidate {
    /// The path as the table holds it.
    pub fn path(&self) -> Path {
        Path { link: self.link, nodes: self.nodes.clone(), delay: self.priced.delay() }
    }

    /// Whether it is the same way through the mesh, whatever it costs now.
    pub fn is_way(&self, link: LinkId, nodes: &[NodeId]) -> bool {
        self.link == link && self.nodes == nodes
    }
}

/// What the solver found for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Solution {
    /// The best path; within the limits if any path is.
    pub best: Candidate,
    /// The best path that shares no relay and no first link with it.
    pub backup: Option<Candidate>,
}

/// Why a candidate was not taken, for `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A limit of the policy is not kept.
    Limit(Limit),
    /// This relay does not consent.
    NoConsent(NodeId),
    /// It costs this much more than the best.
    Costlier(u64),
}

/// One path that was weighed, with the reason it was not taken; none for the best.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// The path.
    pub candidate: Candidate,
    /// Why not.
    pub rejected: Option<Rejection>,
}

/// Is shown an edge: from, to, our name of the link where it is ours, and how it is.
pub type Show<'a> = dyn FnMut(NodeId, NodeId, Option<LinkId>, &LinkState) + 'a;

/// The mesh as paths are judged on it: asked edge by edge, and made a graph only where paths are
/// sought. Most news seeks none, and in a mesh of hundreds the graph costs more than all the rest.
pub trait Map {
    /// The node whose view this is.
    fn source(&self) -> NodeId;
    /// Every node that can be reached, in order of number, the source among them.
    fn nodes(&self) -> Vec<NodeId>;
    /// Whether a node can be reached.
    fn lives(&self, node: NodeId) -> bool;
    /// Whether a node consents to carry others' traffic, and may.
    fn relays(&self, node: NodeId) -> bool;
    /// How an edge is; from the source over this link of ours.
    fn edge(&self, from: NodeId, to: NodeId, link: LinkId) -> Option<LinkState>;
    /// Shows every edge.
    fn each_edge(&self, show: &mut Show<'_>) {
        for (from, to, edge) in self.graph().edges() {
            show(from, to, edge.link, &edge.state);
        }
    }
    /// All of it.
    fn graph(&self) -> &Graph;
    /// The number of the node of this name, where it is known.
    fn named(&self, name: &str) -> Option<NodeId>;
    /// Whether this node has spent its money for the month.
    fn spent(&self) -> bool;

    /// What a policy means on it.
    fn terms(&self, policy: &Policy) -> Terms {
        Terms::of(policy, |name| self.named(name), self.spent())
    }
}

impl Map for Graph {
    fn source(&self) -> NodeId {
        Self::source(self)
    }

    fn nodes(&self) -> Vec<NodeId> {
        Self::nodes(self).map(|node| node.id).collect()
    }

    fn lives(&self, node: NodeId) -> bool {
        self.node(node).is_some()
    }

    fn relays(&self, node: NodeId) -> bool {
        self.node(node).is_some_and(|node| node.relay)
    }

    fn edge(&self, from: NodeId, to: NodeId, link: LinkId) -> Option<LinkState> {
        let (from_at, to_at) = (self.position(from)?, self.position(to)?);
        let ours = from == Self::source(self);
        let mut parallel = self.inner().edges_connecting(from_at, to_at);
        parallel.find(|e| !ours || e.weight().link == Some(link)).map(|e| e.weight().state)
    }

    fn graph(&self) -> &Graph {
        self
    }

    /// A graph knows numbers alone.
    fn named(&self, _: &str) -> Option<NodeId> {
        None
    }

    fn spent(&self) -> bool {
        false
    }
}

/// This way through the mesh at today's prices; `None` where a link of it is gone or a relay withdrew its
/// consent. The same as [`Solver::weigh`], without a graph.
pub fn weigh(map: &dyn Map, terms: &Terms, link: LinkId, nodes: &[NodeId]) -> Option<Candidate> {
    let priced = price(map, terms, link, nodes)?;
    let broken = terms.broken(nodes, &priced);
    Some(Candidate { link, nodes: nodes.to_vec(), priced, broken })
}

/// What this way through the mesh costs today, as [`weigh`].
pub fn price(map: &dyn Map, terms: &Terms, link: LinkId, nodes: &[NodeId]) -> Option<Priced> {
    let mut relay = None;
    let mut priced = Priced::NOTHING;
    for &node in nodes {
        if relay.is_some_and(|relay| !map.relays(relay)) {
            return None;
        }
        let from = relay.unwrap_or_else(|| map.source());
        priced = priced.plus(terms.price(relay, &map.edge(from, node, link)?));
        relay = Some(node);
    }
    (!nodes.is_empty()).then_some(priced)
}

/// A graph with every edge priced under one policy.
#[derive(Debug)]
pub struct Solver<'a> {
    graph: &'a Graph,
    terms: &'a Terms,
    priced: Vec<Priced>,
    /// Whether the nodes that are avoided carry too.
    open: bool,
    beginnings: OnceCell<Beginnings>,
    /// The same where the nodes that are avoided carry too; none where none is.
    opened: OnceCell<Option<Box<Self>>>,
}

impl<'a> Solver<'a> {
    /// Prices every edge once.
    pub fn new(graph: &'a Graph, terms: &'a Terms) -> Self {
        let inner = graph.inner();
        let price = |edge: EdgeReference<'_, GraphEdge, u32>| {
            let relay = (edge.source() != graph.source_position()).then(|| inner[edge.source()].id);
            terms.price(relay, &edge.weight().state)
        };
        // In the order of their indices, since none is ever taken out.
        let priced = inner.edge_references().map(price).collect();
        Self::over(graph, terms, priced, false)
    }

    const fn over(graph: &'a Graph, terms: &'a Terms, priced: Vec<Priced>, open: bool) -> Self {
        Self { graph, terms, priced, open, beginnings: OnceCell::new(), opened: OnceCell::new() }
    }

    /// The same with the nodes that are avoided; `None` where none is, or they carry here already.
    fn opened(&self) -> Option<&Self> {
        let any = || !self.open && self.terms.avoid.iter().any(|&node| self.graph.relays(node));
        let open = || Box::new(Self::over(self.graph, self.terms, self.priced.clone(), true));
        self.opened.get_or_init(|| any().then(open)).as_deref()
    }

    /// The best path and its backup for every destination that can be reached.
    pub fn solve(&self) -> BTreeMap<NodeId, Solution> {
        let solution = |solver: &Self, to, edges: &[EdgeIndex<u32>]| {
            let best = solver.best(to, solver.candidate(edges));
            let backup = solver.backup_at(to, &best);
            Solution { best, backup }
        };
        let mut found = BTreeMap::new();
        for (to, edges) in self.optima() {
            found.insert(self.id(to), solution(self, to, &edges));
        }
        let others = self.graph.inner().node_count() - 1;
        if found.len() < others
            && let Some(open) = self.opened()
        {
            for (to, edges) in open.optima() {
                found.entry(self.id(to)).or_insert_with(|| solution(open, to, &edges));
            }
        }
        found
    }

    /// The best path to every destination, limits aside.
    fn optima(&self) -> Vec<(NodeIndex<u32>, Vec<EdgeIndex<u32>>)> {
        let large = self.graph.inner().node_count() >= LARGE;
        if large { self.optima_by_matrix() } else { layered::optima(self) }
    }

    /// What [`layered::optima`] finds, by [`dense`].
    fn optima_by_matrix(&self) -> Vec<(NodeIndex<u32>, Vec<EdgeIndex<u32>>)> {
        let inner = self.graph.inner();
        let (nodes, source) = (inner.node_count(), self.graph.source_position());
        let mut matrix = Dense::new(nodes, source.index());
        let mut edges = vec![EdgeIndex::<u32>::end(); nodes * nodes];
        // In order of insertion: among parallel links of one cost the first stays.
        for edge in inner.edge_references() {
            let (from, to) = (edge.source().index(), edge.target().index());
            let cost = self.price_of(edge.id()).cost;
            let place = from * nodes + to;
            let held = edges[place];
            if held == EdgeIndex::end() || cost < self.price_of(held).cost {
                edges[place] = edge.id();
                matrix.set(from, to, cost);
            }
        }
        for node in inner.node_indices() {
            matrix.set_relay(node.index(), self.relays(node));
        }
        matrix.solve();
        let walk = |to: NodeIndex<u32>| {
            let mut at = source.index();
            let mut walked = Vec::with_capacity(Path::LIMIT);
            for next in matrix.path(to.index())?.nodes() {
                walked.push(edges[at * nodes + next]);
                at = next;
            }
            Some((to, walked))
        };
        inner.node_indices().filter(|to| *to != source).filter_map(walk).collect()
    }

    /// This way through the mesh at today's prices; `None` where a link of it is gone or a relay
    /// withdrew its consent.
    pub fn weigh(&self, link: LinkId, nodes: &[NodeId]) -> Option<Candidate> {
        let mut at = self.graph.source_position();
        let mut edges = Vec::with_capacity(nodes.len());
        for (hop, node) in nodes.iter().enumerate() {
            if hop > 0 && !self.graph.inner()[at].relay {
                return None;
            }
            let next = self.graph.position(*node)?;
            let parallel = self.graph.inner().edges_connecting(at, next);
            let edge = parallel
                .filter(|e| hop > 0 || e.weight().link == Some(link))
                .min_by_key(|e| (self.priced[e.id().index()].cost, e.id()))?;
            edges.push(edge.id());
            at = next;
        }
        (!edges.is_empty()).then(|| self.candidate(&edges))
    }

    /// The `limit` best paths to a destination with the reason each was not taken, best first;
    /// the best direct one always among them. Paths over one relay that refuses are weighed too.
    pub fn explain(&self, destination: NodeId, limit: usize) -> Vec<Weighed> {
        let Some(at) = self.graph.position(destination) else { return Vec::new() };
        if at == self.graph.source_position() {
            return Vec::new();
        }
        let mut shown: Vec<Weighed> = Vec::new();
        let mut direct: Option<Weighed> = None;
        reach::each_path(self, at, |edges| {
            let candidate = self.candidate(edges);
            let refuses = |&node: &NodeIndex<u32>| !self.graph.inner()[node].relay;
            let refusing = edges[1..].iter().map(|&e| self.ends(e).0).find(refuses);
            let rejected = match (refusing, candidate.broken) {
                (Some(_), _) if edges.len() > 2 => return,
                (Some(relay), _) => Some(Rejection::NoConsent(self.id(relay))),
                (None, Some(limit)) => Some(Rejection::Limit(limit)),
                (None, None) => None,
            };
            let weighed = Weighed { candidate, rejected };
            let is_direct = weighed.candidate.nodes.len() == 1;
            if is_direct && direct.as_ref().is_none_or(|d| order(&weighed) < order(d)) {
                direct = Some(weighed.clone());
            }
            let place = shown.partition_point(|w| order(w) <= order(&weighed));
            if place < limit {
                shown.insert(place, weighed);
                shown.truncate(limit);
            }
        });
        if let Some(direct) = direct
            && !shown.contains(&direct)
        {
            shown.pop();
            shown.push(direct);
        }
        let best = shown.iter().find(|w| w.rejected.is_none()).map(|w| w.candidate.priced.cost);
        let mut taken = false;
        for weighed in shown.iter_mut().filter(|w| w.rejected.is_none()) {
            let over = weighed.candidate.priced.cost - best.unwrap_or_default();
            weighed.rejected = taken.then_some(Rejection::Costlier(over));
            taken = true;
        }
        shown
    }

    /// The best path of all, of which this is the best without limits.
    fn best(&self, destination: NodeIndex<u32>, optimum: Candidate) -> Candidate {
        let best = match optimum.priced.broken(&self.terms.bounds) {
            Some(_) => self.within(destination, &optimum),
            None => optimum,
        };
        let falls = best.broken.is_some() && self.terms.fallback == Fallback::Direct;
        let direct = if falls { self.direct(destination) } else { None };
        direct.unwrap_or(best)
    }

    /// The best link to a destination.
    fn direct(&self, destination: NodeIndex<u32>) -> Option<Candidate> {
        let inner = self.graph.inner();
        let ours = inner.edges_connecting(self.graph.source_position(), destination);
        let edge = ours.min_by_key(|e| (self.price_of(e.id()).cost, e.id()))?;
        Some(self.candidate(&[edge.id()]))
    }

    /// The best path within the limits; else within the price alone; else the cheapest.
    fn within(&self, destination: NodeIndex<u32>, optimum: &Candidate) -> Candidate {
        let limits = self.terms.bounds;
        let money_only = Bounds { money: limits.money, ..Bounds::NONE };
        for bounds in [limits, money_only] {
            if let Some(edges) = reach::best_within(self, destination, &bounds, None) {
                return self.candidate(&edges);
            }
        }
        let cheapest = reach::cheapest(self, destination).map(|edges| self.candidate(&edges));
        cheapest.unwrap_or_else(|| optimum.clone())
    }

    /// The best path that shares no relay and no first link with `primary`, within the limits if any is.
    /// Where packets are rather dropped than sent outside the limits, there is none but within them.
    pub fn backup(&self, primary: &Candidate) -> Option<Candidate> {
        let destination = self.graph.position(*primary.nodes.last()?)?;
        self.backup_at(destination, primary)
    }

    fn backup_at(&self, destination: NodeIndex<u32>, primary: &Candidate) -> Option<Candidate> {
        let found = self.apart_from(destination, primary);
        let found =
            found.or_else(|| self.opened().and_then(|o| o.apart_from(destination, primary)));
        found.filter(|backup| !self.terms.withholds(backup.broken))
    }

    fn apart_from(&self, destination: NodeIndex<u32>, primary: &Candidate) -> Option<Candidate> {
        let taken = self.taken(primary);
        let beginnings = self.beginnings.get_or_init(|| Beginnings::build(self));
        let edges = beginnings.best(self, destination, &taken)?;
        let backup = self.candidate(&edges);
        let bounds = &self.terms.bounds;
        if backup.priced.broken(bounds).is_some() {
            let kept = reach::best_within(self, destination, bounds, Some(&taken));
            return Some(kept.map_or(backup, |edges| self.candidate(&edges)));
        }
        Some(backup)
    }

    fn taken(&self, primary: &Candidate) -> Taken {
        let relays = &primary.nodes[..primary.nodes.len() - 1];
        let mut nodes = [None; Path::LIMIT - 1];
        for (slot, relay) in nodes.iter_mut().zip(relays) {
            *slot = self.graph.position(*relay);
        }
        Taken { nodes, link: primary.link }
    }

    fn candidate(&self, edges: &[EdgeIndex<u32>]) -> Candidate {
        let priced = edges.iter().fold(Priced::NOTHING, |sum, e| sum.plus(self.priced[e.index()]));
        let inner = self.graph.inner();
        let link = edges.first().and_then(|&e| inner[e].link);
        let nodes: Vec<NodeId> = edges.iter().map(|&e| self.id(self.ends(e).1)).collect();
        Candidate {
            link: link.expect("a path starts with an edge of ours, and the graph names those"),
            broken: self.terms.broken(&nodes, &priced),
            nodes,
            priced,
        }
    }

    fn ends(&self, edge: EdgeIndex<u32>) -> (NodeIndex<u32>, NodeIndex<u32>) {
        self.graph.inner().edge_endpoints(edge).expect("edge indices come from this very graph")
    }

    fn id(&self, node: NodeIndex<u32>) -> NodeId {
        self.graph.inner()[node].id
    }

    /// Whether a node carries here: it consents, and is not avoided.
    fn relays(&self, node: NodeIndex<u32>) -> bool {
        let node = &self.graph.inner()[node];
        node.relay && (self.open || !self.terms.avoid.contains(&node.id))
    }

    fn price_of(&self, edge: EdgeIndex<u32>) -> &Priced {
        &self.priced[edge.index()]
    }
}

/// What a backup must not touch: the primary's relays and its first link.
#[derive(Debug)]
struct Taken {
    nodes: [Option<NodeIndex<u32>>; Path::LIMIT - 1],
    link: LinkId,
}

impl Taken {
    fn has(&self, node: NodeIndex<u32>) -> bool {
        self.nodes.contains(&Some(node))
    }
}

/// Candidates in the order they are shown: usable before rejected, then by cost, hops and numbers.
fn order(w: &Weighed) -> (bool, u64, usize, &[NodeId], LinkId) {
    let c = &w.candidate;
    (w.rejected.is_some(), c.priced.cost, c.nodes.len(), &c.nodes, c.link)
}

#[cfg(test)]
mod tests;
