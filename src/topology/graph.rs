//! The mesh as one node sees it at one moment: a petgraph `DiGraph` of nodes and one-way edges.
//!
//! A snapshot: built anew whenever knowledge changes, read by the solver and by `explain`, never
//! edited. An edge exists only where its direction has a fresh reading and the link is up, so
//! whoever walks the graph need not ask again. Nodes stand in order of their numbers and edges in
//! order of insertion, so the same knowledge gives the same graph.

use std::collections::BTreeMap;

use petgraph::graph::{DiGraph, NodeIndex};

use crate::id::{LinkId, NodeId};
use crate::quality::LinkState;

/// A node of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphNode {
    /// Its number.
    pub id: NodeId,
    /// Whether it consents to carry others' traffic, and may.
    pub relay: bool,
}

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphEdge {
    /// Our name of the link where the edge starts at this node; a remote node chooses among its
    /// parallel links by itself, so its edges have none.
    pub link: Option<LinkId>,
    /// How it is.
    pub state: LinkState,
}

/// The graph of record.
#[derive(Clone, Debug)]
pub struct Graph {
    inner: DiGraph<GraphNode, GraphEdge, u32>,
    index: BTreeMap<NodeId, NodeIndex<u32>>,
    source: NodeIndex<u32>,
}

impl Graph {
    /// A graph that holds this node alone.
    pub fn new(source: NodeId) -> Self {
        let mut inner = DiGraph::with_capacity(0, 0);
        // Whether the source itself relays does not matter to its own paths.
        let at = inner.add_node(GraphNode { id: source, relay: false });
        Self { inner, index: BTreeMap::from([(source, at)]), source: at }
    }

    /// Adds a node; a second time, only its consent is set anew.
    pub fn add_node(&mut self, id: NodeId, relay: bool) {
        match self.index.get(&id) {
            Some(&at) => self.inner[at].relay = relay,
            None => {
                let at = self.inner.add_node(GraphNode { id, relay });
                self.index.insert(id, at);
            }
        }
    }

    /// Adds an edge between two nodes of the graph. From this node it must carry our link's name;
    /// false where it does not, where an end is unknown or where both ends are one node.
    ///
    /// Parallel edges are for this node's own links alone: a remote node says one thing of each
    /// neighbour (a link-state advertisement with more is refused), and picks among parallel links
    /// by its own state.
    pub fn add_edge(
        &mut self,
        from: NodeId,
        to: NodeId,
        link: Option<LinkId>,
        state: LinkState,
    ) -> bool {
        let (Some(&a), Some(&b)) = (self.index.get(&from), self.index.get(&to)) else {
            return false;
        };
        if a == b || (a == self.source && link.is_none()) {
            return false;
        }
        self.inner.add_edge(a, b, GraphEdge { link, state });
        true
    }

    /// The node whose view this is.
    pub fn source(&self) -> NodeId {
        self.inner[self.source].id
    }

    /// What is known of a node.
    pub fn node(&self, id: NodeId) -> Option<GraphNode> {
        self.index.get(&id).map(|&at| self.inner[at])
    }

    /// Every node, in order of number.
    pub fn nodes(&self) -> impl Iterator<Item = GraphNode> {
        self.index.values().map(|&at| self.inner[at])
    }

    /// Every edge with its ends, in order of insertion.
    pub fn edges(&self) -> impl Iterator<Item = (NodeId, NodeId, &GraphEdge)> {
        self.inner.edge_indices().filter_map(|e| {
            let (a, b) = self.inner.edge_endpoints(e)?;
            Some((self.inner[a].id, self.inner[b].id, &self.inner[e]))
        })
    }

    /// The petgraph graph itself, for the solver.
    pub(crate) fn inner(&self) -> &DiGraph<GraphNode, GraphEdge, u32> {
        &self.inner
    }

    /// Where a node stands in [`Graph::inner`].
    pub(crate) fn position(&self, id: NodeId) -> Option<NodeIndex<u32>> {
        self.index.get(&id).copied()
    }

    /// Where this node stands in [`Graph::inner`].
    pub(crate) fn source_position(&self) -> NodeIndex<u32> {
        self.source
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::quality::LinkQuality;
    use crate::unit::Ratio;

    fn n(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    #[test]
    fn an_edge_needs_two_known_nodes_and_a_name_where_it_is_ours() {
        let state = LinkState::measured(LinkQuality {
            delay: Duration::from_millis(5),
            jitter: Duration::ZERO,
            loss: Ratio::ZERO,
        });
        let mut graph = Graph::new(n(1));
        graph.add_node(n(2), true);
        assert!(!graph.add_edge(n(1), n(3), Some(LinkId(0)), state), "unknown end");
        assert!(!graph.add_edge(n(1), n(2), None, state), "our link without a name");
        assert!(!graph.add_edge(n(2), n(2), None, state), "a node to itself");
        assert!(graph.add_edge(n(1), n(2), Some(LinkId(0)), state));
        assert!(graph.add_edge(n(2), n(1), None, state));
        assert_eq!(graph.edges().count(), 2);
    }
}
