//! The mesh as this node sees it at one moment, asked edge by edge.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::id::{LinkId, NodeId};
use crate::quality::LinkState;
use crate::route::solve::{Map, Show};
use crate::topology::graph::Graph;
use crate::topology::lsdb::{Lsdb, OwnLink};

/// What the records and our own links say together.
pub(super) struct Sight<'a> {
    lsdb: &'a Lsdb,
    own: &'a [OwnLink],
    by_link: BTreeMap<LinkId, &'a OwnLink>,
    alive: BTreeSet<NodeId>,
    may_relay: &'a dyn Fn(NodeId) -> bool,
    named: &'a dyn Fn(&str) -> Option<NodeId>,
    spent: bool,
    source: NodeId,
    graph: OnceCell<Graph>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(
        lsdb: &'a Lsdb,
        own: &'a [OwnLink],
        may_relay: &'a dyn Fn(NodeId) -> bool,
        named: &'a dyn Fn(&str) -> Option<NodeId>,
        spent: bool,
    ) -> Self {
        let by_link = own.iter().map(|link| (link.link, link)).collect();
        let (alive, source) = (lsdb.alive(own), lsdb.own());
        let graph = OnceCell::new();
        Self { lsdb, own, by_link, alive, may_relay, named, spent, source, graph }
    }
}

impl Map for Sight<'_> {
    fn source(&self) -> NodeId {
        self.source
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.alive.iter().copied().collect()
    }

    fn lives(&self, node: NodeId) -> bool {
        self.alive.contains(&node)
    }

    fn relays(&self, node: NodeId) -> bool {
        let consents = |lsa: &crate::topology::lsa::Lsa| lsa.relay;
        self.lives(node) && self.lsdb.lsa(node).is_some_and(consents) && (self.may_relay)(node)
    }

    fn edge(&self, from: NodeId, to: NodeId, link: LinkId) -> Option<LinkState> {
        if !self.lives(from) || !self.lives(to) || to == self.source {
            return None;
        }
        if from != self.source {
            return self.lsdb.state(from, to);
        }
        let own = self.by_link.get(&link).filter(|own| own.peer == to)?;
        self.lsdb.own_state(own)
    }

    fn each_edge(&self, show: &mut Show<'_>) {
        for own in self.own.iter().filter(|own| own.up && self.lives(own.peer)) {
            if let Some(state) = self.lsdb.own_state(own) {
                show(self.source, own.peer, Some(own.link), &state);
            }
        }
        self.lsdb.each_state(&self.alive, |from, to, state| show(from, to, None, state));
    }

    fn graph(&self) -> &Graph {
        self.graph.get_or_init(|| self.lsdb.graph(self.own, self.may_relay))
    }

    fn named(&self, name: &str) -> Option<NodeId> {
        (self.named)(name)
    }

    fn spent(&self) -> bool {
        self.spent
    }
}
